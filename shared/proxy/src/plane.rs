//! Control's handle on the workers of one process: publish a snapshot, ask for something, read what they did.
//!
//! A snapshot goes out through an `ArcSwap`; each worker takes it between two batches and says which one it runs by. An old
//! snapshot is freed here, on control's side, once no worker can hold it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_queue::ArrayQueue;
use steady_http::Head;
use steady_ring::{Addr, Waker};

use crate::policy::Policy;
use crate::stats::Stats;

/// Commands that may wait for one worker. A full queue is reported to the caller, who tries again.
const COMMANDS_MAX: usize = 64;

/// Sees an exchange that is under way, on its worker's thread; `true` ends it.
pub type Look<T> = Arc<dyn Fn(&Listed<'_, T>) -> bool + Send + Sync>;

/// What is asked of every worker.
pub enum Command<T> {
    /// Stop accepting, finish what has begun; cut what is left after `deadline`.
    Drain { deadline: Duration },
    /// Show the exchanges under way, and end those for which it says `true`.
    Inspect(Look<T>),
}

impl<T> Clone for Command<T> {
    fn clone(&self) -> Self {
        match self {
            Command::Drain { deadline } => Command::Drain { deadline: *deadline },
            Command::Inspect(look) => Command::Inspect(Arc::clone(look)),
        }
    }
}

impl<T> fmt::Debug for Command<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Command::Drain { .. } => "Drain",
            Command::Inspect(_) => "Inspect",
        })
    }
}

/// One exchange under way.
#[derive(Debug)]
pub struct Listed<'r, T> {
    pub request: &'r Head,
    pub ticket: &'r T,
    /// The policy's own question, not a client's request.
    pub is_question: bool,
    /// The client; `None` on unix sockets.
    pub peer: Option<SocketAddr>,
    /// Where the attempt under way goes.
    pub upstream: Option<&'r Addr>,
    pub attempts: u8,
    /// HTTP version it came in: 11 or 20.
    pub version: u8,
    pub phase: &'static str,
    /// The status that was sent; 0 when none was.
    pub status: u16,
    pub age: Duration,
    /// Octets of the request's body that came, and of the response's body that were handed to the connection.
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// See the module. Cheap to clone.
pub struct Plane<P: Policy> {
    shared: Arc<Shared<P>>,
}

struct Shared<P: Policy> {
    snapshot: ArcSwap<Numbered<P::Snapshot>>,
    version: AtomicU64,
    stopped: AtomicBool,
    desks: Vec<Desk<P>>,
    /// Snapshots that a worker may still hold, oldest first.
    kept: Mutex<Vec<Arc<Numbered<P::Snapshot>>>>,
}

#[derive(Debug)]
struct Numbered<S> {
    version: u64,
    snapshot: Arc<S>,
}

struct Desk<P: Policy> {
    waker: OnceLock<Waker>,
    settled: AtomicU64,
    drained: AtomicBool,
    deaf: AtomicBool,
    commands: ArrayQueue<Command<P::Ticket>>,
    stats: Arc<Stats>,
}

impl<P: Policy> Clone for Plane<P> {
    fn clone(&self) -> Self {
        Plane { shared: Arc::clone(&self.shared) }
    }
}

impl<P: Policy> fmt::Debug for Plane<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plane({} workers)", self.shared.desks.len())
    }
}

impl<P: Policy> Plane<P> {
    /// A plane for `workers` workers that begin with this snapshot.
    pub fn new(workers: usize, snapshot: Arc<P::Snapshot>) -> Plane<P> {
        let first = Arc::new(Numbered { version: 1, snapshot });
        let desks = (0..workers)
            .map(|_| Desk {
                waker: OnceLock::new(),
                settled: AtomicU64::new(0),
                drained: AtomicBool::new(false),
                deaf: AtomicBool::new(false),
                commands: ArrayQueue::new(COMMANDS_MAX),
                stats: Arc::default(),
            })
            .collect();
        Plane {
            shared: Arc::new(Shared {
                snapshot: ArcSwap::new(Arc::clone(&first)),
                version: AtomicU64::new(1),
                stopped: AtomicBool::new(false),
                desks,
                kept: Mutex::new(vec![first]),
            }),
        }
    }

