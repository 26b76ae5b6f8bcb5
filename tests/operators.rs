//! What operators see of the requests under way, and do to them: lists, cuts, traces, at the edge and at a host.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use support::http::Conn;
use support::up::{Up, signal};
use support::{eventually, folder_like, repository, steady, text};

fn open_slow(up: &Up) -> Conn {
    let mut conn = Conn::open(up.addr("http"));
    conn.send(b"GET /slow?ms=100000 HTTP/1.1\r\nHost: fixture.localhost\r\n\r\n").unwrap();
    conn
}

/// The rows of `steady requests`.
fn requests(up: &Up, arguments: &[&str]) -> Vec<Value> {
    let all = [&["requests", "--json"], arguments].concat();
    let answer = eventually("every worker answers in time", || {
        let answer: Value = serde_json::from_str(&up.run(&all)).unwrap();
        (answer["complete"] == true).then_some(answer)
    });
    answer["exchanges"].as_array().unwrap().clone()
}

/// A trace that has begun: its lines as they come.
struct Trace {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Trace {
    fn start(up: &Up, name: &str, arguments: &[&str]) -> Trace {
        let mut command = steady();
        command.args(["trace", name]).args(arguments).arg("--dir").arg(up.dir()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Trace { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn requests_under_way_are_listed_cut_and_traced_at_the_edge_and_at_a_host() {
    let up = Up::start(&[]);
    up.deploy(&repository("tests/apps/fixture"), "fixture", "h1");
    a_request_that_hangs_is_found_and_cut(&up);
    a_request_is_cut_at_its_host(&up);
    what_cannot_be_asked_says_why(&up);
    a_trace_tells_a_request_from_both_sides(&up);
    both_logs_tell_it_with_the_documented_fields(&up);
    what_waits_for_an_application_is_listed_cut_and_traced(&up);
    assert_eq!(up.stop(), 0);
}

fn a_request_that_hangs_is_found_and_cut(up: &Up) {
    let mut conn = open_slow(up);
    let row = eventually("the request waits for its answer", || {
        requests(up, &["fixture"]).into_iter().find(|row| row["state"] == "waiting")
    });
    assert_eq!(row["host"], "h1");
    assert_eq!(row["path"], "/slow?ms=100000");
    assert_eq!(row["method"], "GET");
    assert!(row["client"].as_str().unwrap().starts_with("127.0.0.1:"));
    let id = row["id"].as_str().unwrap();
    assert_eq!(requests(up, &["hello"]).len(), 0, "it is another application's");
    assert_eq!(requests(up, &["--host", "h2"]).len(), 0, "it is with another host");
    assert_eq!(requests(up, &["--host", "h1"]).len(), 1);
    assert_eq!(requests(up, &["--older", "10m"]).len(), 0);
    assert!(up.run(&["requests"]).contains("GET /slow?ms=100000"));
    assert_eq!(up.run(&["requests", "--cut", id]), "1 cut\n");
    let reply = conn.reply(false).unwrap();
    assert_eq!((reply.status, reply.header("x-request-id")), (503, Some(id)));
    let again = up.steady(&["requests", "--cut", id]);
    assert_eq!(again.status.code(), Some(3), "{}", text(&again));
    assert_eq!(requests(up, &["fixture"]).len(), 0);
}

fn a_request_is_cut_at_its_host(up: &Up) {
    let mut conn = open_slow(up);
    let at_edge = eventually("it is at the edge", || requests(up, &["fixture"]).pop());
    let row = eventually("it is with the process, and both sides know it by one id", || {
        let mut rows = requests(up, &["fixture", "--at", "h1"]).into_iter();
        rows.find(|row| row["state"] == "waiting" && row["id"] == at_edge["id"])
    });
    assert_eq!(requests(up, &["fixture", "--at", "h2"]).len(), 0);
    assert_eq!(up.run(&["requests", "--at", "h1", "--cut", row["id"].as_str().unwrap()]), "1 cut\n");
    assert_eq!(conn.reply(false).unwrap().status, 503);
}

fn what_cannot_be_asked_says_why(up: &Up) {
    for (arguments, code, words) in [
        (&["requests", "--older", "5"][..], 2, "10s"),
        (&["requests", "--host", "h9"], 3, "no host h9"),
        (&["requests", "--at", "h9"], 3, "no host h9"),
        (&["requests", "--at", "../x"], 2, "steady hosts"),
        (&["requests", "--limit", "20000"], 2, "at most 10000"),
        (&["trace", "fixture", "--for", "2h"], 2, "3600 s"),
        (&["trace", "fixture", "-n", "0"], 2, "1 to 1000"),
    ] {
        let output = up.steady(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{arguments:?}: {}", text(&output));
    }
}

fn a_trace_tells_a_request_from_both_sides(up: &Up) {
    let mut edge = Trace::start(up, "fixture", &["--json", "-n", "1"]);
    let mut host = Trace::start(up, "fixture", &["--json", "-n", "1", "--at", "h1"]);
    let mut people = Trace::start(up, "fixture", &["-n", "1"]);
    assert!(people.line().starts_with("Following fixture"));
    // A trace follows what comes once it runs; requests are made until each has its own.
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                assert_eq!(up.get("fixture", "/?some").status, 200);
            }
        });
        let of_edge = edge.json();
        let told: Vec<&str> =
            of_edge["events"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap()).collect();
        assert_eq!(told, ["attempt", "answer", "attempt_ended"]);
        assert_eq!(of_edge["events"][0]["place"], "h1");
        assert_eq!(of_edge["events"][1]["status"], 200);
        assert_eq!((&of_edge["path"], &of_edge["outcome"]), (&"/?some".into(), &"complete".into()));
        assert!(of_edge["fields"].as_array().unwrap().contains(&"x-forwarded-for".into()));
        assert!(of_edge["total_us"].as_u64() >= of_edge["upstream_us"].as_u64());
        assert_eq!(edge.json()["done"], true);
        let of_host = host.json();
        assert_eq!(of_host["events"][0]["what"], "attempt");
        assert_eq!(of_host["app"], "fixture");
        assert!(people.line().starts_with("GET fixture.localhost/?some  200 complete"));
        drop(stop);
    });
    assert!(edge.child.wait().unwrap().success());
}

fn both_logs_tell_it_with_the_documented_fields(up: &Up) {
    let page = std::fs::read_to_string(repository("docs/operating.md")).unwrap();
    let section = page.split("## Logs of requests").nth(1).unwrap().split("\n## ").next().unwrap();
    let documented = |log: &str| -> BTreeSet<String> {
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
        let here = rows.filter(|(_, rest)| rest.starts_with("both") || rest.starts_with(log));
        here.flat_map(|(names, _)| names.split('`').step_by(2)).map(str::to_owned).collect()
    };
    let line = |file: &str| -> Value {
        eventually("the request is in the log", || {
            let log = std::fs::read_to_string(up.dir().join(file)).ok()?;
            log.lines().filter(|line| line.contains("\"/?some\"")).find_map(|line| serde_json::from_str(line).ok())
        })
    };
    let lines = [("edge", line("lb/access.jsonl")), ("host", line("h1/requests.jsonl"))];
    for (log, line) in &lines {
        let fields: BTreeSet<String> = line.as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields, documented(log), "{log}: {line}");
        assert_eq!(
            (&line["client"], &line["app"], &line["status"]),
            (&"127.0.0.1".into(), &"fixture".into(), &200.into())
        );
        let time = OffsetDateTime::parse(line["time"].as_str().unwrap(), &Rfc3339).unwrap();
        assert_eq!((OffsetDateTime::now_utc() - time).whole_hours(), 0, "{line}");
    }
}

