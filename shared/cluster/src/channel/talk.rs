//! What must not be lost between an edge and a host, as it travels in the messages of the stream: orders one way, events the
//! other. JSON: a handful a second at most, and fields that one side does not know are passed over.
//!
//! A host stores what it was last ordered for each application together with the stream's cursor, and drives what runs by
//! comparing; an edge stores the events together with its cursor. So each is applied once, through crashes of both.

use serde::{Deserialize, Serialize};

use super::{Capacity, Hold};

/// Where the edge asks for the stream: a call of the channel whose two bodies are its octets.
pub const PATH: &str = "/v1/stream";
/// The stream's mode. One is enough: orders and events are its two directions, and neither waits for the other.
pub const MODE: u32 = 1;

/// What a host is to do about one application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The edge's own; comes back with the [`Outcome`].
    pub id: u64,
    pub app: String,
    pub generation: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// Be its owner, or incoming. With `wait_ms` the outcome is told once it is ready or cannot be; else once it is recorded.
    Place {
        role: Hold,
        version: u32,
        digest: String,
        /// As the edge reads the bundle's `steady.toml`; the host refuses what it reads differently. `None`: the edge does not know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exclusive: Option<bool>,
        wait_ms: Option<u64>,
    },
    /// Finish what has begun, refuse the rest, stop.
    Drain { within_ms: u64 },
    /// Drain, and remember the generation alone.
    Forget,
}

/// What a host tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    App(AppEvent),
    Outcome(Outcome),
    /// What it can carry has changed.
    Capacity(Capacity),
}

/// Something happened to an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppEvent {
    pub app: String,
    pub kind: Kind,
    pub generation: u64,
    pub version: u64,
    /// Its process, numbered over all that the host ever started; 0: it concerns none.
    #[serde(default)]
    pub instance: u64,
    /// Milliseconds since 1970, by the host's clock.
    pub at_ms: u64,
    /// Of a crash: why, and the last output.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// Of a drain: requests that were cut at its deadline.
    #[serde(default)]
    pub cut: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Started,
    Ready,
    Crashed,
    Drained,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Started => "started",
            Kind::Ready => "ready",
            Kind::Crashed => "crashed",
            Kind::Drained => "drained",
        }
    }
}

/// What came of an [`Order`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub id: u64,
    /// As an HTTP status: 200, or why not.
    pub status: u16,
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub output: Option<String>,
    /// Of a 409 for a generation that is behind: what the host knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Of a drain.
    #[serde(default)]
    pub cut: u64,
    #[serde(default)]
    pub ms: u64,
}

/// The number by which the stream knows an application.
pub fn app_id(name: &str) -> u64 {
    let hash = crate::fingerprint(name.as_bytes());
    u64::from_be_bytes(hash[..8].try_into().expect("a fingerprint is longer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads<T: serde::de::DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(text: &str, wanted: &T) {
        assert_eq!(&serde_json::from_str::<T>(text).unwrap(), wanted);
        let written = serde_json::to_string(wanted).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&written).unwrap(), wanted);
    }

    #[test]
    fn orders_and_events_of_this_version_are_read_for_ever_whatever_is_added_to_them() {
        let place =
            |exclusive| What::Place { role: Hold::Owner, version: 3, digest: "d".into(), exclusive, wait_ms: None };
        let text =
            r#"{"id":7,"app":"shop","generation":2,"what":"place","role":"owner","version":3,"digest":"d","new":1}"#;
        reads(text, &Order { id: 7, app: "shop".into(), generation: 2, what: place(None) });
        let text = r#"{"id":7,"app":"shop","generation":2,"what":"place","role":"owner","version":3,"digest":"d","exclusive":true}"#;
        reads(text, &Order { id: 7, app: "shop".into(), generation: 2, what: place(Some(true)) });
        let text = r#"{"id":8,"app":"shop","generation":2,"what":"drain","within_ms":5}"#;
        reads(text, &Order { id: 8, app: "shop".into(), generation: 2, what: What::Drain { within_ms: 5 } });
        let text = r#"{"id":9,"app":"shop","generation":2,"what":"forget"}"#;
        reads(text, &Order { id: 9, app: "shop".into(), generation: 2, what: What::Forget });
        let outcome = Outcome { id: 9, status: 200, ms: 4, ..Outcome::default() };
        reads(r#"{"event":"outcome","id":9,"status":200,"ms":4}"#, &Event::Outcome(outcome));
        let text = r#"{"event":"app","app":"shop","kind":"crashed","generation":2,"version":3,"instance":5,"at_ms":6,
                       "reason":"it exited","output":"oh","mood":"bad"}"#;
        let event = AppEvent {
            app: "shop".into(),
            kind: Kind::Crashed,
            generation: 2,
            version: 3,
            instance: 5,
            at_ms: 6,
            reason: "it exited".into(),
            output: "oh".into(),
            cut: 0,
        };
        reads(text, &Event::App(event));
    }
}
