//! Processor time and memory of applications: of the process that the agent started, and of those in its session.
//!
//! Processor time is read at each report, by one system call a process. Which processes there are takes a look through
//! /proc, and memory a file each, so both are read less often. A process that begins and ends between two looks is not seen.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use steady_sys::usage::{cpu_nanos, resident_bytes};

use crate::limits::MEMORY_EVERY;
use crate::supervise::leftovers;

/// What the applications use; by the process that leads each one's session.
#[derive(Debug, Default)]
pub struct Usage {
    trees: HashMap<u32, Tree>,
}

/// One application's processes.
#[derive(Debug, Default)]
struct Tree {
    /// Each, and its time so far.
    processes: HashMap<u32, u64>,
    /// Of those that ended.
    ended_ns: u64,
    memory_bytes: u64,
    memory_at: Option<Instant>,
}

impl Usage {
    /// Processor time in µs since the application's process began, and resident memory in octets.
    pub fn of(&mut self, leader: u32, now: Instant) -> (u64, u64) {
        let tree =
            self.trees.entry(leader).or_insert_with(|| Tree { processes: [(leader, 0)].into(), ..Tree::default() });
        let ended = &mut tree.ended_ns;
        tree.processes.retain(|pid, known| match cpu_nanos(*pid) {
            // Less than before: another process, which got the number.
            Some(now) if now >= *known => {
                *known = now;
                true
            }
            _ => {
                *ended += *known;
                false
            }
        });
        if tree.memory_at.is_none_or(|at| now.saturating_duration_since(at) >= MEMORY_EVERY) {
            tree.memory_at = Some(now);
            tree.memory_bytes = tree.processes.keys().map(|pid| resident_bytes(*pid)).sum();
        }
        let nanos = tree.ended_ns + tree.processes.values().sum::<u64>();
        (Duration::from_nanos(nanos).as_micros() as u64, tree.memory_bytes)
    }

    /// Takes in which processes there are, with the leader of each one's session; forgets applications that have none.
    pub fn seen(&mut self, all: &HashMap<u32, Vec<u32>>) {
        self.trees.retain(|leader, tree| {
            let Some(pids) = all.get(leader) else { return false };
            for pid in pids {
                tree.processes.entry(*pid).or_insert(0);
            }
            true
        });
    }
}

/// Every process by its session. Reads all of /proc: blocking.
pub fn sessions() -> HashMap<u32, Vec<u32>> {
    let mut all: HashMap<u32, Vec<u32>> = HashMap::new();
    for seen in leftovers::see_all().into_iter().filter(|seen| !seen.is_zombie) {
        all.entry(seen.session).or_default().push(seen.pid);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Instant;

    #[test]
    fn the_work_of_a_child_counts_and_stays_when_it_has_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'while :; do :; done' & wait"]);
        let mut leader = steady_sys::process::lead_session_and_die_with_parent(&mut command).spawn().unwrap();
        let mut usage = Usage::default();
        let now = Instant::now();
        let worked = loop {
            usage.of(leader.id(), now);
            usage.seen(&sessions());
            let (cpu_us, memory) = usage.of(leader.id(), now);
            assert!(memory > 0);
            if cpu_us > 50_000 {
                break cpu_us;
            }
            std::thread::yield_now();
        };
        steady_sys::process::signal_group(leader.id(), steady_sys::process::Signal::Kill).unwrap();
        leader.wait().unwrap();
        assert!(usage.of(leader.id(), now).0 >= worked);
        usage.seen(&HashMap::new());
        assert!(usage.trees.is_empty());
    }
}
