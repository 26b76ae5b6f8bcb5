//! Our HTTP/2 server and that of the `h2` crate, given the same octets: a request that both read whole is the same request, and
//! what the crate refuses we do not serve, but for what is listed.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Poll;

use steady_http::h2::Server;
use steady_http::{Limits, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Octets;
use crate::drive::Driven;
use crate::h2::{PREFACE, frame};
use crate::message::Message;

/// A message as both can tell it; the method of a response is its status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub method: String,
    pub path: String,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, Vec<u8>)>,
}

impl Told {
    pub fn of(message: Message) -> Told {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let status = message.head.status;
        Told {
            method: if status > 0 { status.to_string() } else { text(message.head.method_bytes()) },
            path: text(message.head.path()),
            fields: fields(&message.head),
            trailers: message.trailers.as_ref().map(fields).unwrap_or_default(),
            body: message.body,
        }
    }
}

fn fields(head: &steady_http::Head) -> Vec<(String, Vec<u8>)> {
    let named = head.fields().map(|it| (String::from_utf8_lossy(it.name).into_owned(), it.value.to_vec()));
    let mut fields: Vec<_> = named.filter(|(name, _)| keeps(name)).collect();
    fields.sort();
    fields
}

/// The fields of the crate's map, as [`fields`] gives ours.
pub fn sorted(map: &http::HeaderMap) -> Vec<(String, Vec<u8>)> {
    let all = map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let mut fields: Vec<_> = all.filter(|(name, _)| keeps(name)).collect();
    fields.sort();
    fields
}

/// Puts our events together, a message a stream.
pub fn gather(messages: &mut BTreeMap<u32, Message>, event: &steady_http::Event<'_>, head: &steady_http::Head) {
    use steady_http::Event::{Data, Head, Reset, Trailers};
    match *event {
        Reset { stream, .. } => _ = messages.remove(&stream.id),
        Head { stream, .. } | Data { stream, .. } | Trailers { stream } => {
            messages.entry(stream.id).or_default().take(event, head);
        }
        _ => {}
    }
}

/// A field as both keep it: what we make canonical is left out on both sides.
fn keeps(name: &str) -> bool {
    !matches!(name, "cookie" | "host" | "content-length" | "te" | "http2-settings")
}

/// Frames with right lengths out of the input, after the preface.
fn frames(mut octets: Octets<'_>) -> Vec<u8> {
    let mut out = [PREFACE, &frame(4, 0, 0, &[])].concat();
    while !octets.is_empty() {
        let (what, stream, len) = (octets.one(), octets.one(), usize::from(octets.one()));
        match what {
            0..150 => out.extend(frame(what % 11, octets.one(), stream.into(), octets.some(len))),
            150..200 => {
                const GET: &[u8] = b"\x82\x86\x84\x41\x09a.example";
                let block = [GET, octets.some(len)].concat();
                out.extend(frame(1, 4 | (what & 1), stream.into(), &block));
            }
            _ => out.extend(frame(0, what & 1, stream.into(), octets.some(len))),
        }
    }
    out
}

pub fn h2_crate(data: &[u8]) {
    let input = frames(Octets(data));
    let ours = ours(&input);
    let theirs = theirs(&input);
    for (id, told) in &theirs.0 {
        if let Some(mine) = ours.0.get(id) {
            assert_eq!(mine, told, "stream {id} is read differently");
        }
    }
    if theirs.1 {
        return;
    }
    // A connection that the crate finds nothing wrong with: every request that we took it took too, unless its client then left it,
    // which the crate learns before it has looked at the request.
    let left = resets(&input[PREFACE.len()..], &[]).0;
    for id in ours.0.keys() {
        let excused = theirs.2.contains(id) || left.contains(id);
        assert!(theirs.0.contains_key(id) || excused, "stream {id} is served by us alone: {theirs:?}, {ours:?}");
    }
}

