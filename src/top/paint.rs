//! Text with colours, of known width: lines are built and cut to the screen's width before a single escape is written.

use std::fmt::Write;

/// How a piece of text looks; as SGR says it (ECMA-48 §8.3.117).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Strong,
    Faint,
    Good,
    Warn,
    Bad,
    Accent,
}

impl Paint {
    fn code(self) -> &'static str {
        match self {
            Paint::Plain => "",
            Paint::Strong => "1",
            Paint::Faint => "2",
            Paint::Good => "32",
            Paint::Warn => "33",
            Paint::Bad => "31",
            Paint::Accent => "36",
        }
    }
}

/// One line of the screen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    pieces: Vec<(String, Paint)>,
    /// The whole line stands out: it is the one that is selected.
    pub selected: bool,
}

impl Line {
    pub fn new() -> Line {
        Line::default()
    }

    pub fn push(&mut self, text: impl Into<String>, paint: Paint) -> &mut Line {
        // What a name or an answer holds must not steer the terminal.
        let text: String = text.into().chars().filter(|c| !c.is_control()).collect();
        self.pieces.push((text, paint));
        self
    }

    /// Fills up with blanks to this column.
    pub fn pad_to(&mut self, column: usize) -> &mut Line {
        let width = self.width();
        self.push(" ".repeat(column.saturating_sub(width)), Paint::Plain)
    }

    pub fn width(&self) -> usize {
        self.pieces.iter().map(|(text, _)| text.chars().count()).sum()
    }

    /// For the terminal, in at most `width` columns; with escapes only when `colour`.
    pub fn render(&self, width: usize, colour: bool) -> String {
        let mut out = String::new();
        let mut left = width;
        for (text, paint) in &self.pieces {
            let text: String = text.chars().take(left).collect();
            left -= text.chars().count();
            if !colour || (*paint == Paint::Plain && !self.selected) {
                out.push_str(&text);
                continue;
            }
            let codes = [if self.selected { "7" } else { "" }, paint.code()];
            let codes: Vec<&str> = codes.into_iter().filter(|code| !code.is_empty()).collect();
            // Writing to a String does not fail.
            let _ = write!(out, "\x1b[{}m{text}\x1b[0m", codes.join(";"));
        }
        if self.selected && colour {
            let _ = write!(out, "\x1b[7m{}\x1b[0m", " ".repeat(left));
            return out;
        }
        out.trim_end().to_owned()
    }
}

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A bar a value, against the greatest; nothing where there is none. The last `width` of them, to the right.
pub fn spark(values: &[Option<u64>], width: usize) -> String {
    let shown = &values[values.len().saturating_sub(width)..];
    let most = shown.iter().flatten().copied().max().unwrap_or(0).max(1);
    let bar = |value: &Option<u64>| match value {
        None => ' ',
        Some(value) => BARS[(value.saturating_mul(BARS.len() as u64 - 1) / most) as usize],
    };
    let bars: String = shown.iter().map(bar).collect();
    format!("{}{bars}", " ".repeat(width - shown.len()))
}

/// A duration in at most seven columns: `340 µs`, `1.2 ms`, `85 ms`, `1.3 s`, `2.1 min`.
pub fn time(us: Option<u64>) -> String {
    let Some(us) = us else { return "-".to_owned() };
    let number = |value: f64| if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    let value = us as f64;
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..999_500 => format!("{} ms", number(value / 1e3)),
        999_500..59_500_000 => format!("{} s", number(value / 1e6)),
        _ => format!("{} min", number(value / 6e7)),
    }
}

/// A number of things a second: `0`, `0.3`, `42`, `1,234`, `1.2 M`.
pub fn rate(rate: f64) -> String {
    match rate {
        r if r <= 0.0 => "0".to_owned(),
        r if r < 9.95 => format!("{r:.1}"),
        r if r < 999_999.5 => thousands(r.round() as u64),
        r => format!("{:.1} M", r / 1e6),
    }
}

pub fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A share in percent: `0`, `0.2 %`, `12 %`.
pub fn share(share: f64) -> String {
    match share * 100.0 {
        p if p <= 0.0 => "0".to_owned(),
        p if p < 0.05 => "<0.1 %".to_owned(),
        p if p < 9.95 => format!("{p:.1} %"),
        p => format!("{p:.0} %"),
    }
}

/// Octets: `0`, `812 KiB`, `43 MiB`, `1.2 GiB`.
pub fn memory(bytes: u64) -> String {
    let value = bytes as f64;
    match bytes {
        0 => "-".to_owned(),
        1..1_048_576 => format!("{:.0} KiB", value / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.0} MiB", value / 1_048_576.0),
        _ => format!("{:.1} GiB", value / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_say_their_unit() {
        let times =
            [None, Some(0), Some(340), Some(1_234), Some(85_000), Some(999_600), Some(1_340_000), Some(125_000_000)];
        let shown = times.map(time);
        assert_eq!(shown, ["-", "0 µs", "340 µs", "1.2 ms", "85 ms", "1.0 s", "1.3 s", "2.1 min"]);
        assert_eq!([0.0, 0.31, 42.4, 1234.0, 1_234_000.0].map(rate), ["0", "0.3", "42", "1,234", "1.2 M"]);
        assert_eq!([0.0, 0.000_1, 0.002, 0.5, 1.0].map(share), ["0", "<0.1 %", "0.2 %", "50 %", "100 %"]);
        assert_eq!([0, 832_000, 45_000_000, 1 << 31].map(memory), ["-", "812 KiB", "43 MiB", "2.0 GiB"]);
    }

    #[test]
    fn a_sparkline_is_as_wide_as_asked_and_its_highest_bar_is_the_greatest() {
        assert_eq!(spark(&[Some(0), None, Some(5), Some(10)], 6), "  ▁ ▄█");
        assert_eq!(spark(&[Some(1), Some(7), Some(0)], 2), "█▁");
        assert_eq!(spark(&[], 3), "   ");
        assert_eq!(spark(&[Some(u64::MAX)], 1).chars().count(), 1);
    }

    #[test]
    fn a_line_is_cut_at_the_edge_and_no_text_steers_the_terminal() {
        let mut line = Line::new();
        line.push("abc\x1b[2Jdef", Paint::Bad).push("ghi", Paint::Plain);
        assert_eq!(line.render(100, false), "abc[2Jdefghi");
        assert_eq!(line.render(4, true), "\x1b[31mabc[\x1b[0m");
        line.selected = true;
        assert_eq!(line.render(13, true), "\x1b[7;31mabc[2Jdef\x1b[0m\x1b[7mghi\x1b[0m\x1b[7m \x1b[0m");
    }
}
