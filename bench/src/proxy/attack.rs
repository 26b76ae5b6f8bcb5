//! Hostile clients at a fixed rate, beside a good one whose latency is measured. Each attacker is a connection of its own that says one
//! flood of HTTP/2 at once and leaves: what a limit of the edge ends, as `tests/abuse` shows.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::AUTHORITY;

/// Attackers a second: 40,000 resets, 25,000 PINGs and as much of the rest, on the core that the good client uses as well.
const RATE: f64 = 400.0;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header block of literals (RFC 7541 §6.2.2).
fn block() -> Vec<u8> {
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", AUTHORITY), (":path", "/100")];
    let literal = |(name, value): (&str, &str)| {
        [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    fields.into_iter().flat_map(literal).collect()
}

/// What each attacker in turn says.
fn floods() -> Vec<Vec<u8>> {
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    let resets = (0..200u32).flat_map(|round| {
        let stream = round * 2 + 1;
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block());
        [head, frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    });
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(1_100);
    let continuations = [frame(HEADERS, END_STREAM, 1, &block()), frame(CONTINUATION, 0, 1, &[]).repeat(20)].concat();
    let filled = [&block()[..], b"\x40\x01x\x7f\xa1\x1e", &[b'v'; 4000], &[0x80 | 62; 8000]].concat();
    let bomb = frame(HEADERS, END_HEADERS | END_STREAM, 1, &filled);
    [resets.collect(), pings, continuations, bomb].map(|flood: Vec<u8>| [&hello[..], &flood].concat()).to_vec()
}

/// Goes on until it is dropped.
#[derive(Debug)]
pub struct Attack {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Attack {
    pub fn start(addr: SocketAddr) -> Attack {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (floods, begun) = (floods(), Instant::now());
            for number in 0u32.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let due = begun + Duration::from_secs_f64(f64::from(number) / RATE);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                // Whoever is thrown out halfway has been answered.
                let _ = TcpStream::connect(addr)
                    .and_then(|mut stream| stream.write_all(&floods[number as usize % floods.len()]));
            }
        });
        Attack { stop, thread: Some(thread) }
    }
}

impl Drop for Attack {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
