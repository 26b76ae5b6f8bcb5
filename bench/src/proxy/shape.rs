//! What load is to be made, and what came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cpu::Spent;

/// How long a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Kept,
    /// A new one for each request, its handshake resumed where it can be.
    Each,
    /// A new one for each request, with a full handshake.
    EachInFull,
    /// A WebSocket that echoes.
    Tunnel,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub h2: bool,
    pub tls: bool,
    pub connections: usize,
    pub streams: usize,
    /// Octets of an answer's body, and of a request's.
    pub download: usize,
    pub upload: usize,
    pub life: Life,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub requests: u64,
    pub seconds: f64,
    /// Median, 99th and 99.9th percentile.
    pub latency: [Duration; 3],
    /// Of the proxy.
    pub cpu: Spent,
    /// The proxy's batches, system calls and heap allocations, where it counts them.
    pub counts: Option<[u64; 3]>,
}

impl Measured {
    pub fn micros_per_request(&self) -> f64 {
        self.cpu.nanos as f64 / 1e3 / self.requests as f64
    }

    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// System calls a request.
    pub fn syscalls(&self) -> Option<f64> {
        self.counts.map(|[_, syscalls, _]| syscalls as f64 / self.requests as f64)
    }

    /// Heap allocations a request.
    pub fn allocations(&self) -> Option<f64> {
        self.counts.map(|[_, _, allocations]| allocations as f64 / self.requests as f64)
    }

    /// How much of its core the proxy had use for.
    pub fn busy(&self) -> f64 {
        self.cpu.nanos as f64 / 1e9 / self.seconds
    }
}
