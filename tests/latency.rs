//! Latencies at the edge are what clients saw: of two hosts, by the private API and `steady top`.

mod support;

use std::fs;
use std::time::Instant;

use serde_json::Value;
use support::http::Conn;
use support::up::{Up, signal};
use support::{eventually, repository};

/// A bucket is at most a thirty-second of its values wide.
fn within_bucket(us: u64) -> u64 {
    us + us / 32 + 1
}

fn ask(up: &Up, path: &str) -> Value {
    let token = fs::read_to_string(up.json()["token_file"].as_str().unwrap()).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let mut conn = Conn::open(up.addr("private"));
    let reply = conn.request("GET", "edge", path, &[("Authorization", &bearer)], b"").unwrap();
    assert_eq!(reply.status, 200, "{}", reply.text());
    serde_json::from_str(&reply.text()).unwrap()
}

/// Each request's time as the client has it, in µs, ascending.
fn measured(up: &Up, app: &str, path: &str, requests: usize) -> Vec<u64> {
    let mut conn = Conn::open(up.addr("http"));
    let mut times: Vec<u64> = (0..requests)
        .map(|_| {
            let begun = Instant::now();
            let reply = conn.request("GET", &format!("{app}.localhost"), path, &[], b"").unwrap();
            assert!(reply.status > 0);
            begun.elapsed().as_micros() as u64
        })
        .collect();
    times.sort_unstable();
    times
}

/// The hour of an application, once it has so many requests by both the edge's account and the agents'.
fn hour_with(up: &Up, app: &str, requests: u64) -> Value {
    let sum = |classes: &Value| classes.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>();
    eventually("edge and agents agree on how many requests there were", || {
        let answer = ask(up, &format!("/v1/apps/{app}/latency"));
        let hour = answer["windows"]["1h"].clone();
        let (served, reported) = (sum(&hour["served"]), sum(&hour["reported"]));
        assert!(served <= requests && reported <= requests, "more than there were: {hour:#}");
        (served == requests && reported == requests).then_some(hour)
    })
}

#[test]
fn percentiles_at_the_edge_are_those_of_the_clients_and_no_request_is_lost_or_counted_twice() {
    let up = Up::start(&[]);
    up.deploy(&repository("tests/apps/fixture"), "slow", "h1");
    up.deploy(&repository("tests/apps/fixture"), "quick", "h2");
    let slow = measured(&up, "slow", "/slow?ms=50", 20);
    let quick = measured(&up, "quick", "/", 200);
    measured(&up, "quick", "/status?code=500", 3);

    let hour = hour_with(&up, "slow", 20);
    let us = |part: &str, which: &str| hour[part][which].as_u64().unwrap_or_else(|| panic!("no {part} in {hour:#}"));
    for part in ["total", "application"] {
        assert!(within_bucket(us(part, "p50_us")) >= 50_000, "{hour:#}");
        // What an edge or an agent measured of a request is part of what its client did.
        assert!(us(part, "p50_us") <= within_bucket(slow[9]), "{} of {slow:?}", us(part, "p50_us"));
        assert!(us(part, "p999_us") <= within_bucket(slow[19]), "{} of {slow:?}", us(part, "p999_us"));
    }
    assert_eq!(us("total", "count"), 20);

    let hour = hour_with(&up, "quick", 203);
    assert_eq!((&hour["served"]["2xx"], &hour["reported"]["2xx"]), (&200.into(), &200.into()));
    assert_eq!((&hour["errors"], &hour["reported"]["5xx"]), (&3.into(), &3.into()));
    assert!(hour["total"]["p50_us"].as_u64().unwrap() <= within_bucket(quick[102]), "{hour:#}");

    // An agent that is killed begins anew, and so do its numbers: not a request too few or too many.
    signal(up.agent_pid("h1"), "KILL");
    eventually("the application answers again", || (up.get("slow", "/").status == 200).then_some(()));
    let more = ask(&up, "/v1/apps/slow/latency")["windows"]["1h"]["reported"].clone();
    eventually("the new agent's requests are added", || {
        let reported = ask(&up, "/v1/apps/slow/latency")["windows"]["1h"]["reported"]["2xx"].as_u64().unwrap();
        assert!(reported >= 20, "{more:#}");
        (reported == 21).then_some(())
    });

    let whole = ask(&up, "/v1/latency?spark=30");
    let hosts: Vec<&str> =
        whole["hosts"].as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect();
    assert_eq!(hosts, ["h1", "h2"]);
    let places = |app: &str| {
        let apps = whole["apps"].as_array().unwrap();
        apps.iter().find(|listed| listed["name"] == app).unwrap()["places"].clone()
    };
    assert_eq!((&places("quick")[0]["host"], &places("quick")[0]["state"]), (&"h2".into(), &"ready".into()));
    // The first look may have met a process that had only just been made, and nobody uses it now.
    eventually("its memory is told", || {
        let quick = ask(&up, "/v1/apps/quick/latency");
        (quick["places"][0]["memory_bytes"].as_u64()? > 1 << 20).then_some(())
    });
}
