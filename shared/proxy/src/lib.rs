//! The engine: a worker that carries exchanges between downstream and upstream connections.
#![forbid(unsafe_code)]

pub mod sample;
