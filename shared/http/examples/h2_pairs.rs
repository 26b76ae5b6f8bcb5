//! Requests and responses through an HTTP/2 client and server in one thread, for profilers:
//! `valgrind --tool=callgrind target/release/examples/h2_pairs 100000 [packed]`. With `packed` the server takes itself to
//! be before browsers, and Huffman-codes.

use std::rc::Rc;
use std::time::Instant;

use steady_http::h2::{Client, Server};
use steady_http::{Client as _, Codec, Event, Head, Limits, Name, Scheme};

fn main() {
    let pairs: u32 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let limits = Rc::new(Limits::default());
    let packed = std::env::args().nth(2).is_some_and(|text| text == "packed");
    let mut client = Client::new(Rc::clone(&limits), Scheme::Http);
    let mut server = Server::new(limits, if packed { Scheme::Https } else { Scheme::Http });
    let (mut up, mut down) = (Vec::with_capacity(65_536), Vec::with_capacity(65_536));
    let (mut scratch, mut request, mut response) = (Head::new(), Head::new(), Head::new());
    response.reset_to_status(200);
    response.content_length = Some(13);
    response.push_known(Name::ContentType, b"text/html; charset=utf-8");
    response.push_known(Name::Date, b"Mon, 21 Oct 2013 20:13:21 GMT");
    response.push_known(Name::Server, b"steady");
    response.push_known(Name::ETag, b"\"33a64df551425fcc55e4d42a148795d9\"");
    let begun = Instant::now();
    for number in 0..pairs {
        fill(&mut request, number);
        assert!(client.open(&request, true, &mut up).is_some());
        serve(&mut server, &mut up, &mut down, &mut scratch, &response);
        collect(&mut client, &mut down, &mut up, &mut scratch);
    }
    let taken = begun.elapsed();
    println!("{pairs} pairs, {:.0} ns each (both sides)", taken.as_nanos() as f64 / f64::from(pairs));
}

fn fill(head: &mut Head, number: u32) {
    let mut path = *b"/products/0000000000";
    let mut id = *b"0123456789abcdef0123";
    let mut rest = number;
    for at in 0..10 {
        path[19 - at] = b'0' + (rest % 10) as u8;
        id[19 - at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    head.clear();
    head.scheme = Scheme::Https;
    head.set_authority(b"shop.steady.page");
    head.set_path(&path);
    head.push_known(Name::UserAgent, b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0");
    head.push_known(Name::Accept, b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
    head.push_known(Name::AcceptEncoding, b"gzip, deflate, br, zstd");
    head.push_known(Name::AcceptLanguage, b"en-US,en;q=0.5");
    head.push_known(Name::Cookie, b"session=8f14e45fceea167a5a36dedd4bea2543");
    head.push_known(Name::XForwardedFor, b"203.0.113.7");
    head.push_known(Name::XForwardedProto, b"https");
    head.push_known(Name::XRequestId, &id);
    head.push(b"sec-fetch-mode", b"navigate");
    head.push(b"x-tenant", b"blue");
}

#[inline(never)]
fn serve(server: &mut Server, up: &mut Vec<u8>, down: &mut Vec<u8>, scratch: &mut Head, response: &Head) {
    let mut at = 0;
    loop {
        let step = server.receive(&up[at..], scratch, down).expect("a sound connection");
        at += step.consumed;
        match step.event {
            Some(Event::Head { stream, .. }) => {
                server.send_head(stream, response, false, down);
                server.send_data(stream, b"Hello, world!", true, down);
            }
            Some(_) => {}
            None => break,
        }
    }
    up.clear();
}

#[inline(never)]
fn collect(client: &mut Client, down: &mut Vec<u8>, up: &mut Vec<u8>, scratch: &mut Head) {
    let mut at = 0;
    loop {
        let step = client.receive(&down[at..], scratch, up).expect("a sound connection");
        at += step.consumed;
        match step.event {
            Some(Event::Data { stream, flow, .. }) => client.release(stream, flow, up),
            Some(_) => {}
            None => break,
        }
    }
    down.clear();
}
