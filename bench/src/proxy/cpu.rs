//! What a process and its children have spent, and the memory that it holds, by `/proc`.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

/// A thread of this name is control's, whose work is not the data path's: it is not counted. Only Steady's has one, where
/// tables are changed while it serves.
pub const CONTROL: &str = "bench-control";

/// CPU time so far: of all threads of a process but [`CONTROL`], and of its children's.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Spent {
    /// To the nanosecond, by the scheduler's own account.
    pub nanos: u64,
    /// In the kernel's ticks, which only tell how the whole divides.
    user: u64,
    system: u64,
}

impl Spent {
    /// Since `earlier`.
    pub fn since(self, earlier: Spent) -> Spent {
        Spent {
            nanos: self.nanos.saturating_sub(earlier.nanos),
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    /// The share spent in user space.
    pub fn user_share(self) -> f64 {
        let all = self.user + self.system;
        if all == 0 { 0.0 } else { self.user as f64 / all as f64 }
    }
}

/// Of these processes and of their children that live.
///
/// # Errors
/// When there is no such process.
pub fn spent(pids: &[u32]) -> io::Result<Spent> {
    let mut sum = Spent::default();
    for pid in pids {
        add(*pid, &mut sum)?;
    }
    Ok(sum)
}

/// Octets of memory that these processes hold, without mapped files.
///
/// # Errors
/// When there is no such process.
pub fn resident(pids: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        sum += (of("RssAnon:").unwrap_or(0) + of("RssShmem:").unwrap_or(0)) * 1024;
    }
    Ok(sum)
}

fn add(pid: u32, sum: &mut Spent) -> io::Result<()> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        // A thread that ended meanwhile has no files any more, which is no error of ours.
        let Ok(schedule) = fs::read_to_string(task.join("schedstat")) else { continue };
        let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
        if stat.contains(&format!("({CONTROL})")) {
            continue;
        }
        // Behind the name, which may hold anything: state is the first field, utime the 12th, stime the 13th.
        sum.nanos += schedule.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let mut times = fields.split_whitespace().skip(11).map(|text| text.parse::<u64>().unwrap_or(0));
        sum.user += times.next().unwrap_or(0);
        sum.system += times.next().unwrap_or(0);
        for child in fs::read_to_string(task.join("children")).unwrap_or_default().split_whitespace() {
            if let Ok(child) = child.parse() {
                // As with threads.
                let _ = add(child, sum);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_process_is_counted() {
        let own = [std::process::id()];
        let before = spent(&own).unwrap();
        let mut sum = 0u64;
        while spent(&own).unwrap().since(before).nanos < 1_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(spent(&[u32::MAX]).is_err());
    }

    #[test]
    fn memory_that_is_touched_is_resident() {
        let own = [std::process::id()];
        let before = resident(&own).unwrap();
        let memory = std::hint::black_box(vec![1u8; 32 << 20]);
        assert!(resident(&own).unwrap() >= before + (24 << 20), "{} octets", memory.len());
    }
}
