//! Parts are killed with -9 while the system serves.

mod support;

use std::time::{Duration, Instant};

use support::http::Conn;
use support::up::{Up, alive, processes_of, signal};
use support::{eventually, folder_like, repository};

/// What the issue promises for the edge; it is a promise about time, so it is looked at only where time means something.
const EDGE_BACK: Duration = Duration::from_secs(1);

fn fixture_pid(up: &Up) -> u32 {
    let text = up.get("fixture", "/").text();
    text.split_whitespace().last().and_then(|pid| pid.parse().ok()).unwrap_or_else(|| panic!("no pid in {text:?}"))
}

#[test]
fn each_part_that_is_killed_comes_back_and_nothing_is_left_behind() {
    let up = Up::start(&[]);
    up.deploy(&repository("tests/apps/fixture"), "fixture", "h1");
    an_application_comes_back(&up);
    an_agent_comes_back_without_a_second_copy(&up);
    the_edge_comes_back_from_its_table(&up);
    assert_eq!(up.stop(), 0);
}

fn an_application_comes_back(up: &Up) {
    let pid = fixture_pid(up);
    let mut conn = Conn::open(up.addr("http"));
    conn.send(b"GET /slow?ms=100000 HTTP/1.1\r\nHost: fixture.localhost\r\n\r\n").unwrap();
    eventually("the request is in flight", || up.run(&["logs", "fixture"]).contains("slow begins").then_some(()));
    signal(pid, "KILL");
    assert_eq!(conn.reply(false).unwrap().status, 502, "a request in flight");
    // Until the agent has noticed, a request can still meet the dead process, and nobody can know how far it came: 502. From then on
    // requests wait for the new process, however long the back-off is; nothing else is ever answered.
    eventually("the application answers again", || {
        let status = up.get("fixture", "/").status;
        assert!(status == 200 || status == 502, "{status}");
        (status == 200).then_some(())
    });
    let next = fixture_pid(up);
    assert_ne!(next, pid);
    assert!(!alive(pid));
}

fn an_agent_comes_back_without_a_second_copy(up: &Up) {
    let (agent, app) = (up.agent_pid("h1"), fixture_pid(up));
    signal(agent, "KILL");
    eventually("the agent is back under another number", || (up.agent_pid("h1") != agent).then_some(()));
    eventually("the application answers again", || (up.get("fixture", "/").status == 200).then_some(()));
    let now = fixture_pid(up);
    let copies: Vec<String> = processes_of(&up.dir())
        .into_iter()
        .filter(|line| line.contains("server.py") && !line.contains("clock"))
        .collect();
    assert!(now == app || !alive(app), "the old copy ({app}) still lives beside {now}: {copies:?}");
    assert!(!alive(agent));
    // A host that was never touched serves all the while and after.
    assert_eq!(up.get("clock", "/").status, 200);
}

fn the_edge_comes_back_from_its_table(up: &Up) {
    let (edge, http) = (up.edge_pid(), up.addr("http"));
    let began = Instant::now();
    signal(edge, "KILL");
    eventually("an answer from the new edge", || {
        let reply =
            Conn::try_open(http).and_then(|mut conn| conn.request("GET", "clock.localhost", "/", &[], b"")).ok()?;
        (reply.status == 200).then_some(())
    });
    let took = began.elapsed();
    eventually("up.json names the new edge", || (up.edge_pid() != edge).then_some(()));
    assert_eq!(up.addr("http"), http, "the same port");
    assert_eq!(up.get("fixture", "/").status, 200);
    println!("the edge answered again after {took:?}");
    if support::long() {
        assert!(took < EDGE_BACK, "the edge took {took:?}");
    }
}

#[test]
fn an_application_that_cannot_start_is_reported_and_its_neighbours_serve() {
    let up = Up::start(&["--hosts", "1"]);
    let broken = folder_like("tests/apps/fixture", &[("steady.toml", "command = [\"/no/such/program\"]\n")]);
    let output = up.steady(&["deploy", broken.path().to_str().unwrap(), "--name", "broken"]);
    assert_eq!(output.status.code(), Some(1), "{}", support::text(&output));
    assert_eq!(up.get("broken", "/").status, 404, "an application that never ran is not there");
    assert_eq!(up.get("clock", "/").status, 200);
    assert_eq!(up.stop(), 0);
}
