//! Mutual TLS between workers: who gets through, what becomes of those who do not, and that nothing else changes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConnection, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use steady_proxy::tls::{TicketKeys, provider};
use steady_proxy::{AttemptEnd, Credentials, Refusal, UpstreamTls};
use steady_ring::Faults;

use crate::lab::{GET, Lab, SECOND};
use crate::world::client::{Clients, End, Want};
use crate::world::origin::Origin;
use crate::world::peer::Peer;
use crate::world::plan::Plan;
use crate::world::policy::{Place, Scene};
use crate::world::{World, config};

const HOST: &str = "h1.host.test";
const EDGE: &str = "edge.test";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority, and what is trusted with it.
struct Authority(Issuer<'static, KeyPair>, Arc<RootCertStore>);

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let mut roots = RootCertStore::empty();
        roots.add(params.self_signed(&key).unwrap().der().clone()).unwrap();
        Authority(Issuer::new(params, key), Arc::new(roots))
    }

    fn pair(&self, name: &str) -> Pair {
        self.pair_until(name, SystemTime::now() + DAY)
    }

    fn pair_until(&self, name: &str, until: SystemTime) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = (until - 2 * DAY).into();
        params.not_after = until.into();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// A server that lets in whom this authority vouches for.
    fn server(&self, pair: Pair) -> Arc<ServerConfig> {
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.1), provider()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_client_cert_verifier(clients).with_single_cert(pair.0, pair.1).unwrap();
        config.ticketer = Arc::new(TicketKeys::in_memory(SystemTime::now()).unwrap());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    fn client(&self, pair: Option<Pair>) -> Arc<UpstreamTls> {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(Arc::clone(&self.1));
        let mut config = match pair {
            Some(pair) => builder.with_client_auth_cert(pair.0, pair.1).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(UpstreamTls { config: Arc::new(config), name: HOST.try_into().unwrap() })
    }
}

/// Clients, an edge, an agent that it reaches over TLS, and an origin.
struct House {
    world: World,
    clients: Rc<RefCell<Peer<Clients>>>,
    origin: Rc<RefCell<Peer<Origin>>>,
    agent: Scene,
    edge: Scene,
}

const AGENT: usize = 0;
const FRONT: usize = 1;

impl House {
    fn new(server: Arc<ServerConfig>, client: Arc<UpstreamTls>, seed: u64, faults: Faults) -> House {
        let mut world = World::new(seed, faults);
        let addr = world.address();
        let mut origin = Peer::new(&world.net, steady_http::Limits::default(), Origin::new(1));
        origin.listen(world.net.bind(addr), false);
        let origin = world.add(origin);
        let mut secure = config();
        secure.listeners[0].tls = true;
        let agent = Scene { credentials: Credentials::Known(server), ..Scene::to(vec![Place::h1(1, addr)]) };
        let (_, at) = world.proxy(agent.clone(), &secure, 1);
        let edge = Scene::to(vec![Place { tls: Some(client), ..Place::agent(2, at) }]);
        let (_, front) = world.proxy(edge.clone(), &config(), 2);
        let clients = Peer::new(&world.net, steady_http::Limits::default(), Clients::new(1, vec![front.into()]));
        let clients = world.add(clients);
        House { world, clients, origin, agent, edge }
    }

    fn calm(server: Arc<ServerConfig>, client: Arc<UpstreamTls>) -> House {
        House::new(server, client, 1, Faults::none())
    }

    fn want(&mut self, plan: Plan) {
        let now = self.world.now();
        self.clients.borrow_mut().app.wants.push(Want::new(plan, true, now));
    }

    fn run(&mut self) {
        let clients = Rc::clone(&self.clients);
        assert!(self.world.run_until(600 * SECOND, |_| clients.borrow().app.is_done()), "it does not end");
        assert_eq!(self.clients.borrow().app.wrong, Vec::<String>::new());
        assert_eq!(self.origin.borrow().app.wrong, Vec::<String>::new());
    }

    fn ask(&mut self, plan: Plan) -> Option<End> {
        self.want(plan);
        self.run();
        self.clients.borrow().app.end_of(plan.id)
    }

    fn requests_at_the_agent(&self) -> u64 {
        self.world.proxies[AGENT].stats().requests_h2.value()
    }

    /// The edge answers that TLS did not come about, after as many attempts as it has, and the agent saw no request.
    fn comes_to_nothing(mut self) {
        assert_eq!(self.ask(Plan::plain(1)), Some(End::Answered(502, false)));
        let edge = self.world.proxies[FRONT].stats();
        assert_eq!(edge.upstream_tls_failed.value(), 3);
        assert_eq!(edge.refusals[Refusal::UpstreamTls.index()].value(), 1);
        assert_eq!(self.world.proxies[FRONT].ledger.borrow().ended(AttemptEnd::ConnectFailed), 3);
        assert_eq!(self.requests_at_the_agent(), 0);
    }

