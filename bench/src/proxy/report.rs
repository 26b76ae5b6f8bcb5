//! What was measured, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::load::Measured;
use super::peers::Who;

/// One row in one setting.
#[derive(Debug)]
pub struct Outcome {
    pub row: &'static str,
    pub setting: &'static str,
    /// By round, in the order of the proxies; an error where it failed.
    pub rounds: Vec<Vec<Result<Measured, String>>>,
}

/// Median, least and most.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Spread { median, least, most })
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "least": self.least, "most": self.most })
    }
}

impl Outcome {
    fn of(&self, proxy: usize, value: impl Fn(&Measured) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| round[proxy].as_ref().ok()).map(value))
    }

    /// CPU per request of `proxy` by that of the best of `others` in the same round.
    fn ratio(&self, proxy: usize, others: &[usize]) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| {
            let cost = |at: usize| round[at].as_ref().ok().map(Measured::micros_per_request);
            let best = others.iter().filter_map(|&at| cost(at)).min_by(f64::total_cmp)?;
            Some(cost(proxy)? / best)
        }))
    }

    fn error(&self, proxy: usize) -> Option<&str> {
        self.rounds.iter().find_map(|round| round[proxy].as_ref().err()).map(String::as_str)
    }
}

/// Which of the proxies one is compared with: ours with the peers, and with the build before where there are none.
fn others(who: &[Who], at: usize) -> Vec<usize> {
    let all = |wanted: &dyn Fn(Who) -> bool| -> Vec<usize> {
        (0..who.len()).filter(|&other| other != at && wanted(who[other])).collect()
    };
    let peers = all(&|other| !other.is_ours());
    match who[at] {
        own if !own.is_ours() => Vec::new(),
        Who::Before => Vec::new(),
        _ if who.contains(&Who::Before) => all(&|other| other == Who::Before),
        _ => peers,
    }
}

/// The rows of one setting as a Markdown table.
pub fn markdown(outcomes: &[Outcome], who: &[Who]) -> String {
    let mut text = String::from(
        "| row | proxy | CPU µs per request | user | requests/s | p50 µs | p99 µs | p99.9 µs | busy | syscalls per request | ratio to the best peer |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for outcome in outcomes {
        for (at, who_it_is) in who.iter().enumerate() {
            let row = if at == 0 { outcome.row } else { "" };
            let (Some(cpu), Some(rate)) =
                (outcome.of(at, Measured::micros_per_request), outcome.of(at, Measured::requests_per_second))
            else {
                let error = outcome.error(at).unwrap_or("not measured");
                let _ = writeln!(text, "| {row} | {} | {error} | | | | | | | | |", who_it_is.name());
                continue;
            };
            let median = |value: &dyn Fn(&Measured) -> f64| outcome.of(at, value).map_or(0.0, |spread| spread.median);
            let user = median(&|measured| measured.cpu.user_share() * 100.0);
            let latency = |index: usize| median(&|measured| measured.latency[index].as_secs_f64() * 1e6);
            let busy = median(&|measured| measured.busy() * 100.0);
            let ratio = outcome.ratio(at, &others(who, at));
            let ratio = ratio.map_or(String::new(), |ratio| {
                format!("**{:.2}** ({:.2}–{:.2})", ratio.median, ratio.least, ratio.most)
            });
            let calls = Spread::of(outcome.rounds.iter().filter_map(|round| round[at].as_ref().ok()?.syscalls()));
            let calls = calls.map_or(String::new(), |calls| format!("{:.3}", calls.median));
            let failed = outcome.error(at).map_or(String::new(), |error| format!(" (a round failed: {error})"));
            let _ = writeln!(
                text,
                "| {row} | {} | {:.2} ({:.2}–{:.2}){failed} | {user:.0} % | {:.0} | {:.0} | {:.0} | {:.0} | {busy:.0} % | {calls} | {ratio} |",
                who_it_is.name(),
                cpu.median,
                cpu.least,
                cpu.most,
                rate.median,
                latency(0),
                latency(1),
                latency(2),
            );
        }
    }
    text
}

/// Everything, for programs.
pub fn json(outcomes: &[Outcome], who: &[Who], machine: &Value) -> Value {
    let rows = outcomes.iter().map(|outcome| {
        let proxies = who.iter().enumerate().map(|(at, who_it_is)| {
            let spread = |value: &dyn Fn(&Measured) -> f64| outcome.of(at, value).map(Spread::json);
            json!({
                "proxy": who_it_is.name(),
                "cpu_us_per_request": spread(&Measured::micros_per_request),
                "user_share": spread(&|measured| measured.cpu.user_share()),
                "requests_per_second": spread(&Measured::requests_per_second),
                "p50_us": spread(&|measured| measured.latency[0].as_secs_f64() * 1e6),
                "p99_us": spread(&|measured| measured.latency[1].as_secs_f64() * 1e6),
                "p999_us": spread(&|measured| measured.latency[2].as_secs_f64() * 1e6),
                "busy": spread(&Measured::busy),
                "syscalls_per_request": spread(&|measured| measured.syscalls().unwrap_or(f64::NAN)),
                "ratio": outcome.ratio(at, &others(who, at)).map(Spread::json),
                "error": outcome.error(at),
            })
        });
        json!({ "row": outcome.row, "setting": outcome.setting, "proxies": proxies.collect::<Vec<_>>() })
    });
    json!({ "machine": machine, "rows": rows.collect::<Vec<_>>() })
}
