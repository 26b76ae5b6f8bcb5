//! One suite for every driver: what the `Driver` contract promises, on real sockets and on simulated ones.

mod common;

use std::io::Write as _;
use std::time::Duration;

use common::{Bench, Family, Lab, MakeReal, Real, Simulated, pattern};
use steady_ring::{Addr, Config, ConnId, Driver, Epoll, Event, Op, Piece, SendBuf, Uring};

const FAMILIES: [Family; 2] = [Family::Tcp, Family::Unix];

/// Small buffers, so that the pool is under pressure.
const TIGHT: Config = Config { buffers: 4, buffer_bytes: 256, entries: 8, defer: true, generation_first: 0 };

fn what_is_sent_comes_back<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (client, server) = bench.connection(family);
        for round in 0..50 {
            let message = pattern(1 + round * 37, round as u64);
            bench.of_conn(client).received.clear();
            bench.of_conn(server).received.clear();
            bench.send(client, message.clone());
            bench.until(|bench| bench.of_conn(server).received.len() == message.len());
            let echo = std::mem::take(&mut bench.of_conn(server).received);
            bench.send(server, echo);
            bench.until(|bench| bench.of_conn(client).received.len() == message.len());
            assert_eq!(bench.of_conn(client).received, message);
            bench.until(|bench| {
                bench.of_conn(client).sent.len() == round + 1 && bench.of_conn(server).sent.len() == round + 1
            });
            assert_eq!(bench.of_conn(client).sent[round].bytes, message, "the buffer comes back with its bytes");
        }
        bench.close(&[client, server]);
    }
}

fn a_large_transfer_both_ways_survives_pausing_and_resuming<L: Lab>() {
    const LEN: usize = 1 << 20;
    for family in FAMILIES {
        let mut bench = Bench::<L>::with(Config { entries: 16, buffers: 8, ..Config::default() });
        let (client, server) = bench.connection(family);
        let (up, down) = (pattern(LEN, 1), pattern(LEN, 2));
        bench.send(client, up.clone());
        bench.send(server, down.clone());
        let mut rng = fastrand::Rng::with_seed(3);
        let mut paused = Vec::new();
        bench.until_with(
            |bench| {
                let done = [client, server].map(|conn| bench.of_conn(conn).received.len() == LEN);
                if done.contains(&true) {
                    // Nothing more comes from the finished side that could resume the other.
                    [client, server].iter().for_each(|&conn| bench.driver().resume(conn));
                }
                done == [true, true]
            },
            |driver, event| {
                let Event::Received { conn, .. } = event else { return };
                match rng.u8(0..8) {
                    0 => {
                        driver.pause(*conn);
                        paused.push(*conn);
                    }
                    1 => paused.drain(..).for_each(|conn| driver.resume(conn)),
                    // In one batch, either way round.
                    2 => {
                        driver.pause(*conn);
                        driver.resume(*conn);
                    }
                    _ => {}
                }
                // Both paused would wait for ever.
                if paused.len() > 1 {
                    paused.drain(..).for_each(|conn| driver.resume(conn));
                }
            },
        );
        assert!(bench.of_conn(server).received == up && bench.of_conn(client).received == down);
        bench.until(|bench| bench.of_conn(client).sent.len() + bench.of_conn(server).sent.len() == 2);
        bench.close(&[client, server]);
    }
}

fn a_paused_receiver_holds_its_sender_back<L: Lab>() {
    // Far more than the socket buffers of a unix pair hold.
    const LEN: usize = 4 << 20;
    let mut bench = Bench::<L>::new();
    let (client, server) = bench.connection(Family::Unix);
    bench.driver().pause(server);
    bench.settle(Duration::from_millis(1));
    bench.send(client, pattern(LEN, 1));
    bench.settle(Duration::from_millis(50));
    assert!(bench.of_conn(client).sent.is_empty(), "everything was taken although nobody reads");
    let early = bench.of_conn(server).received.len();
    assert!(early < LEN / 8, "{early} octets were received while paused");
    bench.driver().resume(server);
    bench.until(|bench| bench.of_conn(server).received.len() == LEN && bench.of_conn(client).sent.len() == 1);
    bench.close(&[client, server]);
}

fn either_side_may_end_its_stream_and_still_receive<L: Lab>() {
    for family in FAMILIES {
        for client_first in [true, false] {
            let mut bench = Bench::<L>::new();
            let (client, server) = bench.connection(family);
            let (first, second) = if client_first { (client, server) } else { (server, client) };
            bench.send(first, b"last words".to_vec());
            bench.until(|bench| bench.of_conn(first).sent.len() == 1);
            bench.driver().shutdown(first);
            bench.until(|bench| bench.of_conn(second).ended);
            assert_eq!(bench.of_conn(second).received, b"last words");
            bench.send(second, pattern(100_000, 5));
            bench.until(|bench| bench.of_conn(first).received.len() == 100_000);
            bench.until(|bench| bench.of_conn(second).sent.len() == 1);
            assert!(!bench.of_conn(first).ended);
            bench.driver().shutdown(second);
            bench.until(|bench| bench.of_conn(first).ended);
            bench.close(&[client, server]);
            assert!(bench.of_conn(client).failed.is_empty() && bench.of_conn(server).failed.is_empty());
        }
    }
}