    fn certificates_refused(&self) -> u64 {
        self.world.proxies[AGENT].stats().client_certificates_refused.value()
    }
}

#[test]
fn members_who_prove_themselves_carry_requests_as_ever() {
    let authority = Authority::new();
    let server = authority.server(authority.pair(HOST));
    let mut house = House::calm(server, authority.client(Some(authority.pair(EDGE))));
    for id in 1..=60 {
        let (upload, download) = [(0, 10), (70_000, 3), (9, 300_000)][id as usize % 3];
        house.want(Plan { upload, download, ..Plan::plain(id) });
    }
    house.run();
    for id in 1..=60 {
        assert_eq!(house.clients.borrow().app.end_of(id), Some(End::Answered(200, true)), "{id}");
    }
    let edge = house.world.proxies[FRONT].stats();
    assert!(edge.upstream_connects.value() <= 2, "streams share a connection");
    assert_eq!(edge.upstream_tls_failed.value(), 0);
}

#[test]
fn large_bodies_pass_both_ways_at_once() {
    let authority = Authority::new();
    let server = authority.server(authority.pair(HOST));
    let mut house = House::calm(server, authority.client(Some(authority.pair(EDGE))));
    assert_eq!(
        house.ask(Plan { upload: 3 << 20, download: 3 << 20, ..Plan::plain(1) }),
        Some(End::Answered(200, true))
    );
}

#[test]
fn what_a_batch_has_for_a_host_is_one_send_and_few_records() {
    let authority = Authority::new();
    let server = authority.server(authority.pair(HOST));
    let mut house = House::calm(server, authority.client(Some(authority.pair(EDGE))));
    house.clients.borrow_mut().app.streams_max = 100;
    house.ask(Plan::plain(1));
    let before = house.world.proxies[AGENT].stats().received_bytes.value();
    let sends = house.world.proxies[FRONT].stats().sends.value();
    for id in 2..=61 {
        house.want(Plan::plain(id));
    }
    house.run();
    let sends = house.world.proxies[FRONT].stats().sends.value() - sends;
    assert!(sends < 60, "{sends} sends for 60 requests and their answers");
    assert!(house.world.proxies[AGENT].stats().received_bytes.value() > before);
}

#[test]
fn an_edge_without_a_certificate_gets_an_alert_and_no_http() {
    let authority = Authority::new();
    let mut house = House::calm(authority.server(authority.pair(HOST)), authority.client(None));
    house.want(Plan::plain(9));
    house.run();
    assert_eq!(house.certificates_refused(), 3);
    House::calm(authority.server(authority.pair(HOST)), authority.client(None)).comes_to_nothing();
}

#[test]
fn an_edge_of_another_authority_or_whose_time_is_over_comes_to_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = || ours.server(ours.pair(HOST));
    House::calm(server(), ours.client(Some(theirs.pair(EDGE)))).comes_to_nothing();
    House::calm(server(), ours.client(Some(ours.pair_until(EDGE, SystemTime::now() - DAY)))).comes_to_nothing();
}

#[test]
fn a_host_of_another_name_or_authority_or_whose_time_is_over_is_not_used() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let client = || ours.client(Some(ours.pair(EDGE)));
    House::calm(ours.server(ours.pair("h2.host.test")), client()).comes_to_nothing();
    House::calm(ours.server(theirs.pair(HOST)), client()).comes_to_nothing();
    House::calm(ours.server(ours.pair_until(HOST, SystemTime::now() - DAY)), client()).comes_to_nothing();
}

#[test]
fn a_host_that_agrees_on_no_http2_is_not_used() {
    let authority = Authority::new();
    let mut server = (*authority.server(authority.pair(HOST))).clone();
    server.alpn_protocols = Vec::new();
    let mut house = House::calm(Arc::new(server), authority.client(Some(authority.pair(EDGE))));
    assert_eq!(house.ask(Plan::plain(1)), Some(End::Answered(502, false)));
    assert_eq!(house.world.proxies[FRONT].stats().upstream_tls_failed.value(), 3);
    assert_eq!(house.requests_at_the_agent(), 0);
}

#[test]
fn certificates_and_authority_change_under_a_stream_and_the_next_request_uses_the_new() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut house = House::calm(old.server(old.pair(HOST)), old.client(Some(old.pair(EDGE))));
    house.want(Plan { upload: 100_000, download: 4 << 20, delay: 10, ..Plan::plain(1) });
    let origin = Rc::clone(&house.origin);
    assert!(house.world.run_until(SECOND, |world| world.proxies[AGENT].stats().sent_bytes.value() > 200_000));
    drop(origin);
    let agent = Scene { credentials: Credentials::Known(new.server(new.pair(HOST))), ..house.agent.clone() };
    house.world.proxies[AGENT].plane.publish(Arc::new(agent));
    let place = house.edge.targets[0].clone();
    let place = Place { key: 3, tls: Some(new.client(Some(new.pair(EDGE)))), ..place };
    house.world.proxies[FRONT].plane.publish(Arc::new(Scene { targets: vec![place], ..house.edge.clone() }));
    assert_eq!(house.ask(Plan::plain(2)), Some(End::Answered(200, true)));
    assert_eq!(house.clients.borrow().app.end_of(1), Some(End::Answered(200, true)), "its connection went on");
    assert_eq!(house.world.proxies[FRONT].stats().upstream_tls_failed.value(), 0);
    assert_eq!(house.world.proxies[FRONT].stats().upstream_connects.value(), 2);
}

