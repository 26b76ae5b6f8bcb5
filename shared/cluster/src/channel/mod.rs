//! The control channel: one connection that a host opens to an edge, and everything that both say over it.
//!
//! ```text
//!   host ──TLS, POST /v1/channel (Registration), 101──▶ edge      then the roles turn round:
//!   host's API ◀────────────── HTTP/2 ───────────────── edge      the edge asks, the host answers
//! ```
//!
//! [`dial`] is the host's side, [`accept`] the edge's; [`talk`] is what must not be lost. Why it is so: `docs/decisions/channel.md`.

pub mod accept;
pub mod dial;
pub mod pipe;
pub mod talk;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a host asks for its channel.
pub const PATH: &str = "/v1/channel";
/// What the connection becomes: the token of `Upgrade`.
pub const UPGRADE: &str = "steady-channel";
/// Of [`Registration`] and of what follows it. An edge speaks to hosts of its own version and none else.
pub const VERSION: u32 = 1;
/// A registration, read into memory: 10,000 applications are under 3 MB.
pub const REGISTRATION_OCTETS_MAX: usize = 16 << 20;

/// Between two pings of each side. A peer that is gone without a word is noticed after this and [`PING_TIMEOUT`].
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(4);
/// Calls at once. Followed logs and traces hold theirs open.
const CALLS_MAX: u32 = 1024;
/// What may be under way of one call (a bundle), and of all.
const CALL_WINDOW: u32 = 1 << 20;
const CHANNEL_WINDOW: u32 = 8 << 20;

/// Everything that an edge has to know of a host: sent whole whenever a channel is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// [`VERSION`] of the host's program.
    pub channel: u32,
    /// Must be the name in its certificate.
    pub name: String,
    /// Where it stands, for people; empty: not said.
    #[serde(default)]
    pub zone: String,
    /// Differs between any two starts of its agent.
    pub start: u64,
    /// Of its program.
    #[serde(default)]
    pub version: String,
    /// Its data port: `IP:PORT` or `unix:/path`. An unspecified IP stands for the address that the channel comes from.
    pub data: String,
    /// Its agent's API for its own machine.
    #[serde(default)]
    pub control: String,
    #[serde(default)]
    pub capacity: Capacity,
    /// Every application that it knows, but for those that have left.
    #[serde(default)]
    pub apps: Vec<Claim>,
}

/// What a host can carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Applications; 0: not said.
    #[serde(default)]
    pub apps_max: u64,
    #[serde(default)]
    pub cpus: u64,
    #[serde(default)]
    pub memory_bytes: u64,
}

/// What a host is to an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    Owner,
    Incoming,
    Draining,
    Absent,
}

/// One application as its host tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub name: String,
    pub role: Hold,
    pub generation: u64,
    #[serde(default)]
    pub version: u32,
    #[serde(default)]
    pub digest: String,
    /// `ready`, `cold`, `crashed` ...
    #[serde(default)]
    pub state: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_of_a_newer_program_is_read_and_one_that_lacks_the_least_is_not() {
        let newer = r#"{"channel":2,"name":"h1","start":7,"data":"0.0.0.0:9911","colour":"blue",
                        "apps":[{"name":"shop","role":"owner","generation":3,"mood":"good"}]}"#;
        let read: Registration = serde_json::from_str(newer).unwrap();
        assert_eq!((read.channel, &*read.name, read.apps[0].role), (2, "h1", Hold::Owner));
        assert_eq!(read.capacity, Capacity::default());
        assert!(serde_json::from_str::<Registration>(r#"{"channel":1,"name":"h1"}"#).is_err());
    }
}
