//! The origin: answers HTTP/1.1 and cleartext HTTP/2, everything that one batch of events asked for with one send a
//! connection. `GET /N` is answered with N octets, a body with 100 after its end, a tunnel with what it sends.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sha1::{Digest as _, Sha1};
use steady_http::{Codec, Event, Head, Limits, Method, Name, StreamId};
use steady_ring::{ConnId, Driver, Event as Net, SendBuf, Uring};

use super::link::{Common, Link, Speech};

/// What a WebSocket's key is hashed with.
const WEBSOCKET: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The largest body asked for.
pub const BODY_MAX: usize = 1 << 20;
/// Output on one connection past which a body waits for the send before it.
const OUT_MAX: usize = 256 * 1024;

/// A request under way.
#[derive(Debug)]
struct Job {
    stream: StreamId,
    /// Octets of the body that are still to be sent.
    left: usize,
}

#[derive(Debug)]
struct Guest {
    link: Link,
    jobs: Vec<Job>,
    tunnels: Vec<StreamId>,
    dirty: bool,
}

/// Binds a port; [`serve`] takes it from there.
///
/// # Errors
/// What the kernel says.
pub fn bind() -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = steady_ring::listen_tcp(SocketAddr::from(([127, 0, 0, 1], 0)), 4096)?;
    let listener = std::net::TcpListener::from(socket);
    let addr = listener.local_addr()?;
    Ok((listener.into(), addr))
}

/// Serves for ever.
///
/// # Errors
/// When the driver fails as a whole.
pub fn serve(socket: OwnedFd) -> io::Result<()> {
    let mut driver = Uring::new(steady_ring::Config::default())?;
    driver.listen(socket)?;
    let limits = Rc::new(Limits { streams_max: 1024, stream_window: 256 * 1024, ..Limits::default() });
    let answer = answer();
    let body = vec![b'x'; BODY_MAX];
    let mut common = Common::default();
    let mut guests: Vec<Option<Guest>> = Vec::new();
    let (mut events, mut dirty) = (Vec::new(), Vec::new());
    loop {
        driver.wait(None, &mut events)?;
        for event in events.drain(..) {
            match event {
                Net::Accepted { conn, .. } => {
                    if guests.len() <= conn.index() {
                        guests.resize_with(conn.index() + 1, || None);
                    }
                    let link = Link::new(conn, Speech::Unknown);
                    guests[conn.index()] = Some(Guest { link, jobs: Vec::new(), tunnels: Vec::new(), dirty: false });
                }
                Net::Received { conn, buf } => {
                    let Some(guest) = guest(&mut guests, conn) else { continue };
                    if guest.receive(&buf, &mut common, &limits, &answer).is_err() {
                        driver.close(conn);
                        continue;
                    }
                    guest.mark(&mut dirty);
                }
                Net::Sent { conn, buf: SendBuf { bytes, .. } } => {
                    let Some(guest) = guest(&mut guests, conn) else { continue };
                    guest.link.sent(bytes, &mut common);
                    guest.mark(&mut dirty);
                }
                Net::EndOfStream { conn } | Net::Failed { conn, .. } => driver.close(conn),
                Net::Closed { conn } => guests[conn.index()] = None,
                _ => {}
            }
        }
        for conn in dirty.drain(..) {
            let Some(guest) = guest(&mut guests, conn) else { continue };
            guest.dirty = false;
            guest.pump(&body);
            guest.link.flush(&mut driver, &mut common);
        }
    }
}

fn guest(guests: &mut [Option<Guest>], conn: ConnId) -> Option<&mut Guest> {
    guests.get_mut(conn.index())?.as_mut().filter(|guest| guest.link.id == conn)
}

fn answer() -> Head {
    let mut head = Head::new();
    head.reset_to_status(200);
    head.push_known(Name::ContentType, b"text/plain; charset=utf-8");
    head.push_known(Name::Date, b"Sat, 21 Nov 2026 00:00:00 GMT");
    head
}

impl Guest {
    fn mark(&mut self, dirty: &mut Vec<ConnId>) {
        if !std::mem::replace(&mut self.dirty, true) {
            dirty.push(self.link.id);
        }
    }

    fn receive(&mut self, bytes: &[u8], common: &mut Common, limits: &Rc<Limits>, answer: &Head) -> Result<(), String> {
        let Guest { link, jobs, tunnels, .. } = self;
        link.receive(bytes, common, limits, |codec, out, head, event| match event {
            Event::Head { stream, .. } if head.is_connect() => {
                let mut open = Head::new();
                open.reset_to_status(200);
                // A proxy that passes HTTP/1.1's handshake on as fields has to find its answer (RFC 6455 §4.2.2).
                if let Some(key) = head.get_named(b"sec-websocket-key") {
                    let digest = Sha1::new_with_prefix(key).chain_update(WEBSOCKET).finalize();
                    open.push(b"sec-websocket-accept", BASE64_STANDARD.encode(digest).as_bytes());
                }
                codec.send_head(stream, &open, false, out);
                tunnels.push(stream);
            }
            // What an agent says to the edge's question whether an application is live.
            Event::Head { stream, .. } if head.method == Method::Head => codec.send_head(stream, answer, true, out),
            Event::Head { stream, end } => {
                let asked = std::str::from_utf8(head.path()).ok().and_then(|path| path.get(1..)?.parse().ok());
                let left = asked.unwrap_or(100usize).min(BODY_MAX);
                if end {
                    begin(codec, out, answer, jobs, Job { stream, left });
                }
            }
            Event::Data { stream, data, flow, end } => {
                if tunnels.contains(&stream) {
                    codec.send_data(stream, data, end, out);
                    tunnels.retain(|other| !(end && *other == stream));
                } else if end {
                    begin(codec, out, answer, jobs, Job { stream, left: 100 });
                }
                codec.release(stream, flow, out);
            }
            Event::Reset { stream, .. } => {
                jobs.retain(|job| job.stream != stream);
                tunnels.retain(|other| *other != stream);
            }
            _ => {}
        })
    }

    /// Sends bodies, as far as there is room.
    fn pump(&mut self, body: &[u8]) {
        let Some(mut room) = OUT_MAX.checked_sub(self.link.waiting()) else { return };
        let Some((codec, out)) = self.link.codec() else { return };
        self.jobs.retain_mut(|job| {
            let piece = job.left.min(room);
            let sent = codec.send_data(job.stream, &body[..piece], piece == job.left, out);
            room -= sent;
            job.left -= sent;
            job.left > 0
        });
    }
}

fn begin(codec: &mut dyn Codec, out: &mut Vec<u8>, answer: &Head, jobs: &mut Vec<Job>, job: Job) {
    let mut head = answer.clone();
    head.content_length = Some(job.left as u64);
    codec.send_head(job.stream, &head, job.left == 0, out);
    if job.left > 0 {
        jobs.push(job);
    }
}
