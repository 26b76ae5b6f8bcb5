//! A worker's counters: plain cells with one writer, read by whoever scrapes.

use std::sync::atomic::{AtomicU64, Ordering};

use steady_http::Limit;

use crate::policy::Outcome;
use crate::refusal::Refusal;
use crate::sample::{Kind, Sample, Samples};

/// A number that one thread writes and any may read. Not a read-modify-write: as cheap as a plain integer.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    pub fn sub(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(by), Ordering::Relaxed);
    }

    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a client that was cut should have done in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Late {
    /// Say something that begins a request: a handshake, the PROXY header, the first line.
    Begin,
    /// Take what was there for it.
    Read,
    /// Send more than a few octets now and then of the body that it had begun.
    Send,
}

impl Late {
    pub const ALL: [Late; 3] = [Late::Begin, Late::Read, Late::Send];

    const fn name(self) -> &'static str {
        match self {
            Late::Begin => "begin",
            Late::Read => "read",
            Late::Send => "send",
        }
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
pub struct Stats {
    pub connections_accepted: Cell,
    pub connections_open: Cell,
    pub connections_refused: Cell,
    pub connections_refused_client: Cell,
    /// Too soon after others: of all clients, and of the same.
    pub connections_refused_rate: Cell,
    pub connections_refused_client_rate: Cell,
    pub accept_failed: Cell,
    pub clients_late: [Cell; Late::ALL.len()],
    pub upstream_connects: Cell,
    pub upstream_connect_failed: Cell,
    pub upstream_open: Cell,
    pub upstream_pings: Cell,
    pub upstream_silent: Cell,
    pub requests_h1: Cell,
    pub requests_h2: Cell,
    /// By the first digit of the status, 1–5.
    pub responses: [Cell; 6],
    pub exchanges_open: Cell,
    pub parked_open: Cell,
    pub parked: Cell,
    pub parked_bytes: Cell,
    pub heads_bytes: Cell,
    pub bodies_bytes: Cell,
    pub bodies_cut: Cell,
    pub upstream_parked: Cell,
    pub upstream_parked_open: Cell,
    pub retries: Cell,
    pub questions: Cell,
    pub tunnels: Cell,
    pub outcomes: [Cell; Outcome::ALL.len()],
    pub refusals: [Cell; Refusal::ALL.len()],
    pub limits: [Cell; Limit::ALL.len()],
    pub tls_handshakes: Cell,
    pub tls_resumed: Cell,
    pub tls_failed: Cell,
    /// Of these: clients whose certificate is missing or not good.
    pub client_certificates_refused: Cell,
    /// Upstreams with which TLS did not come about.
    pub upstream_tls_failed: Cell,
    pub received_bytes: Cell,
    pub sent_bytes: Cell,
    pub sends: Cell,
    pub starved: Cell,
    pub overflowed: Cell,
    pub batches: Cell,
    pub syscalls: Cell,
    pub publications: Cell,
}

impl Stats {
    pub(crate) fn limit(&self, limit: Option<Limit>) {
        if let Some(limit) = limit {
            self.limits[limit as usize].add(1);
        }
    }

