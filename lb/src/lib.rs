//! The edge: routing policy on the proxy engine, and its control side.
#![forbid(unsafe_code)]

pub mod snapshot;
