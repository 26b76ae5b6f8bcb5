//! How many requests are where: cells that each worker writes for itself, and control adds up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::ServerConfig;
use steady_proxy::{Bounds, Cell};

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
}

/// One application of a [`View`].
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub app: Arc<App>,
    /// Tells applications apart as a parking place does; stable for the life of the process.
    pub place: u64,
    pub parked: Arc<Tally>,
    /// Requests with the process that is ready.
    pub in_flight: Arc<Tally>,
}

/// Every count that was ever handed out and may still be written.
#[derive(Debug)]
pub(super) struct Ledger {
    workers: usize,
    books: Mutex<HashMap<Arc<str>, Book>>,
}

#[derive(Debug)]
struct Book {
    place: u64,
    parked: Arc<Tally>,
    /// By instance; `None`: no process was ready.
    in_flight: HashMap<Option<u64>, Arc<Tally>>,
}

impl Ledger {
    pub(super) fn new(workers: usize) -> Ledger {
        Ledger { workers, books: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, HashMap<Arc<str>, Book>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The view for a publication.
    pub(super) fn view(&self, apps: &Apps, tls: Option<Arc<ServerConfig>>, bounds: Option<Arc<Bounds>>) -> View {
        let mut books = self.books();
        let mut seen = HashMap::with_capacity(apps.apps.len());
        for (name, app) in &apps.apps {
            let next = books.len() as u64 + 1;
            let book = books.entry(Arc::clone(name)).or_insert_with(|| Book {
                place: next,
                parked: Tally::new(self.workers),
                in_flight: HashMap::new(),
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
        View { apps: seen, tls, bounds }
    }

    pub(super) fn in_flight(&self, app: &str, instance: Option<u64>) -> u64 {
        let books = self.books();
        let Some(book) = books.get(app) else { return 0 };
        match instance {
            None => book.in_flight.values().map(|tally| tally.sum()).sum(),
            Some(_) => book.in_flight.get(&instance).map_or(0, |tally| tally.sum()),
        }
    }

    pub(super) fn parked(&self, app: &str) -> u64 {
        self.books().get(app).map_or(0, |book| book.parked.sum())
    }
}
