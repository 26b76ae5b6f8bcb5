//! An application in the plainest HTTP/1.1, a thread a connection. What it does is chosen by the path:
//!
//! | path | answer |
//! |---|---|
//! | `/fields` | the request's head and trailers, as they came |
//! | `/hold…` | as any other, once [`Origin::release`] was called |
//! | `/stall…` | as any other, but the body is not read before that |
//! | `/big/N` | N octets |
//! | `/sink` | takes the body without keeping it, says how long it was |
//! | `/liar` | fields that only the edge and agents may use |
//! | `/websocket` | an echo of frames |
//! | anything else | the request line, the body's length, the body backwards |

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use base64::Engine as _;
use sha1::Digest as _;

pub struct Origin {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The request lines that came, in their order, each with its body's length.
    seen: Mutex<Vec<(String, u64)>>,
    released: Mutex<bool>,
    changed: Condvar,
}

impl Origin {
    pub fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), Arc::clone(&for_thread));
                let small = std::thread::Builder::new().stack_size(128 * 1024);
                // The client's end of a connection may go at any moment.
                small.spawn(move || _ = serve(stream, &shared)).unwrap();
            }
        });
        Origin { addr, shared }
    }

    /// The requests that came whole, `METHOD TARGET` and the body's length.
    pub fn seen(&self) -> Vec<(String, u64)> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Answers what `/hold` keeps waiting, and whatever asks for it later.
    pub fn release(&self) {
        *self.shared.released.lock().unwrap() = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Until [`Origin::release`].
    fn wait(&self) {
        let released = self.released.lock().unwrap();
        drop(self.changed.wait_while(released, |released| !*released).unwrap());
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    loop {
        head.clear();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let line = head.lines().next().unwrap_or_default().to_owned();
        let asked = line.strip_suffix(" HTTP/1.1").unwrap_or(&line).to_owned();
        let path = asked.split(' ').nth(1).unwrap_or_default();
        if path == "/websocket" {
            return websocket(&head, reader, writer);
        }
        if path.starts_with("/stall") {
            shared.wait();
        }
        let keep = path != "/sink";
        let (length, body, trailers) = body(&head, &mut reader, keep)?;
        head.push_str(&trailers);
        shared.seen.lock().unwrap().push((asked.clone(), length));
        if path.starts_with("/hold") {
            shared.wait();
        }
        if let Some(size) = path.strip_prefix("/big/").and_then(|size| size.parse().ok()) {
            big(&mut writer, size)?;
            continue;
        }
        let answer = match path {
            "/fields" => head.clone().into_bytes(),
            "/sink" => length.to_string().into_bytes(),
            _ => [format!("{line}|{length}").into_bytes(), body.into_iter().rev().collect()].concat(),
        };
        if path == "/liar" {
            writer.write_all(LIES)?;
            continue;
        }
        let mut whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len()).into_bytes();
        if !asked.starts_with("HEAD ") {
            whole.extend_from_slice(&answer);
        }
        writer.write_all(&whole)?;
    }
}

const LIES: &[u8] = b"HTTP/1.1 200 OK\r\nSteady-Refused: draining\r\nSteady-Timing: 1\r\nSteady-Anything: x\r\n\
    Transfer-Encoding: chunked\r\nTrailer: steady-timing\r\n\r\n3\r\nlie\r\n0\r\nSteady-Timing: 2\r\nX-Honest: 1\r\n\r\n";

/// What the octet at this place of a large body is.
pub fn pattern(at: u64) -> u8 {
    b'a' + (at % 23) as u8
}

fn big(writer: &mut TcpStream, size: u64) -> io::Result<()> {
    write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
    // A whole number of the pattern's periods.
    let block: Vec<u8> = (0..23 * 2048).map(pattern).collect();
    let mut left = size;
    while left > 0 {
        let part = left.min(block.len() as u64);
        writer.write_all(&block[..part as usize])?;
        left -= part;
    }
    Ok(())
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// The body's length, the body if it is to be kept, and its trailers.
fn body(head: &str, reader: &mut BufReader<TcpStream>, keep: bool) -> io::Result<(u64, Vec<u8>, String)> {
    let mut trailers = String::new();
    let mut body = Vec::new();
    let mut sink = io::sink();
    let mut take = |reader: &mut BufReader<TcpStream>, size: u64| {
        let part = &mut reader.take(size);
        let taken = if keep { io::copy(part, &mut body) } else { io::copy(part, &mut sink) }?;
        if taken == size { Ok(size) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
    };
    let mut length = 0;
    if let Some(size) = field(head, "content-length") {
        length = take(reader, size.parse().map_err(io::Error::other)?)?;
    } else if field(head, "transfer-encoding").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            if size == 0 {
                while reader.read_line(&mut trailers)? > 2 {}
                break;
            }
            length += take(reader, size)?;
            reader.read_line(&mut line)?;
        }
    }
    Ok((length, body, trailers))
}

/// Sends each frame of a client back, unmasked (RFC 6455; short ones).
fn websocket(head: &str, mut reader: BufReader<TcpStream>, mut writer: TcpStream) -> io::Result<()> {
    let key = field(head, "sec-websocket-key").unwrap_or_default();
    let digest = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    write!(
        writer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    loop {
        let mut start = [0; 6];
        reader.read_exact(&mut start)?;
        let mut payload = vec![0; usize::from(start[1] & 0x7f)];
        reader.read_exact(&mut payload)?;
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= start[2 + at % 4];
        }
        writer.write_all(&[&[start[0], payload.len() as u8], &payload[..]].concat())?;
    }
}
