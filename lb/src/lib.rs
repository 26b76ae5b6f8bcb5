//! The edge: routing policy on the proxy engine, and its control side.
//!
//! `snapshot` is where the two halves meet. Everything else here is control: [`run`] starts it on a data path that someone
//! else made, publishes the last good routing table at once, and then opens the store and the private API.
//!
//! ```text
//!   config ──▶ run ──▶ api ──▶ workflow ─┬─▶ agents (the hosts' APIs)
//!                                        └─▶ control ─▶ store, table ─▶ Plane
//! ```
#![forbid(unsafe_code)]

pub mod agents;
pub mod api;
pub mod bundles;
pub mod certs;
pub mod cluster;
pub mod config;
pub mod control;
mod daemon;
pub mod data;
pub mod derive;
pub mod edge;
pub mod limits;
pub mod metrics;
pub mod older;
pub mod reconcile;
pub mod reports;
mod run;
pub mod signals;
pub mod snapshot;
mod state_dir;
pub mod store;
pub mod systemd;
pub mod upgrade;
pub mod workflow;

pub use daemon::main;
pub use run::{Ended, Parts, Ready, RunError, run};