fn what_waits_for_an_application_is_listed_cut_and_traced(up: &Up) {
    let closed = tempfile::NamedTempFile::new().unwrap();
    let manifest = format!(
        "command = [\"python3\", \"gate.py\"]\nexclusive = true\n[env]\nGATE = \"{}\"\n",
        closed.path().display()
    );
    let gate = "import os, runpy, time\nwhile os.path.exists(os.environ['GATE']):\n    time.sleep(0.01)\nrunpy.run_path('server.py', run_name='__main__')\n";
    let folder = folder_like("tests/apps/fixture", &[("steady.toml", &manifest), ("gate.py", gate)]);
    let path = closed.path().to_owned();
    drop(closed);
    up.deploy(folder.path(), "gated", "h1");
    std::fs::write(&path, "").unwrap();
    let token = std::fs::read_to_string(up.json()["token_file"].as_str().unwrap()).unwrap();
    let restarted = Conn::open(up.addr("private"))
        .request(
            "POST",
            "edge",
            "/v1/hosts/h1/apps/gated/restart",
            &[("Authorization", &format!("Bearer {}", token.trim()))],
            b"",
        )
        .unwrap();
    assert_eq!(restarted.status, 200, "{}", restarted.text());

    let mut trace = Trace::start(up, "gated", &["--json", "--at", "h1"]);
    let waiting = |count: usize| {
        eventually("the requests wait at their host", || {
            let rows = requests(up, &["gated", "--at", "h1"]);
            (rows.len() == count && rows.iter().all(|row| row["state"] == "parked")).then_some(rows)
        })
    };
    // A trace follows what is routed once it runs, so what waits is cut and asked again until one is told.
    let open = || {
        let mut conn = Conn::open(up.addr("http"));
        conn.send(b"GET /?wait HTTP/1.1\r\nHost: gated.localhost\r\n\r\n").unwrap();
        conn
    };
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut story = Value::Null;
            while story["status"] != 200 {
                story = trace.json();
                told.send(story.clone()).unwrap();
            }
        });
        let cut = eventually("a request that was cut is told", || {
            let mut conn = open();
            let row = waiting(1).remove(0);
            up.run(&["requests", "--cut", row["id"].as_str().unwrap(), "--at", "h1"]);
            assert_eq!(conn.reply(false).unwrap().status, 503);
            heard.try_recv().ok()
        });
        assert_eq!((&cut["refusal"], &cut["status"]), (&"cut".into(), &503.into()));
        assert_eq!(cut["events"][0]["what"], "park");
        let mut conn = open();
        waiting(1);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(conn.reply(false).unwrap().status, 200);
        let served = heard.iter().last().unwrap();
        let told: Vec<&str> =
            served["events"].as_array().unwrap().iter().map(|event| event["what"].as_str().unwrap()).collect();
        assert_eq!(told, ["park", "resume", "attempt", "answer", "attempt_ended"]);
        assert!(served["events"][1]["waited_us"].as_u64() > Some(0));
        assert!(served["queue_us"].as_u64() >= served["events"][1]["waited_us"].as_u64());
    });
}

