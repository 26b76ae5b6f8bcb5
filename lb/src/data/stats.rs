//! What the edge's policy counts beside the engine: moves, probes, waits.

use std::time::Duration;

use steady_proxy::Cell;
use steady_proxy::sample::{Kind, Sample, Samples};
use steady_ring::Time;

use super::breaker::Breaker;

/// How long parked requests waited, in buckets: each bound and its label; what is longer counts in the last.
const WAITS: [(Duration, &str); 7] = [
    (Duration::from_millis(1), "1ms"),
    (Duration::from_millis(10), "10ms"),
    (Duration::from_millis(100), "100ms"),
    (Duration::from_secs(1), "1s"),
    (Duration::from_secs(10), "10s"),
    (Duration::from_secs(60), "60s"),
    (Duration::MAX, "longer"),
];

/// One worker's.
#[derive(Debug, Default)]
pub struct EdgeStats {
    pub probes: Cell,
    pub verdicts_live: Cell,
    pub verdicts_not_live: Cell,
    /// Requests sent to the new place because the old one is not live or refused them.
    pub fallbacks: Cell,
    /// Marked refusals by an agent, each sent again or parked.
    pub refused: Cell,
    pub waits: [Cell; WAITS.len()],
    /// Breakers of hosts that opened.
    pub hosts_ejected: Cell,
    /// Breakers of applications on one of their hosts that opened.
    pub apps_avoided: Cell,
    /// Requests that went through an open breaker, to see.
    pub breaker_trials: Cell,
    /// Requests that were refused because their only host is ejected.
    pub breaker_refused: Cell,
}

impl EdgeStats {
    /// Whether a request may go through this open breaker.
    pub(super) fn tries(&self, breaker: &mut Breaker, now: Time) -> bool {
        let may = breaker.lets_through(now);
        if may {
            breaker.begin(now);
        }
        if may { &self.breaker_trials } else { &self.breaker_refused }.add(1);
        may
    }

    pub(crate) fn waited(&self, time: Duration) {
        let bucket = WAITS.iter().position(|&(bound, _)| time <= bound).unwrap_or(WAITS.len() - 1);
        self.waits[bucket].add(1);
    }
}

impl Samples for EdgeStats {
    fn visit(&self, each: &mut dyn FnMut(Sample)) {
        let mut counter = |name, help, label, cell: &Cell| {
            each(Sample { name, help, kind: Kind::Counter, label, value: cell.value() });
        };
        counter("move_probes_total", "Probes of the old host of a moving application.", None, &self.probes);
        let verdicts = "Answers to them.";
        counter("move_verdicts_total", verdicts, Some(("verdict", "live")), &self.verdicts_live);
        counter("move_verdicts_total", verdicts, Some(("verdict", "not_live")), &self.verdicts_not_live);
        counter("move_fallbacks_total", "Requests sent to the new host of a move.", None, &self.fallbacks);
        counter("agent_refusals_total", "Requests an agent refused, unprocessed.", None, &self.refused);
        let ejections = "Breakers that opened: of a host, after failed connects; of an application on one of its hosts, after errors.";
        counter("ejections_total", ejections, Some(("of", "host")), &self.hosts_ejected);
        counter("ejections_total", ejections, Some(("of", "app")), &self.apps_avoided);
        counter("breaker_trials_total", "Requests let through an open breaker.", None, &self.breaker_trials);
        let refused = "Requests refused because the only host of their application is ejected.";
        counter("breaker_refused_total", refused, None, &self.breaker_refused);
        for ((_, label), cell) in WAITS.iter().zip(&self.waits) {
            let help = "Requests that were parked, by how long (not cumulative).";
            counter("park_waits_total", help, Some(("within", label)), cell);
        }
    }
}
