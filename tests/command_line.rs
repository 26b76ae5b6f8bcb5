//! The client commands against a private API that a test plays: what they send, what they show, how they exit.

mod support;

use std::net::SocketAddr;
use std::process::Output;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use support::{steady, text};

type Seen = Arc<Mutex<Vec<(String, Bytes)>>>;

/// An edge that answers what the pages of the API say, and remembers what it was asked.
struct FakeEdge {
    addr: SocketAddr,
    seen: Seen,
    _runtime: tokio::runtime::Runtime,
}

impl FakeEdge {
    fn start() -> FakeEdge {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let seen = Seen::default();
        let router = Router::new().fallback(answer).with_state(seen.clone());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        FakeEdge { addr, seen, _runtime: runtime }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let address = self.addr.to_string();
        steady().args(arguments).args(["--address", &address, "--token", "right"]).output().unwrap()
    }

    fn asked(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }
}

async fn answer(State(seen): State<Seen>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    if parts.headers.get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer right") {
        return problem(StatusCode::UNAUTHORIZED, "Unauthorized", "send the token");
    }
    let line = format!("{} {}", parts.method, parts.uri);
    seen.lock().unwrap().push((line.clone(), body));
    match line.as_str() {
        "GET /v1/apps" => json_answer(&json!({"apps": [app("shop", "h1"), app("blog", "h2")]})),
        "GET /v1/hosts" => json_answer(&json!({"hosts": [
            {"name": "h1", "addr": "127.0.0.1:1", "control": "127.0.0.1:2", "state": "up", "apps": 2, "version": "0.1.0", "last_seen_ms": 120,
             "zone": "fra-1", "capacity": {"apps_max": 40, "cpus": 4, "memory_bytes": 16_750_000_000_u64}},
            {"name": "h2", "addr": "127.0.0.1:3", "control": null, "state": "down", "apps": 0, "version": null, "last_seen_ms": null}]})),
        "DELETE /v1/hosts/h3" => StatusCode::NO_CONTENT.into_response(),
        "DELETE /v1/hosts/h1" => {
            problem(StatusCode::CONFLICT, "h1 is not forgotten", "applications are placed there: move them first")
        }
        "GET /v1/events?limit=100&app=shop" => json_answer(&json!({"events": [
            event(7, "crashed", json!({"reason": "exit code 3", "output": "no such table\nbye"})),
            event(6, "ready", json!({}))]})),
        "GET /v1/events?limit=1" => json_answer(&json!({"events": [event(7, "crashed", json!({}))]})),
        // Somebody who follows from now on: more each time, until nobody is there.
        "GET /v1/events?after=7&limit=1000" => json_answer(&json!({"events": [event(8, "started", json!({}))]})),
        "GET /v1/events?after=8&limit=1000" => {
            json_answer(&json!({"events": [event(9, "drained", json!({"cut": 2}))]}))
        }
        "GET /v1/events?after=9&limit=1000" => problem(StatusCode::INTERNAL_SERVER_ERROR, "the end", "of this test"),
        "GET /v1/status" => {
            json_answer(&json!({"version": "0.1.0", "listeners": [{"addr": "127.0.0.1:80", "tls": false}]}))
        }
        "PUT /v1/apps/shop?host=h2" | "PUT /v1/apps/shop" => steps(&[
            json!({"step": "store", "detail": "3 KiB", "ms": 1}),
            json!({"step": "start", "host": "h2", "ms": 40}),
            json!({"done": true, "ms": 41, "app": app("shop", "h2")}),
        ]),
        "POST /v1/apps/shop/move" => steps(&[
            json!({"step": "record", "ms": 1}),
            json!({"step": "drain", "host": "h1", "detail": "3 requests to finish", "ms": 12}),
            json!({"done": true, "ms": 13, "app": app("shop", "h2")}),
        ]),
        "POST /v1/apps/stuck/move" => steps(&[
            json!({"step": "record", "ms": 1}),
            json!({"error": "the host does not answer", "step": "prepare", "detail": "h9 refused the connection"}),
        ]),
        "POST /v1/apps/cut/move" => steps(&[json!({"step": "record", "ms": 1})]),
        "POST /v1/apps/later/move" => steps(&[
            json!({"step": "record", "ms": 1}),
            json!({"error": "the edge is stopping", "step": "drain", "detail": "it is taken up again", "continues": true}),
        ]),
        "POST /v1/apps/unwritten/move" => {
            let mut body = json!({"title": "the change is stored, and not in force yet", "detail": "the disk is full"});
            body["continues"] = true.into();
            (StatusCode::SERVICE_UNAVAILABLE, body.to_string()).into_response()
        }
        "POST /v1/apps/busy/move" => problem(StatusCode::CONFLICT, "Conflict", "busy is moving already: wait for it"),
        "DELETE /v1/apps/shop" => steps(&[json!({"done": true, "ms": 5, "app": null})]),
        "POST /v1/apps/dead/move" => {
            let forced =
                seen.lock().unwrap().last().is_some_and(|(_, body)| body.windows(12).any(|it| it == b"\"force\":true"));
            match forced {
                true => steps(&[json!({"done": true, "ms": 5, "app": app("dead", "h2")})]),
                false => problem(StatusCode::CONFLICT, "it cannot be moved", "its host is down: repeat with --force"),
            }
        }
        "GET /v1/apps/shop/logs?lines=2&follow=false" => "one\ntwo\n".into_response(),
        _ => problem(StatusCode::NOT_FOUND, "Not Found", "there is no such application; `steady apps` lists them"),
    }
}

