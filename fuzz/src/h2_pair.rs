//! Each side of the `h2` crate against the other side of ours. `h2_fields`: fields written by one HPACK are read by the other,
//! over changes of the table's size. `h2_crate_client`: both clients are told the same octets by a server.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use steady_http::h2::{Client, Server};
use steady_http::{Client as _, Codec as _, Head, Limits, Scheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Octets;
use crate::drive::Driven;
use crate::h2::{PREFACE, frame, next_frame};
use crate::h2_crate::{Told, gather, read_body, resets, sorted, theirs};
use crate::message::Message;

/// The crate lets a client think of that many turns without news.
const TURNS: usize = 8;
/// Streams that both clients have open.
const STREAMS: usize = 3;

/// One request of `h2_fields`.
struct Asked {
    /// The peer's table is this large from here on.
    table: u16,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

fn asked(mut octets: Octets<'_>) -> Vec<Asked> {
    const NAMES: &[&str] = &[
        "accept",
        "cache-control",
        "x-a",
        "x-b",
        "x-longer-name-than-others",
        "date",
        "etag",
        "user-agent",
        "authorization",
    ];
    let mut all = Vec::new();
    while !octets.is_empty() && all.len() < 16 {
        let (how, table) = (octets.one(), octets.two() & 0x0fff);
        let mut fields = Vec::new();
        for _ in 0..how & 0x0f {
            let name = NAMES[usize::from(octets.one()) % NAMES.len()].to_owned();
            let len = octets.one();
            let value = match len {
                0..16 => vec![b'v'; usize::from(octets.one()) * 4],
                _ => octets.some(usize::from(len % 16)).iter().map(|octet| 0x21 + octet % 0x5e).collect(),
            };
            fields.push((name, value));
        }
        let body = octets.some(usize::from(how >> 4)).to_vec();
        all.push(Asked { table, fields, body });
    }
    all
}

/// The first octet: which side is ours.
pub fn h2_fields(data: &[u8]) {
    let mut octets = Octets(data);
    let ours_writes = octets.one() & 1 == 0;
    let asked = asked(octets);
    let read = if ours_writes { ours_to_theirs(&asked) } else { theirs_to_ours(&asked) };
    assert_eq!(read.len(), asked.len(), "a request is missing");
    for (told, asked) in read.values().zip(&asked) {
        let mut wanted = asked.fields.clone();
        wanted.sort();
        assert_eq!((told.method.as_str(), told.path.as_str()), ("POST", "/a?b"));
        assert_eq!(told.fields, wanted);
        assert_eq!(told.body, asked.body);
    }
}

fn ours_to_theirs(asked: &[Asked]) -> BTreeMap<u32, Told> {
    let mut client = Client::new(Rc::new(Limits::default()), Scheme::Http);
    let mut out = Vec::new();
    client.start(&mut out);
    let mut head = Head::new();
    for request in asked {
        let [high, low] = request.table.to_be_bytes();
        let settings = frame(4, 0, 0, &[0, 1, 0, 0, high, low]);
        client.receive(&settings, &mut head, &mut out).expect("settings that a peer may send");
        let mut head = Head::new();
        head.set_method(b"POST");
        head.scheme = Scheme::Http;
        head.set_authority(b"a.example");
        head.set_path(b"/a?b");
        request.fields.iter().for_each(|(name, value)| head.push(name.as_bytes(), value));
        let stream = client.open(&head, request.body.is_empty(), &mut out).expect("a stream is free");
        if !request.body.is_empty() {
            assert_eq!(client.send_data(stream, &request.body, true, &mut out), request.body.len());
        }
    }
    let (told, failed, _) = theirs(&without_acknowledgements(&out));
    assert!(!failed, "the crate refuses what we say");
    told
}

/// The crate has said one SETTINGS, not as many as were acknowledged.
fn without_acknowledgements(out: &[u8]) -> Vec<u8> {
    let mut rest = out.strip_prefix(PREFACE).expect("the preface comes first");
    let mut kept = PREFACE.to_vec();
    while let Some((frame, after)) = next_frame(rest) {
        if (frame.kind, frame.flags) != (4, 1) {
            kept.extend_from_slice(&rest[..rest.len() - after.len()]);
        }
        rest = after;
    }
    kept
}

fn theirs_to_ours(asked: &[Asked]) -> BTreeMap<u32, Told> {
    let table = asked.first().map_or(4096, |request| u32::from(request.table));
    let limits = Limits { hpack_table_bytes: table, ..Limits::default() };
    let mut server = Driven::new(Server::new(Rc::new(limits), Scheme::Http));
    let mut messages: BTreeMap<u32, Message> = BTreeMap::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let (send, mut connection) = h2::client::handshake(far).await.expect("a handshake");
        let mut send = send.ready().await.expect("a stream is free");
        // Whoever lets go of a stream cancels it.
        let mut held = Vec::new();
        for request in asked {
            let mut built = http::Request::post("http://a.example/a?b");
            for (name, value) in &request.fields {
                built = built.header(name, value.as_slice());
            }
            let end = request.body.is_empty();
            let (response, mut body) = send.send_request(built.body(()).expect("a request"), end).expect("it is taken");
            if !end {
                body.send_data(Bytes::copy_from_slice(&request.body), true).expect("it is taken");
            }
            held.push((response, body));
            // What it says goes to us and what we say to it, a request at a time, so that its table knows of our settings.
            for _ in 0..TURNS {
                let gone = poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut connection).poll(context))).await;
                assert!(gone.is_pending(), "the crate gives up: {gone:?}");
                let mut said = vec![0; 1 << 16];
                let ready = poll_fn(|context| {
                    let mut buf = tokio::io::ReadBuf::new(&mut said);
                    let read = tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut near), context, &mut buf);
                    Poll::Ready(if read.is_ready() { buf.filled().len() } else { 0 })
                })
                .await;
                server.hear(&said[..ready], 0, |_, event, head, _| gather(&mut messages, event, head));
                assert_eq!(server.error, None, "we refuse what the crate says");
                near.write_all(&std::mem::take(&mut server.out)).await.expect("there is room");
            }
        }
    });
    messages.into_iter().filter(|(_, message)| message.whole).map(|(id, message)| (id, Told::of(message))).collect()
}

