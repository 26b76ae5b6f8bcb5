//! What a client sees of a running system: every protocol, through the edge and a host, from a real application.

mod support;

use std::fs;
use std::io::Write;
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

use support::http::{Conn, Reply};
use support::up::Up;
use support::websocket::WebSocket;
use support::{bun, eventually, folder_like, repository, text};

/// Octets of a body that is much larger than every buffer on its way.
const LARGE: usize = 64 << 20;
const HUGE: usize = 1 << 30;

/// One system for every test of this file; it ends with the process.
fn up() -> &'static Up {
    static UP: OnceLock<Up> = OnceLock::new();
    UP.get_or_init(|| {
        let up = Up::start(&[]);
        up.deploy(&repository("tests/apps/fixture"), "fixture", "h1");
        up
    })
}

/// A URL of an application by plain http.
fn url(name: &str, path: &str) -> String {
    format!("http://{name}.localhost:{}{path}", up().addr("http").port())
}

fn https(name: &str, domain: &str, path: &str) -> String {
    format!("https://{name}.{domain}:{}{path}", up().addr("https").port())
}

/// curl's output as body, status and version of HTTP; curl must succeed.
#[track_caller]
fn curl(arguments: &[&str]) -> (String, String) {
    let output = up().curl(arguments);
    assert!(output.status.success(), "curl {arguments:?}: {}", text(&output));
    let all = String::from_utf8(output.stdout).unwrap();
    let (body, status) = all.rsplit_once('\n').unwrap();
    (body.to_owned(), status.to_owned())
}

/// What the fixture saw of a request.
#[track_caller]
fn facts(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_slice(&reply.body).unwrap()
}

fn fields<'a>(facts: &'a Value, name: &str) -> Vec<&'a str> {
    let all = facts["headers"].as_array().unwrap().iter();
    all.filter(|field| field[0] == name).map(|field| field[1].as_str().unwrap()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| index as u8).collect()
}

#[test]
fn up_json_says_where_everything_is_and_the_samples_answer() {
    let json = up().json();
    assert_eq!(json["domains"], serde_json::json!(["steady.page", "steady.sh", "localhost"]));
    assert_eq!(json["hosts"].as_array().unwrap().len(), 2);
    assert_eq!(json["hosts"][1]["name"], "h2");
    for path in ["token_file", "ca"] {
        assert!(fs::metadata(json[path].as_str().unwrap()).unwrap().len() > 0);
    }
    assert!(json["pids"]["edge"].as_u64().unwrap() > 1 && json["pids"]["agents"]["h1"].as_u64().unwrap() > 1);
    assert!(json["apps"].as_array().unwrap().contains(&"clock".into()));
    let (body, status) = curl(&[&url("clock", "/")]);
    assert_eq!(status, "200 1.1");
    assert!(body.contains("on h2"), "{body}");
    if bun().is_some() {
        assert!(json["apps"].as_array().unwrap().contains(&"hello".into()));
        let (body, _) = curl(&[&url("hello", "/")]);
        assert!(body.starts_with("Hello from hello on h1"), "{body}");
    }
}

#[test]
fn http2_with_prior_knowledge_is_answered_in_http2() {
    let (_, status) = curl(&["--http2-prior-knowledge", &url("clock", "/")]);
    assert_eq!(status, "200 2");
}

#[test]
fn tls_serves_both_domains_by_sni_in_http1_and_http2() {
    for domain in ["steady.page", "steady.sh"] {
        assert_eq!(curl(&["--http1.1", &https("clock", domain, "/")]).1, "200 1.1", "{domain}");
        assert_eq!(curl(&["--http2", &https("clock", domain, "/")]).1, "200 2", "{domain}");
        assert_eq!(curl(&["--tls-max", "1.2", "--tlsv1.2", &https("clock", domain, "/")]).1, "200 2", "{domain}");
    }
    let (_, status) = curl(&[&format!("https://clock.localhost:{}/", up().addr("https").port())]);
    assert_eq!(status, "200 2");
}

#[test]
fn an_authority_that_the_certificate_does_not_serve_is_misdirected() {
    let (_, status) = curl(&["--http2", "-H", "Host: clock.example.org", &https("clock", "steady.page", "/")]);
    assert_eq!(status, "421 2");
}