fn event(number: u64, what: &str, more: Value) -> Value {
    let at = format!("2026-03-01T10:00:{number:02}Z");
    let mut event = json!({"number": number, "at": at, "host": "h1", "app": "shop", "event": what, "generation": 3,
        "version": 2, "instance": 1, "reason": null, "output": null, "cut": 0});
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

fn app(name: &str, host: &str) -> Value {
    json!({"name": name, "generation": 3, "version": 2, "digest": "d", "exclusive": false, "hosts": [host], "moving": null,
           "state": "ready", "urls": [format!("http://{name}.localhost:8080")], "custom_domains": []})
}

fn json_answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn problem(status: StatusCode, title: &str, detail: &str) -> Response {
    let body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail}).to_string();
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

fn steps(lines: &[Value]) -> Response {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from(body)).into_response()
}

#[track_caller]
fn expect(output: &Output, code: i32, parts: &[&str]) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert!(!text.contains('\x1b'), "colours without a terminal:\n{text}");
}

#[test]
fn apps_and_hosts_are_tables_with_aligned_columns() {
    let edge = FakeEdge::start();
    let output = edge.run(&["apps"]);
    expect(&output, 0, &[]);
    let lines: Vec<String> = text(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "NAME  STATE  HOST  GENERATION  VERSION  URL");
    assert_eq!(lines[1], "shop  ready  h1    3           2        http://shop.localhost:8080");
    let output = edge.run(&["hosts"]);
    expect(&output, 0, &[]);
    let lines: Vec<String> = text(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "NAME  STATE  ZONE   APPS     CAPACITY           ADDRESS      VERSION  SEEN");
    assert_eq!(lines[1], "h1    up     fra-1  2 of 40  4 cores, 15.6 GiB  127.0.0.1:1  0.1.0    120 ms ago");
    assert_eq!(lines[2], "h2    down   -      0        -                  127.0.0.1:3  -        never");
    expect(&edge.run(&["status"]), 0, &["version    0.1.0", "listeners  127.0.0.1:80"]);
}

#[test]
fn a_host_that_is_gone_is_removed_and_one_that_is_not_says_why_it_stays() {
    let edge = FakeEdge::start();
    expect(&edge.run(&["hosts", "rm", "h3"]), 0, &["h3 is removed"]);
    expect(&edge.run(&["hosts", "rm", "h1"]), 5, &["h1 is not forgotten", "move them first"]);
    expect(&edge.run(&["hosts", "rm", "../apps/shop"]), 2, &["cannot be a host's name"]);
    assert_eq!(edge.asked(), ["DELETE /v1/hosts/h3", "DELETE /v1/hosts/h1"]);
}