/// Frames with right lengths out of the input, for responses.
fn frames(mut octets: Octets<'_>) -> Vec<u8> {
    let mut out = frame(4, 0, 0, &[]);
    while !octets.is_empty() {
        let (what, stream, len) = (octets.one(), octets.one(), usize::from(octets.one()));
        let id = u32::from(stream % 4) * 2 + 1;
        match what {
            0..110 => out.extend(frame(what % 11, octets.one(), stream.into(), octets.some(len))),
            110..150 => {
                const INTERIM: &[u8] = b"\x48\x03103";
                out.extend(frame(1, 4, id, &[INTERIM, octets.some(len)].concat()));
            }
            150..190 => {
                const STATUS: &[u8] = b"\x88\x89\x8b\x8d\x8e";
                let status = usize::from(what) % STATUS.len();
                out.extend(frame(1, 4 | (what & 1), id, &[&STATUS[status..=status], octets.some(len)].concat()));
            }
            190..210 => out.extend(frame(1, 5, id, octets.some(len))),
            _ => out.extend(frame(0, what & 1, id, octets.some(len))),
        }
    }
    out
}

/// Responses to a GET, a HEAD and a POST, on streams 1, 3 and 5.
pub fn h2_crate_client(data: &[u8]) {
    let input = frames(Octets(data));
    let ours = ours_heard(&input);
    let (theirs, failed) = theirs_heard(&input);
    for (id, told) in &theirs {
        if let Some(mine) = ours.get(id) {
            assert_eq!(mine, told, "stream {id} is read differently");
        }
    }
    if !failed {
        for (id, told) in &ours {
            assert!(theirs.contains_key(id), "stream {id} is taken by us alone: {told:?}");
        }
    }
}

const METHODS: [&str; STREAMS] = ["GET", "HEAD", "POST"];

fn ours_heard(input: &[u8]) -> BTreeMap<u32, Told> {
    let mut client = Client::new(Rc::new(Limits::default()), Scheme::Http);
    let mut out = Vec::new();
    client.start(&mut out);
    for method in METHODS {
        let mut head = Head::new();
        head.set_method(method.as_bytes());
        head.set_authority(b"a.example");
        head.set_path(b"/");
        client.open(&head, true, &mut out).expect("a stream is free");
    }
    let mut driven = Driven::new(client);
    let mut messages = BTreeMap::new();
    driven.hear(input, 0, |_, event, head, _| gather(&mut messages, event, head));
    messages.into_iter().filter(|(_, message)| message.whole).map(|(id, message)| (id, Told::of(message))).collect()
}

/// The responses that were whole, and whether the crate found anything wrong with any stream or with the connection.
fn theirs_heard(input: &[u8]) -> (BTreeMap<u32, Told>, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut builder = h2::client::Builder::new();
        builder.max_header_list_size(32 * 1024).enable_push(false);
        let (mut send, mut connection) = builder.handshake::<_, Bytes>(far).await.expect("a handshake");
        let told = Rc::new(std::cell::RefCell::new(BTreeMap::new()));
        // A stream that has ended both ways is not reset: its reader alone is told that it is wrong. (A 204 with a length, which may have
        // one by RFC 9113 §8.1.1, and trailers in the place of content, is wrong to the crate.)
        let refused = Rc::new(std::cell::Cell::new(false));
        let mut tasks = Vec::new();
        for method in METHODS {
            let request = http::Request::builder().method(method).uri("http://a.example/").body(()).expect("a request");
            let (response, _) = send.send_request(request, true).expect("a stream is free");
            let (id, told) = (u32::from(response.stream_id()), Rc::clone(&told));
            let refused = Rc::clone(&refused);
            tasks.push(tokio::task::spawn_local(async move {
                let read = async {
                    let (parts, body) = response.await.ok()?.into_parts();
                    let mut whole = Told { method: parts.status.as_str().to_owned(), ..Told::default() };
                    whole.fields = sorted(&parts.headers);
                    read_body(body, &mut whole).await?;
                    told.borrow_mut().insert(id, whole);
                    Some(())
                };
                if read.await.is_none() {
                    refused.set(true);
                }
            }));
        }
        let mut failed = false;
        // Its preface goes out first: a peer that speaks before it is not looked at here.
        let mut idle = 0;
        let mut written = false;
        while idle < TURNS {
            let now = poll_fn(|context| Poll::Ready(std::pin::Pin::new(&mut connection).poll(context))).await;
            if let Poll::Ready(ended) = now {
                failed |= ended.is_err();
                break;
            }
            if !written {
                near.write_all(input).await.expect("there is room");
                written = true;
            }
            idle += 1;
            tokio::task::yield_now().await;
        }
        // A connection that ended has told its readers, who have not looked yet.
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for task in tasks {
            _ = task.await;
        }
        drop((send, connection));
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.expect("all that it said");
        let said = said.strip_prefix(PREFACE).unwrap_or(&said);
        // At the end it resets what is still open (CANCEL): that is no fault of the peer's.
        let (reset, gone) = resets(said, &[8]);
        let told = told.borrow().clone();
        (told, failed || gone || refused.get() || !reset.is_empty())
    })
}
