//! What exchanges that are over keep of large heads. One test, for the counter is global.

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
