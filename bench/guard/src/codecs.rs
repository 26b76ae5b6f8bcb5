//! The codecs, each side alone: what one request costs the server's and the client's, its response included.

use std::rc::Rc;

use steady_http::{Client as _, Codec, Event, Head, Limits, Method, Name, Scheme, StreamId, h1, h2};

use crate::{Case, measured};

pub(crate) const CASES: &[Case] = &[
    case("h1-server", "request parsed, response written", |times| h1(Side::Server, false, times)),
    case("h1-client", "request written, response parsed", |times| h1(Side::Client, false, times)),
    case("h1-server-chunked", "the same, bodies of 1000 octets in chunks", |times| h1(Side::Server, true, times)),
    case("h2-server", "request parsed, response written", |times| h2(Side::Server, false, times)),
    case("h2-client", "request written, response parsed", |times| h2(Side::Client, false, times)),
    case("h2-server-huffman", "the same, new literals in Huffman's code", |times| h2(Side::Server, true, times)),
    case("h2-body-64k", "a body of 64 KiB sent and received", h2_body),
];

const fn case(name: &'static str, unit: &'static str, run: fn(u64)) -> Case {
    Case { name, unit, run, times: 500 }
}

/// Which one is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Server,
    Client,
}

/// Does `work`, counted or not.
fn count_if<T>(counted: bool, work: impl FnOnce() -> T) -> T {
    if counted { measured(work) } else { work() }
}

/// A request as a browser's.
fn fill(head: &mut Head, number: u64, scheme: Scheme) {
    head.clear();
    head.scheme = scheme;
    head.set_authority(b"shop.steady.page");
    head.set_path(format!("/products/{number:010}").as_bytes());
    head.push_known(Name::UserAgent, b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0");
    head.push_known(Name::Accept, b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
    head.push_known(Name::AcceptEncoding, b"gzip, deflate, br, zstd");
    head.push_known(Name::AcceptLanguage, b"en-US,en;q=0.5");
    head.push_known(Name::Cookie, b"session=8f14e45fceea167a5a36dedd4bea2543");
    head.push_known(Name::XForwardedFor, b"203.0.113.7");
    head.push_known(Name::XForwardedProto, b"https");
    head.push_known(Name::XRequestId, format!("0123456789{number:010}").as_bytes());
    head.push(b"sec-fetch-mode", b"navigate");
    head.push(b"x-tenant", b"blue");
}

fn response() -> Head {
    let mut head = Head::new();
    head.reset_to_status(200);
    head.push_known(Name::ContentType, b"text/html; charset=utf-8");
    head.push_known(Name::Date, b"Mon, 21 Oct 2013 20:13:21 GMT");
    head.push_known(Name::Server, b"steady");
    head.push_known(Name::ETag, b"\"33a64df551425fcc55e4d42a148795d9\"");
    head
}

/// Reads all of `input`; the stream of the last head, and the octets of bodies.
fn drain(codec: &mut impl Codec, mut input: &[u8], head: &mut Head, out: &mut Vec<u8>) -> (Option<StreamId>, usize) {
    let (mut found, mut octets) = (None, 0);
    loop {
        let step = codec.receive(input, head, out).expect("both ends are ours");
        input = &input[step.consumed..];
        match step.event {
            Some(Event::Head { stream, .. }) => found = Some(stream),
            Some(Event::Data { stream, data, flow, .. }) => {
                octets += data.len();
                codec.release(stream, flow, out);
            }
            Some(_) => {}
            None => return (found, octets),
        }
    }
}

fn h1(side: Side, chunked: bool, times: u64) {
    let limits = Rc::new(Limits::default());
    let mut client = h1::Client::new(Rc::clone(&limits)).with_seed(1);
    let mut server = h1::Server::new(limits, Scheme::Http);
    let (mut request, mut scratch, mut response) = (Head::new(), Head::new(), response());
    let (mut up, mut down) = (Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 16));
    let body = [b'x'; 1000];
    response.content_length = if chunked { None } else { Some(13) };
    for number in 0..2 * times {
        fill(&mut request, number, Scheme::Http);
        request.method = if chunked { Method::Post } else { Method::Get };
        let counted = number >= times;
        count_if(counted && side == Side::Client, || {
            let stream = client.open(&request, !chunked, &mut up).expect("one at a time");
            if chunked {
                client.send_data(stream, &body, true, &mut up);
            }
        });
        let octets = count_if(counted && side == Side::Server, || {
            let (stream, octets) = drain(&mut server, &up, &mut scratch, &mut down);
            let stream = stream.expect("a request");
            server.send_head(stream, &response, false, &mut down);
            server.send_data(stream, if chunked { &body } else { b"Hello, world!" }, true, &mut down);
            octets
        });
        assert_eq!(octets, if chunked { 1000 } else { 0 });
        up.clear();
        let (_, octets) =
            count_if(counted && side == Side::Client, || drain(&mut client, &down, &mut scratch, &mut up));
        assert_eq!(octets, if chunked { 1000 } else { 13 });
        down.clear();
    }
}

/// Path and request id are another each time, the other fields are in HPACK's table. With `huffman` a browser and its server.
fn h2(side: Side, huffman: bool, times: u64) {
    let limits = Rc::new(Limits::default());
    // A codec before browsers packs its literals; one between this project's own parts does not.
    let scheme = if huffman { Scheme::Https } else { Scheme::Http };
    let mut client = h2::Client::new(Rc::clone(&limits), scheme);
    let mut server = h2::Server::new(limits, scheme);
    let (mut request, mut scratch, mut response) = (Head::new(), Head::new(), response());
    let (mut up, mut down) = (Vec::with_capacity(1 << 16), Vec::with_capacity(1 << 16));
    response.content_length = Some(13);
    for number in 0..2 * times {
        fill(&mut request, number, Scheme::Https);
        let counted = number >= times;
        count_if(counted && side == Side::Client, || client.open(&request, true, &mut up).expect("a free stream"));
        count_if(counted && side == Side::Server, || {
            let (stream, _) = drain(&mut server, &up, &mut scratch, &mut down);
            let stream = stream.expect("a request");
            server.send_head(stream, &response, false, &mut down);
            server.send_data(stream, b"Hello, world!", true, &mut down);
        });
        up.clear();
        let (_, octets) =
            count_if(counted && side == Side::Client, || drain(&mut client, &down, &mut scratch, &mut up));
        assert_eq!(octets, 13);
        down.clear();
    }
}

fn h2_body(times: u64) {
    const OCTETS: usize = 64 * 1024;
    let limits = Rc::new(Limits { stream_window: 1 << 20, connection_window: 16 << 20, ..Limits::default() });
    let mut client = h2::Client::new(Rc::clone(&limits), Scheme::Http);
    let mut server = h2::Server::new(limits, Scheme::Http);
    let (mut request, mut scratch, response) = (Head::new(), Head::new(), response());
    let (mut up, mut down) = (Vec::with_capacity(1 << 17), Vec::with_capacity(1 << 17));
    let body = vec![b'x'; OCTETS];
    for number in 0..2 * times {
        fill(&mut request, number, Scheme::Http);
        client.open(&request, true, &mut up).expect("a free stream");
        let (stream, _) = drain(&mut server, &up, &mut scratch, &mut down);
        up.clear();
        let stream = stream.expect("a request");
        server.send_head(stream, &response, false, &mut down);
        let octets = count_if(number >= times, || {
            assert_eq!(server.send_data(stream, &body, true, &mut down), OCTETS);
            drain(&mut client, &down, &mut scratch, &mut up).1
        });
        assert_eq!(octets, OCTETS);
        down.clear();
    }
}
