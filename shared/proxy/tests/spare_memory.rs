//! What exchanges that are over keep of large heads.

#[path = "world/mod.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use steady_heap::{Counting, of_thread};
use world::peer::Raw;
use world::policy::Scene;
use world::{World, config};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// So many clients ask at once, with a field of this length, and get their answers. Octets that are held when all have left.
fn crowd(world: &mut World, field: usize) -> i64 {
    const CLIENTS: usize = 1_000;
    let hold = Scene { hold: true, park_for: Duration::from_secs(100), ..Scene::to(Vec::new()) };
    let (proxy, addr) = world.proxy(hold, &config(), 1);
    let clients = world.add(Raw::new(&world.net));
    let request = format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-long: {}\r\n\r\n", "x".repeat(field));
    for _ in 0..CLIENTS {
        let mut clients = clients.borrow_mut();
        let id = clients.connect(addr);
        clients.send(id, &request);
    }
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.proxies[proxy].stats().parked_open.value(), CLIENTS as u64);
    world.proxies[proxy].plane.publish(Arc::new(Scene::to(Vec::new())));
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.proxies[proxy].stats().responses[4].value(), CLIENTS as u64);
    clients.borrow_mut().hang_up();
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.proxies[proxy].worker().connections(), 0);
    of_thread().octets
}

#[test]
fn a_crowd_with_large_heads_leaves_no_more_behind_than_one_with_small_ones_but_for_what_buffers_may_keep() {
    let mut world = World::calm();
    let before = of_thread().octets;
    let small = crowd(&mut world, 10) - before;
    let large = crowd(&mut world, 30_000) - before - small;
    let buffers_max = config().limits.spare_bytes_max as i64;
    assert!(large < small + buffers_max + (1 << 20), "{large} octets are kept, {small} after small heads");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[test]
fn a_small_head_does_not_keep_the_memory_of_a_large_one_before_it() {
    const STREAMS: u32 = 100;
    let mut world = World::calm();
    let hold = Scene { hold: true, park_for: Duration::from_secs(100), ..Scene::to(Vec::new()) };
    let (proxy, addr) = world.proxy(hold, &config(), 1);
    let clients = world.add(Raw::new(&world.net));
    let before = of_thread().octets;
    let id = clients.borrow_mut().connect(addr);
    // A stream that is malformed, for its method; so its number may still be said for a while, and what is said is read for nothing.
    let hello =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(1, 5, 1, b"\x86\x84")].concat();
    clients.borrow_mut().send(id, hello);
    // One field of 96,000 octets.
    let begin = [&b"\0\x01x\x7f\x81\xed\x05"[..], &[b'x'; 16_000]].concat();
    let rest = [frame(9, 0, 1, &[b'x'; 16_000]).repeat(4), frame(9, 4, 1, &[b'x'; 16_000])].concat();
    let large = [frame(1, 1, 1, &begin), rest].concat();
    for stream in 1..=STREAMS {
        let get = frame(1, 5, 2 * stream + 1, b"\x82\x86\x84\x01\x06a.test");
        clients.borrow_mut().send(id, [&*large, &get].concat());
        world.run_for(Duration::from_millis(10));
    }
    assert_eq!(world.proxies[proxy].stats().parked_open.value(), u64::from(STREAMS));
    let held = of_thread().octets - before;
    assert!(held < 3 << 20, "{held} octets for {STREAMS} small requests");
}