/// The last bytes and the end in one breath: where a multishot receive can miss the end.
fn the_end_right_behind_the_last_bytes_is_never_missed<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        for round in 0..120 {
            let (client, server) = bench.connection(family);
            bench.send(client, pattern(123, round));
            bench.until(|bench| bench.of_conn(client).sent.len() == 1);
            if round % 2 == 0 {
                bench.driver().close(client);
            } else {
                bench.driver().shutdown(client);
            }
            bench.until(|bench| bench.of_conn(server).ended);
            assert_eq!(bench.of_conn(server).received.len(), 123);
            bench.driver().close(client);
            bench.until(|bench| bench.of_conn(client).closed);
            bench.close(&[server]);
        }
    }
}

fn the_end_behind_more_bytes_than_one_round_reads_is_never_missed<L: Lab>() {
    for family in FAMILIES {
        // Enough small buffers to be read many times over in one go.
        let mut bench = Bench::<L>::with(Config { buffer_bytes: 512, ..Config::default() });
        for len in [1, 511, 512, 513, 20_000, 60_000, 100_000] {
            let (client, server) = bench.connection(family);
            bench.driver().pause(server);
            bench.settle(Duration::from_millis(1));
            bench.send(client, pattern(len, 1));
            let now = bench.driver().now();
            bench.turn(Some(now), |_, _| {});
            if bench.of_conn(client).sent.len() == 1 {
                bench.driver().close(client);
                bench.until(|bench| bench.of_conn(client).closed);
            }
            bench.driver().resume(server);
            bench.until(|bench| bench.of_conn(server).received.len() == len);
            bench.until(|bench| bench.of_conn(client).closed || bench.of_conn(client).sent.len() == 1);
            bench.driver().close(client);
            bench.until(|bench| bench.of_conn(server).ended && bench.of_conn(client).closed);
            bench.close(&[server]);
        }
    }
}

fn a_peer_that_closes_with_bytes_unread_resets<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let (client, server) = bench.connection(Family::Tcp);
    bench.driver().pause(server);
    bench.settle(Duration::from_millis(1));
    bench.send(client, pattern(1_000, 1));
    bench.until(|bench| bench.of_conn(client).sent.len() == 1);
    bench.settle(Duration::from_millis(300));
    bench.close(&[server]);
    bench.until(|bench| bench.of_conn(client).failed.contains(&Op::Receive));
    assert!(!bench.of_conn(client).ended);
    bench.send(client, vec![1; 10]);
    bench.until(|bench| bench.of_conn(client).failed.contains(&Op::Send));
    // Dropped, and not reported again.
    bench.send(client, vec![1; 10]);
    bench.settle(Duration::from_millis(20));
    assert_eq!(bench.of_conn(client).failed, [Op::Receive, Op::Send]);
    assert!(bench.of_conn(client).sent.len() == 1);
    bench.close(&[client]);
}

fn a_reset_is_no_end_of_stream<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let (client, server) = bench.connection(Family::Tcp);
    bench.send(server, pattern(100, 1));
    bench.until(|bench| bench.of_conn(client).received.len() == 100);
    bench.driver().reset(server);
    bench.until(|bench| bench.of_conn(client).failed.contains(&Op::Receive) && bench.of_conn(server).closed);
    assert!(!bench.of_conn(client).ended);
    bench.close(&[client]);
}

fn a_connect_to_nobody_fails_and_still_must_be_closed<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let nowhere = bench.lab.nowhere();
    let missing = Addr::Unix(std::path::Path::new("/nonexistent/steady.sock").into());
    let too_long = Addr::Unix(std::path::Path::new(&"x".repeat(200)).into());
    for addr in [nowhere, missing, too_long] {
        let conn = bench.connect(&addr);
        bench.until(|bench| bench.of_conn(conn).failed == [Op::Connect]);
        assert!(!bench.of_conn(conn).connected);
        bench.close(&[conn]);
    }
}

fn a_connect_may_be_closed_before_it_completes<L: Lab>() {
    let mut bench = Bench::<L>::new();
    for family in FAMILIES {
        let (socket, addr) = bench.lab.bind(family);
        let listener = bench.driver().listen(socket).unwrap();
        for submitted in [false, true] {
            let conn = bench.connect(&addr);
            if submitted {
                let now = bench.driver().now();
                bench.turn(Some(now), |_, _| {});
            }
            let connected = bench.of_conn(conn).connected;
            bench.close(&[conn]);
            assert_eq!(bench.of_conn(conn).connected, connected, "nothing comes after close but Closed");
        }
        bench.driver().stop_listening(listener);
        bench.until(|bench| bench.listeners_closed.contains(&listener));
        let accepted: Vec<_> = bench.accepted.drain(..).map(|(_, conn)| conn).collect();
        bench.close(&accepted);
    }
}

