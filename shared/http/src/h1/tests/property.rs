//! What holds for every input.

use proptest::prelude::*;

use super::*;
use crate::codec::{Client as _, Framed, Payload};

/// Pieces of requests, good and bad, that make histories worth splitting.
const PIECES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b HTTP/1.1\r\n",
    "HEAD / HTTP/1.0\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "CONNECT a:1 HTTP/1.1\r\n",
    "Host: a\r\n",
    "Host: b\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "Connection: close\r\n",
    "Connection: upgrade\r\n",
    "Upgrade: websocket\r\n",
    "X: y\r\n",
    "TE: trailers\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "abc",
    "3\r\nabc\r\n",
    "3;x=y\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "\n",
    "\r",
    " ",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.0 304 x\r\n",
    "HTTP/1.1 204\r\n",
    "\u{0}",
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
];

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(PIECES), 0..24).prop_map(|pieces| pieces.concat().into_bytes())
}

fn small() -> Limits {
    Limits { head_bytes_max: 150, fields_max: 5, target_bytes_max: 40, chunk_line_bytes_max: 20, ..Limits::default() }
}

/// Feeds the octets in pieces whose lengths repeat, until they end or the codec fails.
fn run<C: Codec>(mut end: End<C>, input: &[u8], lengths: &[usize]) -> (Vec<Said>, Vec<u8>) {
    let mut rest = input;
    for &length in lengths.iter().cycle() {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        end.feed(piece);
        rest = after;
        if rest.is_empty() || matches!(end.said.last(), Some(Said::Failed { .. })) {
            break;
        }
    }
    if !matches!(end.said.last(), Some(Said::Failed { .. })) {
        end.finish();
    }
    (end.take(), end.out)
}

fn waiting_client() -> End<Client> {
    let mut end = client();
    end.codec.open(&request("GET", "/", None, &[]), true, &mut end.out).expect("idle");
    end
}

fn name() -> impl Strategy<Value = String> {
    "x-[a-z0-9!#$%&'*+.^_`|~-]{0,10}"
}

fn value() -> impl Strategy<Value = String> {
    "([!-~\u{a1}-\u{ff}]([ -~\t]{0,20}[!-~])?)?"
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec((name(), value()), 0..8)
}

fn push(head: &mut Head, fields: &[(String, String)]) {
    fields.iter().for_each(|(name, value)| head.push(name.as_bytes(), value.as_bytes()));
}

/// A body in parts, and how it ends: by its length, or chunked with or without trailers.
#[derive(Clone, Debug)]
struct Body {
    parts: Vec<Vec<u8>>,
    known: bool,
    trailers: Option<Vec<(String, String)>>,
}

impl Body {
    fn length(&self) -> Option<u64> {
        self.known.then(|| self.parts.iter().map(|part| part.len() as u64).sum())
    }

    fn send<C: Codec>(&self, codec: &mut C, id: StreamId, out: &mut Vec<u8>) {
        for (at, part) in self.parts.iter().enumerate() {
            let taken = match at % 2 {
                0 => codec.send_data(id, part, false, out),
                _ => {
                    let Framed { taken, place } = codec.send_payload(id, Payload::Elsewhere(part.len()), false, out);
                    out.splice(place.at..place.at, part[..place.len].iter().copied());
                    taken
                }
            };
            assert_eq!(taken, part.len());
        }
        match &self.trailers {
            Some(fields) => {
                let mut trailers = Head::new();
                push(&mut trailers, fields);
                codec.send_trailers(id, &trailers, out);
            }
            None => assert_eq!(codec.send_data(id, b"", true, out), 0),
        }
    }

    /// What the other end says of it.
    fn said(&self) -> Vec<Said> {
        let data = self.parts.concat();
        let mut said = if data.is_empty() { vec![] } else { vec![Said::Data(data)] };
        match &self.trailers {
            Some(fields) if !self.known && !fields.is_empty() => {
                let mut trailers = Head::new();
                push(&mut trailers, fields);
                said.push(Said::Trailers(text(&trailers)));
            }
            _ if self.length() == Some(0) => {}
            _ => said.push(Said::End),
        }
        said
    }
}

