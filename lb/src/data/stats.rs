//! What the edge's policy counts beside the engine: moves, probes, waits.

use std::time::Duration;

use steady_proxy::Cell;
use steady_proxy::sample::{Kind, Sample, Samples};

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
}

impl EdgeStats {
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
        for ((_, label), cell) in WAITS.iter().zip(&self.waits) {
            let help = "Requests that were parked, by how long (not cumulative).";
            counter("park_waits_total", help, Some(("within", label)), cell);
        }
    }
}
