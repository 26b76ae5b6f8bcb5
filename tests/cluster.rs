//! Edges and hosts as members of one cluster: what `steady up` does unless told otherwise, against real processes.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use support::http::Conn;
use support::site::{Choice, Site};
use support::up::Up;
use support::{eventually, steady, text};

/// curl's exit code and what it got, from a host's data port.
fn ask(up: &Up, host: &str, arguments: &[&str]) -> (i32, String) {
    let json = up.json();
    let hosts = json["hosts"].as_array().unwrap();
    let addr = hosts.iter().find(|it| it["name"] == host).unwrap()["addr"].as_str().unwrap().to_owned();
    let scheme = if arguments.contains(&"-k") { "https" } else { "http" };
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--noproxy", "*", "-H", "steady-app: clock", "-w", "%{http_code}"])
        .args(arguments)
        .arg(format!("{scheme}://{addr}/"))
        .output()
        .unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a host's agent answers.
fn control(up: &Up, host: &str) -> String {
    let hosts: serde_json::Value = serde_json::from_str(&up.run(&["hosts", "--json"])).unwrap();
    let hosts = hosts["hosts"].as_array().unwrap().clone();
    hosts.iter().find(|it| it["name"] == host).unwrap()["control"].as_str().unwrap().to_owned()
}

fn readiness(control: &str) -> (u16, String) {
    let reply = Conn::open(control.parse().unwrap()).request("GET", "agent", "/readyz", &[], b"").unwrap();
    (reply.status, reply.text())
}

fn agent_metric(up: &Up, host: &str, name: &str) -> u64 {
    let control = control(up, host).parse().unwrap();
    let text = Conn::open(control).request("GET", "agent", "/metrics", &[], b"").unwrap().text();
    let found = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    found.map(|value| value.parse::<f64>().unwrap() as u64).sum()
}

#[test]
fn hosts_of_a_system_join_it_and_nobody_else_gets_through_to_them() {
    let up = Up::start(&["--workers", "1"]);
    assert_eq!(up.get("clock", "/").status, 200);
    assert!(up.dir().join("h1/identity.json").exists());
    assert!(!up.dir().join("join-token").exists(), "the token has done its work");
    let cases: [&[&str]; 4] = [
        // In the clear, in either version.
        &[],
        &["--http2-prior-knowledge"],
        // TLS without a certificate.
        &["-k"],
        &["-k", "--http2"],
    ];
    for case in cases {
        let (code, said) = ask(&up, "h2", case);
        assert_ne!(code, 0, "{case:?}");
        assert_eq!(said, "000", "{case:?}: not an octet of HTTP");
    }
    assert_eq!(readiness(&control(&up, "h2")), (200, "ready\n".to_owned()));
    assert_eq!(agent_metric(&up, "h2", "steady_agent_client_certificates_refused_total"), 2);
    assert_eq!(up.get("clock", "/").status, 200);
    // The certificate stays: a second start needs no token.
    let identity = fs::read(up.dir().join("h1/identity.json")).unwrap();
    let base = up.kill();
    let up = Up::launch_in(base, &["--workers", "1"]);
    eventually("it serves again", || up.dir().join("up.json").exists().then_some(()));
    eventually("the new one is ready", || up.output().contains("curl").then_some(()));
    assert_eq!(up.get("clock", "/").status, 200);
    assert_eq!(fs::read(up.dir().join("h1/identity.json")).unwrap(), identity);
}

#[test]
fn a_host_that_no_edge_has_let_in_is_not_ready_and_says_so() {
    let mut site = Site::without_edge();
    // Nobody listens on port 1, and there is no token.
    site.add_host_with("[join]\nedges = [\"127.0.0.1:1\"]\n");
    let at = |host: &str| readiness(site.host_ready(host)["control"].as_str().unwrap());
    assert_eq!(at("h1").0, 200, "it joins no cluster");
    let (status, why) = at("h2");
    assert_eq!(status, 503);
    assert!(why.contains("has not joined"), "{why}");
}

#[test]
fn an_operator_makes_lists_and_revokes_join_tokens() {
    let up = Up::start(&["--hosts", "1", "--workers", "1"]);
    let token = up.run(&["join-token", "--host", "h7", "--ttl", "10m"]);
    assert!(token.starts_with("steady-join.v1."), "{token}");
    let listed = up.run(&["join-token", "--list"]);
    assert!(listed.contains("h7") && !listed.contains(token.trim().rsplit('.').next().unwrap()), "{listed}");
    let listed: serde_json::Value = serde_json::from_str(&up.run(&["join-token", "--list", "--json"])).unwrap();
    let of_h7 = listed["tokens"].as_array().unwrap().iter().find(|it| it["host"] == "h7").unwrap().clone();
    up.run(&["join-token", "--revoke", of_h7["id"].as_str().unwrap()]);
    assert!(!up.run(&["join-token", "--list"]).contains("h7"));
    let wrong = steady().args(["join-token", "--ttl", "soon"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn hosts_in_the_clear_are_there_for_the_asking() {
    let up = Up::start(&["--hosts", "1", "--workers", "1", "--plain-hosts"]);
    assert_eq!(up.get("clock", "/").status, 200);
    assert!(!up.dir().join("h1/identity.json").exists());
    let (code, status) = ask(&up, "h1", &["--http2-prior-knowledge"]);
    assert_eq!(code, 0);
    assert!(status.ends_with("200"), "{status}");
}

#[test]
fn an_edge_elsewhere_is_reached_over_tls_by_its_authority_and_never_in_the_clear() {
    let site = Site::start(&Choice::of("auto"));
    let address = site.private().to_string();
    let elsewhere = tempfile::tempdir().unwrap();
    let ca = elsewhere.path().join("ca.pem");
    fs::copy(site.dir().join("cluster/ca.pem"), &ca).unwrap();
    let run_at = |address: &str, arguments: &[&str], trust: &[&Path]| -> Output {
        let mut command = steady();
        command.args(arguments).args(["--address", address, "--token-file"]).arg(site.dir().join("token"));
        command.args(trust.iter().flat_map(|ca| [Path::new("--ca"), ca])).output().unwrap()
    };
    let run = |arguments: &[&str], trust: &[&Path]| run_at(&address, arguments, trust);
    let succeeds = |output: Output| {
        assert!(output.status.success(), "{}\n{}", text(&output), site.log());
        String::from_utf8(output.stdout).unwrap()
    };
    let fails = |output: Output, code: i32, word: &str| {
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(word), "no {word:?} in: {said}");
    };
    assert!(succeeds(run(&["hosts"], &[&ca])).contains("h1"));
    assert!(succeeds(run(&["join-token"], &[&ca])).starts_with("steady-join.v1."));
    // As Prometheus asks, by a name that has no address.
    let port = site.private().port();
    let name = format!("edge.steady.internal:{port}");
    let metrics = || {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--max-time", "20", "--noproxy", "*", "--cacert"]).arg(&ca).arg("--connect-to");
        succeeds(curl.arg(format!("{name}:{address}")).arg(format!("https://{name}/metrics")).output().unwrap())
    };
    assert!(metrics().contains("\nsteady_lb_private_refused_total 0\n"));
    // On its own machine its directory says everything.
    assert!(succeeds(steady().arg("hosts").arg("--dir").arg(site.dir()).output().unwrap()).contains("h1"));
    // An address that nobody has: it would be waited for if anything were sent.
    fails(run_at("192.0.2.1:9", &["hosts"], &[]), 2, "--ca FILE");
    let other = rcgen::generate_simple_self_signed(vec!["edge.steady.internal".to_owned()]).unwrap();
    fs::write(&ca, other.cert.pem()).unwrap();
    fails(run(&["hosts"], &[&ca]), 4, "not an edge of this cluster");
    fails(steady().arg("hosts").current_dir(&elsewhere).output().unwrap(), 4, "On an edge's machine");
}
