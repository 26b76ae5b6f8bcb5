//! HTTP/1.1: what is read does not depend on how it is cut, and a message that is sent on is read again as the same one.

use std::rc::Rc;

use steady_http::h1::{Client, Server};
use steady_http::{Client as _, Codec, Event, Head, Limits, Method, Name, Scheme};

use crate::Octets;
use crate::drive::Driven;
use crate::message::{Message, Said, is_carried};

fn limits(small: bool) -> Rc<Limits> {
    let small_ones = Limits {
        head_bytes_max: 200,
        fields_max: 4,
        target_bytes_max: 40,
        chunk_line_bytes_max: 20,
        interim_max: 2,
        ..Limits::default()
    };
    Rc::new(if small { small_ones } else { Limits::default() })
}

/// The first octet: what the listener is, whether limits are small, whether tunnels are granted. The second: how the rest
/// is cut.
pub fn h1_request(data: &[u8]) {
    let mut octets = Octets(data);
    let (how, piece) = (octets.one(), usize::from(octets.one()));
    let scheme = if how & 1 == 0 { Scheme::Http } else { Scheme::Https };
    let grant = how & 4 != 0;
    let serve = |piece: usize| {
        let mut driven = Driven::new(Server::new(limits(how & 2 != 0), scheme));
        let (mut messages, mut now) = (Vec::new(), Message::default());
        driven.hear(octets.0, piece, |codec, event, head, out| {
            now.take(event, head);
            let Some(stream) = now.stream else { return };
            if matches!(event, Event::Head { .. }) && now.head.is_connect() {
                messages.push(now.clone());
                let mut answer = Head::new();
                answer.reset_to_status(if grant { 200 } else { 403 });
                codec.send_head(stream, &answer, !grant, out);
            } else if now.whole && !now.head.is_connect() {
                messages.push(now.clone());
                let mut answer = Head::new();
                answer.reset_to_status(200);
                answer.content_length = Some(2);
                codec.send_head(stream, &answer, false, out);
                assert_eq!(codec.send_data(stream, b"ok", true, out), 2);
            }
        });
        driven.end();
        (driven, messages)
    };
    let (whole, messages) = serve(0);
    let (cut, _) = serve(piece.max(1));
    assert_eq!(whole.verdict(), cut.verdict());
    assert_eq!(whole.out.escape_ascii().to_string(), cut.out.escape_ascii().to_string());
    for message in &messages {
        request_passes_on(message, scheme);
    }
}

/// Sends a request on over HTTP/1.1 and reads it again: the same, and nothing after it.
pub fn request_passes_on(message: &Message, scheme: Scheme) {
    let Message { head, body, trailers, .. } = message;
    if head.authority().is_empty() || head.scheme != scheme {
        return;
    }
    let mut client = Client::new(Rc::new(Limits::default())).with_seed(7);
    let mut out = Vec::new();
    let end = body.is_empty() && trailers.is_none() && !head.is_connect() && head.content_length.unwrap_or(0) == 0;
    let stream = client.open(head, end, &mut out).expect("a new connection is free");
    if !end && !head.is_connect() {
        client.send_data(stream, body, trailers.is_none(), &mut out);
        if let Some(trailers) = trailers {
            client.send_trailers(stream, trailers, &mut out);
        }
    }
    let mut again = Driven::new(Server::new(Rc::new(wide()), scheme));
    let mut now = Message::default();
    again.hear(&out, 0, |_, event, head, _| now.take(event, head));
    let sent = out.escape_ascii().to_string();
    assert_eq!(again.error, None, "refused on the next hop: {sent}");
    assert!(now.stream.is_some() && (now.whole || head.is_connect()), "not whole on the next hop: {sent}");
    assert_eq!(again.left(), 0, "more than one message: {sent}");
    let mut expected = Said::of(&carried(head));
    let mut got = Said::of(&now.head);
    expected.start = encoded(head);
    if head.protocol() == b"websocket" && head.get(Name::SecWebSocketKey).is_none() {
        got.fields.retain(|(name, _)| name != "sec-websocket-key");
    }
    // A length of nothing may be said or left out, and one that is not known is chunked.
    expected.length = expected.length.filter(|&length| length > 0);
    got.length = got.length.filter(|&length| length > 0);
    assert_eq!(got, expected, "{sent}");
    if !head.is_connect() {
        assert_eq!(now.body, *body, "{sent}");
    }
    if head.content_length.is_none() && !head.is_connect() {
        for field in now.trailer_fields() {
            assert!(message.trailer_fields().contains(&field), "a trailer from nowhere: {field:?}");
        }
    }
}

fn wide() -> Limits {
    Limits { head_bytes_max: 1 << 20, target_bytes_max: 1 << 20, fields_max: 10_000, ..Limits::default() }
}