#[test]
fn a_connection_to_a_host_that_was_closed_is_resumed_by_the_next() {
    let authority = Authority::new();
    let server = authority.server(authority.pair(HOST));
    let mut house = House::calm(server, authority.client(Some(authority.pair(EDGE))));
    for id in 1..=3 {
        assert_eq!(house.ask(Plan::plain(id)), Some(End::Answered(200, true)));
        house.world.run_for(200 * SECOND);
        assert_eq!(house.world.proxies[FRONT].stats().tls_resumed.value(), id - 1);
        assert_eq!(house.world.proxies[AGENT].stats().tls_resumed.value(), id - 1);
    }
}

#[test]
fn reads_that_are_split_anywhere_and_connections_that_reset_lose_nothing() {
    let authority = Authority::new();
    for seed in 1..=10 {
        let server = authority.server(authority.pair(HOST));
        let client = authority.client(Some(authority.pair(EDGE)));
        let mut house = House::new(server, client, seed, Faults::rough());
        for id in 1..=20 {
            house.want(Plan { upload: 5_000 * (id as usize % 4), download: 20_000, ..Plan::plain(id) });
        }
        house.run();
        house.world.run_for(1200 * SECOND);
        house.world.check_quiet();
    }
}

const CHANGE_CIPHER_SPEC: [u8; 6] = [20, 3, 3, 0, 1, 1];

/// What a server says first to the ClientHello in `hello`.
fn flight(server: &Arc<ServerConfig>, mut hello: &[u8]) -> Vec<u8> {
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    server.read_tls(&mut hello).unwrap();
    server.process_new_packets().unwrap();
    let mut out = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut out).unwrap();
    }
    out
}

#[test]
fn a_handshake_cut_at_any_octet_is_a_connection_that_failed_and_not_one_octet_of_http() {
    let authority = Authority::new();
    let server = authority.server(authority.pair(HOST));
    let client = authority.client(Some(authority.pair(EDGE)));
    let (mut cut, mut length) = (0, usize::MAX);
    while cut < length {
        let mut lab = Lab::new(|addr| Place { tls: Some(Arc::clone(&client)), ..Place::h2(1, addr) });
        let asker = lab.send(GET);
        for attempt in 0..3 {
            let up = lab.upstream(attempt);
            lab.wait(SECOND / 100);
            let hello = lab.origin.borrow().got(up).to_vec();
            let said = flight(&server, &hello);
            length = said.len();
            let mut origin = lab.origin.borrow_mut();
            // A signature is an octet longer or shorter from one flight to the next.
            origin.send(up, &said[..cut.min(length - 1)]);
            origin.shutdown(up);
            drop(origin);
            lab.wait(SECOND / 100);
            // Past the ServerHello a client may send one record that means nothing (RFC 8446 appendix D.4).
            let more = lab.origin.borrow().got(up)[hello.len()..].to_vec();
            assert!(more.is_empty() || more == CHANGE_CIPHER_SPEC, "cut at {cut}: {more:?}");
        }
        lab.client_got(asker, b"}\n");
        assert!(lab.client.borrow().text(asker).contains(" 502 "), "cut at {cut}");
        assert_eq!(lab.world.proxies[0].ledger.borrow().ended(AttemptEnd::ConnectFailed), 3);
        assert_eq!(lab.world.proxies[0].stats().upstream_tls_failed.value(), 3);
        cut += 1;
    }
    assert!(length > 500, "the whole flight was tried");
}

#[test]
fn a_handshake_that_stands_still_ends_at_its_deadline() {
    let authority = Authority::new();
    let client = authority.client(Some(authority.pair(EDGE)));
    let patient = Duration::from_secs(60);
    let mut lab =
        Lab::new(|addr| Place { tls: Some(Arc::clone(&client)), connect_timeout: patient, ..Place::h2(1, addr) });
    let asker = lab.send(GET);
    let began = lab.world.now();
    lab.wait(17 * SECOND);
    assert_eq!(lab.world.proxies[0].stats().upstream_tls_failed.value(), 3, "three attempts of 5 s");
    lab.client_got(asker, b"}\n");
    assert!(lab.world.now() - began < 20 * SECOND);
    lab.end();
}
