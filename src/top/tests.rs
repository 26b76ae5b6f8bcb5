use serde_json::json;

use super::model::Latency;
use super::view::Sort;
use super::*;

fn percentiles(p50: u64) -> Value {
    json!({"count": 9, "mean_us": p50, "p50_us": p50, "p90_us": p50 * 2, "p99_us": p50 * 10, "p999_us": p50 * 30})
}

fn window(rate: f64, errors: u64, p50: u64) -> Value {
    let requests = (rate * 10.0) as u64;
    json!({"seconds": 10, "requests": requests, "rate": rate, "errors": errors, "total": percentiles(p50),
        "network": percentiles(90), "application": percentiles(p50), "queue": percentiles(3), "own": percentiles(40)})
}

fn app(name: &str, state: &str, rate: f64, errors: u64, p50: u64) -> Value {
    json!({"name": name, "state": state, "in_flight": 3, "queued": 0, "cpu": 0.12, "memory_bytes": 45_000_000,
        "places": [{"host": "h1", "version": 2, "state": state, "in_flight": 3, "in_flight_max": 7, "queued": 0,
            "cpu": 0.12, "memory_bytes": 45_000_000}],
        "10s": window(rate, errors, p50), "spark": {"requests": [1, 2], "errors": [0, 0], "p99_us": [p50, null, p50 * 8]}})
}

/// Two hosts and three applications; a field that this program does not know.
fn known() -> Known {
    let latency: Latency = parse(json!({
        "all": {"10s": window(1_250.0, 25, 1_200), "1m": {}, "1h": {}, "spark": {"requests": [100, 200, 400], "errors": [0, 0, 1],
            "p50_us": [1_000, 1_000, 1_000], "p99_us": [8_000, 4_000, null]}},
        "hosts": [
            {"name": "h1", "state": "up", "reported_ms": 400, "ready": 3, "in_flight": 7, "queued": 0, "cpu": 0.4,
             "memory_bytes": 126_000_000, "10s": window(1_250.0, 0, 900), "later": true, "zone": "fra-1",
             "capacity": {"apps_max": 40, "cpus": 8, "memory_bytes": 16_750_000_000_u64}},
            {"name": "h2", "state": "suspected", "reported_ms": 7_200, "10s": {}},
        ],
        "apps": [app("shop", "ready", 1_200.0, 25, 1_300), app("clock", "ready", 50.0, 0, 200), app("cart", "crashed", 0.0, 0, 150_000)],
        "active": 5,
    }))
    .unwrap();
    Known { latency, ..Known::default() }
}

fn plain(known: &Known, chosen: &Chosen, width: usize, height: usize) -> Vec<String> {
    screen(known, chosen, width, height).iter().map(|line| line.render(width, false)).collect()
}

#[test]
fn the_screen_shows_hosts_and_applications_the_busiest_first() {
    let chosen = Chosen { app: Some("clock".to_owned()), ..Chosen::default() };
    let expected = "\
steady top   1,250 requests/s   0.2 % errors   p50 1.2 ms   p90 2.4 ms   p99 12 ms   p99.9 36 ms   network 90 µs
requests                                                      ▂▄█   p99                                                      █▄

HOST             STATE     REQ/S      P50      P99  IN FLIGHT   QUEUED      CPU    MEMORY    APPS        ZONE
h1                  up     1,250   900 µs   9.0 ms          7        0     40 %   120 MiB    3/40       fra-1
h2           suspected         0        -        -          0        0        0         -       0           -  reported 7 s ago

APPLICATION     STATE      HOST    REQ/S▾   ERRORS      P50      P90      P99    P99.9  IN FLIGHT      CPU    MEMORY  P99, LAST 18 S
shop            ready        h1     1,200    0.2 %   1.3 ms   2.6 ms    13 ms    39 ms          3     12 %    43 MiB                 ▁ █
clock           ready        h1        50        0   200 µs   400 µs   2.0 ms   6.0 ms          3     12 %    43 MiB                 ▁ █
cart          crashed        h1         0        0   150 ms   300 ms    1.5 s    4.5 s          3     12 %    43 MiB                 ▁ █
… and 2 more

↑↓ select   enter details   s sort: rate   / filter   space pause   q quit";
    let shown = plain(&known(), &chosen, 136, 14).join("\n");
    assert_eq!(shown, expected, "\n{shown}\n");
    let wide = plain(&known(), &chosen, 160, 14);
    assert!(wide[4].ends_with("3/40       fra-1   8 cores 15.6 GiB"), "{:?}", wide[4]);
}

#[test]
fn on_a_narrow_screen_the_columns_that_matter_most_stay_whole() {
    let shown = plain(&known(), &Chosen::default(), 80, 14);
    assert_eq!(shown[7], "APPLICATION     STATE    REQ/S▾   ERRORS      P50      P99  IN FLIGHT      CPU");
    assert_eq!(shown[8], "shop            ready     1,200    0.2 %   1.3 ms    13 ms          3     12 %");
    assert_eq!(shown[4], "h1                  up     1,250   900 µs   9.0 ms          7     40 %    3/40");
}