#[test]
fn a_hangup_changes_limits_at_once_and_says_what_waits_for_a_restart() {
    let up = Up::start(&[]);
    up.deploy(&repository("tests/apps/fixture"), "fixture", "h1");
    for (daemon, pid, key, log) in
        [("agent", up.agent_pid("h1"), "apps", "h1/agent.log"), ("lb", up.edge_pid(), "timeouts", "lb/lb.log")]
    {
        let file = up.dir().join(log).with_file_name(format!("{daemon}.toml"));
        let before = std::fs::read_to_string(&file).unwrap();
        let limit = if daemon == "lb" { "response = \"150ms\"" } else { "response_timeout = \"100ms\"" };
        let after =
            before.replace(&format!("[{key}]\n"), &format!("[{key}]\n{limit}\n")).replace("workers = 0", "workers = 1");
        assert_ne!(before, after);
        std::fs::write(&file, after).unwrap();
        let check = steady().arg(daemon).arg("--check").arg("--config").arg(&file).output().unwrap();
        let live = if daemon == "lb" { "timeouts" } else { "apps.response_timeout" };
        // `up` itself has changed the edge's file since its start: it knows the hosts only then.
        let named = |when: &str, key: &str| {
            let text = text(&check);
            let line = text.lines().find_map(|line| line.split_once(when)).map(|(_, keys)| keys.to_owned());
            assert!(line.is_some_and(|keys| keys.split(", ").any(|named| named == key)), "{when} {key}: {text}");
        };
        named("in force after SIGHUP: ", live);
        named("in force at its next start: ", "workers");
        signal(pid, "HUP");
        // Of the edge `up` has had it read its file before.
        eventually("it has read the file, and says what waits", || {
            let log = std::fs::read_to_string(up.dir().join(log)).unwrap();
            log.contains("it takes effect at the next start key=\"workers\"").then_some(())
        });
        eventually("the new time-out is in force", || {
            let reply = up.get("fixture", "/slow?ms=3000");
            assert!(reply.status == 504 || reply.status == 200, "{}", reply.text());
            (reply.status == 504 && reply.text().contains("in time")).then_some(())
        });
        std::fs::write(&file, before).unwrap();
        signal(pid, "HUP");
        eventually("the old time-out is in force again", || {
            (up.get("fixture", "/slow?ms=500").status == 200).then_some(())
        });
    }
    limits_change_for_connections_that_begin_after_it(&up);
    a_host_s_patience_with_a_body_changes_too(&up);
    assert_eq!(up.stop(), 0);
}

