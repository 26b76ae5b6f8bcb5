//! The host agent: wake, queue and time policy on the proxy engine, and process supervision.
//!
//! [`Agent::open`] takes the state folder (its lock, its records), ends what an earlier agent left, and binds the control
//! port; [`Agent::run`] starts the applications, serves the API and heeds the workers until it is told to stop.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod app_spec;
pub mod bundle;
pub mod channel;
pub mod config;
pub mod daemon;
pub mod data;
pub mod gate;
pub mod host;
pub mod limits;
pub mod logs;
pub mod membership;
pub mod metrics;
pub mod records;
pub mod reports;
pub mod supervise;
pub mod talk;
pub mod toml_read;
mod tree;
pub mod usage;

pub use agent::{Agent, Error, run};
pub use config::Config;
pub use daemon::main;
