//! The host agent: wake, queue and time policy on the proxy engine, and process supervision.
#![forbid(unsafe_code)]

pub mod gate;
