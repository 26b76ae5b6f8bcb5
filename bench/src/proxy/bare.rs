//! A policy that forwards and does nothing else: no routing, no fields, no log. What the engine itself costs, beside peers
//! that are set up in the same way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use steady_http::Head;
use steady_proxy::{
    AttemptEnd, Credentials, Decision, Judgement, ParkKey, Policy, Protocol, Record, Reply, Request, Target, Timeouts,
    Timing,
};
use steady_ring::{Addr, Time};

/// Where everything goes.
#[derive(Debug)]
pub struct Only {
    pub origin: SocketAddr,
    pub tls: Arc<rustls::ServerConfig>,
}

/// See the module.
#[derive(Debug)]
pub struct Bare;

impl Policy for Bare {
    type Snapshot = Only;
    type Ticket = ();

    fn published(&mut self, _: &Only) -> Timeouts {
        Timeouts::default()
    }

    fn tls(&mut self, only: &Only, _: Option<&str>) -> Credentials {
        Credentials::Known(Arc::clone(&only.tls))
    }

    fn admit(&mut self, _: &Only, _: &mut Request<'_, ()>) -> Option<Reply> {
        None
    }

    fn route(&mut self, only: &Only, _: &mut Request<'_, ()>) -> Decision {
        Decision::Forward(Target {
            upstream: 1,
            addr: Addr::Tcp(only.origin),
            protocol: Protocol::H2c,
            tls: None,
            connect_timeout: Duration::from_secs(3),
            response_timeout: Duration::from_secs(60),
            replay_bytes_max: 64 * 1024,
            pings: false,
        })
    }

    fn may_resume(&mut self, _: &Only, _: ParkKey) -> bool {
        false
    }

    fn unparked(&mut self, (): &mut (), _: ParkKey, _: Duration) {}

    fn question(&mut self, _: ParkKey, _: &mut Head) {}

    fn answered(&mut self, _: ParkKey, _: Option<&Head>, _: Time) {}

    fn attempt_ended(&mut self, (): &mut (), _: AttemptEnd, _: Time) {}

    fn judge(&mut self, (): &mut (), _: &mut Head) -> Judgement {
        Judgement::Pass
    }

    fn respond(&mut self, _: &mut Request<'_, ()>, _: &mut Head, _: &Timing) {}

    fn finished(&mut self, _: &Record<'_, ()>) {}
}
