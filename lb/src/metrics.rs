//! The edge's numbers as Prometheus text: what control counts itself, and the workers' plain counters, which are read when
//! someone scrapes. `docs/metrics.md` names them all.
//!
//! The recorder is this process's own, not the global one, so that several edges in one process (tests) stay apart.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use steady_proxy::log::LogCounters;
use steady_proxy::sample::{Kind as SampleKind, Samples};
use steady_stream::io::Standing;

use crate::edge::Edge;
use crate::reports::series::Part;
use crate::reports::{Counts, Of, Span, Window};
use crate::snapshot::HostState;
use crate::store::Kind;

const PREFIX: &str = "steady_lb_";
const META: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Seconds. A settle takes a batch of each worker; a workflow takes what its application's start takes.
const SETTLE_BUCKETS: &[f64] = &[0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0];
const WORKFLOW_BUCKETS: &[f64] = &[0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0];

/// Every number that control counts.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    revision: Gauge,
    publications: Counter,
    snapshots: Gauge,
    settle_seconds: Histogram,
    commits: Counter,
    commit_failures: Counter,
    drain_cut: Counter,
    retries: Counter,
    reconciled: Counter,
    uptime: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    pub fn new(version: &str, io: &str) -> Metrics {
        let bucketed = |name: &str| Matcher::Full(format!("{PREFIX}{name}"));
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(bucketed("settle_seconds"), SETTLE_BUCKETS)
            .and_then(|builder| builder.set_buckets_for_metric(bucketed("workflow_seconds"), WORKFLOW_BUCKETS))
            .expect("the buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        let r = &recorder;
        gauge(r, "info", "What runs here; always 1.", &[("version", version), ("io", io)]).set(1.0);
        for kind in Kind::ALL {
            for outcome in ["done", "undone"] {
                workflows(r, kind, outcome).increment(0);
            }
        }
        for call in ["join", "renew"] {
            for well in [true, false] {
                certificates(r, call, well).increment(0);
            }
        }
        for well in [true, false] {
            registrations(r, well).increment(0);
        }
        for class in ["2xx", "3xx", "4xx", "5xx"] {
            api_requests(r, class).increment(0);
        }
        Metrics {
            revision: gauge(
                r,
                "table_revision",
                "Revision of the routing table that the workers were last given.",
                &[],
            ),
            publications: counter(r, "publications_total", "Snapshots given to the workers.", &[]),
            snapshots: gauge(
                r,
                "snapshots_held",
                "Snapshots in memory; more than 2 for long means a stuck worker.",
                &[],
            ),
            settle_seconds: histogram(r, "settle_seconds", "From a publication to every worker running it.", &[]),
            commits: counter(r, "store_commits_total", "Changes written to the store.", &[]),
            commit_failures: counter(
                r,
                "store_commit_failures_total",
                "Changes refused, or that failed on the disk.",
                &[],
            ),
            drain_cut: counter(r, "move_requests_cut_total", "Requests that a move cut at its drain deadline.", &[]),
            retries: counter(r, "workflow_retries_total", "Steps of workflows that were tried again.", &[]),
            reconciled: counter(r, "reconciled_apps_total", "Applications put right on a host that returned.", &[]),
            uptime: gauge(r, "uptime_seconds", "Since this process began.", &[]),
            recorder,
            handle,
        }
    }

    pub fn published(&self, revision: u64) {
        self.publications.increment(1);
        self.revision.set(revision as f64);
    }

    pub fn settled(&self, after: Duration) {
        self.settle_seconds.record(after.as_secs_f64());
    }

    pub fn snapshots_held(&self, count: usize) {
        self.snapshots.set(count as f64);
    }

    pub fn committed(&self) {
        self.commits.increment(1);
    }

    pub fn commit_failed(&self) {
        self.commit_failures.increment(1);
    }

    pub fn cut(&self, requests: u64) {
        self.drain_cut.increment(requests);
    }

    /// A host asked to be let in.
    pub fn joined(&self, well: bool) {
        certificates(&self.recorder, "join", well).increment(1);
    }

    /// A host asked for its next certificate.
    pub fn renewed(&self, well: bool) {
        certificates(&self.recorder, "renew", well).increment(1);
    }

    /// A host asked for its channel.
    pub fn registered(&self, well: bool) {
        registrations(&self.recorder, well).increment(1);
    }

    /// Connections to the private port that were not let in, so far.
    pub fn private_refused(&self, count: u64) {
        let help = "Connections to the private port that were not let in: no TLS, a bad certificate, too slow.";
        counter(&self.recorder, "private_refused_total", help, &[]).absolute(count);
    }

    pub fn retried(&self) {
        self.retries.increment(1);
    }

    pub fn reconciled(&self) {
        self.reconciled.increment(1);
    }

    pub fn api_request(&self, status: u16) {
        let class = match status {
            0..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            500.. => "5xx",
        };
        api_requests(&self.recorder, class).increment(1);
    }

    pub fn workflow_ended(&self, kind: Kind, done: bool, after: Duration) {
        workflows(&self.recorder, kind, if done { "done" } else { "undone" }).increment(1);
        let labels = [("kind", kind.as_str())];
        histogram(&self.recorder, "workflow_seconds", "Workflows, from their begin to their end.", &labels)
            .record(after.as_secs_f64());
    }

    /// Everything as text, with what is only known now.
    pub fn render(&self, now: &Now, samples: &[Arc<dyn Samples + Send + Sync>], log: Option<&LogCounters>) -> String {
        let r = &self.recorder;
        if let Some(log) = log {
            log.visit(&mut |sample| counter(r, sample.name, sample.help, &[]).absolute(sample.value));
        }
        self.uptime.set(now.uptime.as_secs_f64());
        gauge(r, "apps", "Applications in the routing table.", &[]).set(now.apps as f64);
        gauge(r, "workflows_open", "Workflows under way.", &[]).set(now.workflows_open as f64);
        let help = "Processes that were replaced and still carry connections.";
        gauge(r, "old_processes", help, &[]).set(now.old_processes as f64);
        let help = "Pairs of tls.dir that are in use.";
        gauge(r, "tls_certificates", help, &[]).set(now.certificates as f64);
        let end = now.certificates_end.and_then(|end| end.duration_since(UNIX_EPOCH).ok());
        let help = "When the first certificate of tls.dir ends, in seconds since 1970; NaN: there is none.";
        let end = end.map_or(f64::NAN, |end| end.as_secs_f64());
        gauge(r, "tls_not_after_timestamp_seconds", help, &[]).set(end);
        for state in [HostState::Up, HostState::Suspected, HostState::Down] {
            let count = now.hosts.iter().filter(|host| **host == state).count();
            let labels = [("state", crate::agents::state_name(state))];
            gauge(r, "hosts", "Hosts by what the health check says.", &labels).set(count as f64);
        }
        for (worker, samples) in samples.iter().enumerate() {
            let worker = worker.to_string();
            samples.visit(&mut |sample| {
                let mut labels = vec![("worker", worker.as_str())];
                labels.extend(sample.label);
                match sample.kind {
                    SampleKind::Counter => counter(r, sample.name, sample.help, &labels).absolute(sample.value),
                    SampleKind::Gauge => gauge(r, sample.name, sample.help, &labels).set(sample.value as f64),
                }
            });
        }
        if let Some(latency) = &now.latency {
            latency.record(r);
        }
        self.handle.run_upkeep();
        self.handle.render() + &now.of_hosts()
    }
}

