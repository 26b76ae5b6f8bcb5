//! Peers that others wrote, on both sides of a running edge and agent: each client asks each application for everything that is
//! listed here, over HTTP/1.1 and HTTP/2, in the clear and over TLS.
//!
//! | path of an application | what it answers |
//! |---|---|
//! | `/facts` | JSON: method, target, fields, the body's length and SHA-256, trailers |
//! | `/big?N` | N octets of a pattern, with a length; HEAD too |
//! | `/summed?N` | the same without a length, and their SHA-256 in the trailer `x-sum` |
//! | `/hints` | two 103, then 200 |
//! | `/status?N` | that status, no body |
//! | `/fields?N` | N fields of 200 octets |
//! | `/ws` | a WebSocket that sends back what it hears |

#[path = "../house/mod.rs"]
mod house;
#[path = "../support/mod.rs"]
mod support;

mod rust;
mod tools;

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use house::{House, Setup, app, placed};
use steady_agent::gate::{Process, Protocol, Role};
use support::{on_path, repository, shout, text};

/// An application that runs until this is dropped.
struct Running(Child, SocketAddr);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// One that prints its port.
    fn start(mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = steady_sys::process::lead_session_and_die_with_parent(&mut command).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port: u16 = line.trim().parse().unwrap_or_else(|_| panic!("{command:?} said {line:?}"));
        Running(child, SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

/// An edge, an agent, and every application that can run here.
struct Town {
    house: House,
    names: Vec<&'static str>,
    _running: Vec<Running>,
}

impl Town {
    fn build(uring: bool) -> Town {
        let house = House::build(Setup { uring, certs: vec![vec!["*.steady.page"]], ..Setup::default() });
        let mut running = Vec::new();
        let mut apps = vec![
            ("hyper1", Protocol::Http1, rust::serve(Protocol::Http1)),
            ("hyper2", Protocol::H2c, rust::serve(Protocol::H2c)),
        ];
        let mut start = |name, protocol, mut command: Command, which: &str| {
            command.arg(which);
            let one = Running::start(command);
            apps.push((name, protocol, one.1));
            running.push(one);
        };
        if let Some(python) = tools::python() {
            let command = || tools::script(&python, "server.py");
            start("h11", Protocol::Http1, command(), "h11");
            start("python-h2", Protocol::H2c, command(), "h2");
        }
        if let Some(node) = tools::node() {
            let command = || tools::script(&node, "server.mjs");
            start("node1", Protocol::Http1, command(), "http");
            start("node2", Protocol::H2c, command(), "http2");
        }
        for (&(name, protocol, addr), instance) in apps.iter().zip(1..) {
            let process = Process::Ready { addr: addr.into(), protocol, instance };
            house.agents[0].set(app(name, Role::Owner, 1, process));
        }
        house.route(apps.iter().map(|&(name, ..)| placed(name, 0, 1)).collect());
        Town { house, names: apps.iter().map(|&(name, ..)| name).collect(), _running: running }
    }

    /// Runs a client against all of them; its last word is `ok`.
    #[track_caller]
    fn visited_by(&self, mut command: Command) {
        command.args([self.house.plain, self.house.tls].map(|addr| addr.port().to_string()));
        command.arg(self.house.dir.path().join("ca.pem")).args(&self.names);
        let output = command.output().unwrap();
        assert!(output.status.success() && text(&output).ends_with("ok\n"), "{command:?}: {}", text(&output));
    }
}

/// On io_uring, or where STEADY_TEST_IO says epoll on that: everything that CI runs it runs on both.
fn in_town(test: impl Fn(&Town)) {
    let epoll = std::env::var_os("STEADY_TEST_IO").is_some_and(|value| value == "epoll");
    test(&Town::build(!epoll));
}

#[test]
fn python_s_h11_h2_and_wsproto_get_all_of_every_application() {
    let Some(python) = tools::python() else { return };
    in_town(|town| town.visited_by(tools::script(&python, "client.py")));
}

#[test]
fn node_s_clients_get_all_of_every_application() {
    let Some(node) = tools::node() else { return };
    in_town(|town| town.visited_by(tools::script(&node, "client.mjs")));
}

#[test]
fn hyper_gets_all_of_every_application() {
    in_town(|town| {
        for name in &town.names {
            rust::visit(town.house.plain, name);
        }
    });
}

#[test]
fn curl_and_nghttp_get_what_they_ask_for_of_every_application() {
    in_town(tools::curl_and_nghttp);
}
