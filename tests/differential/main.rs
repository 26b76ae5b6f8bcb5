//! The same octets to our edge, to HAProxy and to nginx, each in front of one origin that records what reaches it. Where a message
//! ends, and whether it is refused, must be the same, or this file says why it is not (and docs/conformance.md with it).
//!
//! `answers` is the other direction: what an origin says.
//!
//! Every HTTP/1.1 case is followed by a marker request: what the origin sees tells which octets a proxy took for a body and
//! which for a request.

mod answers;
#[path = "../house/mod.rs"]
mod house;
#[path = "../support/mod.rs"]
mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use house::{House, Setup};

/// A connection is over when it was silent so long after it was told all. Only a case that leaves a proxy waiting lasts it. What
/// came out wrong is done once more, and waited for longer: somebody may have had no processor.
const SILENCES: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(15)];

const HOST: &str = "Host: echo.localhost\r\n";
const MARK: &str = "GET /mark HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\n\r\n";

/// What reached the origin: request lines without their version, and the lengths of bodies.
type Reached = Vec<(String, u64)>;

trait Wire: Read + Write {
    fn end_writing(&self);
}

impl Wire for TcpStream {
    fn end_writing(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

impl Wire for UnixStream {
    fn end_writing(&self) {
        let _ = self.shutdown(std::net::Shutdown::Write);
    }
}

/// A proxy that runs until this is dropped.
struct Proxy {
    child: Child,
    h1: PathBuf,
    h2: PathBuf,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    fn start(mut command: Command, dir: &Path, name: &str) -> Proxy {
        let (h1, h2) = (dir.join(format!("{name}.h1")), dir.join(format!("{name}.h2")));
        let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let proxy = Proxy { child, h1, h2 };
        support::eventually(&format!("{name} listens; see {}", dir.display()), || {
            (UnixStream::connect(&proxy.h1).is_ok() && UnixStream::connect(&proxy.h2).is_ok()).then_some(())
        });
        proxy
    }

    fn haproxy(dir: &Path, origin: std::net::SocketAddr) -> Proxy {
        let dir_text = dir.display();
        let config = format!(
            "global\n    maxconn 200\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 30s\n    timeout server 30s\n\
             frontend f\n    bind unix@{dir_text}/haproxy.h1 mode 666\n    bind unix@{dir_text}/haproxy.h2 mode 666 proto h2\n    \
             default_backend b\nbackend b\n    server origin {origin}\n"
        );
        std::fs::write(dir.join("haproxy.cfg"), config).unwrap();
        let mut command = Command::new(program("haproxy"));
        command.arg("-db").arg("-f").arg(dir.join("haproxy.cfg"));
        Proxy::start(command, dir, "haproxy")
    }

    fn nginx(dir: &Path, origin: std::net::SocketAddr) -> Proxy {
        let dir_text = dir.display();
        let config = format!(
            "daemon off; master_process off; pid {dir_text}/nginx.pid; error_log {dir_text}/nginx.err;\n\
             events {{ worker_connections 200; }}\n\
             http {{ access_log off; client_body_temp_path {dir_text}/body; proxy_temp_path {dir_text}/proxy;\n\
             fastcgi_temp_path {dir_text}/f; uwsgi_temp_path {dir_text}/u; scgi_temp_path {dir_text}/s;\n\
             server {{ listen unix:{dir_text}/nginx.h1; listen unix:{dir_text}/nginx.h2 http2; server_name _;\n\
             location / {{ proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host; \
             proxy_pass http://{origin}; }} }} }}\n"
        );
        std::fs::write(dir.join("nginx.conf"), config).unwrap();
        let mut command = Command::new(program("nginx"));
        command.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(dir.join("nginx.err"));
        Proxy::start(command, dir, "nginx")
    }
}

fn program(name: &str) -> PathBuf {
    let places = [support::on_path(name), Some(PathBuf::from(format!("/usr/sbin/{name}")))];
    places.into_iter().flatten().find(|path| path.is_file()).unwrap_or_default()
}

/// Both others are here; said loudly when not.
fn have_others() -> bool {
    let have = program("haproxy").is_file() && program("nginx").is_file();
    if !have {
        assert!(std::env::var_os("CI").is_none(), "install haproxy and nginx");
        support::shout("SKIPPED: the same octets to HAProxy and nginx (neither is installed)");
    }
    have
}

/// Says these octets, then hears until the end, or a silence, or until `over` says so; after a silence it ends writing and
/// hears the rest.
fn converse(mut wire: impl Wire, octets: &[u8], over: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut heard = Vec::new();
    // One that refuses the front of it may close before it has read the rest.
    let _ = wire.write_all(octets);
    let mut buffer = [0; 16 * 1024];
    let mut ended = false;
    while !over(&heard) {
        match wire.read(&mut buffer) {
            Ok(0) => return heard,
            Ok(len) => heard.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !ended => {
                ended = true;
                wire.end_writing();
            }
            Err(_) => return heard,
        }
    }
    heard
}

struct Bench {
    house: House,
    haproxy: Proxy,
    nginx: Proxy,
}

impl Bench {
    fn new() -> Bench {
        let house = House::with_echo(Setup::default());
        let (haproxy, nginx) =
            (Proxy::haproxy(house.dir.path(), house.origin.addr), Proxy::nginx(house.dir.path(), house.origin.addr));
        Bench { house, haproxy, nginx }
    }

    /// What each proxy lets through: ours, HAProxy, nginx.
    fn ask(&self, octets: &[u8], h2: bool, silence: Duration) -> [(Reached, String); 3] {
        let of = |converse: &dyn Fn() -> Vec<u8>| {
            let before = self.house.origin.seen().len();
            let heard = converse();
            (self.house.origin.seen().split_off(before), said(&heard, h2))
        };
        // Both requests have ended, however; what is at the origin then stays.
        let over = |heard: &[u8]| {
            let ended = |stream| {
                frames(heard).any(|(kind, flags, id)| id == stream && (kind == 3 || kind < 2 && flags & 1 == 1))
            };
            h2 && ended(1) && ended(3)
        };
        let other = |proxy: &Proxy| {
            let wire = UnixStream::connect(if h2 { &proxy.h2 } else { &proxy.h1 }).unwrap();
            wire.set_read_timeout(Some(silence)).unwrap();
            converse(wire, octets, over)
        };
        let ours = of(&|| {
            let wire = TcpStream::connect(self.house.plain).unwrap();
            wire.set_read_timeout(Some(silence)).unwrap();
            converse(wire, octets, over)
        });
        [ours, of(&|| other(&self.haproxy)), of(&|| other(&self.nginx))]
    }
}

/// Kind, flags and stream of each whole frame.
fn frames(mut heard: &[u8]) -> impl Iterator<Item = (u8, u8, u32)> {
    std::iter::from_fn(move || {
        let [a, b, c, kind, flags, id @ ..] = *heard.first_chunk::<9>()?;
        heard = heard.get(9 + u32::from_be_bytes([0, a, b, c]) as usize..)?;
        Some((kind, flags, u32::from_be_bytes(id)))
    })
}

/// The statuses of the answers, or the kinds of the frames, for the report.
fn said(heard: &[u8], h2: bool) -> String {
    if h2 {
        let name = |kind: u8| ["DATA", "HEADERS", "", "RST", "", "", "", "GOAWAY"].get(usize::from(kind)).copied();
        let named = frames(heard)
            .filter_map(|(kind, _, id)| name(kind).filter(|it| !it.is_empty()).map(|it| format!("{it} {id}")));
        return named.collect::<Vec<_>>().join(", ");
    }
    let text = String::from_utf8_lossy(heard);
    let lines = text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12));
    lines.filter(|status| status.bytes().all(|octet| octet.is_ascii_digit())).collect::<Vec<_>>().join(" ")
}

