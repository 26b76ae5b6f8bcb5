//! How connections and exchanges end, and the worker itself.

use std::sync::Arc;
use std::time::Duration;

use steady_proxy::{Command, Outcome, Plane, Refusal};

use crate::frames as h2;
use crate::lab::{GET, Lab, OK, SECOND};
use crate::world::config;
use crate::world::policy::{Place, Scene};

#[test]
fn a_whole_response_reaches_a_slow_reader_whatever_becomes_of_the_upstream() {
    for reset in [false, true] {
        let mut lab = Lab::h1();
        let client = lab.send(GET);
        lab.wait(SECOND);
        lab.client.borrow_mut().pause(client);
        let up = lab.upstream(0);
        let body = vec![b'y'; 150_000];
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        lab.origin.borrow_mut().send(up, [head.as_bytes(), &body].concat());
        lab.wait(5 * SECOND);
        if reset {
            // Something unread makes the close a reset.
            lab.origin.borrow_mut().pause(up);
            lab.origin.borrow_mut().close(up);
        }
        lab.wait(Duration::from_secs(200));
        lab.client.borrow_mut().resume(client);
        lab.client_got(client, b"y");
        lab.wait(SECOND);
        assert_eq!(lab.client.borrow().total(client), (head.len() + body.len()) as u64, "reset: {reset}");
        assert_eq!(lab.world.proxies[0].outcomes(Outcome::Complete), 1);
        lab.end();
    }
}

#[test]
fn an_early_response_survives_the_reset_that_says_that_the_rest_is_not_wanted() {
    // RFC 9113 §8.1: NO_ERROR after a complete response.
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000\r\n\r\nabc");
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::SETTINGS);
    lab.wait(SECOND);
    lab.client.borrow_mut().pause(client);
    // More than the sockets on the way hold, so that some of it is still here when the reset comes.
    let body = vec![b'z'; 16_000];
    let mut answer = h2::ok(1, false);
    for index in 0..9 {
        answer.extend(h2::data(1, &body, index == 8));
    }
    answer.extend(h2::reset(1, 0));
    lab.origin.borrow_mut().send(up, h2::window(0, 1));
    lab.origin.borrow_mut().send(up, &answer[..60_000]);
    lab.wait(SECOND);
    lab.origin.borrow_mut().send(up, &answer[60_000..]);
    lab.wait(SECOND);
    lab.client.borrow_mut().resume(client);
    lab.client_got(client, b"\r\n0\r\n\r\n");
    assert_eq!(lab.world.proxies[0].outcomes(Outcome::Complete), 1);
    lab.end();
}

#[test]
fn an_answer_that_is_cut_takes_nothing_from_the_one_before_it() {
    // A client that pipelines and reads slowly: the end of the first answer waits behind a send when the second breaks off.
    let second = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    for is_cut_by_us in [false, true] {
        let mut lab = Lab::h1();
        let client = lab.send(GET.repeat(2));
        let up = lab.upstream(0);
        lab.origin_got(up, b"\r\n\r\n");
        lab.client.borrow_mut().pause(client);
        let body = vec![b'y'; 100_000];
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        lab.origin.borrow_mut().send(up, [head.as_bytes(), &body].concat());
        lab.wait(SECOND);
        lab.origin.borrow_mut().send(up, second);
        lab.wait(SECOND);
        if is_cut_by_us {
            assert!(lab.world.proxies[0].plane.command(&Command::Inspect(Arc::new(|_| true))));
        } else {
            lab.origin.borrow_mut().reset(up);
        }
        lab.wait(SECOND);
        assert!(!lab.client.borrow().is_over(client), "what it has not read it may still read");
        lab.client.borrow_mut().resume(client);
        lab.wait(SECOND);
        let got = lab.client.borrow().got(client).to_vec();
        let first = head.len() + body.len();
        assert!(got.len() >= first && got[head.len()..first].iter().all(|&octet| octet == b'y'), "{}", got.len());
        assert!(lab.client.borrow().is_over(client) && !got.ends_with(b"0\r\n\r\n"), "the second does not look whole");
        lab.end();
    }
}

#[test]
fn a_connection_whose_last_stream_its_client_reset_ends_by_its_idle_timeout() {
    let mut lab = Lab::h1();
    let client = lab.send([h2::PREFACE.to_vec(), h2::get(1, true)].concat());
    // Longer than any deadline that was set before.
    lab.wait(Duration::from_secs(50));
    lab.client.borrow_mut().send(client, h2::reset(1, 8));
    lab.wait(Duration::from_secs(70));
    assert!(!lab.client.borrow().is_over(client), "idle for less than its time");
    lab.wait(Duration::from_secs(20));
    assert!(lab.client.borrow().is_over(client));
    lab.end();
}

#[test]
fn a_client_that_ends_its_side_after_its_request_gets_its_answer_though_no_connection_was_there_yet() {
    let mut lab = Lab::h1();
    let client = lab.send(GET);
    lab.client.borrow_mut().shutdown(client);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(client, b"ok");
    lab.end();
}