/// What is looked up when someone scrapes.
#[derive(Clone, Debug)]
pub struct Now {
    pub uptime: Duration,
    pub apps: usize,
    pub workflows_open: usize,
    /// Replaced by this one, and not yet done.
    pub old_processes: usize,
    /// In use for TLS with clients, and when the first of them ends.
    pub certificates: usize,
    pub certificates_end: Option<SystemTime>,
    pub hosts: Vec<HostState>,
    /// The message streams, by host.
    pub streams: Vec<(String, Standing)>,
    /// `None`: the control side is not there yet.
    pub latency: Option<LatencyNow>,
}

impl Now {
    /// What has a host's name in it, by a recorder that ends with this scrape: one that is gone is not told of for good.
    fn of_hosts(&self) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let r = &recorder;
        for (host, standing) in &self.streams {
            let labels = [("host", host.as_str())];
            for (name, help, value) in steady_stream::io::gauges(standing) {
                gauge(r, &format!("stream_{name}"), help, &labels).set(value);
            }
            for (name, help, value) in steady_stream::io::counters(standing) {
                counter(r, &format!("stream_{name}_total"), help, &labels).absolute(value);
            }
        }
        for (host, age) in self.latency.iter().flat_map(|latency| &latency.ages) {
            gauge(r, "report_age_seconds", "Since the host's last report.", &[("host", host)]).set(*age);
        }
        recorder.handle().render()
    }
}

/// What is known of latencies now, of all applications together.
#[derive(Clone, Debug)]
pub struct LatencyNow {
    minute: Window,
    counts: Counts,
    memory: usize,
    /// Applications that are active, meters that workers have open, and those that they were refused.
    active: (usize, usize, u64),
    /// Seconds since each host's last report.
    ages: Vec<(String, f64)>,
}

impl LatencyNow {
    pub fn of(edge: &Edge) -> LatencyNow {
        let (reports, now) = (&edge.reports, edge.begun.elapsed());
        let age = |host: &str| reports.last(host).map(|last| now.saturating_sub(last).as_secs_f64());
        let hosts = edge.hosts.all();
        let ages = hosts.iter().filter_map(|host| Some((host.record.name.clone(), age(&host.record.name)?)));
        LatencyNow {
            minute: reports.window(Of::All, Span::Minute, now),
            counts: reports.counts(),
            memory: reports.memory(),
            active: reports.active(),
            ages: ages.collect(),
        }
    }
}

