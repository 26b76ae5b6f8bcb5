//! What the agent tells Prometheus (docs/metrics.md, "Agent").
//!
//! Nothing here is on a request's way: the workers count in plain numbers, supervision in atomics, and a scrape reads both
//! into a recorder of its own and renders it. Labels have fixed sets of values; no metric is per application.

use std::collections::BTreeMap;
use std::time::SystemTime;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use steady_proxy::sample::{Kind, Sample, Samples as _};

use crate::api::Api;
use crate::host::Host;
use crate::supervise::Counters;
use crate::supervise::status::State;

/// The recorder and its renderer. One an agent, so that two in one process do not mix.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        Self { recorder, handle }
    }
}

impl Metrics {
    /// Reads everything and writes it as Prometheus text.
    pub(crate) fn render(&self, api: &Api) -> String {
        let host = &*api.host;
        with_local_recorder(&self.recorder, || {
            record_membership(api);
            record_channel(api);
            record_counters(&host.shared.counters);
            record_apps(host);
            for (worker, samples) in host.shared.plane.samples().iter().enumerate() {
                let worker = worker.to_string();
                samples.visit(&mut |sample| record_sample(sample, Some(&worker)));
            }
            if let Some(log) = host.shared.plane.log() {
                log.visit(&mut |sample| record_sample(sample, None));
            }
        });
        self.handle.render()
    }
}

fn record_membership(api: &Api) {
    let refused = "steady_agent_private_refused_total";
    describe_counter!(refused, "Connections to the control port that were not let in");
    counter!(refused).absolute(api.refused.value());
    let Some(membership) = &api.membership else { return };
    let (failures, renewals) = membership.counts();
    let certificates = "steady_agent_certificates_total";
    describe_counter!(certificates, "Certificates that this host asked its cluster for");
    counter!(certificates, "outcome" => "issued").absolute(renewals);
    counter!(certificates, "outcome" => "failed").absolute(failures);
    let left = "steady_agent_certificate_seconds_left";
    describe_gauge!(left, Unit::Seconds, "How long this host's certificate is still good");
    gauge!(left).set(membership.seconds_left(SystemTime::now()).unwrap_or(0) as f64);
}

fn record_channel(api: &Api) {
    let Some(channel) = &api.channel else { return };
    let (is_open, opened, failed) = channel.counts();
    let (open, dialled) = ("steady_agent_channel_open", "steady_agent_channels_total");
    describe_gauge!(open, Unit::Count, "Whether this host has a channel to an edge");
    gauge!(open).set(f64::from(u8::from(is_open)));
    describe_counter!(dialled, "Channels to edges that were opened, or could not be");
    counter!(dialled, "outcome" => "opened").absolute(opened);
    counter!(dialled, "outcome" => "failed").absolute(failed);
    let orders = "steady_agent_orders_total";
    describe_counter!(orders, "Orders taken from the edge since its log began, over restarts");
    counter!(orders).absolute(api.talk.as_ref().map_or(0, |talk| talk.orders()));
    let Some(standing) = api.talk.as_ref().and_then(|talk| talk.standing()) else { return };
    for (name, help, value) in steady_stream::io::gauges(&standing) {
        let name = format!("steady_agent_stream_{name}");
        describe_gauge!(name.clone(), help);
        gauge!(name).set(value);
    }
    for (name, help, value) in steady_stream::io::counters(&standing) {
        let name = format!("steady_agent_stream_{name}_total");
        describe_counter!(name.clone(), help);
        counter!(name).absolute(value);
    }
}

fn record_counters(counters: &Counters) {
    let told = [
        ("starts", "Processes started", &counters.starts),
        ("ready", "Starts that became ready", &counters.ready),
        ("start_failures", "Starts that did not become ready", &counters.start_failures),
        ("crashes", "Processes that ended by themselves after they were ready", &counters.crashes),
        ("hung", "Processes that stopped answering and were killed", &counters.hung),
        ("probe_failures", "Health probes of ready processes without an answer", &counters.probe_failures),
        ("drains", "Applications that were drained", &counters.drains),
        ("requests_cut", "Requests that were cut at a drain's deadline", &counters.requests_cut),
        ("wakes", "Cold applications that a request woke", &counters.wakes),
        ("record_failures", "Records that could not be written", &counters.record_failures),
        ("leftovers_killed", "Processes of an earlier agent that were ended", &counters.leftovers_killed),
        ("bundles_stored", "Bundles taken", &counters.bundles_stored),
        ("bundles_refused", "Bundles refused", &counters.bundles_refused),
        ("bundles_collected", "Unused bundles removed", &counters.bundles_collected),
        ("api_refused", "Calls without the right token", &counters.api_refused),
        ("events_lost", "Events that no edge was told, because too many waited", &counters.events_lost),
    ];
    for (name, help, count) in told {
        let name = format!("steady_agent_{name}_total");
        describe_counter!(name.clone(), Unit::Count, help);
        counter!(name).absolute(count.value());
    }
}

fn record_apps(host: &Host) {
    let mut states: BTreeMap<&'static str, u32> = State::ALL.iter().map(|state| (state.name(), 0)).collect();
    let (mut tombstones, mut lost) = (host.left(), host.shared.counters.log_lost.value());
    for handle in host.all() {
        lost += handle.log.lost_total();
        let status = handle.status.borrow();
        if status.is_tombstone() {
            tombstones += 1;
        } else {
            *states.entry(status.state.name()).or_default() += 1;
        }
    }
    describe_gauge!("steady_agent_apps", Unit::Count, "Applications by the state of their process");
    for (state, count) in states {
        gauge!("steady_agent_apps", "state" => state).set(f64::from(count));
    }
    describe_gauge!("steady_agent_tombstones", Unit::Count, "Applications that have left, whose generation is kept");
    gauge!("steady_agent_tombstones").set(tombstones as f64);
    describe_counter!("steady_agent_log_lost_bytes_total", Unit::Bytes, "Output lost because the disk did not keep up");
    counter!("steady_agent_log_lost_bytes_total").absolute(lost);
}

fn record_sample(sample: Sample, worker: Option<&str>) {
    let name = format!("steady_agent_{}", sample.name);
    let mut labels: Vec<_> =
        worker.map(|worker| metrics::Label::new("worker", worker.to_owned())).into_iter().collect();
    labels.extend(sample.label.map(|(key, value)| metrics::Label::from_static_parts(key, value)));
    match sample.kind {
        Kind::Counter => {
            describe_counter!(name.clone(), sample.help);
            counter!(name, labels).absolute(sample.value);
        }
        Kind::Gauge => {
            describe_gauge!(name.clone(), sample.help);
            gauge!(name, labels).set(sample.value as f64);
        }
    }
}
