//! Requests that wait in a parking place, and the questions that some wait for.

use std::sync::Arc;

use steady_proxy::{Command, Outcome};
use steady_ring::ConnId;

use crate::frames as h2;
use crate::lab::{GET, Lab, SECOND};
use crate::world::policy::{Place, Scene};

#[test]
fn a_parked_request_is_freed_when_its_client_leaves() {
    for is_h2 in [false, true] {
        let mut lab = Lab::h1();
        let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
        lab.world.proxies[0].plane.publish(Arc::new(Scene { hold: true, park_for: 60 * SECOND, ..scene }));
        let request = if is_h2 { [h2::PREFACE.to_vec(), h2::get(1, true)].concat() } else { GET.into() };
        let client = lab.send(request);
        lab.wait(SECOND);
        assert_eq!(lab.world.proxies[0].stats().parked_open.value(), 1);
        if is_h2 {
            lab.client.borrow_mut().send(client, h2::reset(1, 8));
        } else {
            lab.client.borrow_mut().shutdown(client);
        }
        lab.wait(SECOND);
        assert_eq!(lab.world.proxies[0].stats().parked_open.value(), 0, "HTTP/2: {is_h2}");
        assert_eq!(lab.world.proxies[0].outcomes(Outcome::ClientGone), 1);
        lab.end();
    }
}

#[test]
fn a_question_that_is_cut_is_answered_by_nothing_and_frees_what_waits_for_it() {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let place = Place::h2(1, lab.origin_addr);
    let scene = Scene { ask: 1000, park_for: 500 * SECOND, ask_for: 100 * SECOND, ..Scene::to(vec![place]) };
    lab.world.proxies[0].plane.publish(Arc::new(scene.clone()));
    let client = lab.send(GET);
    lab.upstream(0);
    lab.wait(SECOND);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { ask: 0, ..scene }));
    lab.world.proxies[0].plane.command(&Command::Inspect(Arc::new(|listed| listed.ticket.id == 0)));
    lab.wait(SECOND);
    assert_eq!(lab.world.proxies[0].ledger.borrow().answers, [None]);
    lab.client.borrow_mut().close(client);
    lab.end();
}

#[test]
fn a_crowd_whose_parking_time_is_up_at_once_is_answered_at_once() {
    let mut lab = Lab::h1();
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { hold: true, park_for: 2 * SECOND, ..scene }));
    let clients: Vec<ConnId> = (0..200).map(|_| lab.send(GET)).collect();
    lab.wait(SECOND / 2);
    assert_eq!(lab.world.proxies[0].stats().parked_open.value(), 200);
    lab.wait(10 * SECOND);
    let client = lab.client.borrow();
    let answered = clients.iter().filter(|&&id| client.text(id).starts_with("HTTP/1.1 503 ")).count();
    drop(client);
    assert_eq!(answered, 200);
    lab.end();
}

/// One request that is parked behind a question to an h2c target; the question's stream, still open.
fn asking() -> (Lab, ConnId, ConnId) {
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let place = Place::h2(1, lab.origin_addr);
    let scene = Scene { ask: 1000, park_for: 500 * SECOND, ask_for: 3 * SECOND, ..Scene::to(vec![place]) };
    lab.world.proxies[0].plane.publish(Arc::new(scene.clone()));
    let client = lab.send(GET);
    let up = lab.upstream(0);
    lab.origin.borrow_mut().send(up, h2::SETTINGS);
    lab.wait(SECOND);
    assert_eq!(h2::count(lab.origin.borrow().got(up), 1, 1), 1);
    assert_eq!(lab.world.proxies[0].stats().parked_open.value(), 1);
    // What comes out of its parking place is forwarded.
    lab.world.proxies[0].plane.publish(Arc::new(Scene { ask: 0, park: 1, ..scene }));
    (lab, client, up)
}

#[test]
fn a_questions_answer_of_any_kind_frees_what_waits_for_it_once() {
    let answers: [(&str, Vec<u8>, Option<u16>); 4] = [
        ("live", h2::ok(1, true), Some(200)),
        ("not live", h2::frame(1, 5, 1, b"\x08\x03421"), Some(421)),
        ("reset", h2::reset(1, 7), None),
        ("nothing in time", Vec::new(), None),
    ];
    for (what, answer, told) in answers {
        let (mut lab, client, up) = asking();
        lab.origin.borrow_mut().send(up, answer);
        lab.wait(3 * SECOND);
        assert_eq!(lab.world.proxies[0].ledger.borrow().answers, [told], "{what}");
        assert_eq!(lab.world.proxies[0].ledger.borrow().unparked, 1, "{what}");
        lab.origin.borrow_mut().send(up, h2::ok(3, true));
        lab.client_got(client, b"\r\n\r\n");
        assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 200 "), "{what}");
        lab.end();
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_also_when_the_first_is_parked() {
    let mut lab = Lab::h1();
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { hold: true, park_for: 60 * SECOND, ..scene.clone() }));
    let get = |n| format!("GET /{n} HTTP/1.1\r\nhost: a.test\r\n\r\n");
    let client = lab.send([get(1), get(2), get(3)].concat());
    lab.wait(SECOND);
    lab.world.proxies[0].plane.publish(Arc::new(scene));
    let up = lab.upstream(0);
    for n in 1..=3 {
        lab.origin_got(up, b"\r\n\r\n");
        let asked = lab.origin.borrow_mut().take(up);
        assert!(asked.starts_with(format!("GET /{n} ").as_bytes()));
        lab.origin.borrow_mut().send(up, format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{n}"));
        lab.client_got(client, n.to_string().as_bytes());
    }
    lab.end();
}

#[test]
fn a_refusal_of_what_was_parked_comes_before_the_credit_for_its_body() {
    // Credit says that the request was begun: who reads that first may not send it again.
    let mut lab = Lab::new(|addr| Place::h2(1, addr));
    let scene = Scene::to(vec![Place::h2(1, lab.origin_addr)]);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { hold: true, park_for: 60 * SECOND, ..scene.clone() }));
    let body: Vec<u8> = [0; 4].iter().flat_map(|_| h2::data(1, &[b'b'; 16_000], false)).collect();
    let client = lab.send([h2::PREFACE.to_vec(), h2::get(1, false), body].concat());
    lab.wait(SECOND);
    assert_eq!(lab.world.proxies[0].stats().parked_open.value(), 1);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { refuse: 1000, ..scene }));
    lab.wait(SECOND);
    let got = h2::frames(lab.client.borrow().got(client));
    let head = got.iter().position(|frame| (frame.0, frame.2) == (1, 1)).expect("an answer");
    let credit = got.iter().position(|frame| (frame.0, frame.2) == (8, 1));
    assert!(credit.is_none_or(|credit| credit > head), "{got:?}");
    lab.client.borrow_mut().close(client);
    lab.end();
}