    /// How many workers there are seats for.
    pub fn seats(&self) -> usize {
        self.shared.desks.len()
    }

    /// The seat of worker `index`.
    pub fn seat(&self, index: usize) -> Seat<P> {
        assert!(index < self.shared.desks.len());
        Seat { shared: Arc::clone(&self.shared), index }
    }

    /// Puts a snapshot in force and wakes the workers. Returns its number.
    pub fn publish(&self, snapshot: Arc<P::Snapshot>) -> u64 {
        let mut kept = self.shared.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let version = self.shared.version.load(Ordering::Acquire) + 1;
        let next = Arc::new(Numbered { version, snapshot });
        kept.push(Arc::clone(&next));
        self.shared.snapshot.store(next);
        self.shared.version.store(version, Ordering::Release);
        let settled = self.settled();
        kept.retain(|old| old.version >= settled);
        drop(kept);
        self.wake();
        version
    }

    /// The snapshot in force.
    pub fn current(&self) -> Arc<P::Snapshot> {
        Arc::clone(&self.shared.snapshot.load().snapshot)
    }

    /// Those of workers that have not ended: the others run by nothing any more.
    fn manned(&self) -> impl Iterator<Item = &Desk<P>> {
        self.shared.desks.iter().filter(|desk| !desk.drained.load(Ordering::Acquire))
    }

    /// The smallest publication that every worker runs by now.
    pub fn settled(&self) -> u64 {
        self.manned().map(|desk| desk.settled.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }

    /// Asks every worker. `false`: some worker's queue is full, and it was not asked.
    pub fn command(&self, command: &Command<P::Ticket>) -> bool {
        let mut all = true;
        for desk in self.manned() {
            all &= desk.commands.push(command.clone()).is_ok();
        }
        self.wake();
        all
    }

    /// Every worker has ended its drain.
    pub fn is_drained(&self) -> bool {
        self.shared.desks.iter().all(|desk| desk.drained.load(Ordering::Acquire))
    }

    /// No worker accepts any more.
    pub fn is_deaf(&self) -> bool {
        self.shared.desks.iter().all(|desk| desk.deaf.load(Ordering::Acquire))
    }

    /// This worker has ended its drain.
    pub fn has_drained(&self, worker: usize) -> bool {
        self.shared.desks[worker].drained.load(Ordering::Acquire)
    }

    /// Ends the workers after their batch, whatever they carry.
    pub fn stop(&self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.wake();
    }

    /// Each worker's counters.
    pub fn stats(&self) -> Vec<Arc<Stats>> {
        self.shared.desks.iter().map(|desk| Arc::clone(&desk.stats)).collect()
    }

    fn wake(&self) {
        for desk in &self.shared.desks {
            if let Some(waker) = desk.waker.get() {
                waker.wake();
            }
        }
    }
}

/// One worker's side of the plane.
pub struct Seat<P: Policy> {
    shared: Arc<Shared<P>>,
    index: usize,
}

impl<P: Policy> fmt::Debug for Seat<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat({})", self.index)
    }
}

impl<P: Policy> Seat<P> {
    fn desk(&self) -> &Desk<P> {
        &self.shared.desks[self.index]
    }

    pub(crate) fn place(&self, waker: Waker) {
        // A seat that is taken again (a worker that was rebuilt) keeps its first waker: there is one driver a seat.
        let _ = self.desk().waker.set(waker);
    }

    pub(crate) fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    pub(crate) fn latest(&self) -> (u64, Arc<P::Snapshot>) {
        let numbered = self.shared.snapshot.load();
        (numbered.version, Arc::clone(&numbered.snapshot))
    }

    pub(crate) fn settled(&self, version: u64) {
        self.desk().settled.store(version, Ordering::Release);
    }

    pub(crate) fn deaf(&self) {
        self.desk().deaf.store(true, Ordering::Release);
    }

    pub(crate) fn drained(&self) {
        self.desk().drained.store(true, Ordering::Release);
    }

    pub(crate) fn command(&self) -> Option<Command<P::Ticket>> {
        let desk = self.desk();
        if desk.commands.is_empty() {
            return None;
        }
        desk.commands.pop()
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.shared.stopped.load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.desk().stats)
    }
}
