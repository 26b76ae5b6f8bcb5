//! One case under `valgrind --tool=callgrind`.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

/// Instructions in all of the case's calls of `measured`, less those in its calls of `uncounted`.
///
/// # Errors
/// A sentence: valgrind is missing or failed, or nothing was counted.
pub(crate) fn count(case: &str) -> Result<u64, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let out = dir.path().join("out");
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("valgrind")
        // Nothing of the environment may move the stack or the heap.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .arg("--toggle-collect=steady_guard::measured*")
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(own)
        .args(["--case", case])
        .output()
        .map_err(|error| format!("valgrind cannot be run ({error}): apt-get install valgrind"))?;
    if !output.status.success() {
        return Err(format!("{case} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let profile = fs::read_to_string(&out).map_err(|error| error.to_string())?;
    let total = total(&profile).filter(|total| *total > 0);
    let total = total.ok_or_else(|| format!("{case}: callgrind counted nothing; is `measured` inlined?"))?;
    Ok(total.saturating_sub(inclusive(&profile, "steady_guard::uncounted")))
}

/// The sum that a profile states.
fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

/// The sum of all calls of the functions whose name begins so, with all that they call. They must not call one another.
///
/// A call is `cfn=(ID) NAME`, or `cfn=(ID)` where the name was told before (by `fn=` or `cfn=`), then `calls=...`, then a line that
/// ends with what it cost.
fn inclusive(profile: &str, name: &str) -> u64 {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut called, mut is_cost, mut sum) = ("", false, 0);
    for line in profile.lines() {
        if is_cost {
            let cost = line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
            sum += if called.starts_with(name) { cost } else { 0 };
            is_cost = false;
        } else if let Some(function) = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn=")) {
            let (id, told) = function.split_once(' ').unwrap_or((function, ""));
            if !told.is_empty() {
                names.insert(id, told);
            }
            called = names.get(id).copied().unwrap_or_default();
        } else {
            is_cost = line.starts_with("calls=");
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_profile_is_read_from_its_totals() {
        assert_eq!(total("version: 1\nevents: Ir\nfn=(1) main\n12 5\ntotals: 40321\n"), Some(40_321));
        assert_eq!(total("version: 1\n"), None);
    }

    #[test]
    fn the_cost_of_calls_is_summed_with_all_they_call() {
        let profile = "fn=(1) a::measured\n10 5\ncfn=(2) a::uncounted\ncalls=3 50\n11 700\n12 9\ncfn=(3) b\ncalls=1 1\n12 50\n\n\
                       fn=(2)\n50 700\n\nfn=(3)\n12 10\ncfn=(2)\ncalls=1 50\n13 40\n";
        assert_eq!(inclusive(profile, "a::uncounted"), 740);
        assert_eq!(inclusive(profile, "b"), 50);
        assert_eq!(inclusive(profile, "c"), 0);
    }
}
