//! TLS on either side.

use std::sync::Arc;

use steady_proxy::{AttemptEnd, Credentials, Timeouts, UpstreamTls, tls};

use crate::lab::{GET, Lab, SECOND};
use crate::world::config;
use crate::world::policy::{Place, Scene};

#[test]
fn a_tls_upstream_that_speaks_no_tls_is_a_connection_that_failed() {
    let config = Arc::new(tls::client_config(rustls::RootCertStore::empty(), &[b"h2"]).unwrap());
    let upstream = Arc::new(UpstreamTls { config, name: "h1.test".try_into().unwrap() });
    let mut lab = Lab::new(|addr| Place { tls: Some(Arc::clone(&upstream)), ..Place::h2(1, addr) });
    let client = lab.send(GET);
    for attempt in 0..3 {
        let up = lab.upstream(attempt);
        lab.wait(SECOND / 10);
        lab.origin.borrow_mut().send(up, "SSH-2.0-OpenSSH_9.9\r\n");
    }
    lab.client_got(client, b"}\n");
    assert!(lab.client.borrow().text(client).starts_with("HTTP/1.1 502 "));
    assert_eq!(lab.world.proxies[0].ledger.borrow().ended(AttemptEnd::ConnectFailed), 3);
    lab.end();
}

/// A lab whose clients come over TLS, a ClientHello, and the credentials that would answer it.
fn tls_lab() -> (Lab, Vec<u8>, Credentials) {
    let mut secure = config();
    secure.listeners[0].tls = true;
    let lab = Lab::with(|addr| Place::h1(1, addr), &secure, Timeouts::default());
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions();
    let config = builder.unwrap().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let trust = tls::client_config(rustls::RootCertStore::empty(), &[]).unwrap();
    let mut hello = Vec::new();
    tls::Tls::client(Arc::new(trust), "a.test".try_into().unwrap(), &mut hello).unwrap();
    (lab, hello, Credentials::Known(Arc::new(config)))
}

const TLS_ALERT: u8 = 21;
const TLS_HANDSHAKE: u8 = 22;

#[test]
fn a_handshake_waits_for_its_certificate_and_goes_on_when_it_is_published() {
    let (mut lab, hello, known) = tls_lab();
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { credentials: Credentials::Awaited, ..scene.clone() }));
    lab.wait(SECOND / 10);
    let client = lab.send(&hello);
    lab.wait(SECOND);
    assert!(lab.client.borrow().got(client).is_empty(), "nothing is said before the certificate is there");
    lab.world.proxies[0].plane.publish(Arc::new(Scene { credentials: known, ..scene }));
    lab.wait(SECOND);
    assert_eq!(lab.client.borrow().got(client).first(), Some(&TLS_HANDSHAKE));
    lab.end();
}

#[test]
fn a_certificate_that_does_not_come_costs_a_header_timeout_and_no_more() {
    let (mut lab, hello, _) = tls_lab();
    let scene = Scene::to(vec![Place::h1(1, lab.origin_addr)]);
    lab.world.proxies[0].plane.publish(Arc::new(Scene { credentials: Credentials::Awaited, ..scene }));
    lab.wait(SECOND / 10);
    lab.send(&hello);
    lab.wait(SECOND);
    assert_eq!(lab.world.proxies[0].worker().connections(), 1);
    lab.wait(Timeouts::default().header + 5 * SECOND);
    assert_eq!(lab.world.proxies[0].worker().connections(), 0);
    lab.end();
}

#[test]
fn a_name_that_is_not_served_gets_an_alert() {
    let (mut lab, hello, _) = tls_lab();
    let client = lab.send(&hello);
    lab.wait(SECOND);
    assert_eq!(lab.client.borrow().got(client).first(), Some(&TLS_ALERT));
    lab.end();
}