fn a_host_s_patience_with_a_body_changes_too(up: &Up) {
    let begun = || {
        let mut conn = Conn::open(up.addr("http"));
        conn.send(b"POST /request HTTP/1.1\r\nHost: fixture.localhost\r\nContent-Length: 10\r\n\r\n12345").unwrap();
        conn
    };
    // The edge would wait for more than a minute.
    let mut waits = begun();
    let row = || requests(up, &["fixture", "--at", "h1"]).pop();
    eventually("its host has begun it", row);
    let file = up.dir().join("h1/agent.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{before}\n[timeouts]\nidle = \"200ms\"\n")).unwrap();
    signal(up.agent_pid("h1"), "HUP");
    assert_eq!(waits.reply(false).unwrap().status, 408);
    std::fs::write(&file, before).unwrap();
    signal(up.agent_pid("h1"), "HUP");
}

fn limits_change_for_connections_that_begin_after_it(up: &Up) {
    let file = up.dir().join("lb/lb.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let limited = |text: &str| {
        std::fs::write(&file, format!("{before}\n[limits]\n{text}\n")).unwrap();
        signal(up.edge_pid(), "HUP");
    };
    let long = format!("/{}", "x".repeat(600));
    let mut old = Conn::open(up.addr("http"));
    let mut asks =
        |status| assert_eq!(old.request("GET", "fixture.localhost", &long, &[], b"").unwrap().status, status);
    asks(404);
    limited("target_bytes_max = 500");
    eventually("a new connection has the new limit", || (up.get("fixture", &long).status == 414).then_some(()));
    asks(404);
    limited("target_bytes_max = 5");
    eventually("a limit out of its range is refused, and why is said", || {
        let log = std::fs::read_to_string(up.dir().join("lb/lb.log")).unwrap();
        log.contains("limits.target_bytes_max: it is 5 octets: write a size from 256 to 1048576 octets").then_some(())
    });
    assert_eq!(up.get("fixture", &long).status, 414, "what was in force stays");
    std::fs::write(&file, before).unwrap();
    signal(up.edge_pid(), "HUP");
    eventually("the old limit is in force again", || (up.get("fixture", &long).status == 404).then_some(()));
}

