//! `steady-bench agent`: a host agent's data plane as a process of its own, behind the edge, for the whole chain. One
//! application is here and ready: the origin, which is its process.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use steady_agent::data::DataPlane;
use steady_agent::gate::{App, Apps, Generation, Plane as _, Process, Protocol, Role};
use steady_proxy::log::LogSink;
use steady_proxy::{Blueprint, Config, Limits, Listener, Timeouts, daemon};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The application's process.
    #[arg(long)]
    origin: SocketAddr,
    /// The log of requests is made here.
    #[arg(long)]
    dir: PathBuf,
}

/// Says where it listens and serves until standard input ends.
pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    daemon::raise_descriptors();
    let (socket, addr) = daemon::listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    // As the agent's daemon has them.
    let limits = steady_http::Limits {
        head_bytes_max: 48 * 1024,
        fields_max: 160,
        streams_max: 1024,
        resets_max: 100_000,
        control_frames_max: 100_000,
        stream_window: 64 * 1024,
        connection_window: 16 * 1024 * 1024,
        ..steady_http::Limits::default()
    };
    let worker = Config {
        listeners: vec![Listener { tls: false, proxy_protocol: false, limits }],
        limits: Limits::default(),
        upstream_limits: steady_http::Limits::default(),
    };
    let ring = steady_ring::Config::default();
    let blueprint = Blueprint { uring: true, ring, worker, sockets: vec![socket], pin: true };
    let plane = DataPlane::new(1);
    // Nothing is ever woken here; what is told besides is dropped when the queue is full.
    let (sender, _notices) = tokio::sync::mpsc::channel(64);
    let log = LogSink::open(&args.dir.join("requests.log"))?;
    let fleet = plane.start(blueprint, sender, Timeouts::default(), Some(&log))?;
    let app = App {
        name: super::app_name(0, 1).into(),
        role: Role::Owner,
        generation: Generation(1),
        version: 1,
        process: Process::Ready { addr: args.origin.into(), protocol: Protocol::Http1, instance: 1 },
        queue_max: 1000,
        queue_wait: Duration::from_secs(60),
        response_timeout: Duration::from_secs(60),
    };
    plane.publish(Arc::new(Apps { apps: HashMap::from([(Arc::clone(&app.name), Arc::new(app))]) }));
    println!("{}", addr.port());
    for line in io::stdin().lines() {
        line?;
    }
    plane.stop();
    fleet.join()?;
    Ok(())
}
