//! What an edge and a host do when something runs out: descriptors, the disk. The data path goes on, nothing is silently lost, and
//! what was used up is used again when it is there.

mod support;

use std::net::TcpStream;

use support::http::Conn;
use support::site::{APP, Choice, Site};
use support::{eventually, repository, text};

/// The drivers to test; `STEADY_TEST_IO` leaves one.
fn drivers() -> Vec<&'static str> {
    match std::env::var("STEADY_TEST_IO").as_deref() {
        Ok("uring") => vec!["uring"],
        Ok("epoll") => vec!["epoll"],
        _ => vec!["uring", "epoll"],
    }
}

#[test]
fn without_descriptors_nobody_is_accepted_and_nothing_is_connected_to_until_there_are_some_again() {
    for io in drivers() {
        let site = Site::start_after(
            "ulimit -n 100;",
            &Choice { workers: 1, timeouts: "header = \"120s\"".into(), ..Choice::of(io) },
        );
        let http = site.http();
        let mut early = Conn::open(http);
        assert_eq!(early.request("GET", "nobody.localhost", "/", &[], b"").unwrap().status, 404);
        let crowd: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(http).unwrap()).collect();
        eventually("it says what is short, and what to do", || {
            let log = site.log();
            // Again and again: what the process itself closes meanwhile is taken by the crowd too.
            let times = log.matches("cannot accept connections for now").count();
            (times >= 10 && log.contains("raise LimitNOFILE")).then_some(())
        });
        // The edge has no connection to its host yet, and cannot open one.
        let refused = early.request("GET", APP, "/", &[], b"").unwrap();
        assert_eq!(
            (refused.status, refused.text().contains("could not be reached")),
            (502, true),
            "{}",
            refused.text()
        );
        drop(crowd);
        eventually("the edge reaches its host again", || {
            (early.request("GET", APP, "/", &[], b"").unwrap().status == 200).then_some(())
        });
        assert_eq!(site.get("/").status, 200, "and clients reach the edge");
        assert!(site.metric("steady_lb_accept_failures_total") > 0.0);
        assert!(site.metric("steady_lb_upstream_connect_failures_total") > 0.0);
    }
}

/// Asks so often; every answer must be good.
fn ask(conn: &mut Conn, times: usize) {
    for _ in 0..times {
        assert_eq!(conn.request("GET", APP, "/", &[], b"").unwrap().status, 200);
    }
}

#[test]
fn an_edge_whose_disk_is_full_serves_says_what_it_could_not_write_and_goes_on_where_it_stopped() {
    let io = drivers()[0];
    let site = Site::start(&Choice { workers: 1, ..Choice::of(io) });
    let mut conn = Conn::open(site.http());
    ask(&mut conn, 10);
    let failures = "steady_lb_store_commit_failures_total";
    let before = site.metric(failures);
    Site::fill(site.pid(), true);
    ask(&mut conn, 200);
    let folder = repository("tests/apps/fixture");
    let deploy = ["deploy", folder.to_str().unwrap(), "--name", "other", "--host", "h1"];
    let refused = site.try_run(&deploy);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(text(&refused).contains("the bundle cannot be kept in"), "{}", text(&refused));
    let kept = site.try_run(&["rm", "fixture"]);
    assert!(text(&kept).contains("is the disk of state_dir full?"), "{}", text(&kept));
    ask(&mut conn, 200);
    assert!(site.metric(failures) > before);
    eventually("the access log says that it cannot be written", || {
        (site.metric("steady_lb_access_log_write_errors_total") > 0.0).then_some(())
    });
    Site::fill(site.pid(), false);
    ask(&mut conn, 10);
    eventually("the log has a line for every request but those that are counted as lost", || {
        let log = site.access_log();
        let whole = log.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()).count();
        let lost = site.metric("steady_lb_access_log_lines_dropped_total") as usize;
        (whole + lost == 420).then_some(())
    });
    site.run(&deploy);
    let mut other = Conn::open(site.http());
    assert_eq!(other.request("GET", "other.localhost", "/", &[], b"").unwrap().status, 200);
    ask(&mut conn, 10);
}

#[test]
fn a_host_whose_disk_is_full_serves_and_takes_nothing_that_it_could_not_keep() {
    let io = drivers()[0];
    let site = Site::start(&Choice { workers: 1, ..Choice::of(io) });
    let mut conn = Conn::open(site.http());
    ask(&mut conn, 10);
    Site::fill(site.agent_pid(), true);
    let folder = repository("tests/apps/fixture");
    let deploy = ["deploy", folder.to_str().unwrap(), "--name", "other", "--host", "h1"];
    let refused = site.try_run(&deploy);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(text(&refused).contains("is the disk of state_dir full?"), "{}", text(&refused));
    assert!(site.agent_metric("steady_agent_record_failures_total") > 0.0);
    ask(&mut conn, 100);
    Site::fill(site.agent_pid(), false);
    site.run(&deploy);
    let mut other = Conn::open(site.http());
    assert_eq!(other.request("GET", "other.localhost", "/", &[], b"").unwrap().status, 200);
    ask(&mut conn, 10);
}
