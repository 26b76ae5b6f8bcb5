//! The answer of `GET /v1/latency`, as far as it is shown.

use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Latency {
    pub all: Whole,
    pub hosts: Vec<HostRow>,
    pub apps: Vec<AppRow>,
    /// Applications that are active; more than `apps`, when those are only the busiest.
    pub active: usize,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Whole {
    #[serde(rename = "10s")]
    pub now: Window,
    pub spark: Spark,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HostRow {
    pub name: String,
    pub state: String,
    pub zone: Option<String>,
    pub capacity: Option<Capacity>,
    pub reported_ms: Option<u64>,
    pub ready: u64,
    pub in_flight: u64,
    pub queued: u64,
    pub cpu: f64,
    pub memory_bytes: u64,
    #[serde(rename = "10s")]
    pub now: Window,
}

/// What a host can carry; 0: it did not say.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Capacity {
    pub apps_max: u64,
    pub cpus: u64,
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AppRow {
    pub name: String,
    pub state: String,
    pub in_flight: u64,
    pub queued: u64,
    pub cpu: f64,
    pub memory_bytes: u64,
    pub places: Vec<Place>,
    #[serde(rename = "10s")]
    pub now: Window,
    pub spark: Spark,
}

/// `GET /v1/apps/NAME/latency`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Detail {
    pub name: String,
    pub state: String,
    pub places: Vec<Place>,
    pub windows: Windows,
    pub spark: Spark,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Windows {
    #[serde(rename = "10s")]
    pub seconds: Window,
    #[serde(rename = "1m")]
    pub minute: Window,
    #[serde(rename = "1h")]
    pub hour: Window,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Place {
    pub host: String,
    pub version: u64,
    pub state: String,
    pub in_flight: u64,
    pub in_flight_max: u64,
    pub queued: u64,
    pub cpu: f64,
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Window {
    pub requests: u64,
    pub rate: f64,
    pub errors: u64,
    pub total: Option<Percentiles>,
    pub network: Option<Percentiles>,
    pub application: Option<Percentiles>,
    pub queue: Option<Percentiles>,
    pub own: Option<Percentiles>,
}

impl Window {
    /// Of all, where it is measured; a host has only its applications' own time.
    pub fn times(&self) -> Percentiles {
        self.total.or(self.application).unwrap_or_default()
    }

    /// Of the requests, how many failed.
    pub fn error_share(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    pub p50_us: Option<u64>,
    pub p90_us: Option<u64>,
    pub p99_us: Option<u64>,
    pub p999_us: Option<u64>,
}

/// The last seconds, the newest last.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Spark {
    pub requests: Vec<u64>,
    pub errors: Vec<u64>,
    pub p50_us: Vec<Option<u64>>,
    pub p99_us: Vec<Option<u64>>,
}
