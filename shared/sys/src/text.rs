//! Durations and sizes as people write them in configuration: `"250ms"`, `"64KiB"`.
//!
//! Whole numbers with a unit, parts added up (`"1m30s"`). Nothing here knows of a configuration format; both daemons wrap
//! these functions in their own deserialisers.

use std::fmt;
use std::time::Duration;

/// Why a text is no duration or size. Its message names the text, and says what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    text: String,
    wants: &'static str,
}

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not {}", self.text, self.wants)
    }
}

impl std::error::Error for TextError {}

const DURATION_WANTS: &str = "a duration: a whole number with ms, s, m or h, like \"250ms\", \"10s\" or \"1m30s\"";
const SIZE_WANTS: &str = "a size: a whole number of octets, or one with KiB, MiB or GiB, like \"64KiB\"";

/// Reads `"250ms"`, `"10s"`, `"2m"`, `"1h"`, `"1m30s"`; also `us`, `d`, and a bare `"0"`. Spaces around it are ignored.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(steady_sys::text::parse_duration("1m30s"), Ok(Duration::from_secs(90)));
/// assert!(steady_sys::text::parse_duration("10").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, TextError> {
    let wrong = || TextError { text: text.to_owned(), wants: DURATION_WANTS };
    let trimmed = text.trim();
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let mut micros_total: u64 = 0;
    let mut rest = trimmed;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let (count, after_count) = leading_number(rest).ok_or_else(wrong)?;
        let unit_len = after_count.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after_unit) = after_count.split_at(unit_len);
        let unit_micros: u64 = match unit {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return Err(wrong()),
        };
        let micros = count.checked_mul(unit_micros).ok_or_else(wrong)?;
        micros_total = micros_total.checked_add(micros).ok_or_else(wrong)?;
        rest = after_unit;
    }
    Ok(Duration::from_micros(micros_total))
}

/// Reads `"4096"`, `"64KiB"`, `"10MiB"`, `"1GiB"` (powers of 1024) and `"10kB"`, `"10MB"`, `"1GB"` (powers of 1000) as octets.
///
/// ```
/// assert_eq!(steady_sys::text::parse_size("64KiB"), Ok(65_536));
/// ```
pub fn parse_size(text: &str) -> Result<u64, TextError> {
    let wrong = || TextError { text: text.to_owned(), wants: SIZE_WANTS };
    let (count, unit) = leading_number(text.trim()).ok_or_else(wrong)?;
    let unit_octets: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(wrong()),
    };
    count.checked_mul(unit_octets).ok_or_else(wrong)
}

/// Writes a duration as [`parse_duration`] reads it, in the fewest parts, to the microsecond.
pub fn format_duration(duration: Duration) -> String {
    let mut micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    if micros == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, unit_micros) in [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)] {
        let count = micros / unit_micros;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
            micros %= unit_micros;
        }
    }
    text
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit_and_added_up() {
        let cases = [
            ("250ms", Duration::from_millis(250)),
            ("10s", Duration::from_secs(10)),
            (" 2m ", Duration::from_secs(120)),
            ("1h", Duration::from_secs(3600)),
            ("1d", Duration::from_secs(86_400)),
            ("40us", Duration::from_micros(40)),
            ("1m30s", Duration::from_secs(90)),
            ("0", Duration::ZERO),
            ("0s", Duration::ZERO),
        ];
        for (text, duration) in cases {
            assert_eq!(parse_duration(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn a_duration_without_a_unit_or_beyond_the_range_is_refused_with_what_would_be_right() {
        for text in ["", " ", "10", "s", "10 s", "-1s", "1.5s", "1w", "99999999999999999999s", "9999999999999h", "1s2"]
        {
            let error = parse_duration(text).expect_err(text);
            assert!(error.to_string().contains("250ms"), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_in_binary_and_decimal_units() {
        let cases = [("4096", 4096), ("64KiB", 65_536), ("10 MiB", 10 << 20), ("1GiB", 1 << 30), ("10kB", 10_000)];
        for (text, octets) in cases {
            assert_eq!(parse_size(text), Ok(octets), "{text}");
        }
        for text in ["", "KiB", "1.5MiB", "-1", "1kb", "99999999999999999999", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_formatted_is_read_back() {
        for micros in [0, 1, 999, 1_000, 90_000_000, 3_600_000_001, 86_400_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        assert_eq!(format_duration(Duration::from_secs(90)), "1m30s");
    }
}
