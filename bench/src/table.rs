//! `steady-bench table`: what a look-up costs in the routing table and in a `HashMap<String, _>` of the same applications.
//!
//! Each round looks the same names up in the same random order three ways: in the map by name, in the table by name, and
//! in the table by authority (`NAME.steady.page`, which the map does not have to take apart). Ratios are of one round, so
//! that whatever slows the machine slows both sides.

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use steady_table::{
    App, AppName, Change, Contents, DomainName, Endpoint, Host, HostIndex, Options, Resolution, Routes, TableDir,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Numbers of applications to measure with.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000, 1_000_000])]
    apps: Vec<u32>,
    /// Rounds of each; the median and the range are printed.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Look-ups of each kind in a round.
    #[arg(long, default_value_t = 200_000)]
    lookups: usize,
    /// Seed of the order of look-ups.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What the map has in the place of a record.
struct Entry {
    generation: u64,
    host: u32,
}

pub fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if args.rounds == 0 || args.lookups == 0 || args.apps.contains(&0) {
        return Err("--apps, --rounds and --lookups must be above 0".into());
    }
    for apps in &args.apps {
        measure(*apps, args)?;
    }
    Ok(())
}

fn measure(count: u32, args: &Args) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let (mut table, _, _) = TableDir::open(dir.path())?;
    let (built, routes) = timed(|| table.replace(contents(count), 1));
    drop(routes?);
    drop(table);
    let (opened, found) = timed(|| steady_table::open_latest(dir.path()));
    let routes = found?.0.ok_or("the table that was written is not found")?;
    let ids: Vec<u32> = (0..count).collect();
    let (built_map, map) = timed(|| map(&ids));
    println!("{count} applications, {} look-ups a round, {} rounds", args.lookups, args.rounds);
    println!("  build, write and check {built:.1?}; open and check {opened:.1?}; HashMap built in {built_map:.1?}");
    lookups("without an overlay", &routes, &map, args);
    drop(routes);
    changes(dir.path(), count, &map, args)
}

/// Times single changes, then measures look-ups again through a full overlay.
fn changes(dir: &std::path::Path, count: u32, map: &HashMap<String, Entry>, args: &Args) -> Result<(), Box<dyn Error>> {
    let options = Options::default();
    let most = options.limits.overlay_entries as u32;
    let (mut table, routes, _) = TableDir::open_with(dir, options)?;
    let mut routes = routes.ok_or("the table that was written is not found")?;
    let (mut revision, mut single) = (1, Vec::new());
    let mut apply = |table: &mut TableDir, routes: &Routes, changes: &[Change]| {
        revision += 1;
        timed(|| table.apply(routes, changes, revision))
    };
    for n in 0..args.rounds as u32 {
        let (took, next) = apply(&mut table, &routes, &[Change::Put(app(n % count))]);
        routes = next?;
        single.push(took);
    }
    let all: Vec<_> = (0..most.min(count)).map(|n| Change::Put(app(n))).collect();
    routes = apply(&mut table, &routes, &all).1?;
    let mut full = Vec::new();
    for n in 0..args.rounds as u32 {
        let (took, next) = apply(&mut table, &routes, &[Change::Put(app(n % count))]);
        routes = next?;
        full.push(took);
    }
    println!("  one change {}; with {} entries in the overlay {}", spread(single), all.len(), spread(full));
    lookups("with that overlay", &routes, map, args);
    let extra: Vec<_> = (0..=most).map(|n| Change::Put(app(count + n))).collect();
    let (took, next) = apply(&mut table, &routes, &extra);
    next?;
    println!("  folding the overlay into a new base {took:.1?}\n");
    Ok(())
}

fn lookups(what: &str, routes: &Routes, map: &HashMap<String, Entry>, args: &Args) {
    let mut random = fastrand::Rng::with_seed(args.seed);
    let count = map.len() as u32;
    // One text after the other, as requests lie in a receive buffer.
    let (mut text, mut ends) = (String::new(), Vec::new());
    for _ in 0..args.lookups {
        text.push_str(name(random.u32(0..count)).as_str());
        let name_end = text.len();
        text.push_str(".steady.page");
        ends.push((name_end, text.len()));
    }
    let each = |look: &dyn Fn(&str, &str) -> u64| {
        let begin = Instant::now();
        let (mut from, mut sum) = (0, 0u64);
        for (name_end, end) in &ends {
            sum = sum.wrapping_add(look(&text[from..*name_end], &text[from..*end]));
            from = *end;
        }
        black_box(sum);
        begin.elapsed().as_nanos() as f64 / ends.len() as f64
    };
    let (mut in_map, mut by_name, mut resolve) = (Vec::new(), Vec::new(), Vec::new());
    let read_map = |name: &str, _: &str| map.get(name).map_or(0, |entry| entry.generation + u64::from(entry.host));
    let read_name = |name: &str, _: &str| routes.by_name(name).map_or(0, read);
    let read_authority = |_: &str, authority: &str| match routes.resolve(authority.as_bytes()) {
        Resolution::App(route) => read(route),
        _ => 0,
    };
    for _ in 0..args.rounds {
        in_map.push(each(&read_map));
        by_name.push(each(&read_name));
        resolve.push(each(&read_authority));
    }
    println!("  {what}: HashMap {} ns", numbers(&in_map));
    for (what, took) in [("by name", by_name), ("by authority", resolve)] {
        let ratio: Vec<f64> = took.iter().zip(&in_map).map(|(table, map)| table / map).collect();
        println!("    {what:<12} {} ns, {} × the HashMap", numbers(&took), numbers(&ratio));
    }
}

fn read(route: steady_table::Route<'_>) -> u64 {
    route.generation() + route.endpoints().next().map_or(0, |endpoint| u64::from(endpoint.host.0))
}

fn map(ids: &[u32]) -> HashMap<String, Entry> {
    ids.iter().map(|n| (name(*n).as_str().to_owned(), Entry { generation: 1, host: n % 8 })).collect()
}

fn contents(count: u32) -> Contents<impl Iterator<Item = App>> {
    let host = |n| Host::new(&format!("host-{n}"), &format!("10.0.0.{}:7000", n + 1)).expect("a host");
    let domain = |text: &str| text.parse::<DomainName>().expect("a domain");
    Contents {
        hosts: (0..8).map(host).collect(),
        domains: ["steady.page", "steady.sh", "localhost"].map(domain).to_vec(),
        apps: (0..count).map(app),
        customs: Vec::new(),
    }
}

fn app(n: u32) -> App {
    let endpoint = Endpoint { host: HostIndex(n % 8), weight: 1, version: 1 };
    App { name: name(n), generation: 1, exclusive: false, version: 1, endpoints: vec![endpoint], moving: None }
}

fn name(n: u32) -> AppName {
    format!("tenant-{n}").parse().expect("a name")
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begin = Instant::now();
    let value = work();
    (begin.elapsed(), value)
}

/// `median (least–most)`.
fn numbers(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let decimals = if sorted[sorted.len() / 2] < 10.0 { 2 } else { 1 };
    let [median, least, most] = [sorted[sorted.len() / 2], sorted[0], sorted[sorted.len() - 1]];
    format!("{median:.decimals$} ({least:.decimals$}–{most:.decimals$})")
}

fn spread(mut values: Vec<Duration>) -> String {
    values.sort_unstable();
    let [median, least, most] = [values[values.len() / 2], values[0], values[values.len() - 1]];
    format!("{median:.1?} ({least:.1?}–{most:.1?})")
}
