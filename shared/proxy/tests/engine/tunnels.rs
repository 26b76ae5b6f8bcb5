//! Upgrades and what passes through them.

use std::rc::Rc;

use steady_ring::ConnId;

use crate::lab::{Lab, SECOND, UPGRADE};
use crate::world::config;
use crate::world::policy::{Place, Scene};

#[test]
fn octets_that_a_client_sends_before_its_upgrade_is_granted_go_on_once_it_is() {
    let mut lab = Lab::h1();
    let ws = lab.send([UPGRADE.as_bytes(), b"early"].concat());
    let up = lab.upstream(0);
    lab.wait(SECOND);
    assert!(lab.origin.borrow().got(up).ends_with(b"\r\n\r\n"), "{}", lab.origin.borrow().text(up));
    lab.origin.borrow_mut().send(
        up,
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    );
    lab.origin_got(up, b"early");
    lab.client.borrow_mut().close(ws);
    lab.end();
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// A WebSocket through an edge and an agent, open.
fn tunnel() -> (Lab, ConnId, ConnId) {
    let mut lab = Lab::h1();
    let agent = lab.addr;
    let (_, edge) = lab.world.proxy(Scene::to(vec![Place::agent(2, agent)]), &config(), 2);
    lab.addr = edge;
    let client = lab.send(UPGRADE);
    let up = lab.upstream(0);
    lab.origin_got(up, b"\r\n\r\n");
    lab.origin.borrow_mut().send(up, SWITCH);
    lab.client_got(client, b"\r\n\r\n");
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 101 "));
    lab.client.borrow_mut().take(client);
    lab.origin.borrow_mut().take(up);
    (lab, client, up)
}

#[test]
fn a_tunnel_carries_octets_both_ways_through_h1_h2c_and_h1() {
    let (mut lab, client, up) = tunnel();
    for round in 0..5 {
        lab.client.borrow_mut().send(client, format!("ping {round}"));
        lab.origin_got(up, format!("ping {round}").as_bytes());
        lab.origin.borrow_mut().send(up, format!("pong {round}"));
        lab.client_got(client, format!("pong {round}").as_bytes());
        lab.wait(100 * SECOND);
    }
    lab.client.borrow_mut().close(client);
    lab.wait(SECOND);
    assert!(lab.origin.borrow().is_over(up), "the other side ends too");
    lab.end();
}

#[test]
fn what_the_side_that_closes_a_tunnel_has_sent_is_delivered_first() {
    let long = vec![b'q'; 150_000];
    for client_closes in [true, false] {
        for slow in [false, true] {
            let (mut lab, client, up) = tunnel();
            let (one, other) = if client_closes {
                (Rc::clone(&lab.client), Rc::clone(&lab.origin))
            } else {
                (Rc::clone(&lab.origin), Rc::clone(&lab.client))
            };
            let (one_id, other_id) = if client_closes { (client, up) } else { (up, client) };
            if slow {
                other.borrow_mut().pause(other_id);
            }
            one.borrow_mut().send(one_id, &long);
            one.borrow_mut().close(one_id);
            lab.wait(20 * SECOND);
            if slow {
                other.borrow_mut().resume(other_id);
                lab.wait(20 * SECOND);
            }
            assert_eq!(other.borrow().got(other_id).len(), long.len(), "client closes: {client_closes}, slow: {slow}");
            assert!(other.borrow().is_over(other_id));
            lab.end();
        }
    }
}
