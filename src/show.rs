//! What people see: tables, steps, check marks, colours only where a person looks.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::Error;

/// Colours, or none: only on a terminal, and never when NO_COLOR is set (<https://no-color.org>).
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: bool,
}

impl Style {
    pub fn of(stream: &impl IsTerminal) -> Style {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Style { colour: !refused && stream.is_terminal() }
    }

    #[cfg(test)]
    pub const PLAIN: Style = Style { colour: false };

    pub fn is_coloured(self) -> bool {
        self.colour
    }

    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub fn strong(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes a line to stdout; a reader that has left ends the command quietly.
pub fn line(text: &str) -> Result<(), Error> {
    written(writeln!(io::stdout(), "{text}"))
}

/// Writes octets to stdout as they are, at once.
pub fn raw(bytes: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout();
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

fn written(result: io::Result<()>) -> Result<(), Error> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Error::PipeClosed,
        _ => Error::Failed(format!("cannot write the output: {error}")),
    })
}

pub fn error(json: bool, error: &Error) {
    if json {
        eprintln!("{}", json!({"error": error.to_string(), "class": error.class()}));
    } else {
        let style = Style::of(&io::stderr());
        eprintln!("{} {error}", style.bad("steady:"));
    }
}

/// Columns as wide as their widest cell, two blanks between; the head in capitals as given, the last column ragged.
pub fn table(head: &[&str], rows: &[Vec<String>], style: Style) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let render = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = style.faint(&render(head));
    for row in rows {
        text.push('\n');
        text.push_str(&render(&row.iter().map(String::as_str).collect::<Vec<_>>()));
    }
    text
}

/// One step of long work: `  ✓ drain     h1  3 requests to finish  12 ms`.
pub fn step(value: &Value, style: Style) -> Option<String> {
    let name = value.get("step").and_then(Value::as_str)?;
    let host = value.get("host").and_then(Value::as_str).unwrap_or("");
    let detail = value.get("detail").and_then(Value::as_str).unwrap_or("");
    let mut text = format!("  {} {name:<9} {host:<4} {detail}", style.good("✓"));
    if let Some(ms) = value.get("ms").and_then(Value::as_f64) {
        text = format!("{}  {}", text.trim_end(), style.faint(&duration(Duration::from_secs_f64(ms.max(0.0) / 1e3))));
    }
    Some(text.trim_end().to_owned())
}

/// A duration for people: `340 µs`, `12 ms`, `3.4 s`, `2 min 5 s`.
pub fn duration(duration: Duration) -> String {
    let us = duration.as_micros();
    match us {
        0 => "0 ms".to_owned(),
        1..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        1_000_000..60_000_000 => format!("{:.1} s", duration.as_secs_f64()),
        _ => {
            let s = duration.as_secs();
            match s {
                0..3_600 => format!("{} min {} s", s / 60, s % 60),
                3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
                _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
            }
        }
    }
}

/// What a host can carry, as it registered: `4 cores, 15.6 GiB`; what was not said is left out.
pub fn capacity(capacity: &Value) -> String {
    let (cores, memory) = (number(capacity, "cpus"), number(capacity, "memory_bytes"));
    let mut parts = Vec::new();
    match cores {
        0 => {}
        1 => parts.push("1 core".to_owned()),
        _ => parts.push(format!("{cores} cores")),
    }
    if memory > 0 {
        parts.push(format!("{:.1} GiB", memory as f64 / 1_073_741_824.0));
    }
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// A number of a JSON object; 0 where there is none.
pub fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// A JSON scalar as a table cell: text without quotes, `-` for nothing, lists joined with commas.
pub fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(values)) if values.is_empty() => "-".to_owned(),
        Some(Value::Array(values)) => values.iter().map(|value| cell(Some(value))).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_have_no_trailing_blanks() {
        let rows = vec![vec!["a".to_owned(), "b".to_owned()], vec!["longer".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "X"], &rows, Style::PLAIN), "NAME    X\na       b\nlonger");
    }

    #[test]
    fn a_capacity_is_what_was_said_of_it() {
        assert_eq!(
            capacity(&json!({"apps_max": 3, "cpus": 4, "memory_bytes": 16_750_000_000_u64})),
            "4 cores, 15.6 GiB"
        );
        assert_eq!(capacity(&json!({"apps_max": 3, "cpus": 1, "memory_bytes": 0})), "1 core");
        assert_eq!((capacity(&Value::Null), capacity(&json!({"cpus": 0}))), ("-".to_owned(), "-".to_owned()));
    }

    #[test]
    fn a_step_without_a_host_or_a_detail_still_shows_its_name_and_duration() {
        assert_eq!(step(&json!({"step": "record", "ms": 3}), Style::PLAIN).unwrap(), "  ✓ record  3 ms");
        assert_eq!(
            step(&json!({"step": "drain", "host": "h1", "detail": "3 requests", "ms": 0.4}), Style::PLAIN).unwrap(),
            "  ✓ drain     h1   3 requests  400 µs"
        );
        assert_eq!(step(&json!({"done": true}), Style::PLAIN), None);
    }

    #[test]
    fn durations_read_as_people_say_them() {
        for (ms, text) in
            [(0, "0 ms"), (12, "12 ms"), (3_400, "3.4 s"), (125_000, "2 min 5 s"), (90_000_000, "1 d 1 h")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
