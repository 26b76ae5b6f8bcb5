//! What was seen of every request, by whoever begins them.

use std::collections::{BTreeMap, BTreeSet};

use steady_ring::Time;

/// The house's books.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Which process began a request, and when: host, application, instance.
    pub begun: BTreeMap<u64, (usize, usize, u64, Time)>,
    pub wrong: Vec<String>,
    /// What happened to the house, for whoever reads a failed history.
    pub told: Vec<(Time, String)>,
    /// Requests that were with something that was broken on purpose.
    pub struck: BTreeSet<u64>,
    /// What was under way when a process was ended in good order; the house looks whether anybody still waits for it.
    pub stopped: Vec<(Vec<u64>, String)>,
    pub probes: u64,
    pub moves: u64,
    pub undone: u64,
    pub cut: u64,
}

impl Ledger {
    pub fn tell(&mut self, now: Time, what: impl Into<String>) {
        self.told.push((now, what.into()));
    }

    /// A process was ended in good order; `left` is what it had begun and not finished.
    pub fn stopped(&mut self, left: Vec<u64>, what: &str) {
        self.stopped.push((left, what.to_owned()));
    }

    pub fn begin(&mut self, id: u64, host: usize, app: usize, instance: u64, now: Time) {
        if let Some(before) = self.begun.insert(id, (host, app, instance, now)) {
            self.wrong.push(format!("request {id} was begun twice: first by {before:?}, then by host {host} at {now}"));
        }
    }
}
