//! The data path alone, on real sockets: an edge's workers, an agent's workers and an origin, without their control sides.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use steady_agent::gate::{App, Apps, Generation, Plane as _, Process, Protocol, Role};
use steady_lb::snapshot::{HostState, Plane as _, Settings, Snapshot};
use steady_proxy::{Blueprint, Config, Fleet, Limits, Listener};
use steady_table::{AppName, Contents, DomainName, Endpoint, Host, HostIndex, TableDir};

/// An origin in the plainest HTTP/1.1: it echoes the method, the path, some fields and the body.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || serve(stream));
        }
    });
    addr
}

fn serve(stream: TcpStream) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let lower = head.to_ascii_lowercase();
        let mut body = Vec::new();
        if let Some(at) = lower.find("content-length: ") {
            let length: usize = lower[at + 16..].lines().next()?.parse().ok()?;
            body.resize(length, 0);
            reader.read_exact(&mut body).ok()?;
        } else if lower.contains("transfer-encoding: chunked") {
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let size = usize::from_str_radix(line.trim(), 16).ok()?;
                let start = body.len();
                body.resize(start + size, 0);
                reader.read_exact(&mut body[start..]).ok()?;
                let mut end = [0; 2];
                reader.read_exact(&mut end).ok()?;
                if size == 0 {
                    break;
                }
            }
        }
        let is_head = head.starts_with("HEAD ");
        let mut answer = format!("{}|{}", head.lines().next()?, body.len()).into_bytes();
        answer.extend(body.iter().rev());
        write!(writer, "HTTP/1.1 200 OK\r\nx-saw: {}\r\ncontent-length: {}\r\n\r\n", lower.len(), answer.len()).ok()?;
        if !is_head {
            writer.write_all(&answer).ok()?;
        }
    }
}

struct House {
    edge: SocketAddr,
    agent: Arc<steady_agent::data::DataPlane>,
    lb: Option<steady_lb::data::DataPlane>,
    agent_fleet: Option<Fleet>,
    _dir: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        self.lb.take().unwrap().stop();
        self.agent.stop();
        self.agent_fleet.take().unwrap().join().unwrap();
    }
}

fn blueprint(socket: std::os::fd::OwnedFd, uring: bool, limits: steady_http::Limits) -> Blueprint {
    Blueprint {
        uring,
        ring: steady_ring::Config::default(),
        worker: Config {
            listeners: vec![Listener { tls: false, proxy_protocol: false, limits }],
            limits: Limits::default(),
            upstream_limits: steady_http::Limits::default(),
        },
        sockets: vec![socket],
        pin: false,
    }
}

fn listen() -> (std::os::fd::OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    (listener.into(), addr)
}

fn house(uring: bool) -> House {
    let origin = origin();
    let (agent_socket, agent_addr) = listen();
    let agent = Arc::new(steady_agent::data::DataPlane::new(1));
    let (notices, _keep) = tokio::sync::mpsc::channel(16);
    let app = App {
        name: "echo".into(),
        role: Role::Owner,
        generation: Generation(1),
        process: Process::Ready { addr: origin.into(), protocol: Protocol::Http1, instance: 7 },
        queue_max: 100,
        queue_wait: Duration::from_secs(5),
        response_timeout: Duration::from_secs(5),
    };
    agent.publish(Arc::new(Apps { apps: HashMap::from([(Arc::clone(&app.name), Arc::new(app))]) }));
    let agent_fleet = agent
        .start(blueprint(agent_socket, uring, steady_http::Limits::default()), notices, Default::default(), None)
        .unwrap();

    let dir = tempfile::tempdir().unwrap();
    let (mut table, _, _) = TableDir::open(dir.path()).unwrap();
    let contents = Contents {
        hosts: vec![Host::new("h1", &agent_addr.to_string()).unwrap()],
        domains: vec![DomainName::new("localhost").unwrap()],
        apps: vec![steady_table::App {
            name: AppName::new("echo").unwrap(),
            generation: 1,
            exclusive: false,
            version: 1,
            endpoints: vec![Endpoint { host: HostIndex(0), weight: 1, version: 1 }],
            moving: None,
        }],
        customs: vec![],
    };
    let routes = Arc::new(table.replace(contents, 1).unwrap());
    let (edge_socket, edge) = listen();
    let limits = steady_http::Limits { stream_window: 96 * 1024, ..steady_http::Limits::default() };
    let lb = steady_lb::data::DataPlane::new(1, blueprint(edge_socket, uring, limits), None);
    let settings = Settings::default();
    lb.publish(Arc::new(Snapshot { routes, hosts: vec![HostState::Up], certs: Default::default(), settings }));
    House { edge, agent, lb: Some(lb), agent_fleet: Some(agent_fleet), _dir: dir }
}

/// One request over a connection of its own; the whole answer.
fn ask(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn both(test: impl Fn(&House)) {
    for uring in [true, false] {
        test(&house(uring));
    }
}

#[test]
fn a_request_crosses_edge_and_agent_to_the_application_and_back() {
    both(|house| {
        let answer = ask(house.edge, b"GET /a?b HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("GET /a?b HTTP/1.1|0"), "{answer}");
        assert!(answer.contains("x-request-id: "), "{answer}");
        assert!(!answer.contains("steady-"), "{answer}");
    });
}

#[test]
fn an_unknown_name_is_told_so_in_the_form_that_was_asked_for() {
    both(|house| {
        let answer = ask(house.edge, b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        let answer = ask(
            house.edge,
            b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\nAccept: text/html\r\nConnection: close\r\n\r\n",
        );
        assert!(answer.contains("<!doctype html>"), "{answer}");
    });
}

#[test]
fn a_body_larger_than_every_window_arrives_whole() {
    both(|house| {
        let body: Vec<u8> = (0..3_000_000u32).map(|at| b'a' + (at % 23) as u8).collect();
        let mut request = format!(
            "POST /up HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(&body);
        let answer = ask(house.edge, &request);
        let mut expected = format!("POST /up HTTP/1.1|{}", body.len());
        expected.extend(body.iter().rev().map(|&byte| byte as char));
        assert!(answer.ends_with(&expected), "{} octets", answer.len());
    });
}

#[test]
fn a_chunked_body_arrives_whole() {
    both(|house| {
        let answer = ask(
            house.edge,
            b"POST /c HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
              3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        );
        assert!(answer.ends_with("POST /c HTTP/1.1|5edcba"), "{answer}");
    });
}

#[test]
fn requests_of_one_connection_are_answered_in_order() {
    both(|house| {
        let mut request = Vec::new();
        for at in 0..50 {
            let close = if at == 49 { "Connection: close\r\n" } else { "" };
            request.extend(format!("GET /{at} HTTP/1.1\r\nHost: echo.localhost\r\n{close}\r\n").bytes());
        }
        let answer = ask(house.edge, &request);
        let seen: Vec<_> = answer.match_indices("GET /").map(|(at, _)| &answer[at + 5..]).collect();
        assert_eq!(seen.len(), 50);
        for (at, text) in seen.iter().enumerate() {
            assert!(text.starts_with(&format!("{at} ")), "{at}: {text}");
        }
    });
}
