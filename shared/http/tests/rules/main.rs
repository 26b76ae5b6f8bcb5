//! The rules of RFC 9110, 9112, 9113, 7541 and 8441, each as a test named after its section: octets in, octets and events out,
//! nothing of our code known but its interface. `tests/h2` and `src/h1/tests` hold what we decided beyond the rules.

#[path = "../h2/support.rs"]
#[allow(dead_code)]
mod support;

mod h1_client;
mod h1_server;
mod h2_client;
mod h2_frames;
mod h2_messages;
mod h2_states;
mod hpack;
