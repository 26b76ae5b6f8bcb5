//! `steady up` itself: beginning, ending, being killed, being started twice.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use support::up::{Up, alive, processes_of, signal};
use support::{bun, eventually, folder_like, repository, steady, text};

#[test]
fn a_second_up_on_the_directory_says_who_holds_it_and_disturbs_nothing() {
    let up = Up::start(&["--hosts", "1"]);
    let output = steady().arg("up").arg("--dir").arg(up.dir()).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains(&format!("process {}", up.pid())), "{}", text(&output));
    assert_eq!(up.get("clock", "/").status, 200);
    eventually("it says all that it has to say", || up.output().contains("Ctrl-C stops everything").then_some(()));
    for hint in ["curl http://", " deploy ", " logs "] {
        assert!(up.output().contains(hint), "no {hint:?} in {}", up.output());
    }
    signal(up.pid(), "INT");
    eventually("`up` ends on an interrupt", || (!alive(up.pid())).then_some(()));
    assert_eq!(up.stop(), 0);
}

#[test]
fn the_store_of_an_edge_that_was_stopped_is_one_whole_file() {
    let up = Up::start(&["--hosts", "1"]);
    let store = up.dir().join("lb/store.db");
    assert!(store.with_extension("db-wal").exists());
    signal(up.pid(), "INT");
    eventually("`up` ends on an interrupt", || (!alive(up.pid())).then_some(()));
    assert!(!store.with_extension("db-wal").exists(), "who copies the file alone has next to nothing");
    assert!(fs::metadata(&store).unwrap().len() > 16 << 10);
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
    fs::remove_dir_all(base).unwrap();
}

#[test]
fn a_daemon_that_ends_while_nothing_can_be_written_down_is_started_again_all_the_same() {
    let up = Up::start(&["--hosts", "1"]);
    // Where both files are written aside first: as little can be made there as on a full disk.
    let aside = ["children.json.new", "up.json.new"].map(|name| up.dir().join(name));
    aside.iter().for_each(|aside| fs::create_dir(aside).unwrap());
    let killed = up.edge_pid();
    signal(killed, "KILL");
    eventually("the edge is back", || {
        assert!(alive(up.pid()), "`up` ended with it:\n{}", up.output());
        up.output().contains("is back").then_some(())
    });
    assert_eq!(up.get("clock", "/").status, 200);
    aside.iter().for_each(|aside| fs::remove_dir(aside).unwrap());
    eventually("what runs is written down", || (up.edge_pid() != killed).then_some(()));
    assert!(alive(up.edge_pid()));
    assert_eq!(up.stop(), 0);
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

/// PATH without Bun, and with an `npm` in front that "fetches" the one that the tests use, once `gate` exists.
fn path_without_bun(tools: &Path, gate: &Path, bun: &Path) -> String {
    let npm = format!(
        "#!/bin/sh\nwhile [ ! -e '{}' ]; do sleep 0.02; done\n\
         while [ \"$1\" != --prefix ]; do shift; done\n\
         mkdir -p \"$2/node_modules/.bin\" && ln -s '{}/bun' \"$2/node_modules/.bin/bun\"\n",
        gate.display(),
        bun.canonicalize().unwrap().display()
    );
    fs::write(tools.join("npm"), npm).unwrap();
    fs::set_permissions(tools.join("npm"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    let others = path.split(':').filter(|folder| !Path::new(folder).join("bun").exists());
    std::iter::once(tools.to_str().unwrap()).chain(others).collect::<Vec<_>>().join(":")
}

/// The state of an application before `up.json` is there.
fn state_of(up: &Up, name: &str) -> Option<String> {
    let ready: Value = serde_json::from_slice(&fs::read(up.dir().join("lb/ready.json")).ok()?).ok()?;
    let mut command = steady();
    command.args(["apps", "--json", "--address", ready["private"].as_str()?, "--token-file"]);
    let output = command.arg(up.dir().join("lb/token")).output().unwrap();
    let apps: Value = serde_json::from_slice(&output.stdout).ok()?;
    let app = apps["apps"].as_array()?.iter().find(|app| app["name"] == name)?;
    Some(app["state"].as_str()?.to_owned())
}

#[test]
fn when_bun_has_left_path_what_ran_on_it_starts_as_soon_as_npm_has_fetched_it() {
    let Some(bun) = bun() else { return };
    let first = Up::start(&[]);
    let mine = folder_like("examples/hello", &[("steady.toml", "")]);
    first.deploy(mine.path(), "mine", "h2");
    let base = first.pause();
    let tools = tempfile::tempdir().unwrap();
    let gate = tools.path().join("gate");
    let path = path_without_bun(tools.path(), &gate, bun);
    let second = Up::launch_on_path(base, &[], &path);
    eventually("both have failed", || {
        let failed = |name| state_of(&second, name).as_deref() == Some("failed");
        (failed("hello") && failed("mine")).then_some(())
    });
    fs::write(&gate, "").unwrap();
    second.wait_ready();
    assert!(second.get("hello", "/").text().starts_with("Hello from hello"), "{}", second.output());
    assert_eq!(second.get("mine", "/").status, 200, "{}", second.output());
    assert_eq!(second.stop(), 0);
}

#[test]
fn up_never_says_that_something_runs_that_does_not_answer() {
    let first = Up::start(&["--hosts", "1"]);
    // What it needs is outside of its bundle, so that a good deployment is broken at the next start.
    let outside = tempfile::tempdir().unwrap();
    let switch = outside.path().join("switch");
    fs::write(&switch, "").unwrap();
    let toml = format!("command = [\"sh\", \"-c\", \"test -e {} && exec python3 server.py\"]\n", switch.display());
    let folder = folder_like("tests/apps/fixture", &[("steady.toml", &toml)]);
    first.deploy(folder.path(), "broken", "h1");
    let base = first.pause();
    fs::remove_file(switch).unwrap();
    let second = Up::launch_in(base, &["--hosts", "1"]);
    second.wait_ready();
    let said = second.output();
    let line = said.lines().find(|line| line.contains("broken")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains('✗') && line.contains("does not answer"), "{said}");
    let line = said.lines().find(|line| line.contains(" clock ")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.contains('✓'), "{said}");
    assert_eq!(second.stop(), 0);
}
