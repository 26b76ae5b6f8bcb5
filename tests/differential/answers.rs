//! The other direction: the same octets as an answer to our edge's agent, to HAProxy and to nginx; what a client gets of it, and
//! whether the next answer on its connection is the right one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use steady_agent::gate::{Process, Protocol, Role};

use crate::house::{House, Setup, app, placed};
use crate::{HOST, MARK, Proxy, converse, have_others, judged};

/// An origin that answers `/mark` properly and everything else with the octets of the case.
struct Parrot {
    addr: SocketAddr,
    says: Arc<Mutex<(Vec<u8>, bool)>>,
}

impl Parrot {
    fn start() -> Parrot {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let says = Arc::new(Mutex::new((Vec::new(), false)));
        let shared = Arc::clone(&says);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || _ = serve(stream, &shared));
            }
        });
        Parrot { addr, says }
    }
}

fn serve(mut stream: TcpStream, says: &Mutex<(Vec<u8>, bool)>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        if head.contains("/mark ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmark")?;
            continue;
        }
        let (octets, close) = says.lock().unwrap().clone();
        stream.write_all(&octets)?;
        if close {
            return Ok(());
        }
    }
}

/// What a client reads, a word an answer: its status, and of a 2xx the body; `cut` where an answer breaks off or does not come.
fn heard(mut octets: &[u8], to_head: bool) -> String {
    let mut words = Vec::new();
    while !octets.is_empty() {
        let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") else { break };
        let head = String::from_utf8_lossy(&octets[..end]).to_lowercase();
        octets = &octets[end + 4..];
        let status = head.get(9..12).unwrap_or("?").to_owned();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim));
        if status.starts_with('1') && status != "101" {
            words.push(status);
            continue;
        }
        let bare = status == "204" || status == "304" || to_head && words.iter().all(|word| word.starts_with('1'));
        let body = if bare {
            String::new()
        } else if field("transfer-encoding").is_some() {
            chunks(&mut octets)
        } else {
            let length = field("content-length").map_or(octets.len(), |length| length.parse().unwrap());
            let (body, rest) = octets.split_at(length.min(octets.len()));
            octets = rest;
            String::from_utf8_lossy(body).into_owned() + if body.len() < length { "…" } else { "" }
        };
        words.push(if status.starts_with('2') { format!("{status}:{body}") } else { status });
    }
    // How much of it was on its way when it broke is a matter of time.
    words.iter_mut().filter(|word| word.ends_with('…')).for_each(|word| *word = "cut".to_owned());
    if words.is_empty() { "cut".to_owned() } else { words.join(" ") }
}

fn chunks(octets: &mut &[u8]) -> String {
    let mut body = String::new();
    loop {
        let Some(end) = octets.windows(2).position(|two| two == b"\r\n") else { return body + "…" };
        let line = String::from_utf8_lossy(&octets[..end]).into_owned();
        let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).unwrap();
        *octets = &octets[end + 2..];
        if size == 0 {
            // Trailers, to an empty line.
            while let Some(end) = octets.windows(2).position(|two| two == b"\r\n") {
                *octets = &octets[end + 2..];
                if end == 0 {
                    return body;
                }
            }
            return body + "…";
        }
        body += &String::from_utf8_lossy(&octets[..size.min(octets.len())]);
        let Some(rest) = octets.get(size + 2..) else { return body + "…" };
        *octets = rest;
    }
}

struct Case {
    name: &'static str,
    method: &'static str,
    octets: String,
    /// The origin closes behind it.
    close: bool,
    /// What a client of ours gets.
    ours: &'static str,
    /// Why clients of HAProxy or nginx get something else.
    because: &'static str,
}

fn case(name: &'static str, octets: impl Into<String>, ours: &'static str, because: &'static str) -> Case {
    Case { name, method: "GET", octets: octets.into(), close: false, ours, because }
}

impl Case {
    fn closing(self) -> Case {
        Case { close: true, ..self }
    }

    fn to(self, method: &'static str) -> Case {
        Case { method, ..self }
    }
}

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")
}

