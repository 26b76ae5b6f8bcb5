//! What becomes of one request, written into its head by the client and read there by the origin; and the octets of bodies.

use steady_http::Head;

/// What the origin does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Answer,
    /// Answers at the request's head, while the body still comes.
    Early,
    /// Begins to answer, then resets the stream (HTTP/2) or the connection.
    Break,
    /// Resets before any answer.
    Reset,
    /// HTTP/2: says REFUSED_STREAM, and does not begin.
    Refuse,
    /// HTTP/2: says GOAWAY below this stream, and does not begin.
    GoAway,
    /// Never answers.
    Silent,
    /// Answers, and ends the connection after it.
    Close,
}

const FATES: [Fate; 8] =
    [Fate::Answer, Fate::Early, Fate::Break, Fate::Reset, Fate::Refuse, Fate::GoAway, Fate::Silent, Fate::Close];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub id: u64,
    pub fate: Fate,
    /// Octets of the request's body.
    pub upload: usize,
    /// Octets of the response's body.
    pub download: usize,
    pub status: u16,
    /// The response declares its length.
    pub sized: bool,
    pub trailers: bool,
    pub interim: bool,
    /// How long the origin thinks, in ms.
    pub delay: u64,
}

impl Plan {
    pub fn plain(id: u64) -> Plan {
        Plan {
            id,
            fate: Fate::Answer,
            upload: 0,
            download: 10,
            status: 200,
            sized: true,
            trailers: false,
            interim: false,
            delay: 0,
        }
    }

    pub fn encode(&self) -> String {
        let fate = FATES.iter().position(|&fate| fate == self.fate).unwrap();
        let flags = u8::from(self.sized) | u8::from(self.trailers) << 1 | u8::from(self.interim) << 2;
        format!("{},{fate},{},{},{},{flags},{}", self.id, self.upload, self.download, self.status, self.delay)
    }

    pub fn read(head: &Head) -> Option<Plan> {
        let text = std::str::from_utf8(head.get_named(b"x-plan")?).ok()?;
        let numbers: Vec<u64> = text.split(',').map(|part| part.parse().unwrap()).collect();
        let &[id, fate, upload, download, status, flags, delay] = &numbers[..] else { return None };
        Some(Plan {
            id,
            fate: FATES[fate as usize],
            upload: upload as usize,
            download: download as usize,
            status: status as u16,
            sized: flags & 1 > 0,
            trailers: flags & 2 > 0,
            interim: flags & 4 > 0,
            delay,
        })
    }

    /// Octets of the response that may be seen by a client that asked with this method.
    pub fn visible(&self, is_head: bool) -> usize {
        if is_head || matches!(self.status, 204 | 304) { 0 } else { self.download }
    }
}

/// Octet `at` of the body of request `id`, that way.
pub fn octet(id: u64, up: bool, at: usize) -> u8 {
    let mixed =
        (id * 2 + u64::from(up)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (at as u64).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed >> 29) as u8
}

/// A piece of a body.
pub fn octets(id: u64, up: bool, from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| octet(id, up, at)).collect()
}

/// Whether `data` is the body of `id` from `from` on.
pub fn is_genuine(id: u64, up: bool, from: usize, data: &[u8]) -> bool {
    data.iter().enumerate().all(|(at, &byte)| byte == octet(id, up, from + at))
}
