//! Bounds that change while running, and the one that a client's address has.

use std::rc::Rc;
use std::sync::Arc;

use steady_proxy::{Bounds, Config, Limits, Listener};
use steady_ring::ConnId;

use crate::lab::{GET, Lab, OK, SECOND};
use crate::world::config;
use crate::world::policy::{Place, Scene};

/// Where clients say by the PROXY protocol who they are.
fn proxied(connections_per_client_max: usize) -> Lab {
    let limits = Limits { connections_per_client_max, ..Limits::default() };
    let listeners = vec![Listener { proxy_protocol: true, ..config().listeners.remove(0) }];
    Lab::with(|addr| Place::h1(1, addr), &Config { listeners, limits, ..config() }, steady_proxy::Timeouts::default())
}

impl Lab {
    /// Puts these bounds in force, in place of those that are.
    pub(crate) fn bound(&mut self, bounds: Bounds) {
        let scene = Scene::to(vec![Place::h1(1, self.origin_addr)]);
        self.world.proxies[0].plane.publish(Arc::new(Scene { bounds: Some(Arc::new(bounds)), ..scene }));
        self.world.settle();
    }

    fn comes_as(&mut self, client: &str) -> ConnId {
        let id = self.send(format!("PROXY TCP4 {client} 192.0.2.9 1000 80\r\n"));
        self.wait(SECOND / 100);
        id
    }

    fn is_over(&self, id: ConnId) -> bool {
        self.client.borrow().is_over(id)
    }

    fn refused(&self) -> u64 {
        self.world.proxies[0].stats().connections_refused_client.value()
    }
}

fn per_client(connections_per_client_max: usize) -> Bounds {
    Bounds { worker: Limits { connections_per_client_max, ..Limits::default() }, ..Bounds::default() }
}

#[test]
fn past_what_a_client_may_have_its_next_connection_is_closed_and_others_are_served() {
    let mut lab = proxied(2);
    let first = [lab.comes_as("198.51.100.1"), lab.comes_as("198.51.100.1")];
    let third = lab.comes_as("198.51.100.1");
    assert!(lab.is_over(third) && first.iter().all(|&id| !lab.is_over(id)));
    assert_eq!(lab.refused(), 1);
    let other = lab.comes_as("198.51.100.2");
    lab.client.borrow_mut().send(other, GET);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(other, b"ok");
    lab.client.borrow_mut().close(first[0]);
    lab.wait(SECOND);
    let again = lab.comes_as("198.51.100.1");
    assert!(!lab.is_over(again), "who leaves makes room");
    assert_eq!(lab.refused(), 1);
    lab.end();
}

#[test]
fn without_the_proxy_protocol_it_is_the_address_that_connects() {
    let limits = Limits { connections_per_client_max: 2, ..Limits::default() };
    let mut lab =
        Lab::with(|addr| Place::h1(1, addr), &Config { limits, ..config() }, steady_proxy::Timeouts::default());
    let ids = [lab.send("GET"), lab.send("GET"), lab.send("GET")];
    lab.wait(SECOND);
    assert_eq!(ids.map(|id| lab.is_over(id)), [false, false, true]);
    lab.end();
}

#[test]
fn the_bound_of_a_client_counts_who_is_there_when_it_appears_and_forgets_them_when_it_goes() {
    let mut lab = proxied(0);
    let there = [lab.comes_as("198.51.100.1"), lab.comes_as("198.51.100.1")];
    lab.bound(per_client(2));
    let third = lab.comes_as("198.51.100.1");
    assert!(lab.is_over(third) && there.iter().all(|&id| !lab.is_over(id)), "who is there stays");
    lab.bound(per_client(0));
    let more = [lab.comes_as("198.51.100.1"), lab.comes_as("198.51.100.1")];
    assert!(more.iter().all(|&id| !lab.is_over(id)));
    lab.client.borrow_mut().close(there[0]);
    lab.wait(SECOND);
    lab.bound(per_client(3));
    let full = lab.comes_as("198.51.100.1");
    assert!(lab.is_over(full), "three are there");
    assert_eq!(lab.refused(), 2);
    lab.end();
}

#[test]
fn past_the_rate_of_a_client_its_next_connection_is_closed_and_others_are_served() {
    let mut lab = proxied(0);
    let rate = |connection_rate_per_client_max| Bounds {
        worker: Limits { connection_rate_per_client_max, connections_per_client_max: 0, ..Limits::default() },
        ..Bounds::default()
    };
    let before = [0; 5].map(|_| lab.comes_as("198.51.100.1"));
    lab.bound(rate(2));
    let ids = [1, 1, 1, 2].map(|host| lab.comes_as(&format!("198.51.100.{host}")));
    assert_eq!(ids.map(|id| lab.is_over(id)), [false, false, true, false]);
    assert!(before.iter().all(|&id| !lab.is_over(id)), "who is there stays, and has not come now");
    // Nor does it help to leave.
    lab.client.borrow_mut().close(ids[0]);
    lab.wait(SECOND / 10);
    let soon = lab.comes_as("198.51.100.1");
    assert!(lab.is_over(soon));
    lab.wait(SECOND);
    let later = [lab.comes_as("198.51.100.1"), lab.comes_as("198.51.100.1")];
    assert!(later.iter().all(|&id| !lab.is_over(id)));
    lab.client.borrow_mut().send(later[0], GET);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(later[0], b"ok");
    lab.bound(rate(0));
    assert!(
        (0..10).all(|_| {
            let id = lab.comes_as("198.51.100.1");
            !lab.is_over(id)
        }),
        "no bound any more"
    );
    assert_eq!((lab.world.proxies[0].stats().connections_refused_client_rate.value(), lab.refused()), (2, 0));
    lab.end();
}

