//! A request costs no allocation once the connection is warm. Alone in its binary, because it counts all of them.

use std::rc::Rc;

use steady_heap::{Counting, of_thread};
use steady_http::h2::{Client, Server};
use steady_http::{Client as _, Codec, Event, Head, Limits, Name, Scheme, StreamId};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Pair {
    client: Client,
    server: Server,
    request: Head,
    response: Head,
    scratch: Head,
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Pair {
    fn new() -> Pair {
        let limits = Rc::new(Limits::default());
        let mut response = Head::new();
        response.reset_to_status(200);
        response.content_length = Some(13);
        response.push_known(Name::ContentType, b"text/html; charset=utf-8");
        response.push_known(Name::Date, b"Mon, 21 Oct 2013 20:13:21 GMT");
        response.push_known(Name::Server, b"steady");
        response.push_known(Name::ETag, b"\"33a64df551425fcc55e4d42a148795d9f25f89d4\"");
        Pair {
            client: Client::new(Rc::clone(&limits), Scheme::Http),
            server: Server::new(limits, Scheme::Http),
            request: Head::new(),
            response,
            scratch: Head::new(),
            up: Vec::with_capacity(4096),
            down: Vec::with_capacity(4096),
        }
    }

    fn fill_request(&mut self, number: u64) {
        let mut path = *b"/products/0000000000";
        let mut id = *b"0123456789abcdef0123";
        let mut rest = number;
        for at in 0..10 {
            path[19 - at] = b'0' + (rest % 10) as u8;
            id[19 - at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let head = &mut self.request;
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

    /// One GET, its response of 13 octets, and back.
    fn exchange(&mut self, number: u64) {
        self.fill_request(number);
        let opened = self.client.open(&self.request, true, &mut self.up);
        assert!(opened.is_some());
        let mut asked: Option<StreamId> = None;
        let mut input = &self.up[..];
        loop {
            let step = self.server.receive(input, &mut self.scratch, &mut self.down).unwrap();
            input = &input[step.consumed..];
            match step.event {
                Some(Event::Head { stream, end: true }) => asked = Some(stream),
                Some(_) => {}
                None => break,
            }
        }
        assert!(input.is_empty() && self.scratch.field_count() == 10);
        self.up.clear();
        let stream = asked.unwrap();
        self.server.send_head(stream, &self.response, false, &mut self.down);
        assert_eq!(self.server.send_data(stream, b"Hello, world!", true, &mut self.down), 13);
        let mut ended = false;
        let mut input = &self.down[..];
        loop {
            let step = self.client.receive(input, &mut self.scratch, &mut self.up).unwrap();
            input = &input[step.consumed..];
            match step.event {
                Some(Event::Data { stream, flow, end, .. }) => {
                    self.client.release(stream, flow, &mut self.up);
                    ended = end;
                }
                Some(_) => {}
                None => break,
            }
        }
        assert!(input.is_empty() && ended && self.scratch.field_count() == 4);
        self.down.clear();
    }
}

#[test]
fn a_warm_connection_carries_requests_without_allocating_and_holds_a_few_kilobytes() {
    let before = of_thread().octets;
    let limits = Rc::new(Limits::default());
    let idle = (Box::new(Client::new(Rc::clone(&limits), Scheme::Http)), Box::new(Server::new(limits, Scheme::Http)));
    let fresh = of_thread().octets - before;
    assert!(fresh < 3000, "two fresh connections hold {fresh} octets");
    drop(idle);

    let mut pair = Box::new(Pair::new());
    for number in 0..200 {
        pair.exchange(number);
    }
    let before = of_thread().allocations;
    for number in 200..5200 {
        pair.exchange(number);
    }
    assert_eq!(of_thread().allocations - before, 0);

    // What the pair holds beyond the heads and buffers of the caller.
    let held = of_thread().octets;
    pair.client = Client::new(Rc::new(Limits::default()), Scheme::Http);
    pair.server = Server::new(Rc::new(Limits::default()), Scheme::Http);
    let held = held - of_thread().octets;
    println!("two warm connections hold {held} octets on the heap, {} inline", size_of::<(Client, Server)>());
    assert!(held < 16 * 1024, "two warm connections hold {held} octets");
}
