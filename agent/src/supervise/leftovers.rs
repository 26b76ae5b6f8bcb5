//! Finds and ends what an earlier agent left running, and what of an application slipped out of its process group.
//!
//! Two signs, because each can fail alone. Every process inherits `STEADY_STATE` (this state folder's own mark) and
//! `STEADY_START` (the start that it belongs to) in its environment, also when it has made a session of its own. And each
//! start is written down with its pid and start time (proc_pid_stat(5), field 22), which finds a leader that has
//! overwritten its environment; the time keeps a reused pid from being taken for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use steady_sys::process::{Signal, signal_group, signal_process};

/// How long killed processes may take to be gone. Only one in an uninterruptible sleep takes longer than a moment.
const GONE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One started process, as it is written down in `run/INSTANCE.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    pub app: String,
    pub instance: u64,
    pub pid: u32,
    /// In clock ticks since boot.
    pub start_time: u64,
}

/// What /proc says about a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub pid: u32,
    pub group: u32,
    pub session: u32,
    pub start_time: u64,
    /// Resident memory, in pages.
    pub resident_pages: u64,
    /// A zombie runs nothing any more; its parent only has not looked.
    pub is_zombie: bool,
}

/// Reads one process; `None` when it is not there.
pub fn see(pid: u32) -> Option<Seen> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<Seen> {
    // The name is in parentheses and may hold anything, these included.
    let (before, after) = (stat.split(" (").next()?, stat.rsplit_once(") ")?.1);
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    Some(Seen {
        pid: before.trim().parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
        resident_pages: fields.get(21)?.parse().ok()?,
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
    })
}

/// Every process that there is.
pub fn see_all() -> Vec<Seen> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(see).collect()
}

fn has_mark(pid: u32, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| environ.split(|b| *b == 0).any(|pair| pair == mark))
}

/// Kills everything that `belongs` accepts, again until nothing of it is seen: a process may fork while it is killed.
/// Blocking. Returns how many were killed; an error when some would not go.
pub fn kill_all(belongs: impl Fn(&Seen) -> bool) -> io::Result<usize> {
    let until = Instant::now() + GONE_WITHIN;
    let mut killed = std::collections::BTreeSet::new();
    let own = std::process::id();
    loop {
        let alive: Vec<Seen> =
            see_all().into_iter().filter(|seen| seen.pid != own && !seen.is_zombie && belongs(seen)).collect();
        if alive.is_empty() {
            return Ok(killed.len());
        }
        for seen in &alive {
            // It may have ended since; then its pid could only be reused within this very moment.
            if see(seen.pid).is_some_and(|now| now.start_time == seen.start_time) {
                signal_process(seen.pid, Signal::Kill)?;
                killed.insert((seen.pid, seen.start_time));
            }
        }
        if Instant::now() > until {
            let pids: Vec<u32> = alive.iter().map(|seen| seen.pid).collect();
            return Err(io::Error::other(format!("processes {pids:?} do not end, even by SIGKILL")));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The value of `STEADY_START`: no start of any agent on this machine has the same. Instances alone would not do: two
/// agents that start in the same millisecond count alike.
pub fn start_mark(state_mark: &str, instance: u64) -> String {
    format!("{state_mark}.{instance}")
}

/// Kills what remains of one start: its group, its session, and whatever carries its mark. Blocking.
pub fn kill_start(group: u32, start_mark: &str) -> io::Result<usize> {
    let mark = format!("STEADY_START={start_mark}").into_bytes();
    kill_all(|seen| seen.group == group || seen.session == group || has_mark(seen.pid, &mark))
}

/// Ends everything that an earlier agent on this state folder left. Blocking. Returns how many processes that were.
pub fn kill_leftovers(run_dir: &Path, state_mark: &str) -> io::Result<usize> {
    let mark = format!("STEADY_STATE={state_mark}").into_bytes();
    let mut groups = Vec::new();
    for entry in fs::read_dir(run_dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let started = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Started>(&text).ok());
        let Some(started) = started else { continue };
        if see(started.pid).is_some_and(|seen| seen.start_time == started.start_time && seen.group == started.pid) {
            signal_group(started.pid, Signal::Kill)?;
            groups.push(started.pid);
        }
    }
    let killed = kill_all(|seen| groups.contains(&seen.group) || has_mark(seen.pid, &mark))?;
    for entry in fs::read_dir(run_dir)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(killed.max(groups.len()))
}

/// Where one start is written down.
pub fn started_file(run_dir: &Path, instance: u64) -> PathBuf {
    run_dir.join(format!("{instance}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use steady_sys::process::lead_session_and_die_with_parent;

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse_the_reader() {
        let stat = "42 (a) R (b) c) S 1 42 41 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 1 1";
        let seen = parse_stat(stat).unwrap();
        assert_eq!((seen.pid, seen.group, seen.session, seen.start_time, seen.is_zombie), (42, 42, 41, 777, false));
    }

    #[test]
    fn our_own_process_is_seen() {
        assert_eq!(see(std::process::id()).unwrap().pid, std::process::id());
    }

    #[test]
    fn leftovers_are_ended_also_when_they_left_their_group() {
        let run = tempfile::tempdir().unwrap();
        let mark = format!("test-{}-leftovers", std::process::id());
        let mut leader = lead_session_and_die_with_parent(
            Command::new("sh").args(["-c", "setsid sleep 97 & sleep 97"]).env("STEADY_STATE", &mark),
        )
        .spawn()
        .unwrap();
        let started = Started {
            app: "a".into(),
            instance: 1,
            pid: leader.id(),
            start_time: see(leader.id()).unwrap().start_time,
        };
        fs::write(started_file(run.path(), 1), serde_json::to_vec(&started).unwrap()).unwrap();
        let of_ours = format!("STEADY_STATE={mark}").into_bytes();
        let count = || see_all().iter().filter(|seen| !seen.is_zombie && has_mark(seen.pid, &of_ours)).count();
        while count() < 3 {
            std::thread::yield_now();
        }
        assert!(kill_leftovers(run.path(), &mark).unwrap() >= 1);
        assert_eq!(count(), 0);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0);
        leader.wait().unwrap();
    }

    #[test]
    fn the_end_of_one_start_is_not_the_end_of_an_equal_start_of_another_agent() {
        let mark = |agent: &str| start_mark(&format!("test-{}-{agent}", std::process::id()), 1);
        let start = |mark: String| {
            lead_session_and_die_with_parent(Command::new("sleep").arg("97").env("STEADY_START", mark)).spawn().unwrap()
        };
        let (mut one, mut two) = (start(mark("one")), start(mark("two")));
        kill_start(one.id(), &mark("one")).unwrap();
        one.wait().unwrap();
        assert!(two.try_wait().unwrap().is_none());
        two.kill().unwrap();
        two.wait().unwrap();
    }

    #[test]
    fn a_reused_pid_is_left_alone() {
        let run = tempfile::tempdir().unwrap();
        let mut other = lead_session_and_die_with_parent(Command::new("sleep").arg("97")).spawn().unwrap();
        let started = Started { app: "a".into(), instance: 1, pid: other.id(), start_time: 1 };
        fs::write(started_file(run.path(), 1), serde_json::to_vec(&started).unwrap()).unwrap();
        assert_eq!(kill_leftovers(run.path(), "test-reused").unwrap(), 0);
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
