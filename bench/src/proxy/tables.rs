//! The tables that Steady's edge serves by: of one or of many applications, left alone or changed all the time.
//!
//! What is measured is what a change costs those who serve; making tables is control's work, on a thread and a core of its own.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use steady_table::{App, Change as Edit, Contents, Endpoint, Host, HostIndex, Moving, Routes, TableDir};

use super::{app_name, cpu};

/// Between two publications.
const PAUSE: Duration = Duration::from_millis(100);

/// What happens to the table while it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Change {
    None,
    /// Two whole tables, the one after the other, ten times a second.
    Swap,
    /// Nothing, with the applications on two hosts.
    TwoHosts,
    /// On two hosts: a hundredth of the applications is moving at any time, every tenth of a second another one. The old
    /// host says that it is live, so that every request for one that moves waits behind a probe.
    Move,
}

/// See the module.
#[derive(Debug)]
pub struct Tables {
    change: Change,
    apps: u32,
    dir: TableDir,
    /// The table to serve by; then, for a swap, the other one.
    tables: Vec<Arc<Routes>>,
}

impl Tables {
    /// Makes the tables in `dir`, or takes those that are there from an earlier start.
    pub fn open(dir: &Path, origin: SocketAddr, apps: u32, change: Change) -> Result<Tables, Box<dyn Error>> {
        let open = |name: &str, version| -> Result<(TableDir, Arc<Routes>), Box<dyn Error>> {
            let (mut table, found, _) = TableDir::open(dir.join(name))?;
            let origin_of = |routes: &Routes| routes.hosts().first().map(|host| host.addr().to_owned());
            let is_it =
                |found: &Routes| found.app_count() == apps as usize && origin_of(found) == Some(origin.to_string());
            let revision = found.as_ref().map_or(1, |found| found.revision() + 1);
            let routes = match found.filter(is_it) {
                Some(found) => found,
                None => table.replace(contents(origin, apps, version, change)?, revision)?,
            };
            Ok((table, Arc::new(routes)))
        };
        let (table, first) = open(&format!("table-{apps}-{change:?}"), 1)?;
        let mut tables = vec![first];
        if change == Change::Swap {
            tables.push(open(&format!("table-{apps}-other"), 2)?.1);
        }
        Ok(Tables { change, apps, dir: table, tables })
    }

    pub fn first(&self) -> Arc<Routes> {
        Arc::clone(&self.tables[0])
    }

    /// Changes the table from a thread of its own until what is returned is called.
    pub fn change_for_ever(
        self,
        publish: impl Fn(Arc<Routes>) + Send + 'static,
    ) -> Result<impl FnOnce(), Box<dyn Error>> {
        let (stop, stopped) = mpsc::channel::<()>();
        let is_still = matches!(self.change, Change::None | Change::TwoHosts);
        let mut control = self;
        let thread = std::thread::Builder::new().name(cpu::CONTROL.to_owned()).spawn(move || {
            for step in 0u32.. {
                if stopped.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                if is_still {
                    continue;
                }
                match control.step(step) {
                    Ok(routes) => publish(routes),
                    Err(error) => return eprintln!("the table is not changed any more: {error}"),
                }
            }
        })?;
        Ok(move || {
            drop(stop);
            // A thread that panicked has said so.
            let _ = thread.join();
        })
    }

    fn step(&mut self, step: u32) -> Result<Arc<Routes>, Box<dyn Error>> {
        if self.change == Change::Swap {
            return Ok(Arc::clone(&self.tables[(step as usize + 1) % 2]));
        }
        let part = (self.apps / 100).max(1);
        let apps = self.apps;
        // Which applications move in a step, and how often each has moved before (or is held to have, to begin on its host).
        let of = |step: u32| {
            let numbers = (0..part).map(move |n| step.wrapping_mul(part).wrapping_add(n));
            numbers.map(move |number| (number % apps, number / apps + number % apps % 2))
        };
        let mut edits = Vec::new();
        // Those that began a step ago have arrived; the next ones begin.
        for (n, round) in of(step.wrapping_sub(1)).filter(|_| step > 0) {
            edits.push(Edit::Put(app(n, apps, 1, round + 1)?));
        }
        for (n, round) in of(step) {
            let mut moving = app(n, apps, 1, round)?;
            let from = moving.endpoints[0].host;
            moving.moving = Some(Moving { from, to: HostIndex(1 - from.0), generation: moving.generation + 1 });
            edits.push(Edit::Put(moving));
        }
        let revision = self.tables[0].revision() + 1;
        let routes = Arc::new(self.dir.apply(&self.tables[0], &edits, revision)?);
        self.tables[0] = Arc::clone(&routes);
        Ok(routes)
    }
}

fn contents(
    origin: SocketAddr,
    apps: u32,
    version: u32,
    change: Change,
) -> Result<Contents<impl Iterator<Item = App>>, Box<dyn Error>> {
    let (_, domain) = super::AUTHORITY.split_once('.').ok_or("the authority is an application's")?;
    let hosts = if matches!(change, Change::TwoHosts | Change::Move) { 2 } else { 1 };
    // A name that is none shows in the first.
    app(0, apps, version, 0)?;
    Ok(Contents {
        hosts: (0..hosts).map(|n| Host::new(&format!("origin-{n}"), &origin.to_string())).collect::<Result<_, _>>()?,
        domains: vec![domain.parse()?],
        apps: (0..apps).filter_map(move |n| app(n, apps, version, n % hosts).ok()),
        customs: Vec::new(),
    })
}

/// Application `n` of `apps` after `round` moves between two hosts.
fn app(n: u32, apps: u32, version: u32, round: u32) -> Result<App, Box<dyn Error>> {
    let endpoint = Endpoint { host: HostIndex(round % 2), weight: 1, version };
    let name = app_name(n, apps).parse().map_err(|_| "that is no name of an application")?;
    let generation = u64::from(round) + 1;
    Ok(App { name, generation, exclusive: false, version, endpoints: vec![endpoint], moving: None })
}
