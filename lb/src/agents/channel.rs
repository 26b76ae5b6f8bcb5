//! The channel of a registered host: the connection in use, if there is one, and when the host was last heard.
//!
//! A [`Slot`] belongs to a host's name and outlives connections and handles, so that a call that begins while the agent dials
//! again waits for the next connection and not for an error.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use steady_cluster::channel::Registration;
use steady_cluster::channel::accept::Calls;
use tokio::sync::watch;

use super::orders::Orders;

/// See the module.
#[derive(Debug)]
pub struct Slot {
    /// What must not be lost.
    pub orders: Orders,
    open: watch::Sender<Option<Arc<Open>>>,
    /// Nobody knows this slot any more: nothing opens here.
    closed: AtomicBool,
    heard: Mutex<Option<Instant>>,
    numbers: AtomicU64,
    /// Of the agent that registered last; 0: none.
    start: AtomicU64,
}

/// A channel that is open.
#[derive(Debug)]
pub struct Open {
    /// Tells it from those before it.
    pub number: u64,
    pub calls: Calls,
    pub peer: SocketAddr,
    pub since: Instant,
    pub registration: Registration,
}

impl Slot {
    pub fn new(orders: Orders) -> Slot {
        Slot {
            orders,
            open: watch::Sender::new(None),
            closed: AtomicBool::new(false),
            heard: Mutex::new(None),
            numbers: AtomicU64::new(0),
            start: AtomicU64::new(0),
        }
    }

    /// What is open now, and whenever that changes.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Open>>> {
        self.open.subscribe()
    }

    pub fn open(&self) -> Option<Arc<Open>> {
        self.open.borrow().clone()
    }

    /// Calls over what is open, or opens within `wait`.
    pub async fn calls(&self, wait: Duration) -> Option<Calls> {
        let mut open = self.subscribe();
        let found = tokio::time::timeout(wait, open.wait_for(Option::is_some)).await.ok()?.ok()?;
        found.as_ref().map(|open| open.calls.clone())
    }

    /// A host has registered: its channel takes the place of whatever was open. Its number; `None`: the host was forgotten.
    pub fn attach(&self, calls: Calls, peer: SocketAddr, registration: Registration) -> Option<u64> {
        let before = self.start.swap(registration.start, Ordering::Relaxed);
        if before != registration.start {
            self.orders.agent_restarted();
        }
        self.orders.registered(registration.capacity);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let since = Instant::now();
        self.hear(since);
        let new = Arc::new(Open { number, calls, peer, since, registration });
        let opened = self.open.send_if_modified(|open| {
            // Under the lock of `open`, as its closing is.
            let may = !self.closed.load(Ordering::Relaxed);
            if may {
                *open = Some(new);
            }
            may
        });
        opened.then_some(number)
    }

    /// Returns when this channel is the one in use no longer.
    pub async fn replaced(&self, number: u64) {
        let mut open = self.subscribe();
        // The sender is ours.
        let _ = open.wait_for(|open| open.as_ref().is_none_or(|open| open.number != number)).await;
    }

    /// This channel has ended.
    pub fn detach(&self, number: u64) {
        self.open.send_if_modified(|open| open.take_if(|open| open.number == number).is_some());
    }

    /// Ends whatever is open, for good.
    pub fn close(&self) {
        self.open.send_modify(|open| {
            self.closed.store(true, Ordering::Relaxed);
            *open = None;
        });
    }

    /// Returns when nothing has been open for so long.
    pub async fn closed_for(&self, time: Duration) {
        let mut open = self.subscribe();
        loop {
            // The sender is ours.
            let _ = open.wait_for(Option::is_none).await;
            if tokio::time::timeout(time, open.wait_for(Option::is_some)).await.is_err() {
                return;
            }
        }
    }

    /// The host gave a sign of life.
    pub fn hear(&self, now: Instant) {
        *self.heard.lock().expect("no holder panics") = Some(now);
    }

    /// Its last sign of life.
    pub fn heard(&self) -> Option<Instant> {
        *self.heard.lock().expect("no holder panics")
    }
}
