//! Clients that others wrote, against a running system: load generators while applications move, languages' own libraries, a
//! browser. Each is skipped, loudly, where it is not installed; CI installs all but oha and the browser.

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use support::up::{Up, signal};
use support::{eventually, folder_like, long, on_path, repository, shout, text};

/// Requests of those that send a given number.
fn requests() -> usize {
    if long() { 100_000 } else { 1_000 }
}

fn moves() -> usize {
    if long() { 200 } else { 10 }
}

/// One system for every test of this file; it ends with the process.
fn up() -> &'static Up {
    static UP: OnceLock<Up> = OnceLock::new();
    UP.get_or_init(|| {
        let up = Up::start(&[]);
        up.deploy(&repository("tests/apps/fixture"), "fixture", "h1");
        up
    })
}

/// A program of PATH, or of the variable `STEADY_NAME`. `None`, said loudly, without either; with STEADY_REQUIRE_CLIENTS set that
/// is a failure.
fn client(name: &str) -> Option<PathBuf> {
    let found =
        std::env::var_os(format!("STEADY_{}", name.to_uppercase())).map(PathBuf::from).or_else(|| on_path(name));
    if found.is_none() {
        assert!(
            std::env::var_os("STEADY_REQUIRE_CLIENTS").is_none(),
            "STEADY_REQUIRE_CLIENTS is set, but there is no {name}"
        );
        shout(&format!("SKIPPED: what {name} sees (it is not on PATH)"));
    }
    found
}

/// Runs it to its end, which must be a good one. What it printed.
#[track_caller]
fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output));
    text(&output)
}

/// wrk on four connections until it is told to stop.
#[derive(Debug)]
struct Wrk(Option<Child>);

impl Drop for Wrk {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Wrk {
    fn start(wrk: &PathBuf, host: &str) -> Wrk {
        let mut command = Command::new(wrk);
        // A request may wait for a whole move; how long that takes is not what is tested here.
        command.args(["-t1", "-c4", "-d3600", "--timeout", "120", "-H"]).arg(format!("Host: {host}"));
        command.arg(format!("http://{}/", up().addr("http")));
        Wrk(Some(command.stdout(Stdio::piped()).spawn().unwrap()))
    }

    /// How many requests it made, all of which were answered with 200.
    fn stop(mut self) -> u64 {
        let child = self.0.take().unwrap();
        signal(child.id(), "INT");
        let output = child.wait_with_output().unwrap();
        let said = text(&output);
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        let line = said.lines().find(|line| line.contains(" requests in ")).unwrap_or_else(|| panic!("{said}"));
        line.trim().split(' ').next().unwrap().parse().unwrap()
    }
}

/// What the edge has answered so far.
fn answered() -> u64 {
    let metrics = up().curl(&[&format!("http://{}/metrics", up().addr("private"))]);
    let lines = text(&metrics);
    let counts = lines.lines().filter(|line| line.starts_with("steady_lb_responses_total{") && line.contains("2xx"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[test]
fn wrk_sees_no_error_while_what_it_asks_moves_back_and_forth() {
    let Some(wrk) = client("wrk") else { return };
    for (name, exclusive) in [("movable", false), ("owner", true)] {
        let toml = format!("command = [\"python3\", \"-u\", \"server.py\"]\nexclusive = {exclusive}\n");
        up().deploy(folder_like("tests/apps/fixture", &[("steady.toml", &toml)]).path(), name, "h1");
        let load = Wrk::start(&wrk, &format!("{name}.localhost"));
        for turn in 0..moves() {
            let before = answered();
            eventually("requests are answered between moves", || (answered() > before + 20).then_some(()));
            up().run(&["move", name, "--to", if turn % 2 == 0 { "h2" } else { "h1" }]);
        }
        println!("wrk: {} requests during {} moves of {name}", load.stop(), moves());
    }
}

#[test]
fn h2load_has_every_answer_over_tls_and_in_the_clear_while_tables_change() {
    let Some(h2load) = client("h2load") else { return };
    let https = up().addr("https");
    let secure = format!("https://fixture.steady.page:{}/", https.port());
    let plain = format!("http://fixture.localhost:{}/", up().addr("http").port());
    for (url, connect) in [(secure, https), (plain, up().addr("http"))] {
        let mut command = Command::new(&h2load);
        command.args(["-c4", "-m16", "-n"]).arg(requests().to_string());
        command.arg("--connect-to").arg(connect.to_string()).arg(url);
        let load = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        for turn in 0..4 {
            up().deploy(&repository("tests/apps/fixture"), &format!("other-{turn}"), "h2");
            up().run(&["rm", &format!("other-{turn}")]);
        }
        let said = text(&load.wait_with_output().unwrap());
        let all =
            format!("{0} total, {0} started, {0} done, {0} succeeded, 0 failed, 0 errored, 0 timeout", requests());
        assert!(said.contains(&all), "{said}");
        assert!(said.contains(&format!("{} 2xx, 0 3xx, 0 4xx, 0 5xx", requests())), "{said}");
    }
}

#[test]
fn oha_has_every_answer_in_both_versions() {
    let Some(oha) = client("oha") else { return };
    let (http, https) = (up().addr("http"), up().addr("https"));
    let ca = up().json()["ca"].as_str().unwrap().to_owned();
    let plain = format!("http://fixture.localhost:{}/", http.port());
    let secure = format!("https://fixture.steady.page:{}/", https.port());
    for (url, addr, version) in
        [(&plain, http, "1.1"), (&plain, http, "2"), (&secure, https, "1.1"), (&secure, https, "2")]
    {
        let mut command = Command::new(&oha);
        command.args(["--no-tui", "--output-format", "json", "-c4", "--http-version", version, "--cacert", &ca, "-n"]);
        command.arg(requests().to_string());
        let name = url.split(['/', ':']).nth(3).unwrap();
        command.arg("--connect-to").arg(format!("{name}:{0}:127.0.0.1:{0}", addr.port())).arg(url);
        let said = run(command);
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        assert_eq!(report["statusCodeDistribution"], serde_json::json!({"200": requests()}), "{url} {version}: {said}");
        assert_eq!(report["errorDistribution"], serde_json::json!({}), "{url} {version}: {said}");
    }
}

#[test]
fn python_s_client_keeps_one_connection_through_every_kind_of_answer() {
    let Some(python) = client("python3") else { return };
    let mut command = Command::new(python);
    command.arg(repository("tests/clients/client.py")).arg(up().addr("http").port().to_string());
    command.args(["fixture.localhost", "100"]);
    assert!(run(command).ends_with("ok\n"));
}

#[test]
fn node_s_clients_get_what_they_asked_for_in_both_versions_and_over_tls() {
    let Some(node) = client("node") else { return };
    let mut command = Command::new(node);
    command.arg(repository("tests/clients/client.mjs"));
    command.args(["http", "https"].map(|which| up().addr(which).port().to_string()));
    command.arg(up().json()["ca"].as_str().unwrap()).args(["fixture", "100"]);
    assert!(run(command).ends_with("ok\n"));
}

#[test]
fn a_browser_shows_the_sample_and_runs_its_script() {
    if support::bun().is_none() {
        return;
    }
    let Some(chromium) = client("chromium") else { return };
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(chromium);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]);
    command.args(["--disable-background-networking", "--disable-component-update", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("http://hello.localhost:{}/", up().addr("http").port()));
    let said = run(command);
    // What the script wrote, not what came in the page.
    assert!(said.contains("<dt>host</dt><dd>h1</dd>"), "{said}");
}