#[test]
fn every_pipelined_request_before_the_clients_end_is_answered() {
    let mut lab = Lab::h1();
    let client = lab.send(GET.repeat(3));
    lab.client.borrow_mut().shutdown(client);
    let up = lab.upstream(0);
    for _ in 0..3 {
        lab.origin_got(up, b"\r\n\r\n");
        lab.origin.borrow_mut().take(up);
        lab.origin.borrow_mut().send(up, OK);
    }
    lab.wait(SECOND);
    assert_eq!(lab.client.borrow().text(client).matches("200 OK").count(), 3);
    lab.end();
}

#[test]
fn a_drain_ends_what_is_idle_lets_what_has_begun_finish_and_says_so() {
    let mut lab = Lab::h1();
    let idle = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().take(up);
    lab.origin.borrow_mut().send(up, OK);
    lab.wait(SECOND);
    let busy = lab.send(GET);
    lab.origin_got(up, b"\r\n\r\n");
    let h2 = lab.send([h2::PREFACE.to_vec(), h2::get(1, true)].concat());
    let up2 = lab.upstream(1);
    lab.wait(SECOND);
    lab.world.proxies[0].drain(60 * SECOND);
    lab.wait(3 * SECOND);
    assert!(lab.client.borrow().is_over(idle));
    assert!(!lab.client.borrow().is_over(busy) && !lab.client.borrow().is_over(h2));
    let (told, asked) = leaving(lab.client.borrow().got(h2));
    assert_eq!(told, [u32::MAX >> 1], "a GOAWAY that refuses nothing");
    // This was on its way when the GOAWAY was.
    lab.client.borrow_mut().send(h2, [h2::get(3, true), h2::frame(6, 1, 0, &asked)].concat());
    lab.wait(SECOND);
    let (told, _) = leaving(lab.client.borrow().got(h2));
    assert_eq!(told, [u32::MAX >> 1, 3]);
    let late = lab.send(GET);
    lab.wait(SECOND);
    assert_eq!(lab.client.borrow().text(late), "", "nobody is let in");
    let up3 = lab.upstream(2);
    for up in [up, up2, up3] {
        lab.origin.borrow_mut().send(up, OK);
    }
    lab.wait(3 * SECOND);
    assert!(lab.client.borrow().text(busy).contains("connection: close"), "{}", lab.client.borrow().text(busy));
    assert!(lab.client.borrow().text(busy).ends_with("ok"));
    for stream in [1, 3] {
        assert_eq!(h2::body(lab.client.borrow().got(h2), stream), b"ok");
    }
    assert!(lab.client.borrow().is_over(h2));
    lab.wait(SECOND);
    assert!(lab.world.proxies[0].over && lab.world.proxies[0].plane.is_drained());
}

/// The last streams of the GOAWAYs among these frames, and what the last PING carries.
fn leaving(bytes: &[u8]) -> (Vec<u32>, Vec<u8>) {
    let frames = h2::frames(bytes);
    let of = |kind: u8| frames.iter().filter(move |frame| frame.0 == kind && frame.1 == 0).map(|frame| &frame.3);
    let last = |payload: &Vec<u8>| u32::from_be_bytes(*payload.first_chunk().unwrap());
    (of(7).map(last).collect(), of(6).next_back().cloned().unwrap_or_default())
}

#[test]
fn an_idle_http2_client_is_asked_before_it_is_let_go_and_a_request_on_its_way_is_served() {
    for acknowledges in [true, false] {
        let mut lab = Lab::h1();
        let client = lab.send(h2::PREFACE);
        lab.wait(Duration::from_millis(75_500));
        let (told, asked) = leaving(lab.client.borrow().got(client));
        assert_eq!(told, [u32::MAX >> 1]);
        lab.client.borrow_mut().send(client, h2::get(1, true));
        let up = lab.upstream(0);
        lab.origin.borrow_mut().send(up, OK);
        if acknowledges {
            lab.client.borrow_mut().send(client, h2::frame(6, 1, 0, &asked));
        }
        lab.wait(SECOND / 2);
        assert_eq!(h2::body(lab.client.borrow().got(client), 1), b"ok");
        lab.wait(2 * SECOND);
        assert_eq!(leaving(lab.client.borrow().got(client)).0, [u32::MAX >> 1, 1]);
        assert!(lab.client.borrow().is_over(client));
        lab.end();
    }
}