#[test]
fn a_narrow_or_low_screen_is_never_overrun_and_the_selected_application_stays_in_sight() {
    for (width, height) in [(1, 1), (10, 3), (40, 10), (80, 24), (300, 100)] {
        for detail in [false, true] {
            let mut known = known();
            known.detail = Some(parse(json!({"name": "shop", "windows": {"10s": window(1.0, 0, 5)}})).unwrap());
            let chosen = Chosen { detail, app: Some("cart".to_owned()), ..Chosen::default() };
            let lines = screen(&known, &chosen, width, height);
            assert_eq!(lines.len(), height);
            assert!(lines.iter().all(|line| line.render(width, false).chars().count() <= width));
        }
    }
    let chosen = Chosen { app: Some("cart".to_owned()), ..Chosen::default() };
    let shown = plain(&known(), &chosen, 120, 11);
    assert!(shown.iter().any(|line| line.starts_with("cart")), "{shown:#?}");
}

#[test]
fn details_show_where_the_time_goes_and_where_the_application_is() {
    let mut known = known();
    known.detail = Some(
        parse(json!({"name": "shop", "state": "ready",
            "places": [{"host": "h1", "version": 2, "state": "ready", "in_flight": 3, "in_flight_max": 7, "queued": 1, "cpu": 0.5,
                "memory_bytes": 45_000_000}],
            "windows": {"10s": window(120.0, 6, 1_300), "1m": window(100.0, 0, 1_000), "1h": {}},
            "spark": {"requests": [0, 5], "errors": [0, 1], "p50_us": [null, 10], "p99_us": [null, 2_000]}}))
        .unwrap(),
    );
    let chosen = Chosen { app: Some("shop".to_owned()), detail: true, ..Chosen::default() };
    let shown = plain(&known, &chosen, 100, 30);
    for expected in [
        "shop  ready",
        "  h1 ready  version 2  3 in flight (at most 7)  1 waiting  cpu 50 %  memory 43 MiB",
        "10 s  total                 1,200        120    0.5 %    1.3 ms    2.6 ms     13 ms     39 ms",
        "      network and edge                                    90 µs    180 µs    900 µs    2.7 ms",
        "1 h   total                     0          0        0         -         -         -         -",
        "p99                                                                  █ ≤ 2.0 ms",
        "esc back   ↑↓ another   space pause   q quit",
    ] {
        assert!(shown.iter().any(|line| line == expected), "no {expected:?} in\n{}", shown.join("\n"));
    }
}

#[test]
fn keys_select_sort_filter_and_quit() {
    let known = known();
    let mut chosen = Chosen::default();
    let type_in = |chosen: &mut Chosen, bytes: &[u8]| keys(bytes).into_iter().all(|key| press(chosen, &known, key));
    assert!(type_in(&mut chosen, b"\x1b[Bj"));
    assert_eq!(chosen.app.as_deref(), Some("clock"));
    assert!(type_in(&mut chosen, b"\x1b[F\x1b[5~"));
    assert_eq!(chosen.app.as_deref(), Some("shop"));
    assert!(type_in(&mut chosen, b"sss") && chosen.sort == Sort::InFlight);
    assert!(type_in(&mut chosen, b"\r") && chosen.detail);
    assert!(type_in(&mut chosen, b"\x1b") && !chosen.detail);
    assert!(type_in(&mut chosen, b"/qua\x7f") && chosen.typing, "q is a letter of a name");
    assert_eq!(chosen.filter, "qu");
    assert!(type_in(&mut chosen, b"\x1b") && chosen.filter.is_empty());
    assert!(type_in(&mut chosen, b"/car\r"));
    assert_eq!(sorted(&known.latency.apps, &chosen).iter().map(|app| &*app.name).collect::<Vec<_>>(), ["cart"]);
    assert!(type_in(&mut chosen, b"\x1b[200~\xff "), "what means nothing does nothing");
    assert!(chosen.paused);
    assert!(!type_in(&mut chosen, b"q"));
    assert!(!type_in(&mut Chosen::default(), b"\x03"));
}

#[test]
fn an_edge_that_has_nothing_to_tell_yet_is_shown_as_such() {
    let known = Known { latency: parse(json!({})).unwrap(), ..Known::default() };
    let shown = plain(&known, &Chosen::default(), 120, 0);
    assert!(shown.iter().any(|line| line.contains("steady deploy PATH")), "{shown:#?}");
    let trouble = Known { trouble: Some("the edge does not answer".to_owned()), ..Known::default() };
    assert_eq!(plain(&trouble, &Chosen::default(), 120, 20).last().unwrap(), "the edge does not answer; trying again");
}
