//! What the edge makes of a request before it goes anywhere, and of answers that come from nowhere: who the client is, which
//! name was meant, which fields pass, and what people and programs are told when there is no answer.

mod house;
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use house::{House, Setup, app, both, h2c, placed};
use steady_agent::gate::{Process, Role};
use steady_lb::snapshot::{HostState, Network, Settings};
use steady_proxy::Limits;
use support::http::{Conn, Reply};

fn get(addr: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
    Conn::open(addr).request("GET", host, path, fields, b"").unwrap()
}

/// The fields that the application saw, by a request that began with these octets.
fn seen(addr: SocketAddr, before: &[u8], fields: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut conn = Conn::open(addr);
    conn.send(before).unwrap();
    let reply = conn.request("GET", "echo.localhost", "/fields", fields, b"").unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    fields_of(&reply)
}

fn fields_of(reply: &Reply) -> Vec<(String, String)> {
    let text = reply.text();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect()
}

#[track_caller]
fn one<'f>(fields: &'f [(String, String)], name: &str) -> Option<&'f str> {
    let mut found = fields.iter().filter(|(it, _)| it == name).map(|(_, value)| value.as_str());
    let first = found.next();
    assert_eq!(found.next(), None, "{name} came twice");
    first
}

fn trusting(network: &str, prefix: u8) -> Setup {
    let settings =
        Settings { trusted: vec![Network { addr: network.parse().unwrap(), prefix }], ..Settings::default() };
    Setup { settings, ..Setup::default() }
}

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\xdc\x04\x01\xbb";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

#[test]
fn the_proxy_protocol_tells_the_client_s_address_in_both_versions() {
    both(Setup::default, |house| {
        for (header, client) in [(V1, "192.0.2.1"), (V2, "192.0.2.1"), (V2_LOCAL, "127.0.0.1")] {
            assert_eq!(one(&seen(house.proxied, header, &[]), "x-forwarded-for"), Some(client));
        }
        // However it is cut, and together with the request.
        let request = b"GET /fields HTTP/1.1\r\nHost: echo.localhost\r\n\r\n";
        for cut in [1, 12, 15, 20] {
            let mut conn = Conn::open(house.proxied);
            conn.send(&V2[..cut]).unwrap();
            conn.send(&[&V2[cut..], request].concat()).unwrap();
            assert_eq!(one(&fields_of(&conn.reply(false).unwrap()), "x-forwarded-for"), Some("192.0.2.1"));
        }
    });
}

#[test]
fn a_connection_without_the_proxy_header_is_refused_where_it_is_wanted() {
    both(Setup::default, |house| {
        let refused = house.count("connections_refused_total");
        for what in
            [&b"GET / HTTP/1.1\r\nHost: echo.localhost\r\n\r\n"[..], b"PROXY TCP4 one two 1 2\r\nGET / HTTP/1.1\r\n"]
        {
            let mut stream = TcpStream::connect(house.proxied).unwrap();
            stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
            stream.write_all(what).unwrap();
            let mut answer = Vec::new();
            // A reset is as good an end as any.
            let _ = stream.read_to_end(&mut answer);
            assert_eq!(answer, b"");
        }
        support::eventually("both are counted", || {
            (house.count("connections_refused_total") == refused + 2).then_some(())
        });
        // Where it is not wanted it is no HTTP.
        let mut conn = Conn::open(house.plain);
        conn.send(&[V1, b"GET / HTTP/1.1\r\nHost: echo.localhost\r\n\r\n"].concat()).unwrap();
        assert_eq!(conn.reply(false).unwrap().status, 400);
        assert_eq!(house.origin.seen().len(), 0);
    });
}