#[test]
#[rustfmt::skip] // A case a line.
fn an_answer_is_what_it_is_to_haproxy_and_nginx_or_is_refused() {
    const FIVE: &str = "Content-Length: 5\r\n";
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";
    const MORE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    check(vec![
        case("a length", ok(FIVE, "hello"), "200:hello 200:mark", ""),
        case("chunks", ok(CHUNKED, HELLO), "200:hello 200:mark", ""),
        case("neither, to the end", ok("", "hello"), "200:hello 200:mark", CLOSES).closing(),
        case("both lengths", ok(&format!("{FIVE}{CHUNKED}"), HELLO), "502 200:mark", LENGTHS),
        case("two lengths", ok(&format!("{FIVE}Content-Length: 3\r\n"), "hello"), "502 200:mark", LENGTHS).closing(),
        case("equal lengths", ok(&format!("{FIVE}{FIVE}"), "hello"), "502 200:mark", LENGTHS).closing(),
        case("a list of lengths", ok("Content-Length: 5, 5\r\n", "hello"), "502 200:mark", LENGTHS).closing(),
        case("a length with a sign", ok("Content-Length: +5\r\n", "hello"), "502 200:mark", NUMBERS).closing(),
        case("a length below nothing", ok("Content-Length: -5\r\n", "hello"), "502 200:mark", NUMBERS).closing(),
        case("a length with a letter", ok("Content-Length: 5a\r\n", "hello"), "502 200:mark", NUMBERS).closing(),
        case("an empty length", ok("Content-Length: \r\n", "hello"), "502 200:mark", NUMBERS).closing(),
        case("a length past 64 bits", ok("Content-Length: 99999999999999999999999\r\n", "hello"), "502 200:mark", NUMBERS).closing(),
        case("another coding", ok("Transfer-Encoding: xchunked\r\n", HELLO), "502 200:mark", CODINGS).closing(),
        case("identity", ok("Transfer-Encoding: identity\r\n", "hello"), "502 200:mark", CODINGS).closing(),
        case("a coding before chunked", ok("Transfer-Encoding: gzip, chunked\r\n", HELLO), "502 200:mark", CODINGS),
        case("chunked twice", ok(&format!("{CHUNKED}{CHUNKED}"), HELLO), "502 200:mark", CODINGS),
        case("chunked, in capitals", ok("Transfer-Encoding: CHUNKED\r\n", HELLO), "200:hello 200:mark", ""),
        case("a body that is short", ok("Content-Length: 9\r\n", "hello"), "cut", "").closing(),
        case("chunks that break off", ok(CHUNKED, "5\r\nhello\r\n"), "cut", "").closing(),
        case("a chunk that breaks off", ok(CHUNKED, "9\r\nhello"), "cut", "").closing(),
        case("a chunk's size with a space", ok(CHUNKED, "5 \r\nhello\r\n0\r\n\r\n"), "cut", CHUNKS).closing(),
        case("a chunk's size that is none", ok(CHUNKED, "x\r\nhello\r\n0\r\n\r\n"), "cut", EARLY).closing(),
        case("a chunk's size past 64 bits", ok(CHUNKED, "fffffffffffffffff5\r\nhello\r\n0\r\n\r\n"), "cut", EARLY).closing(),
        case("a chunk longer than it says", ok(CHUNKED, "3\r\nhello\r\n0\r\n\r\n"), "cut", EARLY).closing(),
        case("bare LF between chunks", ok(CHUNKED, "5\nhello\n0\n\n"), "cut", CHUNKS).closing(),
        case("a chunk's extension", ok(CHUNKED, "5;a=\"b\"\r\nhello\r\n0\r\n\r\n"), "200:hello 200:mark", ""),
        case("trailers", ok(CHUNKED, "5\r\nhello\r\n0\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n"), "200:hello 200:mark", ""),
        case("an answer behind the answer", format!("{}{MORE}", ok(FIVE, "hello")), "200:hello 200:mark", ""),
        case("an answer behind chunks", format!("{}{MORE}", ok(CHUNKED, HELLO)), "200:hello 200:mark", ""),
        case("204 with a length and a body", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "204: 200:mark", ""),
        case("204 with chunks", format!("HTTP/1.1 204 No Content\r\n{CHUNKED}\r\n{HELLO}"), "204: 200:mark", ""),
        case("304 with a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "304 200:mark", ""),
        case("304 with a body", format!("HTTP/1.1 304 Not Modified\r\n{FIVE}\r\n{MORE}"), "304 200:mark", ""),
        case("HEAD with a length", ok(FIVE, ""), "200: 200:mark", "").to("HEAD"),
        case("HEAD with a body", ok(FIVE, MORE), "200: 200:mark", "").to("HEAD"),
        case("103, then the answer", format!("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n{}", ok(FIVE, "hello")), "103 200:hello 200:mark", INTERIM).closing(),
        case("100 that nobody asked for", format!("HTTP/1.1 100 Continue\r\n\r\n{}", ok(FIVE, "hello")), "100 200:hello 200:mark", INTERIM).closing(),
        case("103 with a length", format!("HTTP/1.1 103 Early Hints\r\n{FIVE}\r\n{}", ok(FIVE, "hello")), "502 200:mark", INTERIM).closing(),
        case("101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "502 200:mark", SWITCH).closing(),
        case("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "200:hello 200:mark", "").closing(),
        case("HTTP/1.0 that stays", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", "200:hello 200:mark", ""),
        case("HTTP/1.0 with chunks", format!("HTTP/1.0 200 OK\r\n{CHUNKED}\r\n{HELLO}"), "502 200:mark", OLD_CHUNKS).closing(),
        case("HTTP/2.0", "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", "502 200:mark", LINES).closing(),
        case("no reason", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", "200:hello 200:mark", ""),
        case("no reason and no space", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", "200:hello 200:mark", ""),
        case("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", "502 200:mark", LINES).closing(),
        case("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello", "502 200:mark", LINES).closing(),
        case("a status past 599", "HTTP/1.1 999 Odd\r\nContent-Length: 5\r\n\r\nhello", "999 200:mark", ""),
        case("a space before a colon", ok("Content-Length : 5\r\n", "hello"), "502 200:mark", "").closing(),
        case("a folded line", ok("X: a\r\n b\r\nContent-Length: 5\r\n", "hello"), "502 200:mark", FIELDS),
        case("a line without a colon", ok("nonsense\r\nContent-Length: 5\r\n", "hello"), "502 200:mark", FIELDS).closing(),
        case("bare LF in the head", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", "502 200:mark", FIELDS).closing(),
        case("NUL in a value", ok("X: a\0b\r\nContent-Length: 5\r\n", "hello"), "502 200:mark", FIELDS),
        case("a bare CR in a value", ok("X: a\rb\r\nContent-Length: 5\r\n", "hello"), "502 200:mark", ""),
        case("no HTTP at all", "hello\r\n\r\n", "502 200:mark", LINES).closing(),
        case("nothing", "", "502 200:mark", "").closing(),
        case("half a head", "HTTP/1.1 200 OK\r\nContent-Le", "502 200:mark", "").closing(),
    ]);
}

const CLOSES: &str = "a body to the end of the connection: HAProxy closes its own as well, nginx and we send chunks";
const LENGTHS: &str = "several framings: HAProxy and nginx obey the chunks, or one of the lengths where they are equal, nginx the last where they differ; we refuse";
const NUMBERS: &str = "a length that is none: nginx reads to the end of the connection, which RFC 9112 §6.3 forbids; HAProxy and we refuse";
const CODINGS: &str = "a coding other than chunked alone: nginx passes on what it does not know; HAProxy and we refuse";
const CHUNKS: &str = "white space or bare LF about a chunk's size: HAProxy and nginx pass over it; we break off";
const EARLY: &str =
    "a broken first chunk: HAProxy looks at it before the head goes out, and says 502; nginx and we break off";
const INTERIM: &str = "1xx: nginx 1.22 takes one for the answer, and what follows for its body; one with a length (RFC 9110 §8.6 forbids it) is refused by us, taken by HAProxy";
const SWITCH: &str = "101 that nobody asked for: nginx passes it on; HAProxy and we refuse";
const OLD_CHUNKS: &str = "chunks in HTTP/1.0: HAProxy and nginx read them; RFC 9112 §6.1 calls it faulty framing";
const LINES: &str = "a status line of another version or without three digits: HAProxy and nginx pass on what they make of it; we refuse";
const FIELDS: &str = "a fold, a line without a colon, bare LF, NUL: HAProxy or nginx mend or drop them; we refuse";

fn check(cases: Vec<Case>) {
    if !have_others() {
        return;
    }
    let parrot = Parrot::start();
    let house = House::build(Setup::default());
    let process = Process::Ready { addr: parrot.addr.into(), protocol: Protocol::Http1, instance: 7 };
    house.agents[0].set(app("echo", Role::Owner, 1, process));
    house.route(vec![placed("echo", 0, 1)]);
    let others = [Proxy::haproxy(house.dir.path(), parrot.addr), Proxy::nginx(house.dir.path(), parrot.addr)];
    let problem = |case: &Case, silence| {
        *parrot.says.lock().unwrap() = (case.octets.clone().into_bytes(), case.close);
        let asked = format!("{} /a HTTP/1.1\r\n{HOST}\r\n{MARK}", case.method);
        let get = |wire: &dyn Fn() -> Vec<u8>| heard(&wire(), case.method == "HEAD");
        let ours = get(&|| {
            let wire = TcpStream::connect(house.plain).unwrap();
            wire.set_read_timeout(Some(silence)).unwrap();
            converse(wire, asked.as_bytes(), |_| false)
        });
        let other = |proxy: &Proxy| {
            get(&|| {
                let wire = UnixStream::connect(&proxy.h1).unwrap();
                wire.set_read_timeout(Some(silence)).unwrap();
                converse(wire, asked.as_bytes(), |_| false)
            })
        };
        let [haproxy, nginx] = [other(&others[0]), other(&others[1])];
        let report = format!("{}:\n    ours: {ours}\n    haproxy: {haproxy}\n    nginx: {nginx}\n", case.name);
        let differs = ours != haproxy || ours != nginx;
        if std::env::var_os("STEADY_DIFFERENCES").is_some() && differs {
            println!("{}: {report}", case.because);
        }
        if ours != case.ours {
            Some(format!("expected {:?} of {report}\n", case.ours))
        } else if differs && case.because.is_empty() {
            Some(format!("differs without a reason: {report}\n"))
        } else {
            None
        }
    };
    let wrong: Vec<String> = cases.iter().filter_map(|case| judged(|silence| problem(case, silence))).collect();
    assert!(wrong.is_empty(), "{}", wrong.concat());
}
