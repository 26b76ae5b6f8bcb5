//! Where the time of one request went.

/// The parts of one request's time, in µs. They follow one another, so that their sum is the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTiming {
    /// Waiting for the application to be ready or for a free connection.
    pub queue: u64,
    /// Connecting to the application.
    pub connect: u64,
    /// From the request to the application's response head.
    pub application: u64,
    /// From the response head to the end of the response.
    pub streaming: u64,
    /// The rest: our own work.
    pub own: u64,
}

/// A text that is not a timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a timing: it must read q=N,c=N,a=N,s=N,o=N with whole microseconds")]
pub struct BadTiming;

const KEYS: [&[u8]; 5] = [b"q=", b",c=", b",a=", b",s=", b",o="];
const METRICS: [&[u8]; 5] = [b"queue", b"connect", b"application", b"streaming", b"own"];

impl RequestTiming {
    /// No text of a timing is longer than this.
    pub const TEXT_MAX: usize = 5 * (3 + 20) - 1;

    /// The time of the whole request in µs.
    pub fn total(&self) -> u64 {
        self.parts().into_iter().fold(0, u64::saturating_add)
    }

    /// Appends the text of the field in which an agent tells an edge: `q=12,c=3,a=456,s=0,o=9`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (key, us) in KEYS.into_iter().zip(self.parts()) {
            out.extend_from_slice(key);
            put_decimal(us, out);
        }
    }

    /// Reads that text. All five parts, in their order, decimal without leading zeros or signs, each below 2⁶⁴; no spaces.
    pub fn parse(text: &[u8]) -> Result<RequestTiming, BadTiming> {
        let mut rest = text;
        let mut parts = [0; 5];
        for (key, part) in KEYS.into_iter().zip(&mut parts) {
            rest = rest.strip_prefix(key).ok_or(BadTiming)?;
            (*part, rest) = take_decimal(rest).ok_or(BadTiming)?;
        }
        let [queue, connect, application, streaming, own] = parts;
        if rest.is_empty() { Ok(RequestTiming { queue, connect, application, streaming, own }) } else { Err(BadTiming) }
    }

    /// Appends the value of a Server-Timing field (W3C Server Timing §3), durations in milliseconds:
    /// `queue;dur=0.012, connect;dur=0.003, application;dur=0.456, streaming;dur=0, own;dur=0.009`.
    pub fn server_timing(&self, out: &mut Vec<u8>) {
        for (at, (metric, us)) in METRICS.into_iter().zip(self.parts()).enumerate() {
            if at > 0 {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(metric);
            out.extend_from_slice(b";dur=");
            put_decimal(us / 1000, out);
            let below = (us % 1000) as u16;
            if below > 0 {
                let digit = |n: u16| b'0' + (n % 10) as u8;
                out.extend_from_slice(&[b'.', digit(below / 100), digit(below / 10), digit(below)]);
            }
        }
    }

    fn parts(&self) -> [u64; 5] {
        [self.queue, self.connect, self.application, self.streaming, self.own]
    }
}

fn put_decimal(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn take_decimal(text: &[u8]) -> Option<(u64, &[u8])> {
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(len);
    if digits.is_empty() || (digits[0] == b'0' && len > 1) {
        return None;
    }
    let value = digits.iter().try_fold(0u64, |n, digit| n.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?;
    Some((value, rest))
}