#[test]
fn events_are_shown_as_they_happened_and_followed() {
    let edge = FakeEdge::start();
    let output = edge.run(&["events", "shop"]);
    expect(&output, 0, &[]);
    let lines: Vec<String> = text(&output).lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "2026-03-01T10:00:06Z  h1     ready    shop  version 2, generation 3");
    assert_eq!(lines[1], "2026-03-01T10:00:07Z  h1     crashed  shop  version 2, generation 3: exit code 3");
    assert_eq!(lines[2..], ["    no such table", "    bye"]);
    let output = edge.run(&["events", "-f", "-n", "0", "--json"]);
    expect(&output, 1, &["the end"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let numbers: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["number"].clone()).collect();
    assert_eq!(numbers, [8, 9]);
}

#[test]
fn json_is_one_document_for_lists_and_a_line_a_step_for_work() {
    let edge = FakeEdge::start();
    let apps: Value = serde_json::from_slice(&edge.run(&["apps", "--json"]).stdout).unwrap();
    assert_eq!(apps["apps"][1]["name"], "blog");
    let hosts: Value = serde_json::from_slice(&edge.run(&["hosts", "--json"]).stdout).unwrap();
    assert_eq!(hosts["hosts"][0]["state"], "up");
    let output = edge.run(&["move", "shop", "--to", "h2", "--json"]);
    let lines: Vec<Value> = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[2]["done"], true);
    let logs = edge.run(&["logs", "shop", "--lines", "2", "--json"]);
    assert_eq!(String::from_utf8(logs.stdout).unwrap(), "{\"line\":\"one\"}\n{\"line\":\"two\"}\n");
}

#[test]
fn a_move_shows_its_steps_and_says_where_the_application_is() {
    let edge = FakeEdge::start();
    let output = edge.run(&["move", "shop", "--to", "h2"]);
    expect(&output, 0, &["record", "drain     h1   3 requests to finish  12 ms", "shop runs on h2, 13 ms"]);
    assert_eq!(edge.asked(), ["POST /v1/apps/shop/move"]);
    assert_eq!(edge.seen.lock().unwrap()[0].1, r#"{"to":"h2"}"#);
}

#[test]
fn work_that_fails_exits_with_1_and_says_at_which_step() {
    let edge = FakeEdge::start();
    expect(&edge.run(&["move", "stuck", "--to", "h9"]), 1, &["at step prepare", "h9 refused the connection"]);
    let output = edge.run(&["move", "stuck", "--to", "h9", "--json"]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["class"], "failed");
}

#[test]
fn work_that_goes_on_or_whose_end_nobody_knows_is_no_failure_and_exits_with_6() {
    let edge = FakeEdge::start();
    for (app, word) in [("later", "the edge is stopping"), ("cut", "before it said"), ("unwritten", "the disk is full")]
    {
        expect(&edge.run(&["move", app, "--to", "h2"]), 6, &[word, "steady apps"]);
    }
    let output = edge.run(&["move", "later", "--to", "h2", "--json"]);
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["class"], "unsettled");
    // One that takes the request, and dies.
    let dying = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = dying.local_addr().unwrap().to_string();
    let died = std::thread::spawn(move || {
        let (mut stream, _) = dying.accept().unwrap();
        std::io::Read::read(&mut stream, &mut [0; 16]).unwrap();
    });
    let output = steady().args(["rm", "shop", "--address", &address, "--token", "t"]).output().unwrap();
    expect(&output, 6, &["broke off", "steady apps"]);
    died.join().unwrap();
}

#[test]
fn what_is_refused_exits_with_its_own_code_and_the_edge_s_advice() {
    let edge = FakeEdge::start();
    expect(&edge.run(&["logs", "nobody"]), 3, &["steady apps"]);
    expect(&edge.run(&["move", "busy", "--to", "h2"]), 5, &["wait for it"]);
    expect(&edge.run(&["move", "../hosts", "--to", "h2"]), 2, &["cannot name an application"]);
    let address = edge.addr.to_string();
    let wrong = steady().args(["apps", "--address", &address, "--token", "wrong"]).output().unwrap();
    expect(&wrong, 4, &["refuses the token", "--token-file"]);
    let none = steady().args(["apps", "--address", &address]).output().unwrap();
    expect(&none, 2, &["needs a token"]);
}

