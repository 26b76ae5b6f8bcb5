//! `steady up` itself: beginning, ending, being killed, being started twice.

mod support;

use std::time::Instant;

use support::up::{Up, alive, processes_of, signal};
use support::{eventually, repository, steady, text};

#[test]
fn a_second_up_on_the_directory_says_who_holds_it_and_disturbs_nothing() {
    let up = Up::start(&["--hosts", "1"]);
    let output = steady().arg("up").arg("--dir").arg(up.dir()).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains(&format!("process {}", up.pid())), "{}", text(&output));
    assert_eq!(up.get("clock", "/").status, 200);
    assert!(up.output().contains("Ctrl-C stops everything"), "{}", up.output());
    for hint in ["curl http://", " deploy ", " logs "] {
        assert!(up.output().contains(hint), "no {hint:?} in {}", up.output());
    }
    signal(up.pid(), "INT");
    eventually("`up` ends on an interrupt", || (!alive(up.pid())).then_some(()));
    assert_eq!(up.stop(), 0);
}

#[test]
fn what_a_killed_up_leaves_is_ended_by_the_next_which_finds_its_applications_again() {
    let first = Up::start(&[]);
    first.deploy(&repository("tests/apps/fixture"), "fixture", "h2");
    let (edge, agent) = (first.edge_pid(), first.agent_pid("h1"));
    // Stopped, they follow their parent late at best. Whether they are still there or not, the next `up` must not meet them.
    signal(edge, "STOP");
    signal(agent, "STOP");
    let base = first.kill();
    let second = Up::launch_in(base, &[]);
    eventually("the second is ready", || {
        assert!(alive(second.pid()), "{}", second.output());
        second.output().contains("Ctrl-C").then_some(())
    });
    assert!(!alive(edge) && !alive(agent));
    assert!(second.get("fixture", "/").text().starts_with("fixture h2"));
    assert_eq!(second.stop(), 0);
}

#[test]
fn when_up_is_killed_everything_that_it_started_ends() {
    let up = Up::start(&[]);
    let dir = up.dir();
    assert!(processes_of(&dir).len() >= 4, "edge, two hosts, applications: {:?}", processes_of(&dir));
    let base = up.kill();
    let began = Instant::now();
    eventually("everything ends by itself", || processes_of(&dir).is_empty().then_some(()));
    println!("all gone after {:?}", began.elapsed());
    std::fs::remove_dir_all(base).unwrap();
}

#[test]
fn stopping_while_it_starts_leaves_nothing() {
    let up = Up::launch(&[]);
    eventually("a host is started", || up.dir().join("children.json").exists().then_some(()));
    assert_eq!(up.stop(), 0);
}

#[test]
fn an_address_in_use_ends_up_with_a_hint() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let output = steady()
        .args(["up", "--https", "127.0.0.1:0", "--private", "127.0.0.1:0", "--http"])
        .arg(taken.local_addr().unwrap().to_string())
        .arg("--dir")
        .arg(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("--http 127.0.0.1:0"), "{}", text(&output));
    assert_eq!(processes_of(dir.path()), Vec::<String>::new());
}