fn carried(head: &Head) -> Head {
    let mut head = head.clone();
    head.retain(|field| is_carried(&field));
    head
}

/// The start of a head whose target was written for HTTP/1.1.
fn encoded(head: &Head) -> String {
    let part = |text: &[u8]| -> Vec<u8> {
        text.iter()
            .flat_map(|&octet| match octet {
                b'#' => b"%23".to_vec(),
                0x21..=0x7e => vec![octet],
                _ => format!("%{octet:02X}").into_bytes(),
            })
            .collect()
    };
    let mut copy = Head::new();
    copy.status = head.status;
    copy.set_method(head.method_bytes());
    copy.scheme = head.scheme;
    copy.set_authority(&part(head.authority()));
    copy.set_path(&part(head.path()));
    let protocol = head.protocol();
    let websocket = protocol.eq_ignore_ascii_case(b"websocket");
    copy.set_protocol(if websocket { b"websocket" } else { protocol });
    Said::of(&copy).start
}

/// The first octet: what was asked. The second: how the answer is cut.
pub fn h1_response(data: &[u8]) {
    let mut octets = Octets(data);
    let (how, piece) = (octets.one(), usize::from(octets.one()));
    let asked = asked(how);
    let receive = |piece: usize| {
        let mut driven = Driven::new(Client::new(limits(how & 8 != 0)).with_seed(7));
        let mut messages = Vec::new();
        let mut now = Message::default();
        let mut out = Vec::new();
        driven.codec.open(&asked, true, &mut out).expect("a new connection is free");
        driven.hear(octets.0, piece, |codec, event, head, out| {
            now.take(event, head);
            if now.whole && now.stream.is_some() {
                messages.push(std::mem::take(&mut now));
            }
            if codec.active() == 0 && codec.available() > 0 {
                codec.open(&asked, true, out);
            }
        });
        driven.end();
        (driven, messages)
    };
    let (whole, messages) = receive(0);
    let (cut, _) = receive(piece.max(1));
    assert_eq!(whole.verdict(), cut.verdict());
    for message in messages.iter().filter(|_| !asked.is_connect()) {
        response_passes_on(message, &asked);
    }
}

fn asked(how: u8) -> Head {
    let mut head = Head::new();
    head.set_authority(b"a.example");
    head.set_path(b"/");
    match how & 7 {
        0 | 1 => {}
        2 | 3 => head.method = Method::Head,
        4 => {
            head.method = Method::Connect;
            head.set_authority(b"a.example:1");
            head.set_path(b"");
        }
        5 => {
            head.method = Method::Connect;
            head.set_protocol(b"websocket");
        }
        6 => {
            head.method = Method::Connect;
            head.set_protocol(b"other/1");
        }
        _ => head.method = Method::Options,
    }
    head
}

/// Sends a response on over HTTP/1.1 and reads it again: the same, and nothing after it.
pub fn response_passes_on(message: &Message, asked: &Head) {
    let Message { head, body, trailers, .. } = message;
    let mut server = Server::new(Rc::new(wide()), Scheme::Http);
    let mut client = Client::new(Rc::new(wide()));
    let mut request = Vec::new();
    client.open(asked, true, &mut request).expect("a new connection is free");
    let mut scratch = Head::new();
    let mut out = Vec::new();
    let step = server.receive(&request, &mut scratch, &mut out).expect("our own request");
    let Some(Event::Head { stream, .. }) = step.event else { panic!("our own request has a head") };
    let end = body.is_empty() && trailers.is_none();
    server.send_head(stream, head, end, &mut out);
    if !end {
        server.send_data(stream, body, trailers.is_none(), &mut out);
        if let Some(trailers) = trailers {
            server.send_trailers(stream, trailers, &mut out);
        }
    }
    let mut again = Driven::new(client);
    let mut now = Message::default();
    again.hear(&out, 0, |_, event, head, _| now.take(event, head));
    let sent = out.escape_ascii().to_string();
    assert_eq!(again.error, None, "refused on the next hop: {sent}");
    assert!(now.whole, "not whole on the next hop: {sent}");
    assert_eq!(again.left(), 0, "more than one message: {sent}");
    let mut head = carried(head);
    // A request's, of which HTTP/2 says nothing where a response has it; HTTP/1.1 reads none.
    head.retain(|field| field.id != Name::Te);
    let expected = Said::of(&head);
    let got = Said::of(&now.head);
    assert_eq!((&got.start, &got.fields), (&expected.start, &expected.fields), "{sent}");
    if !matches!(head.status, 204 | 205 | 304) && asked.method != Method::Head {
        assert_eq!(now.body, *body, "{sent}");
    } else {
        assert_eq!(now.body, b"", "{sent}");
    }
}