#[test]
fn deploy_sends_the_folder_as_an_archive_to_the_host_that_was_named() {
    let edge = FakeEdge::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("index.ts"), "export default {}").unwrap();
    let path = folder.path().to_str().unwrap();
    let output = edge.run(&["deploy", path, "--name", "shop", "--host", "h2"]);
    expect(
        &output,
        0,
        &["Deploying shop (1 file,", "start     h2", "shop runs on h2, 41 ms", "http://shop.localhost:8080"],
    );
    assert_eq!(edge.asked(), ["PUT /v1/apps/shop?host=h2"]);
    let body = edge.seen.lock().unwrap()[0].1.clone();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&body[..]));
    let names: Vec<_> = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned()).collect();
    assert_eq!(names, [std::path::PathBuf::from("index.ts")]);
    expect(&edge.run(&["deploy", "/no/such/folder", "--name", "shop"]), 2, &["give the application's folder"]);
}

#[test]
fn rm_and_logs_do_what_they_say() {
    let edge = FakeEdge::start();
    expect(&edge.run(&["rm", "shop"]), 0, &["shop is removed"]);
    let logs = edge.run(&["logs", "shop", "-n", "2"]);
    assert_eq!(logs.stdout, b"one\ntwo\n");
}

#[test]
fn without_an_up_a_command_says_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let output = steady().arg("apps").arg("--dir").arg(dir.path()).output().unwrap();
    expect(&output, 4, &["no `steady up` is running", "steady up --dir"]);
    let up = json!({"private": "127.0.0.1:1", "token_file": dir.path().join("token")});
    std::fs::write(dir.path().join("up.json"), up.to_string()).unwrap();
    std::fs::write(dir.path().join("token"), "t\n").unwrap();
    let output = steady().arg("apps").arg("--dir").arg(dir.path()).output().unwrap();
    expect(&output, 4, &["nothing answers at http://127.0.0.1:1", "Start it again"]);
}

#[test]
fn up_json_leads_a_command_to_its_edge() {
    let edge = FakeEdge::start();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "right\n").unwrap();
    let up = json!({"private": edge.addr, "token_file": token, "pids": {"edge": 1}});
    std::fs::write(dir.path().join("up.json"), up.to_string()).unwrap();
    expect(&steady().arg("apps").env("STEADY_DIR", dir.path()).output().unwrap(), 0, &["shop"]);
}

#[test]
fn help_teaches_with_examples_and_names_the_exit_codes() {
    let output = steady().arg("--help").output().unwrap();
    expect(&output, 0, &["steady move shop --to h2", "Exit codes:", "--token-file"]);
    for command in ["up", "deploy", "logs", "move", "lb", "agent"] {
        expect(&steady().args([command, "--help"]).output().unwrap(), 0, &["Example"]);
    }
    assert_eq!(steady().arg("nonsense").output().unwrap().status.code(), Some(2));
}

#[test]
fn a_move_is_forced_only_when_told() {
    let edge = FakeEdge::start();
    expect(&edge.run(&["move", "dead", "--to", "h2"]), 5, &["--force"]);
    expect(&edge.run(&["move", "dead", "--to", "h2", "--force"]), 0, &["dead runs on h2"]);
}

#[test]
fn a_check_tells_a_file_that_is_refused_from_one_that_names_what_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("lb.toml");
    let check = |level: &str| {
        let dir = dir.path().display();
        let listen = "[[listen]]\naddr = \"127.0.0.1:0\"\ntls = true\n";
        let head = format!("state_dir = \"{dir}/lb\"\ndomains = [\"localhost\"]\n{listen}");
        std::fs::write(&file, format!("{head}[tls]\ndir = \"{dir}\"\n[log]\nlevel = {level:?}\n")).unwrap();
        steady().args(["lb", "--check", "--config"]).arg(&file).output().unwrap()
    };
    expect(&check("warning"), 1, &["log.level: \"warning\" is no level"]);
    expect(&check("warn"), 3, &["tls.dir: ", "no usable pair"]);
    let made = rcgen::generate_simple_self_signed(vec!["*.localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("site.crt"), made.cert.pem()).unwrap();
    std::fs::write(dir.path().join("site.key"), made.signing_key.serialize_pem()).unwrap();
    expect(&check("warn"), 0, &["lb.toml: good"]);
    std::fs::write(dir.path().join("other.crt"), "nonsense").unwrap();
    expect(&check("warn"), 3, &["tls.dir: ", "other.crt"]);
}