fn what_is_asked_for_before_the_connect_is_done_when_it_is<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let (socket, addr) = bench.lab.bind(Family::Tcp);
    bench.driver().listen(socket).unwrap();
    let client = bench.connect(&addr);
    bench.send(client, b"early".to_vec());
    bench.until(|bench| bench.of_conn(client).sent.len() == 1 && bench.accepted.len() == 1);
    let server = bench.accepted[0].1;
    bench.until(|bench| bench.of_conn(server).received == b"early");
    bench.close(&[client, server]);
}

fn closing_ends_a_send_in_flight<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (client, server) = bench.connection(family);
        bench.driver().pause(server);
        bench.settle(Duration::from_millis(1));
        // More than TCP's buffers grow to.
        bench.send(client, vec![1; 32 << 20]);
        bench.settle(Duration::from_millis(20));
        bench.close(&[client]);
        assert!(bench.of_conn(client).sent.is_empty() && bench.of_conn(client).failed.is_empty());
        bench.driver().resume(server);
        bench.until(|bench| bench.of_conn(server).ended || !bench.of_conn(server).failed.is_empty());
        bench.close(&[server]);
    }
}

fn nothing_comes_after_close_although_bytes_are_pending<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::with(TIGHT);
        let (client, server) = bench.connection(family);
        bench.send(client, pattern(10_000, 1));
        bench.until(|bench| bench.of_conn(client).sent.len() == 1);
        // Closed in the very batch that brings bytes, with more behind.
        let before = bench.of_conn(server).received.len();
        assert!(before < 10_000, "nothing is pending");
        bench.close(&[server]);
        assert_eq!(bench.of_conn(server).received.len(), before);
        bench.close(&[client]);
    }
}

fn an_id_of_the_past_does_nothing<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let (socket, addr) = bench.lab.bind(Family::Tcp);
    let listener = bench.driver().listen(socket).unwrap();
    let (old, old_server) = bench.connect_to(listener, &addr);
    bench.send(old, pattern(5_000, 1));
    bench.close(&[old, old_server]);
    let (new, new_server) = bench.connect_to(listener, &addr);
    let reused = [old, old_server].iter().any(|old| old.index() == new.index() && *old != new);
    assert!(reused, "the slot is used again, in another generation");
    let driver = bench.driver();
    for old in [old, old_server] {
        driver.send(old, vec![9; 9].into());
        driver.pause(old);
        driver.shutdown(old);
        driver.close(old);
    }
    bench.send(new, b"still here".to_vec());
    bench.until(|bench| bench.of_conn(new_server).received == b"still here");
    assert!(!bench.of_conn(new_server).ended);
    bench.close(&[new, new_server]);
}

fn a_wait_ends_at_its_deadline_and_not_before<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let start = bench.driver().now();
    for step in 1..=5 {
        let until = start + Duration::from_millis(step * 7);
        bench.turn(Some(until), |_, event| panic!("nothing is to happen: {event:?}"));
        assert!(bench.driver().now() >= until);
    }
    // A deadline that passed only collects.
    let past = start;
    bench.turn(Some(past), |_, event| panic!("nothing is to happen: {event:?}"));
}

fn a_waker_is_heard_once_however_often_it_was_used<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let waker = bench.driver().waker();
    waker.wake();
    waker.clone().wake();
    bench.until(|bench| bench.woken > 0);
    let now = bench.driver().now();
    bench.turn(Some(now + Duration::from_millis(2)), |_, _| {});
    assert_eq!(bench.woken, 1);
    waker.wake();
    bench.until(|bench| bench.woken == 2);
}

fn a_sleeping_driver_is_woken_from_another_thread<L: Lab>() {
    let mut bench = Bench::<L>::new();
    for round in 1..=100 {
        let waker = bench.driver().waker();
        let other = std::thread::spawn(move || waker.wake());
        // No deadline: without the waker this never returns.
        while bench.woken < round {
            bench.turn(None, |_, _| {});
        }
        other.join().unwrap();
    }
}

fn receiving_goes_on_after_the_pool_was_empty<L: Lab>() {
    let mut bench = Bench::<L>::with(TIGHT);
    let (client, server) = bench.connection(Family::Tcp);
    let message = pattern(64 << 10, 1);
    bench.send(client, message.clone());
    // Held, not dropped: the pool runs dry.
    let mut held = Vec::new();
    let mut events = Vec::new();
    let patience = bench.driver().now() + L::PATIENCE;
    while bench.driver().stats().starved == 0 || held.is_empty() {
        assert!(bench.driver().now() < patience);
        let until = bench.driver().now() + Duration::from_millis(5);
        bench.lab.wait(Some(until), &mut events);
        held.extend(events.drain(..).filter_map(|event| match event {
            Event::Received { conn, buf } if conn == server => Some(buf),
            _ => None,
        }));
    }
    assert!(held.len() <= 4);
    for buf in held.drain(..) {
        bench.of_conn(server).received.extend_from_slice(&buf);
    }
    bench.until(|bench| bench.of_conn(server).received.len() == message.len());
    assert!(bench.of_conn(server).received == message);
    bench.close(&[client, server]);
}

