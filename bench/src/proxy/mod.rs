//! `steady-bench proxy`: Steady's edge and what one would use instead, side by side.
//!
//! Each proxy is pinned to one core; load and a coalescing origin run on another. Within a round every proxy is measured
//! once, each round beginning with another, and ratios are taken within a round, so that whatever slows the machine slows
//! all of them. Every answer is checked: its status and the length of its body. A proxy that cannot be started, or fails, is
//! reported in its place. Each row is kept when it is done, so that a run that was interrupted goes on with `--resume`.
//!
//! - `rows`: what is measured. `who`: of whom. `measure`: the rounds. `outcome`: what came of them.
//! - `attack`: hostile clients beside a good one. `load`: our own load (`shape` says what it is to be, `pace` when). `outside`: that of others. `origin`: what stands behind the proxies. `link`: connections of both.
//! - `peers`: starting the proxies, by the configurations in `bench/peers/`. `edge`, `bare`, `tables`, `agent`: Steady as one.
//! - `cpu`: what a process has spent and holds. `report`, `gates`, `charts`: what is shown.

pub mod agent;
mod attack;
mod bare;
mod charts;
mod cpu;
pub mod edge;
mod gates;
mod link;
mod load;
mod measure;
mod origin;
mod outcome;
mod outside;
mod pace;
mod peers;
mod report;
mod rows;
mod shape;
mod tables;
mod who;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum as _;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::measure::{Cores, House};
use self::outcome::Outcome;
use self::outside::Tool;
use self::peers::{Builds, Stage};
use self::who::Who;

/// The application that everybody asks for, where there is but one.
const AUTHORITY: &str = "app.bench.test";

/// The name of application `n` of so many.
fn app_name(n: u32, of: u32) -> String {
    if of == 1 { "app".to_owned() } else { format!("app-{n}") }
}

/// By which it is asked for.
fn authority(n: u32, of: u32) -> String {
    format!("{}.bench.test", app_name(n, of))
}

/// What the proxies do beside forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum Setting {
    /// Nothing.
    Bare,
    /// Forwarding fields, a request id, an access log; Steady in its defaults.
    Production,
}

impl Setting {
    const fn name(self) -> &'static str {
        match self {
            Setting::Bare => "bare",
            Setting::Production => "production",
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who is measured beside Steady: haproxy, nginx, envoy; monoio, tokio-uring, floor; steady-epoll, before. When none is
    /// named, the first two, Envoy when it is there, and the baselines when they are built.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<Name>,
    /// Rows to measure; all when none is named. `latency-*` stands for all that begin so.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    #[arg(long, value_delimiter = ',', default_values = ["bare", "production"])]
    settings: Vec<Setting>,
    /// Rounds of each row; the median and the range are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement, after a third of that to warm up.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Who makes the load of closed loops; with another than our own, rows that it cannot make are left out.
    #[arg(long, default_value = "own")]
    load: Tool,
    #[command(flatten)]
    builds: Builds,
    /// Where `proxy.json`, `proxy.md`, the charts and the rows go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Take the rows that an earlier run left in `--out`, and measure the rest.
    #[arg(long)]
    resume: bool,
    /// A document that shows the figures between its two marks, its charts beside it in a folder of its name.
    #[arg(long)]
    publish: Option<PathBuf>,
}

/// A proxy's name on the command line.
#[derive(Clone, Copy, Debug)]
struct Name(Who);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.key())
    }
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        Who::from_str(text, true).map(Name)
    }
}

pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let rows = rows::chosen(&args.rows)?;
    if args.rounds == 0 || args.seconds <= 0.0 {
        return Err("--rounds and --seconds must be above 0".into());
    }
    let allowed = steady_sys::cpu::allowed()?;
    let [proxy, rest, ..] = allowed[..] else {
        return Err("two cores are needed: one for the proxies, one for the rest".into());
    };
    let cores = Cores { proxy, rest };
    steady_proxy::daemon::raise_descriptors();
    let mut who = vec![Who::Steady];
    if args.peers.is_empty() {
        let there =
            [Who::Envoy, Who::Monoio, Who::TokioUring, Who::Floor].into_iter().filter(|who| args.builds.has(*who));
        who.extend([Who::Haproxy, Who::Nginx].into_iter().chain(there));
    }
    who.extend(args.peers.iter().map(|name| name.0).filter(|who| *who != Who::Steady));
    let dir = tempfile::tempdir()?;
    let tls = certificate(dir.path())?;
    let (socket, origin) = origin::bind()?;
    std::thread::spawn(move || {
        // Without its core it would be measured with the proxies.
        let served = steady_sys::cpu::pin(cores.rest).and_then(|()| origin::serve(socket));
        eprintln!("the origin ended: {served:?}");
        std::process::exit(1);
    });
    let machine = machine(&who, args);
    print!("{}", report::machine(&machine));
    let time = Duration::from_secs_f64(args.seconds);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for &setting in &args.settings {
        let stage = Stage { setting, origin, dir: dir.path(), builds: &args.builds };
        let mut house = House::new(stage, cores, Arc::clone(&tls), args.rounds, time, args.load);
        for row in rows.iter().filter(|row| row.is_in(setting)) {
            let contenders = row.who(&who);
            let load = house.load_of(row);
            if args.load != Tool::Own && load == Tool::Own {
                continue;
            }
            let kept = || Outcome::kept(&args.out, row.name, setting, load, &contenders, house.rounds_of(row));
            let outcome = match args.resume.then(kept).flatten() {
                Some(kept) => kept,
                None => {
                    let outcome = house.measure(row, contenders, &outcomes);
                    outcome.save(&args.out)?;
                    outcome
                }
            };
            print!("{}", report::row(&outcome));
            outcomes.push(outcome);
        }
    }
    let text = report::machine(&machine) + &report::markdown(&outcomes);
    println!("\n{text}");
    let charts = charts::all(&outcomes);
    fs::write(args.out.join("proxy.md"), &text)?;
    fs::write(args.out.join("proxy.json"), format!("{:#}\n", report::json(&outcomes, &machine)))?;
    for (name, chart) in &charts {
        fs::write(args.out.join(name), chart)?;
    }
    if let Some(document) = &args.publish {
        report::publish(document, &text, &charts)?;
    }
    println!("{} holds proxy.md, proxy.json and the charts", args.out.display());
    Ok(())
}

/// Makes a certificate for everybody, and returns the configuration of a client that trusts it.
fn certificate(dir: &Path) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let made = rcgen::generate_simple_self_signed(vec![AUTHORITY.to_owned()])?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(dir.join("cert.pem"), &cert)?;
    fs::write(dir.join("key.pem"), &key)?;
    fs::write(dir.join("both.pem"), format!("{cert}{key}"))?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(made.cert.der().to_vec()))?;
    Ok(Arc::new(steady_proxy::tls::client_config(roots, &[])?))
}

fn machine(who: &[Who], args: &Args) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let versions = who.iter().map(|who| json!({ "proxy": who.name(), "version": who.version(&args.builds) }));
    json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": steady_sys::cpu::allowed().map_or(0, |cores| cores.len()),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control").trim(),
        "load_average": read("/proc/loadavg").trim(),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "load": args.load.version(),
        "proxies": versions.collect::<Vec<_>>(),
    })
}