struct Case {
    name: &'static str,
    octets: Vec<u8>,
    /// What must reach the origin from us.
    ours: Vec<(&'static str, u64)>,
    /// Why HAProxy or nginx lets something else through.
    because: Option<&'static str>,
}

fn check(cases: Vec<Case>, h2: bool) {
    if !have_others() {
        return;
    }
    let bench = Bench::new();
    let wrong: Vec<String> =
        cases.iter().filter_map(|case| judged(|silence| problem(&bench, case, h2, silence))).collect();
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

/// What is wrong however long one waits.
fn judged(problem: impl Fn(Duration) -> Option<String>) -> Option<String> {
    SILENCES.into_iter().try_fold(String::new(), |_, silence| problem(silence))
}

fn problem(bench: &Bench, Case { name, octets, ours, because }: &Case, h2: bool, silence: Duration) -> Option<String> {
    let mut seen = bench.ask(octets, h2, silence);
    if h2 {
        // Whether a fault ends its stream or the whole connection is a proxy's choice.
        seen.iter_mut().for_each(|(reached, _)| reached.retain(|(line, _)| line != MARKED.0));
    }
    let expected: Reached = ours.iter().map(|&(line, len)| (line.to_owned(), len)).collect();
    let differs = seen.iter().any(|(reached, _)| *reached != seen[0].0);
    let report = || {
        let each = ["ours", "haproxy", "nginx"].iter().zip(&seen);
        each.fold(String::new(), |text, (who, (reached, said))| format!("{text}\n    {who}: {reached:?} [{said}]"))
    };
    if std::env::var_os("STEADY_DIFFERENCES").is_some() && differs {
        println!("{name}: {}{}", because.unwrap_or("?"), report());
    }
    if seen[0].0 != expected {
        Some(format!("\n{name}: expected {expected:?}{}", report()))
    } else if differs && because.is_none() {
        Some(format!("\n{name}: differs without a reason{}", report()))
    } else {
        None
    }
}

/// An HTTP/1.1 case and its marker.
fn case(name: &'static str, octets: impl AsRef<[u8]>, ours: &[(&'static str, u64)], because: &'static str) -> Case {
    let octets = [octets.as_ref(), MARK.as_bytes()].concat();
    Case { name, octets, ours: ours.to_vec(), because: (!because.is_empty()).then_some(because) }
}

