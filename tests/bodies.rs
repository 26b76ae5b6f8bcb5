//! Large bodies pass in constant memory, and whoever does not read or does not send holds up nobody but himself.

mod house;
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use bytes::Bytes;
use house::origin::pattern;
use house::{House, Setup, h2c};
use support::http::Conn;
use support::{PATIENCE, long};

const MIB: u64 = 1 << 20;
/// What all parts of a house, its clients and its origin in one process may come to need during a transfer: windows, socket
/// buffers of this side, the receive rings. Far less than a body.
const GROWTH_MAX: u64 = 32 * MIB;

/// Memory is the process's, so one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What this process needs, or the most that it has needed since its peak was forgotten, in octets.
fn memory(line_name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(line_name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[track_caller]
fn in_constant_memory(what: &str, size: u64, work: impl FnOnce()) {
    // proc(5): 5 makes the peak what is used now.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS:");
    work();
    let growth = memory("VmHWM:").saturating_sub(before);
    println!("{what}: {} MiB, memory grew by {} KiB", size / MIB, growth / 1024);
    assert!(growth < GROWTH_MAX, "{what}: {growth} octets more for a body of {size}");
}

fn download(house: &House, size: u64) {
    let mut stream = TcpStream::connect(house.plain).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /big/{size} HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut block = vec![0; 23 * 4096];
    let mut start = Vec::new();
    while !start.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut block[..1]).unwrap();
        start.push(block[0]);
    }
    let expected: Vec<u8> = (0..2 * block.len() as u64).map(pattern).collect();
    let mut at = 0;
    loop {
        let read = stream.read(&mut block).unwrap();
        if read == 0 {
            break;
        }
        let from = (at % 23) as usize;
        assert!(block[..read] == expected[from..from + read], "damaged after {at} octets");
        at += read as u64;
    }
    assert_eq!(at, size);
}

fn upload(house: &House, size: u64) {
    let mut conn = Conn::open(house.plain);
    conn.send(format!("POST /sink HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: {size}\r\n\r\n").as_bytes())
        .unwrap();
    let block = vec![b'x'; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let part = left.min(block.len() as u64);
        conn.send(&block[..part as usize]).unwrap();
        left -= part;
    }
    let reply = conn.reply(false).unwrap();
    assert_eq!((reply.status, reply.text()), (200, size.to_string()));
}

#[test]
fn large_bodies_pass_both_ways_in_constant_memory() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let size = if long() { 2048 * MIB } else { 192 * MIB };
    for uring in [true, false] {
        let house = House::with_echo(Setup { uring, ..Setup::default() });
        in_constant_memory("down", size, || download(&house, size));
        in_constant_memory("up", size, || upload(&house, size));
    }
}

#[test]
fn who_does_not_read_holds_up_no_neighbour_on_his_connection_and_grows_nothing() {
    const SLOW: usize = 8;
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for uring in [true, false] {
        let house = House::with_echo(Setup { uring, ..Setup::default() });
        in_constant_memory("slow readers", SLOW as u64 * 64 * MIB, || {
            h2c::runtime().block_on(async {
                let conn = h2c::H2c::open_with(house.plain, 64 * 1024).await;
                let mut slow = Vec::new();
                for _ in 0..SLOW {
                    slow.push(conn.begin("GET", "echo.localhost", &format!("/big/{}", 64 * MIB)).await.unwrap());
                }
                // All windows of the slow ones are full by now or soon; the neighbours, small and large, go on.
                for at in 0..100 {
                    let (status, body) = conn.ask("POST", "echo.localhost", &format!("/{at}"), b"abc").await.unwrap();
                    assert_eq!((status, &body[..]), (200, format!("POST /{at} HTTP/1.1|3cba").as_bytes()));
                }
                let (_, body) = conn.ask("GET", "echo.localhost", &format!("/big/{}", 4 * MIB), b"").await.unwrap();
                assert_eq!(body.len() as u64, 4 * MIB);
                // And a slow one that begins to read gets what is his.
                let mut body = slow.pop().unwrap().into_body();
                let mut whole = 0;
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    assert!(data.iter().zip(whole..).all(|(byte, at)| *byte == pattern(at)), "damaged after {whole}");
                    whole += data.len() as u64;
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                assert_eq!(whole, 64 * MIB);
            });
        });
    }
}

#[test]
fn uploads_that_the_application_does_not_take_hold_up_no_neighbour() {
    const STALLED: usize = 8;
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for uring in [true, false] {
        let house = House::with_echo(Setup { uring, ..Setup::default() });
        let runtime = h2c::runtime();
        let conn = runtime.block_on(h2c::H2c::open(house.plain));
        let mut stalled = Vec::new();
        in_constant_memory("stalled uploads", STALLED as u64 * 16 * MIB, || {
            runtime.block_on(async {
                for at in 0..STALLED {
                    stalled.push(stall(&conn, &format!("/stall/{at}")).await);
                }
                for at in 0..50 {
                    let asked = conn.ask("POST", "echo.localhost", &format!("/{at}"), &[b'y'; 5000]).await;
                    assert_eq!(asked.unwrap().0, 200);
                }
            });
        });
        house.origin.release();
        for (at, (answer, mut body, sent)) in stalled.into_iter().enumerate() {
            runtime.block_on(async {
                body.send_data(Bytes::from_static(b"end"), true).unwrap();
                let response = answer.await.unwrap();
                assert_eq!(response.status(), 200);
                let text = h2c::drain(response.into_body()).await.unwrap();
                let expected = format!("POST /stall/{at} HTTP/1.1|{}dne", sent + 3);
                assert!(text.starts_with(expected.as_bytes()) && text.len() == expected.len() + sent);
            });
        }
    }
}

/// Sends as much of a body as anybody between here and the application takes: until nothing has been granted for a while, and not
/// before what each of them takes in any case.
async fn stall(conn: &h2c::H2c, path: &str) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>, usize) {
    let (answer, mut body) = conn.upload("echo.localhost", path).await.unwrap();
    let block = Bytes::from(vec![b'x'; 16 * 1024]);
    let mut sent = 0;
    loop {
        body.reserve_capacity(block.len());
        let granted = std::future::poll_fn(|context| body.poll_capacity(context));
        let granted = tokio::time::timeout(std::time::Duration::from_millis(300), granted).await;
        if granted.is_err() && sent < 64 * 1024 {
            continue;
        }
        let Ok(Some(Ok(size))) = granted else { break };
        body.send_data(block.slice(..size.min(block.len())), false).unwrap();
        sent += size.min(block.len());
        assert!((sent as u64) < 16 * MIB, "somebody keeps all of it");
    }
    (answer, body, sent)
}