#[test]
fn a_websocket_echoes_over_http1_and_tables_swap_under_it() {
    if bun().is_none() {
        return;
    }
    let mut socket = WebSocket::open(up().addr("http"), "hello.localhost", "/ws");
    socket.echo("before");
    for round in 0..10 {
        up().deploy(&repository("examples/clock"), &format!("swap{}", round % 2), "h2");
        socket.echo(&format!("after swap {round}"));
    }
    for name in ["swap0", "swap1"] {
        up().run(&["rm", name]);
    }
    socket.echo("after the removals");
}

#[test]
fn server_sent_events_arrive_as_they_are_sent() {
    if bun().is_none() {
        return;
    }
    let mut conn = Conn::open(up().addr("http"));
    conn.send(b"GET /events HTTP/1.1\r\nHost: hello.localhost\r\n\r\n").unwrap();
    assert!(conn.line().unwrap().contains("200"));
    // The stream never ends; three events in full show that nothing waits for its end.
    let mut events = 0;
    while events < 3 {
        events += usize::from(conn.line_lossy().unwrap().starts_with("data: {"));
    }
}

#[test]
fn a_100_continue_is_asked_for_and_given_before_the_body() {
    let mut conn = Conn::open(up().addr("http"));
    conn.send(
        b"POST /request HTTP/1.1\r\nHost: fixture.localhost\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
    )
    .unwrap();
    assert_eq!(conn.reply(false).unwrap().status, 100);
    conn.send(b"body").unwrap();
    let facts = facts(&conn.reply(false).unwrap());
    assert_eq!((facts["length"].as_u64(), facts["sha256"].as_str()), (Some(4), Some(sha256(b"body").as_str())));
}

#[test]
fn early_hints_are_passed_on_before_the_answer() {
    let mut conn = Conn::open(up().addr("http"));
    conn.send(b"GET /hints HTTP/1.1\r\nHost: fixture.localhost\r\n\r\n").unwrap();
    let hints = conn.reply(false).unwrap();
    assert_eq!((hints.status, hints.header("link")), (103, Some("</style.css>; rel=preload")));
    assert_eq!(conn.reply(false).unwrap().status, 200);
}

#[test]
fn head_204_and_304_have_no_body_and_the_connection_goes_on() {
    let mut conn = Conn::open(up().addr("http"));
    let head = conn.request("HEAD", "fixture.localhost", "/large?bytes=1000", &[], b"").unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
    assert_eq!(conn.request("GET", "fixture.localhost", "/no-content", &[], b"").unwrap().status, 204);
    assert_eq!(conn.request("HEAD", "fixture.localhost", "/status?code=304", &[], b"").unwrap().status, 304);
    assert_eq!(conn.request("GET", "fixture.localhost", "/", &[], b"").unwrap().status, 200);
    let (_, status) = curl(&["--http2-prior-knowledge", "-I", &url("fixture", "/")]);
    assert_eq!(status, "200 2");
}

#[test]
fn a_chunked_upload_arrives_whole_and_its_trailers_too() {
    let mut conn = Conn::open(up().addr("http"));
    conn.send(
        b"POST /request HTTP/1.1\r\nHost: fixture.localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check\r\n\r\n\
          3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Check: yes\r\n\r\n",
    )
    .unwrap();
    let facts = facts(&conn.reply(false).unwrap());
    assert_eq!((facts["length"].as_u64(), facts["sha256"].as_str()), (Some(7), Some(sha256(b"abcdefg").as_str())));
    assert_eq!(facts["trailers"]["x-check"], "yes");
}

#[test]
fn an_answer_s_trailers_reach_the_client() {
    let mut conn = Conn::open(up().addr("http"));
    let reply = conn.request("GET", "fixture.localhost", "/trailers", &[("TE", "trailers")], b"").unwrap();
    assert_eq!(reply.body, b"hello");
    assert_eq!(reply.trailers, [("x-sum".to_owned(), "42".to_owned())]);
}

#[test]
fn large_bodies_pass_both_ways_unchanged() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes = pattern(LARGE);
    file.write_all(&bytes).unwrap();
    let path = file.path().to_str().unwrap();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let (body, status) = curl(&[version, "-X", "POST", "-T", path, &url("fixture", "/request")]);
        assert!(status.starts_with("200"), "{status}: {body}");
        let facts: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(facts["sha256"], sha256(&bytes).as_str(), "up, {version}");
        let down = tempfile::NamedTempFile::new().unwrap();
        let target = url("fixture", &format!("/large?bytes={LARGE}"));
        curl(&[version, "-o", down.path().to_str().unwrap(), &target]);
        assert!(fs::read(down.path()).unwrap() == bytes, "down, {version}");
    }
}

