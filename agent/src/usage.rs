//! Processor time and memory of applications: of the process that the agent started, and of those in its session.
//!
//! Processor time is read at each report, by one system call a process. Which processes there are, and what memory they hold,
//! takes a look through /proc, which is done less often. A process that begins and ends between two looks is not seen.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use steady_sys::usage::{cpu_nanos, page_bytes, resident_bytes};

use crate::supervise::leftovers;

/// What the applications use; by the process that leads each one's session.
#[derive(Debug, Default)]
pub struct Usage {
    trees: HashMap<u32, Tree>,
}

/// One application's processes.
#[derive(Debug)]
struct Tree {
    app: Arc<str>,
    /// Each, and its time so far.
    processes: HashMap<u32, u64>,
    /// Of those that ended.
    ended_ns: u64,
    memory_bytes: u64,
    /// What was told of it last, or is to be told next.
    told_bytes: u64,
}

/// A process at the last look.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub pid: u32,
    pub memory_bytes: u64,
}

impl Usage {
    /// Processor time in µs since the application's process began, and resident memory in octets at the last look.
    pub fn of(&mut self, app: &Arc<str>, leader: u32) -> (u64, u64) {
        let tree = self.trees.entry(leader).or_insert_with(|| Tree {
            app: Arc::clone(app),
            processes: [(leader, 0)].into(),
            ended_ns: 0,
            memory_bytes: resident_bytes(leader),
            told_bytes: 0,
        });
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
        tree.told_bytes = tree.memory_bytes;
        let nanos = tree.ended_ns + tree.processes.values().sum::<u64>();
        (Duration::from_nanos(nanos).as_micros() as u64, tree.memory_bytes)
    }

    /// Takes in which processes there are, by the leader of each one's session; forgets applications that have none. Returns
    /// those whose memory is another by more than an eighth than what was told of it, each once: they are to be told of.
    pub fn seen(&mut self, all: &HashMap<u32, Vec<Process>>) -> Vec<Arc<str>> {
        let mut changed = Vec::new();
        self.trees.retain(|leader, tree| {
            let Some(processes) = all.get(leader) else { return false };
            for process in processes {
                tree.processes.entry(process.pid).or_insert(0);
            }
            tree.memory_bytes = processes.iter().map(|process| process.memory_bytes).sum();
            if tree.memory_bytes.abs_diff(tree.told_bytes) > tree.told_bytes / 8 {
                tree.told_bytes = tree.memory_bytes;
                changed.push(Arc::clone(&tree.app));
            }
            true
        });
        changed
    }
}

/// Every process by its session. Reads all of /proc: blocking.
pub fn sessions() -> HashMap<u32, Vec<Process>> {
    let page = page_bytes();
    let mut all: HashMap<u32, Vec<Process>> = HashMap::new();
    for seen in leftovers::see_all().into_iter().filter(|seen| !seen.is_zombie) {
        let process = Process { pid: seen.pid, memory_bytes: seen.resident_pages * page };
        all.entry(seen.session).or_default().push(process);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// Ends with all that it began, also when a test fails.
    struct Group(Child);

    impl Group {
        fn end(&mut self) {
            let _ = steady_sys::process::signal_group(self.0.id(), steady_sys::process::Signal::Kill);
            let _ = self.0.wait();
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            // Waited for or not: its number is its group's as long as anybody is in it.
            self.end();
        }
    }

    #[test]
    fn the_work_of_a_child_counts_and_stays_when_it_has_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "sh -c 'while :; do :; done' & wait"]);
        let mut group = Group(steady_sys::process::lead_session_and_die_with_parent(&mut command).spawn().unwrap());
        let leader = group.0.id();
        let (mut usage, app) = (Usage::default(), Arc::from("app"));
        let begun = std::time::Instant::now();
        let worked = loop {
            usage.of(&app, leader);
            usage.seen(&sessions());
            let (cpu_us, memory) = usage.of(&app, leader);
            // The first pages of a program are not counted at once.
            if cpu_us > 50_000 && memory > 0 {
                break cpu_us;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{cpu_us} µs, {memory} octets");
            std::thread::yield_now();
        };
        group.end();
        assert!(usage.of(&app, leader).0 >= worked);
        usage.seen(&HashMap::new());
        assert!(usage.trees.is_empty());
    }

    #[test]
    fn an_application_is_to_be_told_of_when_its_memory_is_another_and_not_again_until_it_is_so_again() {
        let me = std::process::id();
        let (mut usage, app) = (Usage::default(), Arc::from("app"));
        let holds = |usage: &mut Usage, memory_bytes| {
            let seen = [(me, vec![Process { pid: me, memory_bytes }])].into();
            usage.seen(&seen).iter().map(|app| app.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(holds(&mut usage, 1 << 30), Vec::<String>::new(), "nothing was ever told of it");
        usage.of(&app, me);
        assert_eq!(holds(&mut usage, 1 << 40), ["app"]);
        assert_eq!(holds(&mut usage, 1 << 40), Vec::<String>::new(), "once");
        assert_eq!(usage.of(&app, me).1, 1 << 40);
        assert_eq!(holds(&mut usage, (1 << 40) + (1 << 36)), Vec::<String>::new(), "a sixteenth more");
        assert_eq!(holds(&mut usage, 1 << 39), ["app"]);
    }
}