/// The requests that were whole, and whether the connection was ended.
fn ours(input: &[u8]) -> (BTreeMap<u32, Told>, bool) {
    let mut driven = Driven::new(Server::new(Rc::new(Limits::default()), Scheme::Http));
    let mut messages = BTreeMap::new();
    driven.hear(input, 0, |_, event, head, _| gather(&mut messages, event, head));
    let whole = messages.into_iter().filter(|(_, message)| message.whole);
    (whole.map(|(id, message)| (id, Told::of(message))).collect(), driven.error.is_some())
}

/// As [`ours`]; and the streams that the crate reset or refused.
pub fn theirs(input: &[u8]) -> (BTreeMap<u32, Told>, bool, Vec<u32>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let mut builder = h2::server::Builder::new();
        builder.max_header_list_size(32 * 1024).max_concurrent_streams(128).enable_connect_protocol();
        let told = Rc::new(std::cell::RefCell::new(BTreeMap::new()));
        near.write_all(input).await.expect("there is room");
        let mut failed = true;
        if let Ok(mut connection) = builder.handshake::<_, bytes::Bytes>(far).await {
            failed = false;
            let mut tasks = Vec::new();
            let mut held = Vec::new();
            // The pipe stays open, because at its end the crate drops what was not accepted. All is there at once: a few turns
            // that bring nothing are the end.
            let mut idle = 0;
            while idle < 8 {
                let next = std::future::poll_fn(|context| Poll::Ready(connection.poll_accept(context))).await;
                let (request, respond) = match next {
                    Poll::Ready(Some(Ok(next))) => next,
                    Poll::Ready(Some(Err(_))) => {
                        failed = true;
                        break;
                    }
                    Poll::Ready(None) => break,
                    Poll::Pending => {
                        idle += 1;
                        tokio::task::yield_now().await;
                        continue;
                    }
                };
                idle = 0;
                let told = Rc::clone(&told);
                let id = u32::from(respond.stream_id());
                held.push(respond);
                tasks.push(tokio::task::spawn_local(async move {
                    if let Some(whole) = read(request).await {
                        told.borrow_mut().insert(id, whole);
                    }
                }));
            }
            for task in tasks {
                // A body that has not ended is waited for no longer.
                task.abort();
                _ = task.await;
            }
        }
        let mut said = Vec::new();
        near.read_to_end(&mut said).await.expect("all that it said");
        let (reset, gone) = resets(&said, &[]);
        let told = told.borrow().clone();
        (told, failed || gone, reset)
    })
}

async fn read(request: http::Request<h2::RecvStream>) -> Option<Told> {
    let (parts, stream) = request.into_parts();
    let mut told = Told {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default(),
        fields: sorted(&parts.headers),
        ..Told::default()
    };
    read_body(stream, &mut told).await?;
    Some(told)
}

/// A body and its trailers, to their end.
pub async fn read_body(mut stream: h2::RecvStream, told: &mut Told) -> Option<()> {
    while let Some(data) = stream.data().await {
        let data = data.ok()?;
        told.body.extend_from_slice(&data);
        _ = stream.flow_control().release_capacity(data.len());
    }
    if let Some(trailers) = stream.trailers().await.ok()? {
        told.trailers = sorted(&trailers);
    }
    Some(())
}

/// The streams that were reset but for these reasons, and whether the connection was ended for a fault.
pub fn resets(mut said: &[u8], but: &[u32]) -> (Vec<u32>, bool) {
    let (mut reset, mut gone) = (Vec::new(), false);
    while let Some((head, rest)) = said.split_first_chunk::<9>() {
        let [a, b, c, kind, _, id @ ..] = *head;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        match kind {
            3 if payload.first_chunk().is_some_and(|code| but.contains(&u32::from_be_bytes(*code))) => {}
            3 => reset.push(u32::from_be_bytes(id)),
            7 => gone |= payload.get(4..8) != Some(&[0; 4]),
            _ => {}
        }
        said = rest;
    }
    (reset, gone)
}