impl LatencyNow {
    fn record(&self, r: &PrometheusRecorder) {
        for (part, times) in Part::ALL.iter().zip(&self.minute.sum.times) {
            for (name, q) in [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99), ("0.999", 0.999)] {
                let labels = [("part", part.name()), ("q", name)];
                // Of nothing there is no latency; Prometheus has a value for that.
                let seconds = times.quantile(q).map_or(f64::NAN, |us| us as f64 / 1e6);
                gauge(r, "latency_seconds", "Of all requests of the last minute, by part.", &labels).set(seconds);
            }
        }
        gauge(r, "latency_apps", "Applications whose latency is known of the last hour.", &[])
            .set(self.active.0 as f64);
        gauge(r, "latency_bytes", "Memory for what is known of latencies.", &[]).set(self.memory as f64);
        gauge(r, "latency_meters", "Applications that workers measure, each worker for itself.", &[])
            .set(self.active.1 as f64);
        let counters = [
            (
                "latency_evicted_total",
                "Applications whose latency was forgotten for want of memory.",
                self.counts.evicted,
            ),
            ("latency_unmeasured_total", "Requests not measured, because too many applications are.", self.active.2),
            ("reports_total", "Reports of agents taken.", self.counts.taken),
            ("reports_bytes_total", "Octets of reports.", self.counts.bytes),
            ("reports_refused_total", "Reports that were no reports, or too much.", self.counts.refused),
            (
                "reports_missed_total",
                "Times a report was missing and a whole one was asked for.",
                self.counts.out_of_step,
            ),
        ];
        for (name, help, value) in counters {
            counter(r, name, help, &[]).absolute(value);
        }
    }
}

fn workflows(recorder: &PrometheusRecorder, kind: Kind, outcome: &str) -> Counter {
    let labels = [("kind", kind.as_str()), ("outcome", outcome)];
    counter(recorder, "workflows_total", "Workflows that ended; undone: all is as it was before.", &labels)
}

fn certificates(recorder: &PrometheusRecorder, call: &str, well: bool) -> Counter {
    let outcome = if well { "issued" } else { "refused" };
    let labels = [("call", call), ("outcome", outcome)];
    counter(recorder, "certificates_total", "Certificates that hosts asked for.", &labels)
}

fn registrations(recorder: &PrometheusRecorder, well: bool) -> Counter {
    let outcome = if well { "taken" } else { "refused" };
    counter(recorder, "registrations_total", "Hosts that asked for a channel.", &[("outcome", outcome)])
}

fn api_requests(recorder: &PrometheusRecorder, class: &str) -> Counter {
    counter(recorder, "api_requests_total", "Requests to the private port.", &[("class", class)])
}

fn key(name: &str, labels: &[(&str, &str)]) -> Key {
    let labels: Vec<Label> =
        labels.iter().map(|(key, value)| Label::new((*key).to_owned(), (*value).to_owned())).collect();
    Key::from_parts(format!("{PREFIX}{name}"), labels)
}

fn key_name(name: &str) -> KeyName {
    KeyName::from(format!("{PREFIX}{name}"))
}

fn counter(recorder: &PrometheusRecorder, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
    recorder.describe_counter(key_name(name), None, help.into());
    recorder.register_counter(&key(name, labels), &META)
}

fn gauge(recorder: &PrometheusRecorder, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
    recorder.describe_gauge(key_name(name), None, help.into());
    recorder.register_gauge(&key(name, labels), &META)
}

fn histogram(recorder: &PrometheusRecorder, name: &str, help: &'static str, labels: &[(&str, &str)]) -> Histogram {
    recorder.describe_histogram(key_name(name), None, help.into());
    recorder.register_histogram(&key(name, labels), &META)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_gone_is_told_of_no_more() {
        let metrics = Metrics::new("1", "epoll");
        let mut now = Now {
            uptime: Duration::ZERO,
            apps: 0,
            workflows_open: 0,
            old_processes: 0,
            certificates: 0,
            certificates_end: None,
            hosts: Vec::new(),
            streams: vec![("h1".into(), Standing::default()), ("h2".into(), Standing::default())],
            latency: None,
        };
        let all = metrics.render(&now, &[], None);
        assert!(all.contains("steady_lb_stream_waiting{host=\"h1\"} 0") && all.contains("host=\"h2\""), "{all}");
        now.streams.remove(0);
        let left = metrics.render(&now, &[], None);
        assert!(left.contains("steady_lb_stream_waiting{host=\"h2\"} 0") && !left.contains("host=\"h1\""), "{left}");
    }
}
