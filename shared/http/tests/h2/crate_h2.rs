//! The `h2` crate as the other side, over an in-memory pipe: an independent reading of the same RFCs.

use std::collections::HashMap;
use std::rc::Rc;

use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use steady_http::h2::{Client, Server};
use steady_http::{Client as _, Codec, Head, Limits, Scheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const STREAMS: usize = 60;

fn body(seed: usize) -> Vec<u8> {
    let len = [0, 1, 100, 16_384, 70_000, 300_000][seed % 6];
    (0..len).map(|at| (at * 7 + seed) as u8).collect()
}

/// Fields that exercise the tables: some repeat, some do not, some are large.
fn fields(seed: usize) -> Vec<(String, String)> {
    let mut all = vec![
        ("user-agent".to_owned(), format!("agent/{}", seed % 3)),
        ("x-request-id".to_owned(), format!("{:032x}", seed * 7919)),
        ("accept".to_owned(), "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8".to_owned()),
        (format!("x-name-{}", seed % 40), "v".repeat(seed * 13 % 700)),
        ("x-obs".to_owned(), "caf\u{e9} \u{1f600}".to_owned()),
    ];
    all.truncate(1 + seed % 5);
    all
}

/// Carries octets between a codec and a pipe until the pipe ends or `each` says that all is done.
async fn carry<C: Codec>(
    mut end: End<C>,
    mut pipe: DuplexStream,
    mut each: impl FnMut(&mut End<C>, Option<Seen>) -> bool,
) -> End<C> {
    let mut buffer = vec![0; 4096];
    loop {
        let done = each(&mut end, None);
        while !end.out.is_empty() {
            let out = std::mem::take(&mut end.out);
            pipe.write_all(&out).await.unwrap();
            each(&mut end, None);
        }
        if done {
            return end;
        }
        let read = pipe.read(&mut buffer).await.unwrap();
        if read == 0 {
            return end;
        }
        for seen in end.hear(&buffer[..read]).unwrap() {
            each(&mut end, Some(seen));
        }
    }
}

/// A body on its way out: id, octets, sent, trailers.
type Out = (u32, Vec<u8>, usize, Head);

fn pump<C: Codec>(end: &mut End<C>, outs: &mut Vec<Out>) {
    outs.retain_mut(|(id, body, sent, trailers)| {
        let stream = end.ids[id];
        *sent += end.codec.send_data(stream, &body[*sent..], false, &mut end.out);
        if *sent == body.len() {
            end.codec.send_trailers(stream, trailers, &mut end.out);
        }
        *sent < body.len()
    });
}

fn trailers_of(seed: usize) -> Head {
    let mut head = Head::new();
    if seed.is_multiple_of(2) {
        head.push(b"x-check", format!("sum-{seed}").as_bytes());
    }
    head
}

fn header_map(seed: usize) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields(seed) {
        map.insert(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    map
}

async fn send_all(mut stream: h2::SendStream<Bytes>, body: Vec<u8>, trailers: HeaderMap) {
    let mut body = Bytes::from(body);
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
        let piece = body.split_to(room.min(body.len()));
        stream.send_data(piece, false).unwrap();
    }
    stream.send_trailers(trailers).unwrap();
}

async fn read_all(mut stream: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut whole = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.unwrap();
        stream.flow_control().release_capacity(chunk.len()).unwrap();
        whole.extend_from_slice(&chunk);
    }
    (whole, stream.trailers().await.unwrap())
}

fn seed_of(text: &str) -> usize {
    let at = text.find("/seed/").unwrap() + 6;
    text[at..].split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap()
}

