//! What `/metrics` says. In a program of its own: a process that it starts has what whole edges beside it have locked, for a moment.

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};

use support::*;

#[tokio::test]
async fn metrics_hold_what_workers_and_control_count_and_promtool_takes_them() {
    let (_world, _dir, life) = deployed(false).await;
    life.move_to("h2").await;
    let text = life.http.get(format!("http://{}/metrics", life.addr)).send().await.unwrap().text().await.unwrap();
    for line in [
        "steady_lb_requests_total{worker=\"1\",class=\"2xx\"} 7",
        "steady_lb_connections{worker=\"0\"} 3",
        "steady_lb_apps 1",
        "steady_lb_hosts{state=\"up\"} 2",
        "steady_lb_workflows_total{kind=\"move\",outcome=\"done\"} 1",
        "steady_lb_info{version=\"0.1.0\",io=\"epoll\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let checked =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = checked else {
        eprintln!("SKIPPED: promtool is not installed; the metrics were not checked by it");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}
