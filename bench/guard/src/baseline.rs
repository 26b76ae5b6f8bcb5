//! What was counted before, in the repository.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Growth past which a case fails, in per cent.
pub(crate) const GROWTH_PERCENT_MAX: u64 = 3;

#[derive(Debug, Default, Deserialize, Serialize)]
pub(crate) struct Baseline {
    /// What decides how many instructions a source becomes.
    pub made_with: MadeWith,
    /// By case, of one unit.
    pub instructions: BTreeMap<String, u64>,
    /// Why it changed, oldest first, with the cases that did.
    pub reasons: Vec<Reason>,
}

#[derive(Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct MadeWith {
    pub compiler: String,
    pub libc: String,
    pub valgrind: String,
    /// The architecture, and whether there is AVX2, which searches and copies choose by.
    pub processor: String,
}

#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Reason {
    pub reason: String,
    pub changed: BTreeMap<String, String>,
}

/// Where a count stands.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    New,
    Same,
    /// By this part; an update keeps it from growing back unseen.
    Fallen(f64),
    Grown(f64),
}

impl Verdict {
    pub(crate) const fn is_growth(&self) -> bool {
        matches!(self, Verdict::Grown(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::New => f.write_str("   new"),
            Verdict::Same => f.write_str("     ="),
            Verdict::Fallen(part) => write!(f, "-{:>4.1} %", part * 100.0),
            Verdict::Grown(part) => write!(f, "+{:>4.1} % TOO MUCH", part * 100.0),
        }
    }
}

pub(crate) fn compare(before: Option<u64>, now: u64) -> Verdict {
    let Some(before) = before.filter(|before| *before > 0) else { return Verdict::New };
    let change = now as f64 / before as f64 - 1.0;
    if now * 100 > before * (100 + GROWTH_PERCENT_MAX) {
        Verdict::Grown(change)
    } else if now * 100 < before * (100 - GROWTH_PERCENT_MAX) {
        Verdict::Fallen(-change)
    } else {
        Verdict::Same
    }
}

pub(crate) fn made_with() -> MadeWith {
    let first_line = |program: &str, flag: &str| {
        let output = Command::new(program).arg(flag).output().ok();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        said.lines().next().unwrap_or("not installed").to_owned()
    };
    // "ldd (Debian GLIBC 2.36-9+deb12u14) 2.36": what a distribution mends within a version leaves the counts comparable.
    let libc = first_line("ldd", "--version");
    let libc = libc.rsplit(' ').next().unwrap_or_default().to_owned();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let avx2 = cpuinfo.split_whitespace().any(|flag| flag == "avx2");
    MadeWith {
        compiler: first_line("rustc", "--version"),
        libc,
        valgrind: first_line("valgrind", "--version"),
        processor: format!("{}{}", std::env::consts::ARCH, if avx2 { ", avx2" } else { "" }),
    }
}

/// # Errors
/// The file is damaged; one that is not there is empty.
pub(crate) fn read(path: &Path) -> Result<Baseline, String> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Baseline::default()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// # Errors
/// What the disk says.
pub(crate) fn write(
    path: &Path,
    old: Baseline,
    made_with: MadeWith,
    instructions: BTreeMap<String, u64>,
    reason: &str,
) -> Result<(), String> {
    let changed = instructions.iter().filter_map(|(case, now)| {
        let before = old.instructions.get(case).copied();
        let text = before.map_or_else(|| format!("new: {now}"), |before| format!("{before} to {now}"));
        (before != Some(*now)).then(|| (case.clone(), text))
    });
    let reason = Reason { reason: reason.to_owned(), changed: changed.collect() };
    let mut reasons = old.reasons;
    reasons.push(reason);
    let new = Baseline { made_with, instructions, reasons };
    let text = serde_json::to_string_pretty(&new).map_err(|error| error.to_string())?;
    fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_exceeds_three_per_cent() {
        assert_eq!(compare(Some(1000), 1030), Verdict::Same);
        assert!(compare(Some(1000), 1031).is_growth());
        assert!(matches!(compare(Some(1000), 900), Verdict::Fallen(_)));
        assert_eq!(compare(None, 900), Verdict::New);
    }

    #[test]
    fn an_update_keeps_its_reason_and_what_it_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("baseline.json");
        let counts = |n| BTreeMap::from([("a".to_owned(), n), ("b".to_owned(), 7)]);
        write(&path, read(&path).unwrap(), made_with(), counts(100), "first").unwrap();
        write(&path, read(&path).unwrap(), made_with(), counts(120), "more checks").unwrap();
        let read = read(&path).unwrap();
        assert_eq!(read.instructions, counts(120));
        assert_eq!(read.made_with, made_with());
        assert_eq!(read.reasons[1].reason, "more checks");
        assert_eq!(read.reasons[1].changed, BTreeMap::from([("a".to_owned(), "100 to 120".to_owned())]));
    }
}
