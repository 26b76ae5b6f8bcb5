//! What latency reports cost: the processor time of an agent that makes one a second and of the edge that takes it in, with
//! many applications active at once, each a process whose time and memory are read.
//!
//! Seconds are simulated, so that nothing else is measured: between two reports the workers' meters get a second's requests, and
//! the caches are filled with something else, as they would be after a second of other work.

use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use steady_agent::gate::{AppMeters, Subject};
use steady_agent::reports::{AppNow, Hub, Look, Source};
use steady_agent::supervise::Changes;
use steady_agent::usage::sessions;
use steady_lb::reports::{EdgeMeters, Of, Reports, Span};
use steady_sys::clock::thread_cpu_nanos;
use steady_timing::State;

/// Larger than the last cache of the machines that this runs on.
const OTHER_WORK: usize = 64 << 20;
/// Processes are looked for so much less often than reports are made.
const SESSIONS_EVERY: f64 = 10.0;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Applications that are active every second
    #[arg(long, default_value_t = 1000)]
    apps: usize,
    /// Requests of each a second
    #[arg(long, default_value_t = 20)]
    rate: usize,
    /// Workers of the edge and of the agent
    #[arg(long, default_value_t = 2)]
    workers: usize,
    /// Seconds that are simulated
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Applications as the agent's control has them, each with a process of its own that sleeps.
struct Apps {
    apps: Vec<(Arc<str>, Child)>,
    meters: Arc<AppMeters>,
    changes: Changes,
}

impl Drop for Apps {
    fn drop(&mut self) {
        for (_, child) in &mut self.apps {
            // One that has ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Apps {
    fn start(count: usize) -> std::io::Result<Apps> {
        let start = |at: usize| {
            let mut command = Command::new("sleep");
            command.arg("3600").stdin(Stdio::null());
            let child = steady_sys::process::lead_session_and_die_with_parent(&mut command).spawn()?;
            Ok((Arc::from(format!("app-{at:05}")), child))
        };
        let apps = (0..count).map(start).collect::<std::io::Result<Vec<_>>>()?;
        Ok(Apps { apps, meters: Arc::new(AppMeters::new(1 << 20)), changes: Changes::default() })
    }

    fn now(child: &Child) -> AppNow {
        AppNow { version: 1, state: State::Ready, pid: Some(child.id()), queued: 0 }
    }
}

impl Source for Apps {
    fn app(&self, name: &str) -> Option<AppNow> {
        let at = self.apps.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(Apps::now(&self.apps[at].1))
    }

    fn each(&self, each: &mut dyn FnMut(Arc<str>, AppNow)) {
        self.apps.iter().for_each(|(name, child)| each(Arc::clone(name), Apps::now(child)));
    }

    fn meters(&self) -> Arc<AppMeters> {
        Arc::clone(&self.meters)
    }

    fn changes(&self) -> &Changes {
        &self.changes
    }
}

/// Processor time of what is done.
fn timed<T>(spent: &mut u64, work: impl FnOnce() -> T) -> T {
    let before = thread_cpu_nanos();
    let done = work();
    *spent += thread_cpu_nanos() - before;
    done
}

pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let apps = Arc::new(Apps::start(args.apps)?);
    let edge_meters = Arc::new(EdgeMeters::new(1 << 20));
    let too_many = "too many meters";
    let mut at_agent = Vec::new();
    let mut at_edge = Vec::new();
    for (name, _) in &apps.apps {
        for _ in 0..args.workers {
            at_agent.push(apps.meters.open(|| Subject { app: Arc::clone(name), version: 1 }).ok_or(too_many)?);
            at_edge.push(edge_meters.open(|| Arc::clone(name)).ok_or(too_many)?);
            // The queues of new meters are bounded; the looks below empty them.
        }
    }
    let hub = Hub::new(Arc::clone(&apps) as _);
    let reports = Reports::new(edge_meters);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut listener = hub.listen();
    let mut random = fastrand::Rng::with_seed(3);
    let mut other_work = vec![1u8; OTHER_WORK];
    let (mut agent_ns, mut edge_ns, mut own_ns, mut sessions_ns, mut bytes) = (0, 0, 0, 0, 0);
    for second in 0..=args.seconds {
        for (agent, edge) in at_agent.iter().zip(&at_edge) {
            for _ in 0..args.rate / args.workers {
                // Most take about 2 ms, some much longer.
                let us = (2_000.0 * (random.f64() + random.f64()).powi(3)) as u64;
                agent.record(200, [Some(us), Some(random.u64(1..9)), Some(random.u64(20..60))]);
                edge.record(200, [Some(us + 150), Some(random.u64(60..200))]);
            }
        }
        other_work.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
        let now = Duration::from_secs(second + 1);
        let report = timed(&mut agent_ns, || {
            hub.make(Look::Every);
            runtime.block_on(listener.next())
        });
        let report = report.ok_or("the reports ended")?;
        timed(&mut edge_ns, || reports.apply("h1", &report, now))?;
        timed(&mut own_ns, || reports.look(now));
        bytes += report.len();
        if second == 0 {
            // The first is a whole one, and opens everything.
            (agent_ns, edge_ns, own_ns, bytes) = (0, 0, 0, 0);
            hub.see(&timed(&mut sessions_ns, sessions));
        }
    }
    std::hint::black_box(&other_work);
    let all = reports.window(Of::All, Span::Hour, Duration::from_secs(args.seconds + 2)).sum;
    let told: u64 = all.reported.iter().sum();
    let expected = (args.apps * (args.rate / args.workers) * args.workers) as u64 * (args.seconds + 1);
    if told != expected {
        return Err(format!("{told} requests arrived at the edge, {expected} were made").into());
    }
    let share = |ns: u64| ns as f64 / args.seconds as f64 / 1e7;
    let looking = sessions_ns as f64 / SESSIONS_EVERY / 1e7;
    println!(
        "{} applications, {} requests/s each, {} workers, {} s:",
        args.apps, args.rate, args.workers, args.seconds
    );
    println!(
        "  agent   {:.2} % of a core for reports, {looking:.2} % to look which processes there are",
        share(agent_ns)
    );
    println!(
        "  edge    {:.2} % of a core for reports, {:.2} % for what it measures itself",
        share(edge_ns),
        share(own_ns)
    );
    println!(
        "  report  {:.0} KB a second, {:.0} octets an application",
        bytes as f64 / args.seconds as f64 / 1e3,
        bytes as f64 / args.seconds as f64 / args.apps as f64
    );
    println!("  memory  {:.1} MiB at the edge", reports.memory() as f64 / 1048576.0);
    println!("  every one of {told} requests was counted once");
    Ok(())
}
