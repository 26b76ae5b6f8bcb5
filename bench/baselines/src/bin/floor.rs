//! What the kernel's work alone costs, on this project's driver: whatever a client sends is one request, whose fields are not
//! looked at; the origin is asked always the same, in frames that were encoded beforehand; its frames are only counted; and
//! the client gets always the same answer.
//!
//! No proxy can be this cheap; how near one comes is what its own work costs.

use std::collections::VecDeque;
use std::io;

use steady_baselines::{listen, origin};
use steady_ring::{Addr, ConnId, Driver, Event, SendBuf, Uring};

/// What a request for 100 octets is answered with.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\ncontent-type: text/plain; charset=utf-8\r\n\
    date: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n\
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
/// Credit that is given to the origin at once, whenever half of it is used.
const CREDIT: u32 = 1 << 30;

/// The origin's connection: HTTP/2, as little of it as will do (RFC 9113).
struct Origin {
    id: ConnId,
    out: Vec<u8>,
    sending: bool,
    /// Octets of frames that are not whole yet.
    rest: Vec<u8>,
    next: u32,
    /// Who asked, in the order of their streams.
    asked: VecDeque<ConnId>,
    used: u32,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// `GET /100`, without the dynamic table: indexed `:method`, `:scheme`; `:path` and `:authority` literal (RFC 7541 §6).
fn block() -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, 4];
    block.extend_from_slice(b"/100");
    block.extend_from_slice(&[0x01, 14]);
    block.extend_from_slice(b"app.bench.test");
    block
}

impl Origin {
    fn ask(&mut self, client: ConnId, block: &[u8]) {
        // END_STREAM and END_HEADERS.
        frame(1, 5, self.next, block, &mut self.out);
        self.next += 2;
        self.asked.push_back(client);
    }

    /// Names each client whose answer is whole. Streams are answered in order, as this origin does.
    fn receive(&mut self, bytes: &[u8], mut answered: impl FnMut(ConnId)) {
        self.rest.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(head) = self.rest.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let (kind, flags) = (head[3], head[4]);
            if self.rest.len() < at + 9 + length {
                break;
            }
            at += 9 + length;
            match kind {
                0 => {
                    self.used += length as u32;
                    if flags & 1 != 0
                        && let Some(client) = self.asked.pop_front()
                    {
                        answered(client);
                    }
                }
                // SETTINGS are acknowledged.
                4 if flags & 1 == 0 => frame(4, 1, 0, &[], &mut self.out),
                _ => {}
            }
        }
        self.rest.drain(..at);
        if self.used > CREDIT / 2 {
            frame(8, 0, 0, &self.used.to_be_bytes(), &mut self.out);
            self.used = 0;
        }
    }
}

fn main() -> io::Result<()> {
    let mut driver = Uring::new(steady_ring::Config::default())?;
    driver.listen(listen()?.into())?;
    let mut origin = Origin {
        id: driver.connect(&Addr::Tcp(origin()?)),
        out: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        sending: false,
        rest: Vec::new(),
        next: 1,
        asked: VecDeque::new(),
        used: 0,
    };
    frame(4, 0, 0, &[], &mut origin.out);
    frame(8, 0, 0, &CREDIT.to_be_bytes(), &mut origin.out);
    let block = block();
    let (mut events, mut spares) = (Vec::new(), Vec::<Vec<u8>>::new());
    loop {
        driver.wait(None, &mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Received { conn, buf } if conn == origin.id => {
                    origin.receive(&buf, |client| {
                        let mut out = spares.pop().unwrap_or_default();
                        out.extend_from_slice(ANSWER);
                        driver.send(client, SendBuf::from(out));
                    });
                }
                Event::Received { conn, .. } => origin.ask(conn, &block),
                Event::Sent { conn, buf } => {
                    let mut spare = buf.bytes;
                    spare.clear();
                    spares.push(spare);
                    origin.sending &= conn != origin.id;
                }
                Event::EndOfStream { conn } | Event::Failed { conn, .. } if conn == origin.id => {
                    return Err(io::Error::other("the origin is gone"));
                }
                Event::EndOfStream { conn } | Event::Failed { conn, .. } => driver.close(conn),
                _ => {}
            }
        }
        if !origin.sending && !origin.out.is_empty() {
            origin.sending = true;
            let full = std::mem::replace(&mut origin.out, spares.pop().unwrap_or_default());
            driver.send(origin.id, SendBuf::from(full));
        }
    }
}