#[test]
fn a_gigabyte_passes_both_ways_unchanged() {
    if !support::long() {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let block = pattern(1 << 20);
    let mut digest = Sha256::new();
    for _ in 0..HUGE / block.len() {
        file.write_all(&block).unwrap();
        digest.update(&block);
    }
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let (body, _) =
        curl(&["-X", "POST", "-T", file.path().to_str().unwrap(), &https("fixture", "steady.page", "/request")]);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["sha256"], digest.as_str());
    let down = tempfile::NamedTempFile::new().unwrap();
    let target = https("fixture", "steady.page", &format!("/large?bytes={HUGE}"));
    curl(&["-o", down.path().to_str().unwrap(), &target]);
    let same = std::process::Command::new("cmp").args([file.path(), down.path()]).status().unwrap();
    assert!(same.success());
}

#[test]
fn an_application_on_bun_echoes_a_stream() {
    if bun().is_none() {
        return;
    }
    let bytes = pattern(LARGE / 16);
    let mut conn = Conn::open(up().addr("http"));
    let reply = conn.request("POST", "hello.localhost", "/echo", &[], &bytes).unwrap();
    assert_eq!(reply.status, 200);
    assert!(reply.body == bytes);
}

#[test]
fn requests_sent_back_to_back_are_answered_in_order() {
    let mut conn = Conn::open(up().addr("http"));
    let one = |code: u16| format!("GET /status?code={code} HTTP/1.1\r\nHost: fixture.localhost\r\n\r\n");
    conn.send(format!("{}{}{}", one(200), one(404), one(201)).as_bytes()).unwrap();
    let codes: Vec<u16> = (0..3).map(|_| conn.reply(false).unwrap().status).collect();
    assert_eq!(codes, [200, 404, 201]);
}

#[test]
fn an_application_s_own_refusals_pass_through() {
    for code in [421, 500, 503] {
        let reply = up().get("fixture", &format!("/status?code={code}"));
        assert_eq!((reply.status, reply.text().as_str()), (code, "as asked\n"));
    }
}