const SAID: &[(&str, &str)] = &[
    ("X-Forwarded-For", "10.9.8.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "bank.example"),
    ("Forwarded", "for=10.9.8.7"),
    ("X-Request-Id", "chosen-by-me"),
];

#[test]
fn what_a_stranger_says_about_himself_is_replaced() {
    both(Setup::default, |house| {
        let fields = seen(house.plain, b"", SAID);
        assert_eq!(one(&fields, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(one(&fields, "x-forwarded-proto"), Some("http"));
        assert_eq!(one(&fields, "x-forwarded-host"), Some("echo.localhost"));
        assert_eq!(one(&fields, "forwarded"), Some("for=127.0.0.1;host=echo.localhost;proto=http"));
        assert_ne!(one(&fields, "x-request-id"), Some("chosen-by-me"));
    });
}

#[test]
fn what_a_trusted_network_says_is_continued() {
    both(
        || trusting("127.0.0.0", 8),
        |house| {
            let fields = seen(house.plain, b"", SAID);
            assert_eq!(one(&fields, "x-forwarded-for"), Some("10.9.8.7, 127.0.0.1"));
            assert_eq!(one(&fields, "x-forwarded-proto"), Some("https"));
            assert_eq!(one(&fields, "x-forwarded-host"), Some("bank.example"));
            assert_eq!(one(&fields, "forwarded"), Some("for=10.9.8.7, for=127.0.0.1;host=echo.localhost;proto=http"));
            assert_eq!(one(&fields, "x-request-id"), Some("chosen-by-me"));
            // Behind the PROXY protocol the client is who counts, not the balancer.
            let fields = seen(house.proxied, V1, SAID);
            assert_eq!(one(&fields, "x-forwarded-for"), Some("192.0.2.1"));
            assert_ne!(one(&fields, "x-request-id"), Some("chosen-by-me"));
        },
    );
}

#[test]
fn a_request_has_one_id_for_the_application_the_client_and_the_log() {
    both(
        || Setup { logs: true, ..Setup::default() },
        |house| {
            let mut ids = Vec::new();
            let mut conn = Conn::open(house.plain);
            for _ in 0..2 {
                let reply = conn.request("GET", "echo.localhost", "/fields", &[], b"").unwrap();
                let fields = fields_of(&reply);
                let id = one(&fields, "x-request-id").unwrap().to_owned();
                assert_eq!(reply.header("x-request-id"), Some(&id[..]));
                ids.push(id);
            }
            assert_ne!(ids[0], ids[1]);
            for file in ["access.jsonl", "requests-0.jsonl"] {
                let path = house.dir.path().join(file);
                support::eventually("both lines are logged", || {
                    let log = std::fs::read_to_string(&path).unwrap();
                    ids.iter().all(|id| log.contains(&format!("\"id\":\"{id}\""))).then_some(())
                });
            }
        },
    );
}

#[test]
fn a_request_that_is_refused_for_overload_tells_nothing_that_its_client_made_up() {
    let limits = Limits { exchanges_max: 0, ..Limits::default() };
    let setup = || Setup { logs: true, limits: limits.clone(), ..Setup::default() };
    both(setup, |house| {
        let reply = get(house.plain, "echo.localhost", "/", &[("X-Request-Id", "mine"), ("Steady-App", "bank")]);
        assert_eq!((reply.status, reply.text().contains("overloaded")), (503, true), "{reply:?}");
        let id = reply.header("x-request-id").expect("it has an id").to_owned();
        assert!(id != "mine" && reply.text().contains(&id) && !reply.text().contains("mine"), "{reply:?}");
        let log = support::eventually("it is logged", || {
            let log = std::fs::read_to_string(house.dir.path().join("access.jsonl")).unwrap();
            log.contains(&format!("\"id\":\"{id}\"")).then_some(log)
        });
        assert!(!log.contains("mine") && !log.contains("bank"), "{log}");
    });
}

#[test]
fn a_trace_goes_on_when_it_is_valid_and_begins_when_it_is_not() {
    both(Setup::default, |house| {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let fields = seen(house.plain, b"", &[("traceparent", good), ("tracestate", "a=b")]);
        assert_eq!((one(&fields, "traceparent"), one(&fields, "tracestate")), (Some(good), Some("a=b")));
        let fields = seen(house.plain, b"", &[("traceparent", "00-nonsense"), ("tracestate", "a=b")]);
        let begun = one(&fields, "traceparent").unwrap();
        assert!(begun.starts_with("00-") && begun.len() == good.len(), "{begun}");
        assert_eq!(one(&fields, "tracestate"), None);
    });
}

#[test]
fn server_timing_is_told_only_where_it_is_asked_for() {
    let asked = || Setup { settings: Settings { server_timing: true, ..Settings::default() }, ..Setup::default() };
    both(asked, |house| {
        let reply = get(house.plain, "echo.localhost", "/", &[]);
        let timing = reply.header("server-timing").unwrap();
        assert!(timing.contains("dur="), "{timing}");
    });
    both(Setup::default, |house| {
        assert_eq!(get(house.plain, "echo.localhost", "/", &[]).header("server-timing"), None);
    });
}

#[test]
fn nobody_but_edge_and_agent_can_use_their_own_fields() {
    both(Setup::default, |house| {
        let said = [("Steady-App", "other"), ("Steady-Generation", "99"), ("Steady-Probe", "1"), ("steady-x", "1")];
        let fields = seen(house.plain, b"", &said);
        assert!(!fields.iter().any(|(name, _)| name.starts_with("steady-")), "{fields:?}");
        // A probe by a client is a request like any other.
        let head = Conn::open(house.plain).request("HEAD", "echo.localhost", "/asked", &said, b"").unwrap();
        assert_eq!(head.status, 200);
        assert!(house.origin.seen().iter().any(|(asked, _)| asked == "HEAD /asked"), "{:?}", house.origin.seen());
        // In trailers as well.
        let mut conn = Conn::open(house.plain);
        conn.send(
            b"POST /fields HTTP/1.1\r\nHost: echo.localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
              1\r\na\r\n0\r\nSteady-Refused: x\r\nX-Honest: 1\r\n\r\n",
        )
        .unwrap();
        let fields = fields_of(&conn.reply(false).unwrap());
        assert_eq!(one(&fields, "x-honest"), Some("1"));
        assert_eq!(one(&fields, "steady-refused"), None);
        // What an application says in them neither reaches the client nor makes the edge send the request again.
        let reply = get(house.plain, "echo.localhost", "/liar", &[]);
        assert_eq!((reply.status, &reply.body[..]), (200, &b"lie"[..]));
        let all = reply.headers.iter().chain(&reply.trailers);
        assert!(!all.clone().any(|(name, _)| name.starts_with("steady-")), "{reply:?}");
        assert!(reply.trailers.iter().any(|(name, _)| name == "x-honest"), "{reply:?}");
        assert_eq!(house.origin.seen().iter().filter(|(asked, _)| asked == "GET /liar").count(), 1);
    });
}

#[test]
fn a_host_may_be_written_in_any_case_with_a_port_and_a_final_dot() {
    both(Setup::default, |house| {
        for host in ["echo.localhost", "ECHO.LocalHost", "echo.localhost.", "echo.localhost:8080", "Echo.Localhost.:1"]
        {
            assert_eq!(get(house.plain, host, "/", &[]).status, 200, "{host}");
        }
        for host in ["localhost", "echo.example.org", "[::1]:8080", "127.0.0.1", "a.echo.localhost", "echo.localhost.."]
        {
            assert!(matches!(get(house.plain, host, "/", &[]).status, 400 | 404), "{host}");
        }
        for host in ["echo.localhost:99999", "echo..localhost", "me@echo.localhost", "echo.localhost/x"] {
            assert_eq!(get(house.plain, host, "/", &[]).status, 400, "{host}");
        }
    });
}

/// One TLS connection, HTTP/1.1 over it.
struct Secure {
    tls: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
}

impl Secure {
    fn open(house: &House, name: &str) -> Secure {
        Secure::open_behind(house, house.tls, b"", name)
    }

    /// These octets come before TLS.
    fn open_behind(house: &House, addr: SocketAddr, before: &[u8], name: &str) -> Secure {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(house.dir.path().join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        stream.write_all(before).unwrap();
        Secure { tls: rustls::StreamOwned::new(connection, stream) }
    }

    /// The status of an answer to HEAD.
    fn ask(&mut self, host: &str) -> u16 {
        write!(self.tls, "HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.tls.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8_lossy(&head[9..12]).parse().unwrap()
    }
}

#[test]
fn a_connection_serves_what_its_certificate_covers_and_nothing_else() {
    let setup = || Setup { certs: vec![vec!["*.steady.page", "steady.page"], vec!["*.steady.sh"]], ..Setup::default() };
    both(setup, |house| {
        house.agents[0].set(house.ready("other", 1));
        house.route(vec![placed("echo", 0, 1), placed("other", 0, 1)]);
        let mut conn = Secure::open(house, "echo.steady.page");
        for good in
            ["echo.steady.page", "other.steady.page", "ECHO.steady.page", "echo.steady.page:443", "echo.steady.page."]
        {
            assert_eq!(conn.ask(good), 200, "{good}");
        }
        // Known names and unknown ones alike: which it is is told on a connection that is theirs.
        for bad in ["echo.steady.sh", "nobody.steady.sh", "echo.localhost", "example.org"] {
            assert_eq!(conn.ask(bad), 421, "{bad}");
        }
        assert_eq!(conn.ask("nobody.steady.page"), 404);
        assert_eq!(conn.ask("echo.steady.page"), 200, "the connection goes on");
        assert_eq!(Secure::open(house, "echo.steady.sh").ask("echo.steady.sh"), 200);
    });
}

#[test]
fn the_proxy_protocol_comes_before_tls_where_both_are_spoken() {
    let setup = || Setup { certs: vec![vec!["*.steady.page"]], ..Setup::default() };
    both(setup, |house| {
        for header in [V1, V2] {
            let mut conn = Secure::open_behind(house, house.tls_proxied, header, "echo.steady.page");
            conn.tls.write_all(b"GET /fields HTTP/1.1\r\nHost: echo.steady.page\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            conn.tls.read_to_string(&mut answer).unwrap();
            let answer = answer.to_ascii_lowercase();
            assert!(answer.contains("x-forwarded-for: 192.0.2.1\r\nx-"), "{answer}");
            assert!(answer.contains("forwarded: for=192.0.2.1;host=echo.steady.page;proto=https\r\n"), "{answer}");
        }
    });
}

#[test]
fn connect_and_trace_are_not_served() {
    both(Setup::default, |house| {
        for request in [
            &b"CONNECT echo.localhost:443 HTTP/1.1\r\nHost: echo.localhost:443\r\n\r\n"[..],
            b"TRACE / HTTP/1.1\r\nHost: echo.localhost\r\n\r\n",
        ] {
            let mut conn = Conn::open(house.plain);
            conn.send(request).unwrap();
            let reply = conn.reply(false).unwrap();
            assert_eq!(reply.status, 405, "{reply:?}");
            assert!(reply.header("allow").is_some_and(|allow| allow.contains("GET")), "{reply:?}");
        }
        h2c::runtime().block_on(async {
            let conn = h2c::H2c::open(house.plain).await;
            assert_eq!(conn.ask("TRACE", "echo.localhost", "/", b"").await.unwrap().0, 405);
            assert_eq!(conn.connect("echo.localhost:443").await.unwrap(), 405);
            assert_eq!(conn.ask("GET", "echo.localhost", "/", b"").await.unwrap().0, 200);
        });
        assert_eq!(house.origin.seen().len(), 1);
    });
}

/// Asks as a program and as a person; both answers are as they should be and carry their request's id.
#[track_caller]
fn refused(house: &House, host: &str, path: &str, status: u16, reason: &str) -> Reply {
    let program = get(house.plain, host, path, &[("Accept", "*/*")]);
    assert_eq!(program.status, status, "{program:?}");
    assert_eq!(program.header("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_slice(&program.body).unwrap();
    assert_eq!((&problem["status"], &problem["reason"]), (&status.into(), &reason.into()), "{problem}");
    let id = program.header("x-request-id").unwrap();
    assert_eq!(problem["request_id"], id);

    let person = get(house.plain, host, path, &[("Accept", "text/html,*/*;q=0.8")]);
    assert_eq!(person.status, status);
    assert_eq!(person.header("content-type"), Some("text/html; charset=utf-8"));
    let id = person.header("x-request-id").unwrap();
    assert!(person.text().contains(id), "{}", person.text());
    assert_eq!(person.header("retry-after").is_some(), status == 503, "{person:?}");
    assert_eq!(person.header("cache-control"), Some("no-store"));

    // Answers to HEAD have no body, and the connection goes on.
    let mut conn = Conn::open(house.plain);
    for _ in 0..2 {
        let head = conn.request("HEAD", host, path, &[], b"").unwrap();
        assert_eq!((head.status, head.body.len()), (status, 0));
    }
    program
}

#[test]
fn whatever_is_refused_is_explained_to_people_and_to_programs() {
    let short = Duration::from_millis(200);
    let setup = || Setup { settings: Settings { response_timeout: short, ..Settings::default() }, ..Setup::default() };
    both(setup, |house| {
        refused(house, "nobody.localhost", "/", 404, "no_such_app");
        refused(house, "example.org", "/", 404, "not_ours");
        // The edge's own deadline, then, where that is far away, the agent's.
        refused(house, "echo.localhost", "/hold", 504, "response_timeout");
        let routes = house.build_table(house.contents(vec![placed("echo", 0, 1)]));
        house.publish_with(Arc::new(routes), &Settings::default(), &[HostState::Up]);
        house.agents[0].set(steady_agent::gate::App { response_timeout: short / 4, ..house.ready("echo", 1) });
        refused(house, "echo.localhost", "/hold", 504, "response_timeout");
        let full = |process| steady_agent::gate::App { queue_max: 0, ..app("echo", Role::Owner, 1, process) };
        house.agents[0].set(full(Process::Starting));
        refused(house, "echo.localhost", "/", 503, "queue_full");
        house.agents[0].set(full(Process::Failed { reason: "no".into() }));
        refused(house, "echo.localhost", "/", 502, "app_failed");
        house.agents[0].stop();
        refused(house, "echo.localhost", "/", 502, "connect_failed");
        let routes = house.build_table(house.contents(vec![placed("echo", 0, 1)]));
        house.publish_with(Arc::new(routes), &Settings::default(), &[HostState::Down]);
        refused(house, "echo.localhost", "/", 502, "host_down");
    });
}