fn who_has_sent_something_does_not_wait_behind_those_who_have_not<L: Lab>() {
    let mut bench = Bench::<L>::with(TIGHT);
    let silent: Vec<_> = (0..12).map(|_| bench.connection(Family::Tcp)).collect();
    let [(greedy, held_back), (speaker, listener)] = [(); 2].map(|()| bench.connection(Family::Tcp));
    let servers: Vec<_> = silent.iter().map(|&(_, server)| server).chain([listener]).collect();
    servers.iter().for_each(|&server| bench.driver().pause(server));
    bench.send(greedy, pattern(64 << 10, 1));
    bench.send(speaker, b"here".to_vec());
    let (mut held, mut events) = (Vec::new(), Vec::new());
    let mut hold = |bench: &mut Bench<L>| {
        let until = bench.driver().now() + Duration::from_millis(5);
        bench.lab.wait(Some(until), &mut events);
        held.extend(events.drain(..).filter_map(|event| match event {
            Event::Received { buf, .. } => Some(buf),
            _ => None,
        }));
    };
    // One takes all buffers. Those who then want some find none, whether there is something for them or not.
    let patience = bench.driver().now() + L::PATIENCE;
    while bench.driver().stats().starved == 0 {
        assert!(bench.driver().now() < patience);
        hold(&mut bench);
    }
    bench.driver().pause(held_back);
    for &server in &servers {
        bench.driver().resume(server);
        hold(&mut bench);
    }
    drop(held);
    bench.until(|bench| bench.of_conn(listener).received == b"here");
    let all: Vec<_> = silent.iter().flat_map(|&(client, server)| [client, server]).collect();
    bench.close(&[&all[..], &[greedy, held_back, speaker, listener]].concat());
}

fn many_receivers_share_a_small_pool<L: Lab>() {
    let mut bench = Bench::<L>::with(TIGHT);
    let ends: Vec<_> = (0..12).map(|_| bench.connection(Family::Tcp)).collect();
    for (index, &(client, _)) in ends.iter().enumerate() {
        bench.send(client, pattern(20_000, index as u64));
    }
    bench.until(|bench| ends.iter().all(|&(_, server)| bench.of_conn(server).received.len() == 20_000));
    for (index, &(_, server)) in ends.iter().enumerate() {
        assert!(bench.of_conn(server).received == pattern(20_000, index as u64));
    }
    let all: Vec<_> = ends.iter().flat_map(|&(client, server)| [client, server]).collect();
    bench.close(&all);
}

fn a_send_of_many_pieces_arrives_whole_and_in_order<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (client, server) = bench.connection(family);
        for (round, pieces) in [1usize, 3, 40, 2_500].into_iter().enumerate() {
            let mut buf = SendBuf::from(if round % 2 == 0 { pattern(33, 9) } else { Vec::new() });
            for index in 0..pieces {
                buf.splice(buf.bytes.len(), Piece::from(pattern(index % 700, index as u64)));
                buf.bytes.extend_from_slice(&pattern(index % 13, index as u64));
            }
            let expected = buf.slices().collect::<Vec<_>>().concat();
            bench.of_conn(server).received.clear();
            bench.send(client, buf);
            bench.until(|bench| {
                bench.of_conn(server).received.len() == expected.len() && bench.of_conn(client).sent.len() == round + 1
            });
            assert!(bench.of_conn(server).received == expected);
            assert_eq!(bench.of_conn(client).sent[round].len(), expected.len());
        }
        bench.close(&[client, server]);
    }
}

fn an_empty_send_is_done_at_once<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let (client, server) = bench.connection(Family::Tcp);
    bench.send(client, Vec::new());
    bench.until(|bench| bench.of_conn(client).sent.len() == 1);
    bench.close(&[client, server]);
}

/// Fills the socket by sends so small that each is tried at once, then lets the peer read.
fn quiet_sends_past_what_the_socket_takes_arrive_whole_and_in_order<L: Lab>() {
    const PIECE: usize = 10_000;
    const MOST: usize = 800;
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (client, server) = bench.connection(family);
        bench.driver().pause(server);
        bench.settle(Duration::from_millis(1));
        let mut all = Vec::new();
        for begun in 1..=MOST {
            let piece = pattern(PIECE, begun as u64);
            all.extend_from_slice(&piece);
            bench.driver().send_quietly(client, piece.into());
            bench.settle(Duration::from_millis(1));
            if bench.of_conn(client).sent.len() < begun {
                break;
            }
        }
        bench.driver().resume(server);
        bench.until(|bench| bench.of_conn(server).received.len() == all.len());
        bench.until(|bench| bench.of_conn(client).sent.len() == all.len() / PIECE);
        assert!(bench.of_conn(server).received == all);
        bench.close(&[client, server]);
    }
}

fn a_quiet_send_is_reported_no_later_than_the_next_wait_ends<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let (client, server) = bench.connection(Family::Tcp);
    bench.driver().pause(server);
    bench.settle(Duration::from_millis(1));
    bench.driver().send_quietly(client, vec![1; 100].into());
    let until = bench.driver().now() + Duration::from_millis(1);
    bench.turn(Some(until), |_, _| {});
    assert_eq!(bench.of_conn(client).sent.len(), 1);
    bench.driver().resume(server);
    bench.until(|bench| bench.of_conn(server).received.len() == 100);
    bench.close(&[client, server]);
}