const MARKED: (&str, u64) = ("GET /mark", 0);

/// A POST with these field lines and this after its head.
fn post(lines: &str, rest: &str) -> String {
    format!("POST /x HTTP/1.1\r\n{HOST}{lines}\r\n{rest}")
}

fn get(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{lines}\r\n")
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: echo.localhost\r\n\r\n";

#[test]
#[rustfmt::skip] // A case a line.
fn messages_of_http_1_1_end_where_others_end_them_or_are_refused() {
    let host = HOST;
    let smuggled = SMUGGLED;
    check(
        vec![
            // What everybody takes.
            case("no body", get("/a", host), &[("GET /a", 0), MARKED], ""),
            case("a length", post("Content-Length: 5\r\n", "hello"), &[("POST /x", 5), MARKED], ""),
            case("chunks", post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), &[("POST /x", 5), MARKED], ""),
            case("chunked in capitals", post("Transfer-Encoding: CHUNKED\r\n", "1\r\nx\r\n0\r\n\r\n"), &[("POST /x", 1), MARKED], ""),
            case("a POST without length", post("", ""), &[("POST /x", 0), MARKED], ""),
            case("a GET with a body", get("/a", &format!("{host}Content-Length: 5\r\n")) + "hello", &[("GET /a", 5), MARKED], ""),
            case("an empty line first", format!("\r\n{}", get("/a", host)), &[("GET /a", 0), MARKED], ""),
            case("chunk extensions", post("Transfer-Encoding: chunked\r\n", "5;a=b\r\nhello\r\n0;c\r\n\r\n"), &[("POST /x", 5), MARKED], ""),
            case("trailers", post("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"), &[("POST /x", 1), MARKED], ""),
            case("trailers that frame", post("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: x\r\nHost: b\r\n\r\n"), &[("POST /x", 1), MARKED], TRAILERS),
            // CL.TE, TE.CL, CL.0, TE.TE.
            case("CL.TE", post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nG"), &[], BOTH),
            case("TE.CL", post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", &format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len())), &[], BOTH),
            case("CL.0", get("/a", &format!("{host}Content-Length: 0\r\n")) + smuggled, &[("GET /a", 0), ("GET /smuggled", 0), MARKED], ""),
            case("TE.TE identity", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), &[], ""),
            case("TE.TE twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), &[], ""),
            case("TE.TE list", post("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"), &[], ""),
            case("TE gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), &[], ""),
            // Obfuscated Transfer-Encoding.
            case("TE xchunked", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), &[], ""),
            case("TE with a space before the colon", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), &[], ""),
            case("TE with a tab", post("Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n"), &[("POST /x", 0), MARKED], TAB),
            case("TE with a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), &[], ""),
            case("TE in quotes", post("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"), &[], ""),
            case("TE folded", post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"), &[], FOLDS),
            case("TE after a folded line", post("X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), &[], FOLDS),
            case("TE with an underscore", post("Transfer_Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), &[("POST /x", 5), MARKED], ""),
            case("TE with a NUL", post("Transfer-Encoding: chunked\0\r\n", "0\r\n\r\n"), &[], ""),
            case("TE after a bare CR", post("X: a\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"), &[], ""),
            case("TE in HTTP/1.0", format!("POST /x HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), &[], OLD_CHUNKS),
            case("TE empty", post("Transfer-Encoding:\r\nContent-Length: 5\r\n", "hello"), &[], ""),
            // Content-Length.
            case("two lengths", post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"), &[], ""),
            case("the same length twice", post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), &[], TWICE),
            case("a list of equal lengths", post("Content-Length: 5, 5\r\n", "hello"), &[], TWICE),
            case("a length with a sign", post("Content-Length: +5\r\n", "hello"), &[], ""),
            case("a negative length", post("Content-Length: -5\r\n", "hello"), &[], ""),
            case("a length in hexadecimal", post("Content-Length: 0x5\r\n", "hello"), &[], ""),
            case("a length with a space in it", post("Content-Length: 5 5\r\n", "hello"), &[], ""),
            case("a length that overflows", post("Content-Length: 18446744073709551621\r\n", "hello"), &[], ""),
            case("an empty length", post("Content-Length:\r\n", "hello"), &[], ""),
            case("a length with zeros before it", post("Content-Length: 0000005\r\n", "hello"), &[("POST /x", 5), MARKED], ""),
            case("a length with a space before its colon", post("Content-Length : 5\r\n", "hello"), &[], ""),
            // Chunks.
            case("a chunk size with a space after it", post("Transfer-Encoding: chunked\r\n", "5 \r\nhello\r\n0\r\n\r\n"), &[], CHUNK_SPACE),
            case("a chunk size with a space before it", post("Transfer-Encoding: chunked\r\n", " 5\r\nhello\r\n0\r\n\r\n"), &[], ""),
            case("a chunk size with 0x", post("Transfer-Encoding: chunked\r\n", "0x5\r\nhello\r\n0\r\n\r\n"), &[], ""),
            case("a huge chunk size", post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"), &[], ""),
            case("a chunk shorter than its size", post("Transfer-Encoding: chunked\r\n", "3\r\nhello\r\n0\r\n\r\n"), &[], ""),
            case("chunks with bare LF", post("Transfer-Encoding: chunked\r\n", "5\nhello\n0\n\n"), &[], BARE_LF),
            case("an extension with a bare LF", post("Transfer-Encoding: chunked\r\n", "5;a\nb\r\nhello\r\n0\r\n\r\n"), &[], ""),
            // Lines.
            case("a request line with a bare LF", format!("GET /a HTTP/1.1\n{host}\r\n"), &[], BARE_LF),
            case("a head with bare LF", "GET /a HTTP/1.1\nHost: echo.localhost\n\n", &[], BARE_LF),
            case("a line with a bare LF", get("/a", &format!("{host}X: a\nY: b\r\n")), &[], BARE_LF),
            case("a folded line", get("/a", &format!("{host}X: a\r\n b\r\n")), &[], FOLDS),
            case("a name with a space", get("/a", &format!("{host}X Y: a\r\n")), &[], ""),
            case("an empty name", get("/a", &format!("{host}: a\r\n")), &[], ""),
            case("a NUL in a value", get("/a", &format!("{host}X: a\0b\r\n")), &[], CONTROLS),
            case("a control in a value", get("/a", &format!("{host}X: a\x01b\r\n")), &[], CONTROLS),
            case("two spaces in the request line", format!("GET  /a HTTP/1.1\r\n{host}\r\n"), &[], SPACES),
            case("a space in the target", get("/a b", host), &[], ""),
            case("a fragment in the target", get("/a#b", host), &[], FRAGMENT),
            case("an unknown version", format!("GET /a HTTP/1.9\r\n{host}\r\n"), &[], VERSION),
            case("HTTP/2.0 in a request line", format!("GET /a HTTP/2.0\r\n{host}\r\n"), &[], VERSION),
            case("HTTP/0.9", "GET /a\r\n", &[], OLD),
            // Hosts.
            case("no Host", get("/a", ""), &[], NO_HOST),
            case("two Hosts", get("/a", &format!("{host}Host: b.localhost\r\n")), &[], ""),
            case("the same Host twice", get("/a", &format!("{host}{host}")), &[], HOSTS),
            case("an absolute target that agrees", get("http://echo.localhost/a", host), &[("GET /a", 0), MARKED], ABSOLUTE),
            case("an absolute target of another host", get("http://echo.localhost/a", "Host: b.localhost\r\n"), &[], ABSOLUTE),
            case("a Host with a user", get("/a", "Host: a@echo.localhost\r\n"), &[], HOSTS),
            case("a Host with a path", get("/a", "Host: echo.localhost/x\r\n"), &[], HOSTS),
            // Pipelines.
            case("pipelined", get("/a", host) + &get("/b", host) + &post("Content-Length: 2\r\n", "hi"), &[("GET /a", 0), ("GET /b", 0), ("POST /x", 2), MARKED], ""),
            case("after close", get("/a", &format!("{host}Connection: close\r\n")) + &get("/b", host), &[("GET /a", 0)], ""),
        ],
        false,
    );
}

const BOTH: &str = "both lengths: HAProxy obeys the chunks, as RFC 9112 §6.3 permits; nginx and we refuse";
const TRAILERS: &str =
    "trailers that would frame: HAProxy refuses the message; nginx and we drop them, as RFC 9110 §6.5.1 asks";
const TAB: &str =
    "a tab before a value is white space (RFC 9110 §5.6.3); nginx takes it for a part of the coding's name";
const FOLDS: &str = "folded lines: HAProxy makes a space of the fold, as RFC 9112 §5.2 permits; nginx and we refuse";
const OLD_CHUNKS: &str = "chunks in HTTP/1.0: HAProxy reads them and closes; RFC 9112 §6.1 calls it faulty framing";
const TWICE: &str = "equal lengths: HAProxy makes one of them, as RFC 9110 §8.6 permits; nginx and we refuse";
const CHUNK_SPACE: &str = "white space after a chunk's size: HAProxy and nginx pass over it; we refuse";
const BARE_LF: &str = "a bare LF: nginx and HAProxy take it for a line's end, as RFC 9112 §2.2 permits; we refuse";
const CONTROLS: &str =
    "a control octet in a value: HAProxy passes it on, nginx all but NUL; RFC 9110 §5.5 calls it invalid";
const SPACES: &str = "spaces in a request line: RFC 9112 §3 lets a recipient be lenient; we refuse";
const FRAGMENT: &str = "a fragment in a target: nginx passes it on, HAProxy and we refuse; RFC 9112 §3.2 has none";
const VERSION: &str =
    "another version: HAProxy takes any, nginx any minor one; we serve 1.0 and 1.1 and answer 505 to the rest";
const OLD: &str = "HTTP/0.9 has no framing: nginx serves it, we do not";
const NO_HOST: &str = "no Host: HAProxy passes it on; RFC 9112 §3.2 asks for 400";
const ABSOLUTE: &str = "an absolute target: HAProxy passes it on as it came; of another host than Host's it and we refuse, nginx takes the target's";
const HOSTS: &str =
    "an invalid Host, or the same one twice: HAProxy passes them on, nginx one with a user; RFC 9112 §3.2 asks for 400";

/// A case of HTTP/2: one request with these fields and this body; then a marker.
fn h2_case(
    name: &'static str,
    fields: &[(&str, &str)],
    body: Option<&[u8]>,
    ours: &[(&'static str, u64)],
    because: &'static str,
) -> Case {
    let frame = |kind: u8, flags: u8, id: u8, payload: &[u8]| {
        let len = (payload.len() as u32).to_be_bytes();
        [&len[1..], &[kind, flags, 0, 0, 0, id], payload].concat()
    };
    let block = |fields: &[(&str, &str)]| -> Vec<u8> {
        let literal = |(name, value): &(&str, &str)| {
            [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
        };
        fields.iter().flat_map(literal).collect()
    };
    let mark = [(":method", "GET"), (":scheme", "http"), (":authority", "echo.localhost"), (":path", "/mark")];
    let octets = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, if body.is_some() { 4 } else { 5 }, 1, &block(fields)),
        body.map(|body| frame(0, 1, 1, body)).unwrap_or_default(),
        frame(1, 5, 3, &block(&mark)),
    ];
    Case { name, octets: octets.concat(), ours: ours.to_vec(), because: (!because.is_empty()).then_some(because) }
}

/// A request with these fields changed, or added.
fn changed<'f>(changes: &[(&'f str, &'f str)]) -> Vec<(&'f str, &'f str)> {
    let mut fields = vec![(":method", "POST"), (":scheme", "http"), (":authority", "echo.localhost"), (":path", "/x")];
    for &(name, value) in changes {
        match fields.iter_mut().find(|(it, _)| *it == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

#[test]
#[rustfmt::skip] // A case a line.
fn requests_of_http_2_become_one_request_of_http_1_1_or_none() {
    let post = changed;
    check(
        vec![
            h2_case("no body", &post(&[(":method", "GET")]), None, &[("GET /x", 0)], ""),
            h2_case("a body", &post(&[]), Some(b"hello"), &[("POST /x", 5)], ""),
            h2_case("a body of a declared length", &post(&[("content-length", "5")]), Some(b"hello"), &[("POST /x", 5)], ""),
            h2_case("CR LF in a value", &post(&[("x", "a\r\ny: b")]), None, &[], ""),
            h2_case("a request in a value", &post(&[("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: echo.localhost\r\n\r\n")]), None, &[], ""),
            h2_case("LF in a value", &post(&[("x", "a\ny: b")]), None, &[], ""),
            h2_case("CR in a value", &post(&[("x", "a\ry: b")]), None, &[], ""),
            h2_case("NUL in a value", &post(&[("x", "a\0b")]), None, &[], ""),
            h2_case("CR LF in a name", &post(&[("x: a\r\ny", "b")]), None, &[], ""),
            h2_case("a colon in a name", &post(&[("x: a", "b")]), None, &[], ""),
            h2_case("a space in a name", &post(&[("x y", "b")]), None, &[], ""),
            h2_case("an upper-case name", &post(&[("X-Upper", "b")]), None, &[], ""),
            h2_case("CR LF in the path", &post(&[(":path", "/x HTTP/1.1\r\nY: z")]), None, &[], ""),
            h2_case("a space in the path", &post(&[(":path", "/x y")]), None, &[], ""),
            h2_case("a path that is a URI", &post(&[(":path", "http://echo.localhost/x")]), None, &[], H2_PATH),
            h2_case("a path without a slash", &post(&[(":path", "x")]), None, &[], H2_PATH),
            h2_case("a method with a request in it", &post(&[(":method", "GET /s HTTP/1.1\r\nx:")]), None, &[], ""),
            h2_case("CR LF in the authority", &post(&[(":authority", "echo.localhost\r\nx: y")]), None, &[], ""),
            h2_case("an authority with a user", &post(&[(":authority", "a@echo.localhost")]), None, &[], H2_AUTHORITY),
            h2_case("transfer-encoding", &post(&[("transfer-encoding", "chunked")]), Some(b"0\r\n\r\n"), &[], H2_CONNECTION),
            h2_case("connection", &post(&[("connection", "x")]), None, &[], H2_CONNECTION),
            h2_case("te of anything", &post(&[("te", "gzip")]), None, &[], H2_CONNECTION),
            h2_case("a length that is too long", &post(&[("content-length", "9")]), Some(b"hello"), &[], H2_LENGTH),
            h2_case("a length that is too short", &post(&[("content-length", "3")]), Some(b"hello"), &[], H2_LENGTH),
            h2_case("a length of nothing", &post(&[("content-length", "0")]), Some(b"GET /smuggled HTTP/1.1\r\n\r\n"), &[], H2_LENGTH),
            h2_case("a host that differs", &post(&[("host", "b.localhost")]), None, &[], H2_AUTHORITY),
            h2_case("a host that agrees", &post(&[("host", "echo.localhost")]), None, &[("POST /x", 0)], H2_AUTHORITY),
            h2_case("a pseudo-field of nobody", &post(&[(":x", "y")]), None, &[], ""),
            h2_case("no scheme", &[(":method", "GET"), (":authority", "echo.localhost"), (":path", "/x")], None, &[], H2_SCHEME),
        ],
        true,
    );
}

const H2_PATH: &str = "a :path that is not absolute: HAProxy passes a URI on; RFC 9113 §8.3.1 has a path there";
const H2_AUTHORITY: &str = "an authority that HTTP/1.1 would not take: HAProxy and nginx pass a user on; of a host beside :authority nginx 1.22 takes neither, HAProxy one that differs too";
const H2_CONNECTION: &str = "fields of one connection: nginx drops them; RFC 9113 §8.2.2 calls the request malformed";
const H2_LENGTH: &str = "a body that is not as long as it says: others may have begun to pass it on before they know";
const H2_SCHEME: &str = "no :scheme: nginx passes it on; RFC 9113 §8.3.1 calls the request malformed";
