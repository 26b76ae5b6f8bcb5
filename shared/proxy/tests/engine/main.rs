//! The engine's behaviour, one sentence at a time, with every octet of both ends said by the test.

mod bodies;
mod bounds;
mod connections;
mod deadlines;
mod ends;
mod frames;
mod framing;
mod heads;
mod lab;
mod liveness;
mod parking;
mod pressure;
mod retries;
mod tls;
mod tunnels;
mod upstream_tls;
mod waiting;
#[path = "../world/mod.rs"]
mod world;
