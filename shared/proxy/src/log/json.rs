//! JSON, appended piece by piece without allocation: strings, integers, times.

/// Octets that cannot stand for themselves in a string, or are not ASCII.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut octet = 0;
    while octet < 256 {
        special[octet] = octet < 0x20 || octet >= 0x7f || octet == b'"' as usize || octet == b'\\' as usize;
        octet += 1;
    }
    special
};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `octets` as a string, quotes included. What is not UTF-8 becomes `\u00XX`, an escape for each octet, as if it
/// were Latin-1.
pub fn string(out: &mut Vec<u8>, octets: &[u8]) {
    out.push(b'"');
    let mut rest = octets;
    while let Some(at) = rest.iter().position(|&octet| SPECIAL[usize::from(octet)]) {
        out.extend_from_slice(&rest[..at]);
        if rest[at] < 0x80 {
            escape(out, rest[at]);
            rest = &rest[at + 1..];
        } else {
            let run = rest[at..].iter().position(u8::is_ascii).map_or(rest.len(), |length| at + length);
            not_ascii(out, &rest[at..run]);
            rest = &rest[run..];
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn not_ascii(out: &mut Vec<u8>, run: &[u8]) {
    for chunk in run.utf8_chunks() {
        out.extend_from_slice(chunk.valid().as_bytes());
        for &octet in chunk.invalid() {
            escape(out, octet);
        }
    }
}

fn escape(out: &mut Vec<u8>, octet: u8) {
    match octet {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', octet]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]]);
        }
    }
}

/// Appends a number.
pub fn unsigned(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(steady_http::decimal(value, &mut [0; 20]));
}

/// Appends a number.
pub fn signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    unsigned(out, value.unsigned_abs());
}

/// Writes RFC 3339 times in UTC with milliseconds, and remembers the last one: lines of one second share all but three digits.
#[derive(Clone, Debug)]
pub struct Timestamps {
    /// What `text` says, in seconds since 1970.
    second: u64,
    text: [u8; 24],
}

impl Default for Timestamps {
    fn default() -> Timestamps {
        Timestamps { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl Timestamps {
    /// Appends `2026-11-20T23:52:04.123Z`, without quotes. `unix_ns`: nanoseconds since 1970.
    pub fn append(&mut self, out: &mut Vec<u8>, unix_ns: u64) {
        let second = unix_ns / 1_000_000_000;
        if second != self.second {
            if second / 86_400 != self.second / 86_400 {
                self.date(second / 86_400);
            }
            let time = second % 86_400;
            self.digits(11, 2, time / 3600);
            self.digits(14, 2, time / 60 % 60);
            self.digits(17, 2, time % 60);
            self.second = second;
        }
        self.digits(20, 3, unix_ns / 1_000_000 % 1000);
        out.extend_from_slice(&self.text);
    }

    /// The proleptic Gregorian date, counted in 400-year cycles of years that begin in March, so that the leap day is a
    /// year's last.
    fn date(&mut self, days: u64) {
        let since = days + 719_468; // 1 March of year 0
        let (cycle, day) = (since / 146_097, since % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (number, january) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        self.digits(0, 4, cycle * 400 + year + january);
        self.digits(5, 2, number);
        self.digits(8, 2, day - (153 * month + 2) / 5 + 1);
    }

    fn digits(&mut self, at: usize, length: usize, mut value: u64) {
        for digit in self.text[at..at + length].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn appended(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn any_text_reads_back_the_same(text in any::<String>()) {
            let json = appended(|out| string(out, text.as_bytes()));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn any_octets_make_a_valid_string_on_one_line(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let json = appended(|out| string(out, &octets));
            prop_assert!(json.bytes().all(|octet| octet >= 0x20));
            let expected: String = octets
                .utf8_chunks()
                .flat_map(|chunk| chunk.valid().chars().chain(chunk.invalid().iter().map(|&octet| char::from(octet))))
                .collect();
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), expected);
        }

        #[test]
        fn numbers_are_decimal(unsigned_value: u64, signed_value: i64) {
            prop_assert_eq!(appended(|out| unsigned(out, unsigned_value)), unsigned_value.to_string());
            prop_assert_eq!(appended(|out| signed(out, signed_value)), signed_value.to_string());
        }

        #[test]
        fn a_remembered_time_does_not_show_in_the_next(first: u64, second: u64, near in 0u64..200_000_000_000_000) {
            let mut stamps = Timestamps::default();
            for time in [first, second, second.saturating_add(near)] {
                prop_assert_eq!(
                    appended(|out| stamps.append(out, time)),
                    appended(|out| Timestamps::default().append(out, time))
                );
            }
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_709_164_800, "2024-02-29T00:00:00"),
            (1_735_689_599, "2024-12-31T23:59:59"),
            (1_735_689_600, "2025-01-01T00:00:00"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            let json = appended(|out| Timestamps::default().append(out, seconds * 1_000_000_000 + 42_999_999));
            assert_eq!(json, format!("{expected}.042Z"));
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut stamps = Timestamps::default();
        let date = |stamps: &mut Timestamps, day: u64| {
            let text = appended(|out| stamps.append(out, day * 86_400_000_000_000));
            (text[..4].parse::<u32>().unwrap(), text[5..7].parse::<u32>().unwrap(), text[8..10].parse::<u32>().unwrap())
        };
        let mut before = date(&mut stamps, 0);
        for day in 1..80_000 {
            let today = date(&mut stamps, day);
            let (year, month, number) = before;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 => 28 + u32::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = if number < length {
                (year, month, number + 1)
            } else if month < 12 {
                (year, month + 1, 1)
            } else {
                (year + 1, 1, 1)
            };
            assert_eq!(today, expected);
            before = today;
        }
    }
}
