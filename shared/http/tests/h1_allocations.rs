//! Once warm, a request through the HTTP/1.1 codecs allocates nothing: not in the server role, not in the client role.

use std::rc::Rc;

use steady_heap::{Counting, of_thread};
use steady_http::{Client as _, Codec, Event, Head, Limits, Scheme, StreamId, h1};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A client and a server joined back to back, with the buffers that an engine would keep.
struct Wire {
    client: h1::Client,
    server: h1::Server,
    request: Head,
    response: Head,
    scratch: Head,
    up: Vec<u8>,
    down: Vec<u8>,
    none: Vec<u8>,
}

impl Wire {
    fn new(method: &[u8]) -> Wire {
        let limits = Rc::new(Limits::default());
        let mut request = Head::new();
        request.set_method(method);
        request.set_authority(b"name.steady.page");
        request.set_path(b"/a/path?with=query");
        for (name, value) in
            [("user-agent", "test"), ("accept", "*/*"), ("cookie", "a=1"), ("cookie", "b=2"), ("x-own", "value")]
        {
            request.push(name.as_bytes(), value.as_bytes());
        }
        let mut response = Head::new();
        response.reset_to_status(200);
        response.push(b"content-type", b"text/plain");
        response.push(b"x-other", b"value");
        Wire {
            client: h1::Client::new(limits.clone()),
            server: h1::Server::new(limits, Scheme::Http),
            request,
            response,
            scratch: Head::new(),
            up: Vec::new(),
            down: Vec::new(),
            none: Vec::new(),
        }
    }

    /// One request with a chunked body of its own where it has one, and its chunked response. Returns the octets of both bodies.
    fn exchange(&mut self, body: Option<&[u8]>) -> usize {
        self.up.clear();
        self.down.clear();
        let id = self.client.open(&self.request, body.is_none(), &mut self.up).expect("one at a time");
        if let Some(body) = body {
            self.client.send_data(id, body, true, &mut self.up);
        }
        let carried = Self::drain(&mut self.server, &self.up, &mut self.scratch, &mut self.none);
        let stream = StreamId { slot: 0, id: id.id };
        self.server.send_head(stream, &self.response, false, &mut self.down);
        self.server.send_data(stream, b"hello", false, &mut self.down);
        self.server.send_data(stream, b"", true, &mut self.down);
        carried + Self::drain(&mut self.client, &self.down, &mut self.scratch, &mut self.none)
    }

    fn drain(codec: &mut impl Codec, mut input: &[u8], head: &mut Head, out: &mut Vec<u8>) -> usize {
        let mut carried = 0;
        loop {
            let step = codec.receive(input, head, out).expect("both ends are ours");
            input = &input[step.consumed..];
            match step.event {
                Some(Event::Data { data, .. }) => carried += data.len(),
                Some(_) => {}
                None => return carried,
            }
        }
    }
}

fn allocations_of_a_thousand(wire: &mut Wire, body: Option<&[u8]>) -> u64 {
    let before = of_thread().allocations;
    let expected = 5 + body.map_or(0, <[u8]>::len);
    for _ in 0..1000 {
        assert_eq!(wire.exchange(body), expected);
    }
    of_thread().allocations - before
}

#[test]
fn a_get_allocates_nothing_once_warm() {
    let mut wire = Wire::new(b"GET");
    wire.exchange(None);
    assert!(of_thread().allocations > 0, "the allocator counts");
    assert_eq!(allocations_of_a_thousand(&mut wire, None), 0);
}

#[test]
fn a_chunked_post_allocates_nothing_once_warm() {
    let mut wire = Wire::new(b"POST");
    wire.exchange(Some(&[b'x'; 1000]));
    assert_eq!(allocations_of_a_thousand(&mut wire, Some(&[b'x'; 1000])), 0);
}
