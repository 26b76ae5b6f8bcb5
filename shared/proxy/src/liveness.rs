//! Signs of life from upstreams on other machines.
//!
//! A process that ends closes its connections; a machine that loses its power or its network says nothing, and whoever waits for
//! it would wait for every request's own timeout. So a connection to another machine ([`Target::pings`](crate::Target::pings))
//! that has been silent for a while is asked by an HTTP/2 PING, whether it carries requests or is idle, and is taken for dead when
//! nothing at all comes back. Anything received is a sign of life, so that a connection in use is never asked.

use steady_ring::{ConnId, Driver, Time};

use crate::conn::Stage;
use crate::deadlines::conn_due;
use crate::limits::Limits;
use crate::policy::Policy;
use crate::upstream::Failure;
use crate::worker::Worker;

/// When a connection last gave a sign of life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    heard: Time,
    /// A PING is out since then.
    asked: Option<Time>,
}

impl Watch {
    pub(crate) fn new(now: Time) -> Watch {
        Watch { heard: now, asked: None }
    }

    pub(crate) fn heard(&mut self, now: Time) {
        *self = Watch::new(now);
    }

    /// When it is to be asked, or given up.
    pub(crate) fn due(&self, limits: &Limits) -> Time {
        match self.asked {
            None => self.heard + limits.upstream_ping_interval,
            Some(asked) => asked + limits.upstream_ping_timeout,
        }
    }
}

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Something is due on an upstream's connection: asks for a sign of life, or ends the connection for want of one. `false`: it
    /// is something else that is due.
    pub(crate) fn check_alive(&mut self, id: ConnId) -> bool {
        let now = self.now;
        let Some(slot) = self.conns.get_mut(id.index()) else { return false };
        let Some(conn) = slot.conn.as_deref_mut().filter(|conn| conn.id == id) else { return false };
        let Some(watch) = conn.watch.as_deref().copied().filter(|_| conn.stage == Stage::Open) else { return false };
        if conn_due(conn, &self.timeouts, &self.limits, self.draining) <= now {
            return false;
        }
        if watch.asked.is_some() {
            tracing::warn!("an upstream gives no sign of life; its connection is given up");
            self.stats.upstream_silent.add(1);
            self.upstream_failed(id, Failure::Broken);
            return true;
        }
        self.touch(id);
        if let Some(conn) = self.conn(id) {
            conn.watch = Some(Box::new(Watch { asked: Some(now), ..watch }));
            if let Some((codec, out)) = conn.codec_and_out() {
                codec.ping(now.as_nanos().to_be_bytes(), out);
            }
        }
        self.stats.upstream_pings.add(1);
        self.arm_conn(id.index() as u32);
        true
    }
}