    pub(crate) fn driver(&self, now: &steady_ring::Stats) {
        self.received_bytes.set(now.received_bytes);
        self.sent_bytes.set(now.sent_bytes);
        self.sends.set(now.sends);
        self.starved.set(now.starved);
        self.overflowed.set(now.overflowed);
        self.batches.set(now.waits);
        self.syscalls.set(now.syscalls);
    }
}

impl Samples for Stats {
    fn visit(&self, each: &mut dyn FnMut(Sample)) {
        let mut plain =
            |name, help, kind, cell: &Cell| each(Sample { name, help, kind, label: None, value: cell.value() });
        use Kind::{Counter, Gauge};
        plain("connections_accepted_total", "Downstream connections accepted.", Counter, &self.connections_accepted);
        plain("connections_open", "Downstream connections open now.", Gauge, &self.connections_open);
        plain(
            "connections_refused_total",
            "Connections closed at once, past a limit.",
            Counter,
            &self.connections_refused,
        );
        let help = "Connections closed at once because their client's address has as many as it may.";
        plain("connections_refused_per_client_total", help, Counter, &self.connections_refused_client);
        plain("accept_failures_total", "Accepts that failed (descriptors, memory).", Counter, &self.accept_failed);
        plain("upstream_connects_total", "Connections begun to upstreams.", Counter, &self.upstream_connects);
        plain("upstream_connect_failures_total", "Those that failed.", Counter, &self.upstream_connect_failed);
        plain("upstream_connections_open", "Upstream connections open now.", Gauge, &self.upstream_open);
        let help = "Signs of life asked for of silent upstreams.";
        plain("upstream_pings_total", help, Counter, &self.upstream_pings);
        let help = "Connections to upstreams given up for want of one.";
        plain("upstream_silent_total", help, Counter, &self.upstream_silent);
        plain("exchanges_open", "Requests under way now.", Gauge, &self.exchanges_open);
        plain("parked", "Requests parked now.", Gauge, &self.parked_open);
        plain("parked_total", "Times a request was parked.", Counter, &self.parked);
        plain("parked_bytes", "Octets that parked requests hold or may come to hold.", Gauge, &self.parked_bytes);
        plain("heads_bytes", "Octets of the heads of requests under way.", Gauge, &self.heads_bytes);
        let help = "Octets of bodies that wait until somebody takes them.";
        plain("bodies_bytes", help, Gauge, &self.bodies_bytes);
        let help = "Requests ended because all together held too much; theirs stood longest.";
        plain("bodies_cut_total", help, Counter, &self.bodies_cut);
        let help = "Requests that wait at their upstream now, by its word.";
        plain("upstream_parked", help, Gauge, &self.upstream_parked_open);
        let help = "Requests that waited at their upstream.";
        plain("upstream_parked_total", help, Counter, &self.upstream_parked);
        plain("retries_total", "Requests sent again, provably unprocessed before.", Counter, &self.retries);
        plain("questions_total", "Probes sent.", Counter, &self.questions);
        plain("tunnels_total", "Upgrades and CONNECTs that became tunnels.", Counter, &self.tunnels);
        plain("tls_handshakes_total", "TLS handshakes completed.", Counter, &self.tls_handshakes);
        plain("tls_resumed_total", "Those that resumed a session.", Counter, &self.tls_resumed);
        plain(
            "client_certificates_refused_total",
            "Clients whose certificate is missing or not good here.",
            Counter,
            &self.client_certificates_refused,
        );
        plain(
            "upstream_tls_failures_total",
            "Upstreams with which TLS did not come about.",
            Counter,
            &self.upstream_tls_failed,
        );
        plain("tls_failures_total", "TLS connections that failed.", Counter, &self.tls_failed);
        plain("received_bytes_total", "Octets received, both sides.", Counter, &self.received_bytes);
        plain("sent_bytes_total", "Octets sent, both sides.", Counter, &self.sent_bytes);
        plain("sends_total", "Sends submitted.", Counter, &self.sends);
        plain("buffers_starved_total", "Receives that found no buffer.", Counter, &self.starved);
        let help = "Batches with more completions than the ring's queue has places; the rest came with the next.";
        plain("completions_overflowed_total", help, Counter, &self.overflowed);
        plain("batches_total", "Batches of completions run.", Counter, &self.batches);
        plain("syscalls_total", "System calls of the driver.", Counter, &self.syscalls);
        plain("snapshots_total", "Snapshots taken into use.", Counter, &self.publications);
        let mut labelled = |name, help, label, cell: &Cell| {
            each(Sample { name, help, kind: Counter, label: Some(label), value: cell.value() });
        };
        labelled("requests_total", "Requests by version.", ("version", "1"), &self.requests_h1);
        labelled("requests_total", "Requests by version.", ("version", "2"), &self.requests_h2);
        let too_soon = [("all", &self.connections_refused_rate), ("client", &self.connections_refused_client_rate)];
        for (of, cell) in too_soon {
            let help = "Connections closed at once because too many came within a second, of whom.";
            labelled("connections_refused_rate_total", help, ("of", of), cell);
        }
        for (class, cell) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(&self.responses[1..]) {
            labelled("responses_total", "Final responses by class.", ("class", class), cell);
        }
        for (outcome, cell) in Outcome::ALL.iter().zip(&self.outcomes) {
            labelled("exchanges_total", "Exchanges by how they ended.", ("outcome", outcome.name()), cell);
        }
        for (refusal, cell) in Refusal::ALL.iter().zip(&self.refusals) {
            labelled(
                "refusals_total",
                "Requests answered from here, by reason.",
                ("reason", refusal.explain().name),
                cell,
            );
        }
        for (late, cell) in Late::ALL.iter().zip(&self.clients_late) {
            labelled("clients_late_total", "Clients cut because they were late, by what.", ("to", late.name()), cell);
        }
        for (limit, cell) in Limit::ALL.iter().zip(&self.limits) {
            labelled("limits_total", "Times a limit answered.", ("limit", limit.name()), cell);
        }
    }
}