#[test]
fn the_application_learns_who_asks_and_never_sees_the_edge_s_own_fields() {
    let mut conn = Conn::open(up().addr("http"));
    let headers =
        [("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9"), ("Connection", "X-Hop"), ("X-Hop", "1")];
    let reply = conn.request("GET", "fixture.localhost", "/request", &headers, b"").unwrap();
    let facts = facts(&reply);
    assert_eq!(fields(&facts, "x-forwarded-for"), ["127.0.0.1"], "a client that is not trusted is not believed");
    assert_eq!(fields(&facts, "x-forwarded-proto"), ["http"]);
    assert_eq!(fields(&facts, "host"), ["fixture.localhost"]);
    assert_eq!(fields(&facts, "x-hop"), Vec::<&str>::new());
    assert_eq!(fields(&facts, "x-request-id").len(), 1);
    assert_eq!(fields(&facts, "traceparent").len(), 1);
    let reserved: Vec<&Value> = facts["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|field| field[0].as_str().unwrap().starts_with("x-steady"))
        .collect();
    assert_eq!(reserved, Vec::<&Value>::new());
    assert!(!reply.headers.iter().any(|(name, _)| name.starts_with("x-steady")), "{:?}", reply.headers);
}

#[test]
fn an_unknown_name_is_404_in_words_for_people_and_in_json_for_programs() {
    for (accept, kind) in [("text/html,*/*;q=0.8", "text/html"), ("application/json", "application/problem+json")] {
        let mut conn = Conn::open(up().addr("http"));
        let reply = conn.request("GET", "nobody.localhost", "/", &[("Accept", accept)], b"").unwrap();
        assert_eq!(reply.status, 404);
        assert!(reply.header("content-type").unwrap().starts_with(kind), "{:?}", reply.headers);
        let id = reply.header("x-request-id").expect("the request id is in the answer").to_owned();
        assert!(reply.text().contains(&id), "{}", reply.text());
        if kind.ends_with("json") {
            assert_eq!(serde_json::from_slice::<Value>(&reply.body).unwrap()["status"], 404);
        }
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_the_connection_closed() {
    let host = "Host: fixture.localhost\r\n";
    let cases = [
        format!("POST / HTTP/1.1\r\n{host}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}{host}\r\n"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{host}X-Folded: a\r\n b\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{host}X-Space : a\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ];
    for case in cases {
        let mut conn = Conn::open(up().addr("http"));
        conn.send(case.as_bytes()).unwrap();
        let reply = conn.reply(false).unwrap_or_else(|error| panic!("{case:?}: {error}"));
        assert_eq!(reply.status, 400, "{case:?}");
        // A reset says as clearly as an end that nothing more is read here.
        let next = conn.request("GET", "fixture.localhost", "/", &[], b"");
        assert!(next.is_err(), "{case:?}: still open: {next:?}");
    }
}

#[test]
fn what_an_application_prints_is_shown_and_followed() {
    let up = up();
    up.get("fixture", "/print?text=first-words");
    eventually("the log has it", || up.run(&["logs", "fixture"]).contains("first-words").then_some(()));
    let mut follower = support::steady()
        .args(["logs", "fixture", "-f", "--lines", "0", "--dir"])
        .arg(up.dir())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = follower.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader};
        BufReader::new(stdout).lines().map_while(Result::ok).any(|line| line.contains("followed-words"))
    });
    // Printed again and again: the follower may not be there yet when the first one is.
    eventually("the follower shows it", || {
        up.get("fixture", "/print?text=followed-words");
        reader.is_finished().then_some(())
    });
    assert!(reader.join().unwrap());
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn the_lists_and_the_status_have_the_shapes_that_the_api_page_gives() {
    let up = up();
    // Its host has two seconds to say so; a list does not wait longer for one.
    let app = eventually("its state is known", || Some(up.app("fixture")).filter(|app| app["state"] == "ready"));
    assert_eq!((app["hosts"][0].as_str(), app["moving"].is_null()), (Some("h1"), true));
    assert!(app["generation"].is_u64() && app["urls"].is_array());
    eventually("the first host is up", || {
        let hosts: Value = serde_json::from_str(&up.run(&["hosts", "--json"])).unwrap();
        let h1 = &hosts["hosts"][0];
        assert_eq!(h1["name"], "h1");
        (h1["state"] == "up").then_some(())
    });
    let status: Value = serde_json::from_str(&up.run(&["status", "--json"])).unwrap();
    assert!(status["version"].is_string(), "{status}");
    let missing = up.steady(&["move", "nobody", "--to", "h2"]);
    assert_eq!(missing.status.code(), Some(3), "{}", text(&missing));
    let nowhere = up.steady(&["move", "fixture", "--to", "h9"]);
    assert!(!nowhere.status.success() && up.app("fixture")["hosts"][0] == "h1", "{}", text(&nowhere));
}

#[test]
fn the_private_port_wants_its_token_except_for_health_and_metrics() {
    let private = up().addr("private");
    let ask = |path: &str| Conn::open(private).request("GET", "localhost", path, &[], b"").unwrap();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(path).status, 200, "{path}");
    }
    assert_eq!(ask("/v1/apps").status, 401);
    if support::on_path("promtool").is_some() {
        use std::process::{Command, Stdio};
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        promtool.stdin.take().unwrap().write_all(&ask("/metrics").body).unwrap();
        let output = promtool.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn a_new_version_answers_once_deploy_has_returned_and_a_broken_one_never_replaces_it() {
    let up = up();
    let good = folder_like("tests/apps/fixture", &[]);
    up.deploy(good.path(), "versions", "h1");
    assert_eq!(up.get("versions", "/").status, 200);
    let server = fs::read_to_string(repository("tests/apps/fixture/server.py")).unwrap();
    let next = folder_like("tests/apps/fixture", &[("server.py", &server.replace("fixture {os", "second {os"))]);
    up.run(&["deploy", next.path().to_str().unwrap(), "--name", "versions"]);
    assert!(up.get("versions", "/").text().starts_with("second"));
    let broken = folder_like("tests/apps/fixture", &[("server.py", "raise SystemExit('no such luck')\n")]);
    let output = up.steady(&["deploy", broken.path().to_str().unwrap(), "--name", "versions"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("no such luck"), "the author sees why: {}", text(&output));
    assert!(up.get("versions", "/").text().starts_with("second"));
    up.run(&["rm", "versions"]);
    assert_eq!(up.get("versions", "/").status, 404);
}

#[test]
fn a_folder_is_deployed_under_the_name_that_its_steady_toml_gives() {
    let up = up();
    let manifest = "name = \"named-inside\"\ncommand = [\"python3\", \"-u\", \"server.py\"]\n";
    let folder = folder_like("tests/apps/fixture", &[("steady.toml", manifest)]);
    up.run(&["deploy", folder.path().to_str().unwrap()]);
    assert_eq!(up.get("named-inside", "/").status, 200);
    up.run(&["rm", "named-inside"]);
}
