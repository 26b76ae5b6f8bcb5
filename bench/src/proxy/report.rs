//! What was measured, as tables for people and as JSON for programs.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::gates;
use super::outcome::{Outcome, Sample, Spread};
use super::rows::What;
use super::shape::Measured;

/// A table's kind: what its rows can be put under one head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cost,
    Latency,
    Memory,
    Start,
}

fn kind(outcome: &Outcome) -> Kind {
    match outcome.row().map(|row| row.what) {
        Some(What::Latency(_) | What::Attack(_)) => Kind::Latency,
        Some(What::Memory) => Kind::Memory,
        Some(What::Start) => Kind::Start,
        _ => Kind::Cost,
    }
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Cost, Kind::Latency, Kind::Memory, Kind::Start];

    const fn title(self) -> &'static str {
        match self {
            Kind::Cost => "CPU per request",
            Kind::Latency => "Latency at a fixed rate (open loop; from the time a request was due)",
            Kind::Memory => "Memory of connections that are idle",
            Kind::Start => "Start with a million applications",
        }
    }

    const fn columns(self) -> &'static [&'static str] {
        match self {
            Kind::Cost => &[
                "CPU µs per request",
                "user",
                "requests/s",
                "p50 µs",
                "p99 µs",
                "p99.9 µs",
                "busy",
                "syscalls per request",
                "allocations per request",
                "ratio",
            ],
            Kind::Latency => &[
                "requests/s",
                "p50 µs",
                "p99 µs",
                "p99.9 µs",
                "CPU µs per request",
                "busy",
                "ratio of p99.9 (attack: p99)",
            ],
            Kind::Memory => &["connections", "KiB per connection", "MiB of the process", "ratio"],
            Kind::Start => &["ms to the first answer", "MiB of the process"],
        }
    }

    fn head(self) -> String {
        let columns = self.columns();
        format!("| row | proxy | {} |\n|---|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()))
    }
}

/// `median (least–most)`.
fn spread(value: Option<Spread>, decimals: usize) -> String {
    value.map_or(String::new(), |Spread { median, least, most }| {
        if least == most {
            format!("{median:.decimals$}")
        } else {
            format!("{median:.decimals$} ({least:.decimals$}–{most:.decimals$})")
        }
    })
}

fn cells(outcome: &Outcome, at: usize) -> Vec<String> {
    let load = |value: &dyn Fn(&Measured) -> Option<f64>| outcome.of(at, |sample| value(sample.load()?));
    let median = |value: &dyn Fn(&Measured) -> Option<f64>, decimals: usize| {
        load(value).map_or(String::new(), |spread| format!("{:.decimals$}", spread.median))
    };
    // A tool of others may not tell.
    let known = |latency: Duration| (!latency.is_zero()).then_some(latency.as_secs_f64() * 1e6);
    let latency = |index: usize| median(&|measured| known(measured.latency[index]), 0);
    let whole = |value: &dyn Fn(&Sample) -> Option<f64>| {
        outcome.of(at, value).map_or(String::new(), |spread| format!("{:.1}", spread.median / 1048576.0))
    };
    let ratio = outcome
        .ratio(at)
        .map_or(String::new(), |ratio| format!("**{:.2}** ({:.2}–{:.2})", ratio.median, ratio.least, ratio.most));
    let cpu = spread(load(&|measured| Some(measured.micros_per_request())), 2);
    let rate = median(&|measured| Some(measured.requests_per_second()), 0);
    let busy = load(&|measured| Some(measured.busy() * 100.0)).map_or(String::new(), |busy| {
        // The other core was the bottleneck.
        let note = if kind(outcome) == Kind::Cost && busy.median < 90.0 { " †" } else { "" };
        format!("{:.0} %{note}", busy.median)
    });
    match kind(outcome) {
        Kind::Cost => vec![
            cpu,
            median(&|measured| Some(measured.cpu.user_share() * 100.0), 0) + " %",
            rate,
            latency(0),
            latency(1),
            latency(2),
            busy,
            median(&Measured::syscalls, 3),
            median(&Measured::allocations, 4),
            ratio,
        ],
        Kind::Latency => vec![rate, latency(0), latency(1), latency(2), cpu, busy, ratio],
        Kind::Memory => vec![
            outcome.row().map_or(String::new(), |row| row.shape.connections.to_string()),
            spread(outcome.figures(at), 2),
            whole(&|sample| match sample {
                Sample::Memory { process, .. } => Some(*process),
                _ => None,
            }),
            ratio,
        ],
        Kind::Start => vec![
            spread(outcome.figures(at), 0),
            whole(&|sample| match sample {
                Sample::Start { process, .. } => Some(*process),
                _ => None,
            }),
        ],
    }
}

fn lines(outcome: &Outcome) -> String {
    let mut text = String::new();
    for (at, who) in outcome.who.iter().enumerate() {
        let name = if at == 0 { outcome.row.as_str() } else { "" };
        let error = outcome.error(at);
        if outcome.figures(at).is_none() {
            let empty = " |".repeat(kind(outcome).columns().len() - 1);
            let _ = writeln!(text, "| {name} | {} | {} |{empty}", who.name(), error.unwrap_or("not measured"));
            continue;
        }
        let note = error.map_or(String::new(), |error| format!(" (a round failed: {error})"));
        let _ = writeln!(text, "| {name} | {}{note} | {} |", who.name(), cells(outcome, at).join(" | "));
    }
    text
}

