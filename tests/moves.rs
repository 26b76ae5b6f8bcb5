//! Applications move between hosts under load: every request is answered with 200, and what it did was done exactly once.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use support::load::{Load, Outcome};
use support::up::Up;
use support::{eventually, folder_like, long};

/// Back and forth; `.ci/long` runs the number that the project promises.
fn moves() -> usize {
    if long() { 200 } else { 20 }
}

const CLIENTS: usize = 8;
/// Requests that must have been answered between two moves, so that each move meets a system that works.
const BETWEEN: usize = 20;

/// Moves `name` back and forth while clients POST ids that it appends to `ids`.
fn move_under_load(up: &Up, name: &str, ids: &Path) {
    let load = Load::start(up.addr("http"), &format!("{name}.localhost"), CLIENTS);
    for turn in 0..moves() {
        let seen = load.answered();
        eventually("requests are answered between moves", || (load.answered() >= seen + BETWEEN).then_some(()));
        let to = if turn % 2 == 0 { "h2" } else { "h1" };
        up.run(&["move", name, "--to", to]);
        assert_eq!(up.app(name)["hosts"], serde_json::json!([to]), "move {turn}");
    }
    let seen = load.answered();
    eventually("requests are answered after the last move", || (load.answered() >= seen + BETWEEN).then_some(()));
    check(&load.stop(), ids);
}

/// Every id once, and no other.
fn check(outcome: &Outcome, ids: &Path) {
    assert_eq!(outcome.wrong, Vec::<String>::new(), "answers that are not 200");
    let file = fs::read_to_string(ids).unwrap();
    let written: Vec<&str> = file.lines().collect();
    let distinct: HashSet<&str> = written.iter().copied().collect();
    assert_eq!(distinct.len(), written.len(), "an id was written twice");
    let answered: HashSet<&str> = outcome.answered.iter().map(String::as_str).collect();
    assert_eq!(distinct, answered, "the file has every id that was answered, and only those");
}

fn counter(exclusive: bool, ids: &Path) -> tempfile::TempDir {
    let toml = format!(
        "exclusive = {exclusive}\ncommand = [\"python3\", \"-u\", \"server.py\"]\n[env]\nCOUNTER_FILE = {:?}\n",
        ids.to_str().unwrap()
    );
    folder_like("examples/counter", &[("steady.toml", &toml)])
}

#[test]
fn moving_back_and_forth_under_load_answers_every_request_and_runs_none_twice() {
    let up = Up::start(&[]);
    let files = tempfile::tempdir().unwrap();
    for (name, exclusive) in [("owner", true), ("plain", false)] {
        let ids = files.path().join(name);
        up.deploy(counter(exclusive, &ids).path(), name, "h1");
        move_under_load(&up, name, &ids);
    }
    // Both kinds at once share connections, workers and tables.
    let (owner, plain) = (files.path().join("owner-2"), files.path().join("plain-2"));
    up.deploy(counter(true, &owner).path(), "owner", "h1");
    up.deploy(counter(false, &plain).path(), "plain", "h1");
    std::thread::scope(|scope| {
        scope.spawn(|| move_under_load(&up, "owner", &owner));
        scope.spawn(|| move_under_load(&up, "plain", &plain));
    });
    assert_eq!(up.stop(), 0);
}