fn closing_right_behind_a_quiet_send_ends_although_nothing_else_happens<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (client, server) = bench.connection(family);
        bench.driver().shutdown(client);
        bench.until(|bench| bench.of_conn(server).ended);
        bench.driver().send_quietly(server, b"last words".to_vec().into());
        bench.close(&[server]);
        assert!(bench.of_conn(server).sent.is_empty(), "after close comes Closed alone");
        bench.until(|bench| bench.of_conn(client).ended || !bench.of_conn(client).failed.is_empty());
        bench.close(&[client]);
    }
}

/// The waits of a request and its response over one connection, both ends on one driver.
fn a_quiet_send_ends_no_wait(driver: impl FnOnce() -> Uring) {
    let mut bench = Bench::of(Real::<Uring>::of(driver()));
    let (client, server) = bench.connection(Family::Tcp);
    bench.settle(Duration::from_millis(1));
    let before = bench.driver().stats().waits;
    for round in 1..=100 {
        for (from, to) in [(client, server), (server, client)] {
            bench.driver().send_quietly(from, vec![1; 100].into());
            bench.until(|bench| bench.of_conn(to).received.len() == 100 * round);
        }
    }
    // One each, not one for the send as well; a few may be cut short by signals.
    let waits = bench.driver().stats().waits - before;
    assert!((200..=210).contains(&waits), "{waits} waits");
    assert_eq!(bench.of_conn(client).sent.len(), 100);
    bench.close(&[client, server]);
}

fn a_received_buffer_is_forwarded_without_a_copy<L: Lab>() {
    let mut bench = Bench::<L>::with(Config { buffer_bytes: 2_048, ..TIGHT });
    let (client, server) = bench.connection(Family::Tcp);
    let (onward, sink) = bench.connection(Family::Unix);
    let message = pattern(50_000, 4);
    bench.send(client, message.clone());
    let mut kept = 0;
    let mut events = Vec::new();
    let mut waiting = std::collections::VecDeque::new();
    let mut free = true;
    let mut arrived = Vec::new();
    while arrived.len() < message.len() {
        bench.lab.wait(None, &mut events);
        for event in events.drain(..) {
            match event {
                Event::Received { conn, buf } if conn == server => {
                    let piece = buf.keep(&buf);
                    kept += usize::from(piece.is_some());
                    waiting.push_back(piece.unwrap_or_else(|| Piece::from(buf.to_vec())));
                }
                Event::Received { conn, buf } if conn == sink => arrived.extend_from_slice(&buf),
                Event::Sent { conn, .. } if conn == onward => free = true,
                _ => {}
            }
        }
        if free && let Some(piece) = waiting.pop_front() {
            let mut buf = SendBuf::default();
            buf.splice(0, piece);
            bench.driver().send(onward, buf);
            free = false;
        }
    }
    assert!(arrived == message);
    assert!(kept > 0, "nothing was kept");
    bench.close(&[client, server, onward, sink]);
}

fn a_thousand_connections_come_and_go_and_leave_nothing<L: Lab>(count_open: impl Fn(&mut L) -> usize) {
    // Tests run beside each other, and a process may have no more than 1024 descriptors.
    const AT_ONCE: usize = 100;
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (socket, addr) = bench.lab.bind(family);
        let listener = bench.driver().listen(socket).unwrap();
        let (client, server) = bench.connect_to(listener, &addr);
        bench.close(&[client, server]);
        let before = count_open(&mut bench.lab);
        for round in 0..1000 / AT_ONCE {
            let first = bench.accepted.len();
            let clients: Vec<_> = (0..AT_ONCE).map(|_| bench.connect(&addr)).collect();
            bench.until(|bench| {
                bench.accepted.len() == first + AT_ONCE && clients.iter().all(|&conn| bench.of_conn(conn).connected)
            });
            let servers: Vec<_> = bench.accepted[first..].iter().map(|&(_, conn)| conn).collect();
            for &client in &clients {
                bench.send(client, pattern(100, 1));
            }
            bench.until(|bench| servers.iter().all(|&conn| bench.of_conn(conn).received.len() == 100));
            // Either side first, or both at once.
            match round % 3 {
                0 => {
                    bench.close(&clients);
                    bench.until(|bench| servers.iter().all(|&conn| bench.of_conn(conn).ended));
                    bench.close(&servers);
                }
                1 => {
                    bench.close(&servers);
                    bench.close(&clients);
                }
                _ => bench.close(&[clients.as_slice(), servers.as_slice()].concat()),
            }
            let indexes = clients.iter().chain(&servers).map(|conn| conn.index()).max().unwrap();
            assert!(indexes < 2 * AT_ONCE + 2, "slots are used again: {indexes}");
            assert_eq!(count_open(&mut bench.lab), before, "descriptors leak");
        }
    }
}

fn a_stopped_listener_reports_its_end_and_takes_nobody<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (socket, addr) = bench.lab.bind(family);
        let listener = bench.driver().listen(socket).unwrap();
        let (client, server) = bench.connect_to(listener, &addr);
        bench.driver().stop_listening(listener);
        bench.driver().stop_listening(listener);
        bench.until(|bench| bench.listeners_closed == [listener]);
        let late = bench.connect(&addr);
        bench.until(|bench| bench.of_conn(late).failed == [Op::Connect]);
        // What was accepted before lives on.
        bench.send(client, b"hello".to_vec());
        bench.until(|bench| bench.of_conn(server).received == b"hello");
        bench.close(&[client, server, late]);
        assert_eq!(bench.listeners_closed, [listener]);
    }
}