fn body() -> impl Strategy<Value = Body> {
    let parts = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5);
    (parts, any::<bool>(), prop::option::of(fields())).prop_map(|(parts, known, trailers)| Body {
        parts,
        known,
        trailers,
    })
}

proptest! {
    #[test]
    fn any_split_of_the_same_octets_says_the_same(input in pieces(), lengths in prop::collection::vec(1usize..12, 1..6)) {
        let whole = [input.len().max(1)];
        prop_assert_eq!(run(server().answering(), &input, &whole), run(server().answering(), &input, &lengths));
        prop_assert_eq!(run(server_with(small()).answering(), &input, &whole), run(server_with(small()).answering(), &input, &lengths));
        prop_assert_eq!(run(waiting_client(), &input, &whole), run(waiting_client(), &input, &lengths));
    }

    #[test]
    fn no_input_panics(input in prop::collection::vec(any::<u8>(), 0..300), lengths in prop::collection::vec(1usize..50, 1..4)) {
        run(server().answering(), &input, &lengths);
        run(waiting_client(), &input, &lengths);
    }

    #[test]
    fn no_damaged_request_panics(mut input in pieces(), at in any::<prop::sample::Index>(), octet in any::<u8>()) {
        if !input.is_empty() {
            let at = at.index(input.len());
            input[at] = octet;
        }
        run(server().answering(), &input, &[7]);
        run(waiting_client(), &input, &[7]);
    }

    #[test]
    fn what_a_client_writes_a_server_reads(
        method in "GET|POST|PUT|BREW", path in "/[a-zA-Z0-9/?&=%._-]{0,30}", fields in fields(), body in body(), lengths in prop::collection::vec(1usize..60, 1..4),
    ) {
        let mut head = request(&method, &path, body.length(), &[]);
        push(&mut head, &fields);
        let mut from = client();
        let id = from.codec.open(&head, false, &mut from.out).expect("idle");
        body.send(&mut from.codec, id, &mut from.out);
        let mut said = run(server().answering(), &from.out, &lengths).0;
        prop_assert_eq!(said.pop(), Some(Said::Closed));
        let mut expected = vec![Said::Head { id: 1, end: body.length() == Some(0), head: text(&head) }];
        expected.extend(body.said());
        prop_assert_eq!(said, expected);
    }

    #[test]
    fn what_a_server_writes_a_client_reads(status in 200u16..600, fields in fields(), body in body(), lengths in prop::collection::vec(1usize..60, 1..4)) {
        prop_assume!(![204, 205, 304].contains(&status));
        let mut head = response(status, body.length(), &[]);
        push(&mut head, &fields);
        let mut to = waiting_client();
        let mut from = server();
        from.feed(&to.out);
        from.codec.send_head(stream(1), &head, false, &mut from.out);
        body.send(&mut from.codec, stream(1), &mut from.out);
        prop_assert!(!from.codec.is_finished());
        to.out.clear();
        let mut said = run(to, &from.out, &lengths).0;
        prop_assert_eq!(said.pop(), Some(Said::Closed));
        let mut expected = vec![Said::Head { id: 1, end: body.length() == Some(0), head: text(&head) }];
        expected.extend(body.said());
        prop_assert_eq!(said, expected);
    }

    #[test]
    fn values_are_judged_octet_by_octet_wherever_they_stand(value in prop::collection::vec(any::<u8>(), 0..40)) {
        let plain = value.iter().position(|&octet| (octet < 0x20 && octet != b'\t') || octet == 0x7f).unwrap_or(value.len());
        prop_assert_eq!(crate::h1::scan::value_len(&value), plain);
    }
}
