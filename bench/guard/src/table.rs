//! Look-ups in a routing table of ten thousand applications.

use std::hint::black_box;

use steady_table::{App, AppName, Change, Contents, Endpoint, Host, HostIndex, Options, Resolution, Routes, TableDir};

use crate::{Case, measured};

const APPS: u32 = 10_000;
/// In the overlay, for the case that has one.
const CHANGED: u32 = 1_000;

/// Look-ups.
const LOOKUPS: u64 = 1_000;

pub(crate) const CASES: &[Case] = &[
    case("table-hit", "authority found in the base", |times| look_up(0, "", times)),
    case("table-hit-overlay", "authority found, an overlay of 1000 beside", |times| look_up(CHANGED, "", times)),
    case("table-miss", "authority that nobody has", |times| look_up(0, "-not", times)),
];

const fn case(name: &'static str, unit: &'static str, run: fn(u64)) -> Case {
    Case { name, unit, run, times: LOOKUPS }
}

fn look_up(changed: u32, suffix: &str, times: u64) {
    let dir = tempfile::tempdir().expect("a directory");
    let routes = routes(dir.path(), changed);
    let names: Vec<String> =
        (0..times as u32).map(|n| format!("Tenant-{}{suffix}.steady.page:443", n * 19 % APPS)).collect();
    let ask = || names.iter().filter(|name| matches!(routes.resolve(name.as_bytes()), Resolution::App(_))).count();
    let found = ask();
    assert_eq!(found, if suffix.is_empty() { names.len() } else { 0 });
    measured(|| black_box(ask()));
}

fn routes(dir: &std::path::Path, changed: u32) -> Routes {
    // The same table each time.
    let options = Options { random: || 0x5eed, ..Options::default() };
    let (mut table, _, _) = TableDir::open_with(dir, options).expect("a table");
    let contents = Contents {
        hosts: (0..8).map(|n| Host::new(&format!("h{n}"), "10.0.0.1:7000").expect("a host")).collect(),
        domains: vec!["steady.page".parse().expect("a domain")],
        apps: (0..APPS).map(app),
        customs: Vec::new(),
    };
    let routes = table.replace(contents, 1).expect("written");
    let changes: Vec<Change> = (0..changed).map(|n| Change::Put(app(n))).collect();
    if changes.is_empty() { routes } else { table.apply(&routes, &changes, 2).expect("applied") }
}

fn app(n: u32) -> App {
    let name: AppName = format!("tenant-{n}").parse().expect("a name");
    let endpoints = vec![Endpoint { host: HostIndex(n % 8), weight: 1, version: 1 }];
    App { name, generation: 1, exclusive: false, version: 1, endpoints, moving: None }
}