/// One row, with its head.
pub fn row(outcome: &Outcome) -> String {
    kind(outcome).head() + &lines(outcome)
}

/// All of them, by setting and kind, and the gates.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut text = gates::markdown(outcomes);
    let mut settings: Vec<_> = outcomes.iter().map(|outcome| outcome.setting).collect();
    settings.dedup();
    for setting in settings {
        for each in Kind::ALL {
            let of_kind = outcomes.iter().filter(|outcome| outcome.setting == setting && kind(outcome) == each);
            let rows: String = of_kind.map(lines).collect();
            if !rows.is_empty() {
                let _ = write!(text, "\n### {}, {}\n\n{}{rows}", each.title(), setting.name(), each.head());
            }
        }
    }
    if text.contains('†') {
        text += "\n† The proxy was not saturated: the load's core was the bottleneck.\n";
    }
    text
}

/// What it was measured on, as a list.
pub fn machine(machine: &Value) -> String {
    let mut text = String::new();
    let is_known = |value: &&Value| !value.is_null();
    for (name, value) in machine.as_object().into_iter().flatten().filter(|(_, value)| is_known(value)) {
        let name = name.replace('_', " ");
        let _ = match value {
            Value::String(value) => writeln!(text, "- {name}: {value}"),
            Value::Array(proxies) => proxies.iter().try_for_each(|proxy| {
                let of = |key: &str| proxy.get(key).and_then(Value::as_str).unwrap_or_default();
                writeln!(text, "- {}: {}", of("proxy"), of("version"))
            }),
            other => writeln!(text, "- {name}: {other}"),
        };
    }
    text + "\n"
}

/// Where a document shows the figures.
const MARKS: [&str; 2] = ["<!-- figures -->\n", "<!-- end of the figures -->\n"];

/// Puts charts and tables between the marks of a document, and the charts into a folder of its name.
///
/// # Errors
/// What the disk says, or that there are no marks.
pub fn publish(document: &Path, text: &str, charts: &[(String, String)]) -> io::Result<()> {
    let before = fs::read_to_string(document)?;
    let dir = document.with_extension("");
    fs::create_dir_all(&dir)?;
    let folder = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut shown = String::new();
    for (name, chart) in charts {
        fs::write(dir.join(name), chart)?;
        let _ = writeln!(shown, "![{}]({folder}/{name})", name.trim_end_matches(".svg"));
    }
    let parts = before.split_once(MARKS[0]).and_then(|(head, rest)| Some((head, rest.split_once(MARKS[1])?.1)));
    let Some((head, tail)) = parts else {
        return Err(io::Error::other(format!("{} has no marks for the figures", document.display())));
    };
    fs::write(document, format!("{head}{}\n{shown}\n{text}\n{}{tail}", MARKS[0], MARKS[1]))
}

/// Everything, for programs.
pub fn json(outcomes: &[Outcome], machine: &Value) -> Value {
    let rows = outcomes.iter().map(|outcome| {
        let proxies = outcome.who.iter().enumerate().map(|(at, who)| {
            let load = |value: &dyn Fn(&Measured) -> Option<f64>| outcome.of(at, |sample| value(sample.load()?));
            let latency = |index: usize| load(&move |measured| Some(measured.latency[index].as_secs_f64() * 1e6));
            json!({
                "proxy": who.name(),
                "figure": outcome.figures(at),
                "ratio": outcome.ratio(at),
                "cpu_us_per_request": load(&|measured| Some(measured.micros_per_request())),
                "user_share": load(&|measured| Some(measured.cpu.user_share())),
                "requests_per_second": load(&|measured| Some(measured.requests_per_second())),
                "p50_us": latency(0),
                "p99_us": latency(1),
                "p999_us": latency(2),
                "busy": load(&|measured| Some(measured.busy())),
                "syscalls_per_request": load(&Measured::syscalls),
                "allocations_per_request": load(&Measured::allocations),
                "error": outcome.error(at),
            })
        });
        json!({
            "row": outcome.row,
            "setting": outcome.setting.name(),
            "load": outcome.load.name(),
            "rate": outcome.rate,
            "rounds": outcome.rounds.len(),
            "proxies": proxies.collect::<Vec<_>>(),
        })
    });
    json!({ "machine": machine, "rows": rows.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_between_the_marks_and_nothing_else_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let document = dir.path().join("performance.md");
        let publish = |text: &str| publish(&document, text, &[("ratios-bare.svg".to_owned(), "<svg/>".to_owned())]);
        fs::write(&document, "no marks").unwrap();
        assert!(publish("new").is_err());
        fs::write(&document, format!("above\n{}old\n{}below\n", MARKS[0], MARKS[1])).unwrap();
        publish("new").unwrap();
        publish("newer").unwrap();
        let shown = fs::read_to_string(&document).unwrap();
        assert!(shown.starts_with("above\n") && shown.ends_with("below\n"), "{shown}");
        assert!(shown.contains("newer") && !shown.contains("old") && !shown.contains("new\n\n"), "{shown}");
        assert!(shown.contains("(performance/ratios-bare.svg)"), "{shown}");
        assert_eq!(fs::read_to_string(dir.path().join("performance/ratios-bare.svg")).unwrap(), "<svg/>");
    }
}