fn an_adopted_socket_is_like_any_other<L: Lab>() {
    let mut bench = Bench::<L>::new();
    let (one, other) = bench.lab.pair();
    let one = bench.driver().adopt(one).unwrap();
    let other = bench.driver().adopt(other).unwrap();
    bench.send(one, pattern(3_000, 1));
    bench.send(other, pattern(4_000, 2));
    bench.until(|bench| bench.of_conn(other).received.len() == 3_000 && bench.of_conn(one).received.len() == 4_000);
    bench.close(&[one]);
    bench.until(|bench| bench.of_conn(other).ended);
    bench.close(&[other]);
}

/// Gives a connection to another slot of the same driver. What came before its release is in its sheet.
fn released_and_adopted<L: Lab>(bench: &mut Bench<L>, conn: ConnId) -> ConnId {
    bench.driver().release(conn);
    let mut socket = None;
    bench.until_with(
        |bench| bench.of_conn(conn).released,
        |driver, event| {
            if let Event::Released { conn: given } = event {
                assert!(*given == conn);
                socket = driver.take(conn);
                assert!(driver.take(conn).is_none(), "it is given once");
            }
        },
    );
    bench.driver().adopt(socket.expect("it can be taken in the batch that tells of it")).unwrap()
}

fn a_released_connection_goes_on_elsewhere_without_losing_an_octet<L: Lab>() {
    const LEN: usize = 200_000;
    for family in FAMILIES {
        for config in [Config::default(), TIGHT] {
            let mut bench = Bench::<L>::with(config);
            let (client, mut server) = bench.connection(family);
            let sent = pattern(LEN, 5);
            bench.send(client, sent.clone());
            let mut received = Vec::new();
            // In the middle of it, again and again; paused too.
            for round in 1..=5 {
                let before = received.len();
                bench.until(|bench| before + bench.of_conn(server).received.len() >= round * LEN / 6);
                if round % 2 == 0 {
                    bench.driver().pause(server);
                }
                let next = released_and_adopted(&mut bench, server);
                received.append(&mut bench.of_conn(server).received);
                bench.driver().close(server);
                server = next;
            }
            let before = received.len();
            bench.until(|bench| before + bench.of_conn(server).received.len() == LEN);
            received.append(&mut bench.of_conn(server).received);
            assert!(received == sent, "every octet, in order");
            bench.until(|bench| bench.of_conn(client).sent.len() == 1);
            // And the other way, to its end.
            bench.send(server, pattern(5_000, 6));
            bench.until(|bench| bench.of_conn(server).sent.len() == 1);
            bench.driver().shutdown(server);
            bench.until(|bench| bench.of_conn(client).ended);
            assert_eq!(bench.of_conn(client).received, pattern(5_000, 6));
            bench.close(&[client, server]);
        }
    }
}

fn a_released_connection_that_nobody_takes_or_that_is_closed_meanwhile_ends<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (client, server) = bench.connection(family);
        bench.driver().release(server);
        bench.until(|bench| bench.of_conn(server).released);
        bench.until(|bench| bench.of_conn(client).ended);
        assert!(bench.driver().take(server).is_none(), "a later batch");
        bench.close(&[client]);

        let (client, server) = bench.connection(family);
        bench.driver().release(server);
        bench.driver().release(server);
        bench.driver().close(server);
        bench.until(|bench| bench.of_conn(server).closed && bench.of_conn(client).ended);
        assert!(!bench.of_conn(server).released);
        bench.close(&[client]);
    }
}

fn a_driver_may_be_dropped_with_everything_in_flight<L: Lab>() {
    for family in FAMILIES {
        let mut bench = Bench::<L>::new();
        let (client, server) = bench.connection(family);
        bench.send(server, pattern(100, 1));
        bench.until(|bench| bench.of_conn(client).received.len() == 100);
        bench.driver().pause(server);
        bench.send(client, vec![1; 16 << 20]);
        let (socket, addr) = bench.lab.bind(family);
        bench.driver().listen(socket).unwrap();
        bench.connect(&addr);
        let now = bench.driver().now();
        bench.turn(Some(now), |_, _| {});
        bench.connect(&addr);
        drop(bench);
    }
}

#[track_caller]
fn no_event_is_lost_in_a_small_queue<L: Lab>() {
    // Far more completions than the completion queue has places.
    let mut bench = Bench::<L>::with(Config { entries: 4, ..Config::default() });
    let (socket, addr) = bench.lab.bind(Family::Tcp);
    bench.driver().listen(socket).unwrap();
    let clients: Vec<_> = (0..100).map(|_| bench.connect(&addr)).collect();
    for &client in &clients {
        bench.send(client, pattern(500, 1));
    }
    bench.until(|bench| bench.accepted.len() == 100);
    let servers: Vec<_> = bench.accepted.iter().map(|&(_, conn)| conn).collect();
    bench.until(|bench| servers.iter().all(|&conn| bench.of_conn(conn).received.len() == 500));
    bench.until(|bench| clients.iter().all(|&conn| bench.of_conn(conn).sent.len() == 1));
    bench.close(&[clients, servers].concat());
}

