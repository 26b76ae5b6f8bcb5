//! The engine: a worker that carries exchanges between downstream and upstream connections.
//!
//! [`Worker`] is generic over a driver (bytes in and out) and a [`Policy`] (what a request is for). It runs plain state
//! machines, one batch of completions at a time: no runtime, no locks, no allocation per request in steady state.
//! [`Plane`] is how control reaches the workers of a process.
#![forbid(unsafe_code)]

mod attempt;
mod batches;
mod bounds;
mod conn;
mod crowd;
pub mod daemon;
mod deadlines;
mod downstream;
mod ending;
mod exchange;
mod fleet;
mod handshake;
mod hash;
mod held;
mod limits;
mod liveness;
pub mod log;
mod parking;
mod pipe;
mod plane;
mod policy;
mod pressure;
pub mod proxy_protocol;
mod refusal;
pub mod registry;
mod relay;
pub mod respond;
pub mod sample;
mod spares;
mod stats;
pub mod tls;
pub mod trace;
mod upstream;
mod wire;
mod worker;

pub use bounds::{Bounds, KEYS, Key, Unit};
pub use fleet::{Blueprint, Fleet};
pub use limits::{Limits, Timeouts};
pub use plane::{Command, Listed, Look, Plane, Seat};
pub use policy::{
    AttemptEnd, BodyFilter, Credentials, Decision, Interim, Judgement, Outcome, ParkKey, Policy, Protocol, Record,
    Reply, Request, Target, Timing, UpstreamTls,
};
pub use refusal::{Explanation, Refusal};
pub use stats::{Cell, Late, Stats};
pub use worker::{Config, Listener, Worker};
