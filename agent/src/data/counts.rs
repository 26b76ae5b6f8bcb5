//! How many requests are where: cells that each worker writes for itself, and control adds up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use steady_proxy::{Bounds, Cell, Timeouts};

use crate::gate::{App, Apps, Process};

/// One number per worker.
#[derive(Debug)]
pub struct Tally(Box<[Cell]>);

impl Tally {
    fn new(workers: usize) -> Arc<Tally> {
        Arc::new(Tally((0..workers).map(|_| Cell::default()).collect()))
    }

    /// The cell of one worker, which only it writes.
    pub fn of(&self, worker: usize) -> &Cell {
        &self.0[worker]
    }

    pub fn sum(&self) -> u64 {
        self.0.iter().map(Cell::value).sum()
    }
}

/// What the workers see: control's applications, each with where its requests are counted. Immutable.
#[derive(Debug, Default)]
pub struct View {
    pub(super) apps: HashMap<Arc<str>, Seen>,
    /// TLS with the edges; `None`: this host has no certificate yet.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Of the workers; `None`: those that they began with.
    pub(super) bounds: Option<Arc<Bounds>>,
    /// Likewise.
    pub(super) timeouts: Option<Timeouts>,
}

/// One application of a [`View`].
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub app: Arc<App>,
    /// Tells applications apart as a parking place does; never another's in the life of the process.
    pub place: u64,
    pub parked: Arc<Tally>,
    /// Requests with the process that is ready.
    pub in_flight: Arc<Tally>,
}

/// Every count that was handed out and may still be written.
#[derive(Debug)]
pub(super) struct Ledger {
    workers: usize,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    by_name: HashMap<Arc<str>, Book>,
    /// Places that were given out.
    places: u64,
}

#[derive(Debug)]
struct Book {
    place: u64,
    parked: Arc<Tally>,
    /// By instance; `None`: no process was ready.
    in_flight: HashMap<Option<u64>, Arc<Tally>>,
}

impl Book {
    /// Whether a view has its cells, or a worker's request: nobody else writes them, and nobody who has none gets any but here.
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.parked) > 1 || self.in_flight.values().any(|tally| Arc::strong_count(tally) > 1)
    }
}

impl Ledger {
    pub(super) fn new(workers: usize) -> Ledger {
        Ledger { workers, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view for a publication.
    pub(super) fn view(&self, apps: &Apps, tls: Option<Arc<ServerConfig>>, bounds: Option<Arc<Bounds>>) -> View {
        let mut books = self.books();
        let Books { by_name, places } = &mut *books;
        let mut seen = HashMap::with_capacity(apps.apps.len());
        for (name, app) in &apps.apps {
            let book = by_name.entry(Arc::clone(name)).or_insert_with(|| {
                *places += 1;
                Book { place: *places, parked: Tally::new(self.workers), in_flight: HashMap::new() }
            });
            let instance = match app.process {
                Process::Ready { instance, .. } => Some(instance),
                _ => None,
            };
            // Instances that are over and have nothing in flight are forgotten; nobody holds their cells but a view.
            book.in_flight.retain(|&other, tally| other == instance || Arc::strong_count(tally) > 1 || tally.sum() > 0);
            let in_flight = book.in_flight.entry(instance).or_insert_with(|| Tally::new(self.workers));
            seen.insert(
                Arc::clone(name),
                Seen {
                    app: Arc::clone(app),
                    place: book.place,
                    parked: Arc::clone(&book.parked),
                    in_flight: Arc::clone(in_flight),
                },
            );
        }
        if by_name.len() > seen.len() {
            by_name.retain(|name, book| seen.contains_key(name) || book.is_held());
        }
        View { apps: seen, tls, bounds, timeouts: None }
    }

    pub(super) fn in_flight(&self, app: &str, instance: Option<u64>) -> u64 {
        let books = self.books();
        let Some(book) = books.by_name.get(app) else { return 0 };
        match instance {
            None => book.in_flight.values().map(|tally| tally.sum()).sum(),
            Some(_) => book.in_flight.get(&instance).map_or(0, |tally| tally.sum()),
        }
    }

    pub(super) fn parked(&self, app: &str) -> u64 {
        self.books().by_name.get(app).map_or(0, |book| book.parked.sum())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::gate::{Generation, Role};

    fn apps(names: &[&str]) -> Apps {
        let app = |name: &&str| {
            let name: Arc<str> = Arc::from(*name);
            let app = App {
                name: Arc::clone(&name),
                role: Role::Owner,
                generation: Generation(1),
                version: 1,
                process: Process::Cold,
                queue_max: 1,
                queue_wait: Duration::ZERO,
                response_timeout: Duration::ZERO,
            };
            (name, Arc::new(app))
        };
        Apps { apps: names.iter().map(app).collect() }
    }

    #[test]
    fn counts_of_what_has_left_go_when_no_worker_has_them_and_its_place_is_nobody_elses() {
        let ledger = Ledger::new(1);
        let place = |view: &View, name: &str| view.apps[name].place;
        let first = ledger.view(&apps(&["one", "two"]), None, None);
        let (gone, kept) = (place(&first, "one"), place(&first, "two"));
        first.apps["one"].parked.of(0).add(1);
        ledger.view(&apps(&["two"]), None, None);
        assert_eq!(ledger.parked("one"), 1, "a worker still runs by the first");
        drop(first);
        let last = ledger.view(&apps(&["two", "three"]), None, None);
        assert_eq!(ledger.books().by_name.len(), 2);
        assert!(place(&last, "two") == kept && ![gone, kept].contains(&place(&last, "three")));
        for number in 0..1000 {
            ledger.view(&apps(&[&format!("app-{number}")]), None, None);
        }
        // The last, and the two of the view that is held.
        assert_eq!(ledger.books().by_name.len(), 3);
    }
}