#[test]
fn a_drain_serves_who_had_connected_and_not_yet_asked() {
    let mut lab = Lab::h1();
    let silent = lab.send("");
    let h1 = lab.send("GET / HTTP/1.1\r\nho");
    let h2 = lab.send(&h2::PREFACE[..10]);
    lab.wait(SECOND);
    // Accepted in the very batch in which the drain begins.
    let late = lab.send(GET);
    lab.world.proxies[0].drain(60 * SECOND);
    lab.wait(SECOND);
    lab.client.borrow_mut().send(silent, GET);
    lab.client.borrow_mut().send(h1, "st: a.test\r\n\r\n");
    lab.client.borrow_mut().send(h2, [&h2::PREFACE[10..], &h2::get(1, true)].concat());
    lab.wait(SECOND);
    let connections = lab.origin.borrow().accepted.clone();
    for up in connections {
        lab.origin.borrow_mut().send(up, OK);
    }
    lab.wait(SECOND);
    let client = lab.client.borrow();
    for id in [silent, h1] {
        assert!(
            client.text(id).ends_with("ok") && client.text(id).contains("connection: close"),
            "{}",
            client.text(id)
        );
        assert!(client.is_over(id));
    }
    // Whether it was accepted is the network's matter; if it was, it was served.
    assert!(client.text(late).is_empty() || client.text(late).ends_with("ok"), "{}", client.text(late));
    assert_eq!(h2::body(client.got(h2), 1), b"ok", "{:?}", h2::frames(client.got(h2)));
    assert_eq!(leaving(client.got(h2)).0, [u32::MAX >> 1]);
    drop(client);
    lab.wait(10 * SECOND);
    assert!(lab.world.proxies[0].over && lab.world.proxies[0].plane.is_drained());
}

#[test]
fn nothing_waits_for_a_worker_whose_drain_is_over_while_another_still_drains() {
    let mut lab = Lab::h1();
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    let plane = Plane::new(2, Arc::new(scene.clone()));
    let (_, busy) = lab.world.seat(&plane, 0, &config(), 2);
    lab.world.seat(&plane, 1, &config(), 3);
    lab.addr = busy;
    let client = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    assert!(plane.command(&Command::Drain { deadline: 60 * SECOND }));
    lab.wait(SECOND);
    assert!(lab.world.proxies[2].over && !lab.world.proxies[1].over);
    let publication = plane.publish(Arc::new(scene));
    lab.world.settle();
    assert!(plane.settled() >= publication, "every worker that is there runs by it");
    // More than wait for a worker that does not look.
    assert!((0..100).all(|_| {
        let asked = plane.command(&Command::Inspect(Arc::new(|_| false)));
        lab.world.settle();
        asked
    }));
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(client, b"ok");
    lab.wait(5 * SECOND);
    assert!(lab.world.proxies[1].over && plane.is_drained());
}

#[test]
fn a_drain_cuts_what_is_left_at_its_deadline() {
    let mut lab = Lab::h1();
    let waiting = lab.send(GET);
    lab.upstream(0);
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { hold: true, park_for: 100 * SECOND, ..scene }));
    lab.send(GET);
    lab.wait(SECOND);
    lab.world.proxies[0].drain(10 * SECOND);
    lab.wait(9 * SECOND);
    assert!(!lab.world.proxies[0].over);
    lab.wait(2 * SECOND);
    assert!(lab.world.proxies[0].over);
    let ledger = lab.world.proxies[0].ledger.borrow();
    ledger.check_balanced();
    assert_eq!((ledger.forwards, ledger.parks), (1, 1));
    // What is with its origin may have run; what was parked has not.
    let mut refusals: Vec<_> = ledger.records.iter().filter_map(|record| record.refusal).collect();
    refusals.sort_unstable_by_key(|refusal| refusal.explain().name);
    assert_eq!((refusals, ledger.finished), (vec![Refusal::Cut, Refusal::Draining], 2));
    drop(ledger);
    assert!(!lab.client.borrow().text(waiting).contains("200"));
}

#[test]
fn a_drain_cuts_those_who_wait_for_the_answer_to_a_question_too() {
    let mut lab = Lab::h1();
    // The places of exchanges are used again, the last first: the question's comes before that of who waits for it.
    let before = [lab.send(GET), lab.send(GET)];
    for (index, client) in before.into_iter().enumerate() {
        let up = lab.upstream(index);
        lab.origin_got(up, b"\r\n\r\n");
        lab.origin.borrow_mut().send(up, OK);
        lab.client_got(client, b"ok");
    }
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    let scene = Scene { ask: 1000, ask_for: 100 * SECOND, park_for: 100 * SECOND, ..scene };
    lab.world.proxies[0].plane.publish(Arc::new(scene));
    let waiting = lab.send(GET);
    lab.wait(SECOND);
    lab.world.proxies[0].drain(10 * SECOND);
    lab.wait(11 * SECOND);
    assert!(lab.world.proxies[0].over);
    let ledger = lab.world.proxies[0].ledger.borrow();
    ledger.check_balanced();
    assert_eq!((ledger.questions, ledger.parks, ledger.finished), (1, 1, 3));
    assert_eq!(ledger.records.last().unwrap().refusal, Some(Refusal::Draining));
    drop(ledger);
    assert!(!lab.client.borrow().text(waiting).contains("200"));
}

#[test]
fn answers_that_are_on_their_way_survive_a_client_that_ends_in_the_middle_of_a_request() {
    let mut lab = Lab::h1();
    lab.world.proxies[0].plane.publish(Arc::new(Scene::to(Vec::new())));
    let client = lab.send([&GET.repeat(3), "GET / HT"].concat());
    lab.client.borrow_mut().shutdown(client);
    lab.wait(SECOND);
    assert_eq!(lab.client.borrow().text(client).matches("HTTP/1.1 404 ").count(), 3);
    lab.end();
}
