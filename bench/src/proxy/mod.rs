//! `steady-bench proxy`: CPU per request of Steady's edge and of what one would use instead, side by side.
//!
//! Each proxy is pinned to one core; load and a coalescing origin run on another. Within a round every proxy is measured
//! once, each round beginning with another, and ratios are taken within a round, so that whatever slows the machine slows
//! all of them. Every answer is checked: its status and the length of its body.
//!
//! - `rows`: what is measured. `load`: the load. `origin`: what stands behind the proxies. `link`: connections of both.
//! - `peers`: starting the proxies, by the configurations in `bench/peers/`. `edge`, `bare`: Steady as one of them.
//! - `cpu`: what a process has spent. `report`: the tables.

mod bare;
mod cpu;
pub mod edge;
mod link;
mod load;
mod origin;
mod peers;
mod report;
mod rows;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use self::load::Measured;
use self::peers::{Builds, Proxy, Who};
use self::report::Outcome;

/// The application that everybody asks for.
const AUTHORITY: &str = "app.bench.test";

/// What the proxies do beside forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
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
    /// Who is measured beside Steady.
    #[arg(long, value_delimiter = ',', default_values_t = [Who::Haproxy, Who::Nginx].map(Name))]
    peers: Vec<Name>,
    /// Rows to measure; all when none is named.
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
    #[command(flatten)]
    builds: Builds,
    /// Where `proxy.json` and `proxy.md` go.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// A proxy's name on the command line.
#[derive(Clone, Copy, Debug)]
struct Name(Who);

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use clap::ValueEnum as _;
        f.write_str(self.0.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        clap::ValueEnum::from_str(text, true).map(Name)
    }
}

/// Which core is whose.
#[derive(Clone, Copy, Debug)]
struct Cores {
    proxy: usize,
    rest: usize,
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
    let machine = machine(&who);
    println!("{machine:#}");
    let mut outcomes = Vec::new();
    let mut text = String::new();
    for &setting in &args.settings {
        steady_sys::cpu::pin(cores.proxy)?;
        let start = |&who: &Who| Proxy::start(who, setting, origin, dir.path(), &args.builds);
        let mut proxies = who.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        steady_sys::cpu::pin(cores.rest)?;
        let mut of_setting = Vec::new();
        for row in &rows {
            let outcome = measure(*row, setting, &mut proxies, &tls, args);
            print!("{}", report::markdown(std::slice::from_ref(&outcome), &who));
            of_setting.push(outcome);
        }
        text += &format!("### {}\n\n{}\n", setting.name(), report::markdown(&of_setting, &who));
        outcomes.extend(of_setting);
        drop(proxies);
    }
    println!("\n{text}");
    if let Some(out) = &args.out {
        fs::create_dir_all(out)?;
        fs::write(out.join("proxy.md"), &text)?;
        fs::write(out.join("proxy.json"), format!("{:#}\n", report::json(&outcomes, &who, &machine)))?;
    }
    Ok(())
}

fn measure(row: rows::Row, setting: Setting, proxies: &mut [Proxy], tls: &Arc<ClientConfig>, args: &Args) -> Outcome {
    let time = Duration::from_secs_f64(args.seconds);
    let rounds = (0..args.rounds).map(|round| {
        let mut results: Vec<Result<Measured, String>> =
            proxies.iter().map(|_| Err("not measured".to_owned())).collect();
        for step in 0..proxies.len() {
            let at = (round + step) % proxies.len();
            let proxy = &mut proxies[at];
            let measured = load::run(row.shape, proxy, tls, time / 3, time);
            if let Err(error) = &measured {
                eprintln!("{} {} {}: {error}", row.name, setting.name(), proxy.who.name());
            }
            results[at] = measured;
        }
        results
    });
    Outcome { row: row.name, setting: setting.name(), rounds: rounds.collect() }
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

fn machine(who: &[Who]) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let versions: Vec<Value> = who.iter().map(|who| json!({ "proxy": who.name(), "version": who.version() })).collect();
    json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cores": steady_sys::cpu::allowed().map_or(0, |cores| cores.len()),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average": read("/proc/loadavg").trim(),
        "proxies": versions,
    })
}
