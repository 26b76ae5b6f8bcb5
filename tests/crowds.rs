//! Many connections at once. What takes a machine of its own runs in `.ci/long` only.

mod support;

use std::time::Duration;

use support::http::Conn;
use support::long;
use support::up::Up;

/// The larger number needs `ulimit -n 65536`, for the edge and for this test alike.
fn crowd() -> usize {
    if long() { 10_000 } else { 500 }
}

#[test]
fn idle_connections_stay_open_and_every_one_still_answers() {
    let up = Up::start(&["--hosts", "1"]);
    let http = up.addr("http");
    let ask = |index: usize, conn: &mut Conn| {
        let reply = conn.request("GET", "clock.localhost", "/", &[], b"");
        assert_eq!(reply.unwrap_or_else(|error| panic!("connection {index}: {error}")).status, 200);
    };
    // Each asks at once: one that says nothing is not idle but late, and ended by the header time-out.
    let mut crowd: Vec<Conn> = (0..crowd())
        .map(|index| {
            let opened = Conn::try_open(http);
            let mut conn = opened.unwrap_or_else(|error| panic!("connection {index}: {error} (ulimit -n?)"));
            ask(index, &mut conn);
            conn
        })
        .collect();
    if long() {
        std::thread::sleep(Duration::from_secs(5));
    }
    assert_eq!(up.get("clock", "/").status, 200, "a newcomer is served beside them");
    for (index, conn) in crowd.iter_mut().enumerate() {
        ask(index, conn);
    }
    drop(crowd);
    assert_eq!(up.stop(), 0);
}