fn check_fields(text: &str, seed: usize) {
    for (name, value) in fields(seed) {
        assert!(text.contains(&format!("|{name}={value}")), "{name} in {text}");
    }
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

async fn our_server(pipe: DuplexStream, limits: Limits) {
    let server = End::of(Server::new(Rc::new(limits), Scheme::Https));
    let (mut outs, mut bodies) = (Vec::<Out>::new(), HashMap::<u32, (usize, Vec<u8>)>::new());
    carry(server, pipe, |end, seen| {
        let mut ended = None;
        match seen {
            Some(Seen::Head { id, end, text }) => {
                let seed = seed_of(&text);
                check_fields(&text, seed);
                bodies.insert(id, (seed, Vec::new()));
                ended = end.then_some(id);
            }
            Some(Seen::Data { id, data, flow, end: last }) => {
                bodies.get_mut(&id).unwrap().1.extend(data);
                end.codec.release(end.ids[&id], flow, &mut end.out);
                ended = last.then_some(id);
            }
            Some(Seen::Trailers { id, text }) => {
                let seed = bodies[&id].0;
                assert_eq!(text, format!("t={seed}"));
                ended = Some(id);
            }
            Some(Seen::Settings | Seen::Writable(_) | Seen::GoAway { .. }) | None => {}
            Some(other) => panic!("{other:?}"),
        }
        if let Some(id) = ended {
            let (seed, received) = bodies.remove(&id).unwrap();
            assert_eq!(received, body(seed), "the request's body");
            let mut head = response(if seed % 3 == 0 { 200 } else { 418 }, &[]);
            head.push_known(steady_http::Name::Server, b"steady");
            for (name, value) in fields(seed + 1) {
                head.push(name.as_bytes(), value.as_bytes());
            }
            end.codec.send_head(end.ids[&id], &head, false, &mut end.out);
            outs.push((id, body(seed + 1), 0, trailers_of(seed)));
        }
        pump(end, &mut outs);
        false
    })
    .await;
}

async fn their_client(pipe: DuplexStream, builder: h2::client::Builder) {
    let (client, connection) = builder.handshake::<_, Bytes>(pipe).await.unwrap();
    let driver = tokio::task::spawn_local(async move { connection.await.unwrap() });
    let mut tasks = Vec::new();
    for seed in 0..STREAMS {
        let mut client = client.clone().ready().await.unwrap();
        let mut request =
            Request::builder().method("POST").uri(format!("https://a.example/seed/{seed}")).body(()).unwrap();
        *request.headers_mut() = header_map(seed);
        let (response, stream) = client.send_request(request, false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("t", HeaderValue::from_str(&seed.to_string()).unwrap());
        tokio::task::spawn_local(send_all(stream, body(seed), trailers));
        tasks.push(tokio::task::spawn_local(async move {
            let response = response.await.unwrap();
            assert_eq!(response.status().as_u16(), if seed % 3 == 0 { 200 } else { 418 });
            for (name, value) in fields(seed + 1) {
                assert_eq!(response.headers()[&name].as_bytes(), value.as_bytes());
            }
            let (received, trailers) = read_all(response.into_body()).await;
            assert_eq!(received, body(seed + 1), "the response's body");
            let check = trailers.and_then(|map| map.get("x-check").map(|value| value.to_str().unwrap().to_owned()));
            assert_eq!(check, seed.is_multiple_of(2).then(|| format!("sum-{seed}")));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    drop(client);
    driver.await.unwrap();
}

#[test]
fn our_server_serves_the_h2_crates_client() {
    for (table, window) in [(4096, 65_535), (0, 1000), (100, 1 << 20), (65_536, 20_000)] {
        local(async move {
            let (one, other) = tokio::io::duplex(10_000);
            let mut builder = h2::client::Builder::new();
            builder.header_table_size(table).initial_window_size(window).initial_connection_window_size(100_000);
            let limits = Limits { stream_window: window.max(500), hpack_table_bytes: table, ..Limits::default() };
            tokio::join!(our_server(one, limits), their_client(other, builder));
        });
    }
}

async fn their_server(pipe: DuplexStream, builder: h2::server::Builder) {
    let mut connection = builder.handshake::<_, Bytes>(pipe).await.unwrap();
    while let Some(next) = connection.accept().await {
        let Ok((request, mut respond)) = next else { return };
        tokio::task::spawn_local(async move {
            let seed = seed_of(request.uri().path());
            for (name, value) in fields(seed) {
                assert_eq!(request.headers()[&name].as_bytes(), value.as_bytes());
            }
            let (received, trailers) = read_all(request.into_body()).await;
            assert_eq!(received, body(seed), "the request's body");
            let check = trailers.and_then(|map| map.get("x-check").map(|value| value.to_str().unwrap().to_owned()));
            assert_eq!(check, seed.is_multiple_of(2).then(|| format!("sum-{seed}")));
            let mut response = Response::new(());
            *response.headers_mut() = header_map(seed + 1);
            let stream = respond.send_response(response, false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("t", HeaderValue::from_str(&seed.to_string()).unwrap());
            send_all(stream, body(seed + 1), trailers).await;
        });
    }
}

async fn our_client(pipe: DuplexStream, limits: Limits) {
    let mut client = End::of(Client::new(Rc::new(limits), Scheme::Http));
    client.codec.start(&mut client.out);
    let mut settled = false;
    let mut outs = Vec::<Out>::new();
    let (mut bodies, mut opened, mut finished) = (HashMap::<u32, (usize, Vec<u8>)>::new(), 0, 0);
    carry(client, pipe, |end, seen| {
        settled |= seen == Some(Seen::Settings);
        while settled && opened < STREAMS && end.codec.available() > 0 {
            let mut head = request("POST", &format!("/seed/{opened}"), &[]);
            for (name, value) in fields(opened) {
                head.push(name.as_bytes(), value.as_bytes());
            }
            let stream = end.codec.open(&head, false, &mut end.out).unwrap();
            end.ids.insert(stream.id, stream);
            outs.push((stream.id, body(opened), 0, trailers_of(opened)));
            bodies.insert(stream.id, (opened, Vec::new()));
            opened += 1;
        }
        match seen {
            Some(Seen::Head { id, end: false, text }) => check_fields(&text, bodies[&id].0 + 1),
            Some(Seen::Data { id, data, flow, end: false }) => {
                bodies.get_mut(&id).unwrap().1.extend(data);
                end.codec.release(end.ids[&id], flow, &mut end.out);
            }
            Some(Seen::Trailers { id, text }) => {
                let (seed, received) = bodies.remove(&id).unwrap();
                assert_eq!(text, format!("t={seed}"));
                assert_eq!(received, body(seed + 1), "the response's body");
                finished += 1;
            }
            Some(Seen::Settings | Seen::Writable(_)) | None => {}
            Some(other) => panic!("{other:?}"),
        }
        pump(end, &mut outs);
        finished == STREAMS
    })
    .await;
    assert_eq!((finished, outs.len()), (STREAMS, 0));
}

#[test]
fn our_client_is_served_by_the_h2_crates_server() {
    for (table, window, streams) in [(4096, 65_535, 100), (0, 1000, 3), (100, 1 << 20, 7), (65_536, 20_000, 50)] {
        local(async move {
            let (one, other) = tokio::io::duplex(10_000);
            let mut builder = h2::server::Builder::new();
            builder
                .header_table_size(table)
                .initial_window_size(window)
                .initial_connection_window_size(100_000)
                .max_concurrent_streams(streams);
            let limits = Limits { stream_window: window.max(500), hpack_table_bytes: table, ..Limits::default() };
            tokio::join!(our_client(one, limits), their_server(other, builder));
        });
    }
}