#[test]
fn past_the_rate_of_all_clients_the_next_connection_is_closed_whoever_it_is() {
    let limits = Limits { connection_rate_max: 3, ..Limits::default() };
    for proxy_protocol in [false, true] {
        let listeners = vec![Listener { proxy_protocol, ..config().listeners.remove(0) }];
        let config = Config { listeners, limits: limits.clone(), ..config() };
        let mut lab = Lab::with(|addr| Place::h1(1, addr), &config, steady_proxy::Timeouts::default());
        let comes = |lab: &mut Lab, host: u8| match proxy_protocol {
            true if host == 0 => lab.send("PROXY UNKNOWN\r\n"),
            true => lab.send(format!("PROXY TCP4 198.51.100.{host} 192.0.2.9 1000 80\r\n")),
            false => lab.send(""),
        };
        let ids = [0, 1, 2, 3, 0].map(|host| comes(&mut lab, host));
        lab.wait(SECOND / 10);
        let over = ids.iter().filter(|&&id| lab.is_over(id)).count();
        assert_eq!((over, lab.world.proxies[0].stats().connections_refused_rate.value()), (2, 2));
        lab.wait(SECOND / 3);
        let later = comes(&mut lab, 1);
        lab.wait(SECOND / 10);
        assert!(!lab.is_over(later));
        lab.end();
    }
}

#[test]
fn a_codecs_bound_that_changes_holds_for_connections_that_begin_after_it() {
    let mut lab = Lab::h1();
    let long = format!("GET /{} HTTP/1.1\r\nhost: a.test\r\n\r\n", "x".repeat(1000));
    let before = lab.send("GET /");
    lab.wait(SECOND);
    let clients = steady_http::Limits { target_bytes_max: 500, ..steady_http::Limits::default() };
    lab.bound(Bounds { clients, ..Bounds::default() });
    let after = lab.send(&long);
    lab.wait(SECOND);
    assert!(lab.client.borrow().text(after).starts_with("HTTP/1.1 414 "), "{}", lab.client.borrow().text(after));
    lab.client.borrow_mut().send(before, &long["GET /".len()..]);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(before, b"ok");
}

#[test]
fn a_workers_bound_that_changes_holds_at_once() {
    let mut lab = Lab::h1();
    let one = lab.send(GET);
    let up = lab.upstream(0);
    let worker = Limits { exchanges_max: 1, ..Limits::default() };
    lab.bound(Bounds { worker, ..Bounds::default() });
    let two = lab.send(GET);
    lab.client_got(two, b"\n");
    let text = lab.client.borrow().text(two);
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("overloaded"), "{text}");
    lab.bound(Bounds::default());
    let three = lab.send(GET);
    let second = lab.upstream(1);
    for up in [up, second] {
        lab.origin.borrow_mut().send(up, OK);
    }
    for client in [one, three] {
        lab.client_got(client, b"ok");
    }
    lab.end();
}

#[test]
fn where_heads_fill_their_room_large_ones_are_refused_and_common_ones_served() {
    let mut lab = Lab::h1();
    let large = format!("GET /large HTTP/1.1\r\nhost: a.test\r\ncookie: {}\r\n\r\n", "x".repeat(20 << 10));
    // A share of 1 KiB.
    let worker = Limits { exchanges_max: 64, heads_bytes_max: 64 << 10, ..Limits::default() };
    lab.bound(Bounds { worker, ..Bounds::default() });
    let ask = |lab: &mut Lab, served: usize| {
        let client = lab.send(&large);
        (client, lab.upstream(served))
    };
    let waiting: Vec<_> = (0..3).map(|served| ask(&mut lab, served)).collect();
    let refused = lab.send(&large);
    lab.client_got(refused, b"\n");
    let text = lab.client.borrow().text(refused);
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("overloaded"), "{text}");
    let common = lab.send(GET);
    let up = lab.upstream(3);
    lab.origin.borrow_mut().send(up, OK);
    lab.client_got(common, b"ok");
    assert!(lab.world.proxies[0].stats().heads_bytes.value() > 60 << 10);
    for (client, up) in waiting {
        lab.origin.borrow_mut().send(up, OK);
        lab.client_got(client, b"ok");
    }
    lab.wait(SECOND);
    assert_eq!(lab.world.proxies[0].stats().heads_bytes.value(), 0, "there is room again");
    lab.end();
}

#[test]
fn a_shorter_deadline_among_the_bounds_holds_for_what_waits_already() {
    let mut lab = Lab::h1();
    let client = lab.send("POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 9999\r\n\r\nx");
    let world = Rc::clone(&lab.client);
    lab.wait(5 * SECOND);
    let worker = Limits { body_rate_over: 6 * SECOND, ..Limits::default() };
    lab.bound(Bounds { worker, ..Bounds::default() });
    lab.wait(2 * SECOND);
    assert!(world.borrow().text(client).starts_with("HTTP/1.1 408 "), "{}", world.borrow().text(client));
    lab.end();
}