/// One slot whose generation passes its end, both sides of each connection in this driver.
fn connections_are_told_apart_when_generations_begin_anew<L: Lab>() {
    let mut bench = Bench::<L>::with(Config { generation_first: u32::MAX - 3, ..Config::default() });
    let (socket, addr) = bench.lab.bind(Family::Tcp);
    let listener = bench.driver().listen(socket).unwrap();
    let mut seen = Vec::new();
    for round in 0..8 {
        let (client, server) = bench.connect_to(listener, &addr);
        let message = pattern(2_000, round);
        bench.send(client, message.clone());
        bench.until(|bench| bench.of_conn(server).received.len() == message.len());
        assert!(bench.of_conn(server).received == message);
        bench.close(&[client, server]);
        for old in [client, server] {
            assert!(!seen.contains(&old), "an id is used again: {old:?}");
            seen.push(old);
        }
    }
    assert!(seen.iter().all(|id| id.index() <= 2), "slots are used again");
}

/// As many clients have said something while the driver slept as fill its completion queue several times over.
fn a_completion_queue_that_is_full_loses_nothing_and_is_counted(defer: bool) {
    let mut bench = Bench::<Real<Uring>>::with(Config { entries: 4, defer, ..Config::default() });
    let (socket, addr) = bench.lab.bind(Family::Tcp);
    bench.driver().listen(socket).unwrap();
    let Addr::Tcp(addr) = addr else { panic!("{addr:?} is no port") };
    let mut clients: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(addr).unwrap()).collect();
    bench.until(|bench| bench.accepted.len() == 100);
    let servers: Vec<_> = bench.accepted.iter().map(|&(_, conn)| conn).collect();
    bench.settle(Duration::from_millis(1));
    for client in &mut clients {
        client.write_all(&pattern(500, 1)).unwrap();
    }
    bench.until(|bench| servers.iter().all(|&conn| bench.of_conn(conn).received.len() == 500));
    assert!(bench.driver().stats().overflowed > 0, "the queue was never full");
    drop(clients);
    bench.until(|bench| servers.iter().all(|&conn| bench.of_conn(conn).ended));
    bench.close(&servers);
}

/// More connects than the listener holds, and nobody accepts: some wait in the kernel, wherever it keeps them.
fn a_connect_that_waits_for_a_full_listener_can_be_closed<D: MakeReal>() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("full.sock");
    let unix = steady_ring::listen_unix(&path, 0).unwrap();
    let tcp = steady_ring::listen_tcp("127.0.0.1:0".parse().unwrap(), 0).unwrap();
    let tcp_addr = steady_sys::net::local_addr(&tcp).unwrap().to_tcp().unwrap();
    for addr in [Addr::Unix(path.into()), Addr::Tcp(tcp_addr)] {
        let mut bench = Bench::<Real<D>>::new();
        let conns: Vec<_> = (0..6).map(|_| bench.connect(&addr)).collect();
        bench.settle(Duration::from_millis(50));
        assert!(conns.iter().any(|&conn| !bench.of_conn(conn).connected), "the listener holds them all");
        bench.close(&conns);
    }
    drop((unix, tcp));
}

/// What the kernel has told of by then, or tells of before it hears of the close.
fn nothing_comes_after_close_of_what_another_process_sent<D: MakeReal>() {
    for (defer, turns) in [(true, 0), (false, 0), (true, 1), (false, 1)] {
        let mut bench = Bench::<Real<D>>::with(Config { defer, ..TIGHT });
        let (socket, addr) = bench.lab.bind(Family::Tcp);
        bench.driver().listen(socket).unwrap();
        let Addr::Tcp(addr) = addr else { panic!("{addr:?} is no port") };
        let mut client = std::net::TcpStream::connect(addr).unwrap();
        bench.until(|bench| bench.accepted.len() == 1);
        let server = bench.accepted[0].1;
        bench.settle(Duration::from_millis(1));
        client.write_all(&pattern(10_000, 1)).unwrap();
        for _ in 0..turns {
            bench.turn(None, |_, _| {});
        }
        let before = bench.of_conn(server).received.len();
        assert!(before < 10_000, "nothing is pending");
        bench.close(&[server]);
        assert_eq!(bench.of_conn(server).received.len(), before, "defer {defer}, {turns} turns");
    }
}