/// Of each metric its kind and its labels, as a page or a scrape has them.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// The tables of docs/metrics.md: names under a heading may lack what all of them begin with, and a label that all of them have.
fn documented(page: &str) -> Families {
    let mut families = Families::new();
    for section in page.split("\n## ").skip(1) {
        let (heading, text) = section.split_once('\n').unwrap();
        let common: &[(&str, Option<&str>)] = match heading {
            "The edge" | "A host" => &[("", None)],
            "Workers" => &[("steady_lb_", Some("worker")), ("steady_agent_", Some("worker"))],
            "Workers of an edge" => &[("steady_lb_", Some("worker"))],
            "Message streams" => &[("steady_lb_stream_", Some("host")), ("steady_agent_stream_", None)],
            "Logs of requests" => &[("steady_lb_", None), ("steady_agent_", None)],
            _ => panic!("which metrics are under {heading:?}?"),
        };
        for row in text.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split(" | ").collect();
            let (names, kinds): (Vec<&str>, Vec<&str>) =
                (cells[0].split('`').skip(1).step_by(2).collect(), cells[1].split(", ").collect());
            for (at, name) in names.iter().enumerate() {
                let (name, labels) = name.split_once('{').unwrap_or((name, ""));
                let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
                for (prefix, label) in common {
                    let labels = labels.clone().chain(*label).map(str::to_owned).collect();
                    let kind = kinds.get(at).unwrap_or(&kinds[0]);
                    let before = families.insert(format!("{prefix}{name}"), ((*kind).to_owned(), labels));
                    assert_eq!(before, None, "{name} is there twice");
                }
            }
        }
    }
    families
}

fn scraped(text: &str) -> Families {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let family = |(name, kind): (&str, &str)| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        // Of a histogram the buckets, the sum and the count.
        let lines =
            lines.map(|rest| ["_bucket", "_sum", "_count"].iter().fold(rest, |rest, end| rest.trim_start_matches(end)));
        let labels = lines
            .filter_map(|rest| rest.strip_prefix('{')?.split_once('}'))
            .flat_map(|(labels, _)| labels.split("\","));
        let labels = labels.filter_map(|label| Some(label.split_once('=')?.0.to_owned())).filter(|label| label != "le");
        (name.to_owned(), (kind.to_owned(), labels.collect()))
    };
    types.map(family).collect()
}

/// Values of labels that say what a counter counts, rather than of which worker, host, or program.
fn reasons(text: &str) -> BTreeSet<&str> {
    let counts = |line: &&str| !line.starts_with('#') && !line.contains("_info{");
    let labels = text.lines().filter(counts).filter_map(|line| line.split_once('{')?.1.split_once('}'));
    let pairs = labels.flat_map(|(labels, _)| labels.split(',')).filter_map(|label| label.split_once('='));
    let told = pairs.filter(|(key, _)| !["worker", "host", "class", "limit", "le", "q"].contains(key));
    told.map(|(_, value)| value.trim_matches('"')).collect()
}

#[test]
fn the_page_of_the_metrics_and_what_a_scrape_holds_are_the_same() {
    let up = Up::start(&["--hosts", "1", "--workers", "1"]);
    let scrape = |addr: SocketAddr| Conn::open(addr).request("GET", "private", "/metrics", &[], b"").unwrap().text();
    let hosts: Value = serde_json::from_str(&up.run(&["hosts", "--json"])).unwrap();
    let control = hosts["hosts"][0]["control"].as_str().unwrap().parse().unwrap();
    let edge = eventually("the host has reported, and its stream is known", || {
        let text = scrape(up.addr("private"));
        (text.contains("report_age_seconds{") && text.contains("steady_lb_stream_")).then_some(text)
    });
    let text = edge
        + &eventually("the host has a stream", || {
            let text = scrape(control);
            text.contains("steady_agent_stream_").then_some(text)
        });
    let page = std::fs::read_to_string(repository("docs/metrics.md")).unwrap();
    let (documented, scraped) = (documented(&page), scraped(&text));
    for (name, family) in &scraped {
        assert_eq!(documented.get(name), Some(family), "what docs/metrics.md says of {name}, and what it is");
    }
    for name in documented.keys() {
        assert!(scraped.contains_key(name), "docs/metrics.md has {name}, and no scrape has");
    }
    for value in reasons(&text) {
        assert!(page.contains(&format!("`{value}`")), "docs/metrics.md does not explain {value}");
    }
}