/// As several workers do: one socket, a descriptor and a driver each.
fn drivers_share_a_listening_socket<D: MakeReal>() {
    let mut one = Bench::<Real<D>>::new();
    let mut other = Bench::<Real<D>>::new();
    let (socket, addr) = one.lab.bind(Family::Tcp);
    let listener = one.driver().listen(socket.try_clone().unwrap()).unwrap();
    other.driver().listen(socket).unwrap();
    let both = |one: &mut Bench<Real<D>>, other: &mut Bench<Real<D>>, wanted: usize| {
        let deadline = one.driver().now() + common::PATIENCE;
        while one.accepted.len() + other.accepted.len() < wanted {
            for bench in [&mut *one, &mut *other] {
                let until = bench.driver().now() + Duration::from_millis(1);
                assert!(until < deadline, "connections are lost between two drivers");
                bench.turn(Some(until), |_, _| {});
            }
        }
    };
    for _ in 0..40 {
        one.connect(&addr);
    }
    both(&mut one, &mut other, 40);
    one.driver().stop_listening(listener);
    one.until(|bench| bench.listeners_closed == [listener]);
    // The other one's descriptor is its own.
    for _ in 0..10 {
        other.connect(&addr);
    }
    both(&mut one, &mut other, 50);
}

macro_rules! suite {
    ($lab:ident: $($test:ident)*) => {
        $(#[test] fn $test() { super::$test::<$lab>() })*
    };
}

macro_rules! suites {
    ($($test:ident)*) => { suites!(@ ($($test)*)); };
    (@ $tests:tt) => {
        mod uring {
            use super::*;
            type L = Real<Uring>;
            suites!(% L $tests);
            real_only!(L);

            #[test]
            fn a_completion_queue_that_is_full_loses_nothing_and_is_counted() {
                for defer in [true, false] {
                    super::a_completion_queue_that_is_full_loses_nothing_and_is_counted(defer);
                }
            }

            #[test]
            fn a_quiet_send_ends_no_wait() {
                for defer in [true, false] {
                    super::a_quiet_send_ends_no_wait(|| Uring::new(Config { defer, ..Config::default() }).unwrap());
                }
            }
        }
        mod epoll {
            use super::*;
            type L = Real<Epoll>;
            suites!(% L $tests);
            real_only!(L);
        }
        mod sim {
            use super::*;
            type L = Simulated;
            suites!(% L $tests);

            #[test]
            fn a_thousand_connections_come_and_go_and_leave_nothing() {
                super::a_thousand_connections_come_and_go_and_leave_nothing::<L>(|lab| lab.net.open_connections());
            }
        }
    };
    (% $lab:ident ($($test:ident)*)) => {
        suite!($lab: $($test)*);
    };
}

macro_rules! real_only {
    ($lab:ty) => {
        #[test]
        fn a_sleeping_driver_is_woken_from_another_thread() {
            super::a_sleeping_driver_is_woken_from_another_thread::<$lab>();
        }

        #[test]
        fn a_quiet_send_is_reported_no_later_than_the_next_wait_ends() {
            super::a_quiet_send_is_reported_no_later_than_the_next_wait_ends::<$lab>();
        }

        #[test]
        fn nothing_comes_after_close_of_what_another_process_sent() {
            super::nothing_comes_after_close_of_what_another_process_sent::<<$lab as Lab>::D>();
        }

        #[test]
        fn a_connect_that_waits_for_a_full_listener_can_be_closed() {
            super::a_connect_that_waits_for_a_full_listener_can_be_closed::<<$lab as Lab>::D>();
        }

        #[test]
        fn drivers_share_a_listening_socket() {
            super::drivers_share_a_listening_socket::<<$lab as Lab>::D>();
        }

        #[test]
        fn a_thousand_connections_come_and_go_and_leave_nothing() {
            super::a_thousand_connections_come_and_go_and_leave_nothing::<$lab>(|lab| lab.driver.connections());
        }
    };
}

suites! {
    what_is_sent_comes_back
    a_large_transfer_both_ways_survives_pausing_and_resuming
    a_paused_receiver_holds_its_sender_back
    either_side_may_end_its_stream_and_still_receive
    the_end_right_behind_the_last_bytes_is_never_missed
    the_end_behind_more_bytes_than_one_round_reads_is_never_missed
    a_peer_that_closes_with_bytes_unread_resets
    a_reset_is_no_end_of_stream
    a_connect_to_nobody_fails_and_still_must_be_closed
    a_connect_may_be_closed_before_it_completes
    what_is_asked_for_before_the_connect_is_done_when_it_is
    closing_ends_a_send_in_flight
    nothing_comes_after_close_although_bytes_are_pending
    an_id_of_the_past_does_nothing
    a_wait_ends_at_its_deadline_and_not_before
    a_waker_is_heard_once_however_often_it_was_used
    receiving_goes_on_after_the_pool_was_empty
    who_has_sent_something_does_not_wait_behind_those_who_have_not
    many_receivers_share_a_small_pool
    a_send_of_many_pieces_arrives_whole_and_in_order
    an_empty_send_is_done_at_once
    quiet_sends_past_what_the_socket_takes_arrive_whole_and_in_order
    closing_right_behind_a_quiet_send_ends_although_nothing_else_happens
    a_received_buffer_is_forwarded_without_a_copy
    a_stopped_listener_reports_its_end_and_takes_nobody
    an_adopted_socket_is_like_any_other
    a_released_connection_goes_on_elsewhere_without_losing_an_octet
    a_released_connection_that_nobody_takes_or_that_is_closed_meanwhile_ends
    a_driver_may_be_dropped_with_everything_in_flight
    no_event_is_lost_in_a_small_queue
    connections_are_told_apart_when_generations_begin_anew
}
