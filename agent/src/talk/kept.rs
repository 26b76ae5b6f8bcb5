//! An edge's orders on disk, with the stream's cursor.
//!
//! An order is kept from when it is taken until the driver says that it has ended: what the records say meanwhile is of
//! something half done. One that was refused is out of the file before its edge hears that, so that it is not done later behind
//! the edge's back; one that was done goes with the next write, for the records say so. What is left when an agent
//! starts is compared with the records, and done.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use steady_cluster::channel::Hold;
use steady_cluster::channel::talk::{Order, What};
use steady_stream::{Batch, FileInbox, Inbox, InboxError, StreamId};
use tokio::sync::mpsc;

use super::KEEP_AGAIN;
use super::orders::overrides;
use crate::gate::Role;
use crate::host::Host;

/// Where orders go that are on disk: those of a batch at once, so that the first is seen with what overrides it.
pub(super) type Taken = mpsc::UnboundedSender<Vec<Kept>>;

/// An order, by its number in the file: an edge may number its own anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) number: u64,
    pub(super) order: Order,
}

/// What the file holds beside the cursor.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// Orders since the edge's log began.
    taken: u64,
    /// Those that have not ended, as they came.
    #[serde(default)]
    kept: Vec<Kept>,
}

impl State {
    fn read(state: &[u8]) -> State {
        // What this program wrote; a state that it cannot read is of another version, and the edge compares all the same.
        serde_json::from_slice(state).unwrap_or_default()
    }

    fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("fields of plain types become JSON")
    }

    /// Keeps an order, and those before it that it does not stand for.
    fn take(&mut self, order: Order) {
        self.kept.retain(|before| !stands_for(&order, &before.order));
        self.kept.push(Kept { number: self.taken, order });
    }
}

/// Whether what `before` would do is done by `later` alone. Never of a smaller generation, which may be refused.
fn stands_for(later: &Order, before: &Order) -> bool {
    let is_later = later.app == before.app && later.generation >= before.generation;
    match before.what {
        What::Place { .. } => overrides(later, before),
        What::Drain { .. } => is_later && matches!(later.what, What::Drain { .. } | What::Forget),
        // What was forgotten leaves files, which are not the next one's.
        What::Forget => is_later && later.what == What::Forget,
    }
}

/// See the module.
pub(super) struct OrderFile {
    /// Locked while it is written: on threads that may block.
    inbox: Mutex<FileInbox>,
    /// Orders of the file that need to be kept no more.
    ended: Arc<Mutex<HashSet<u64>>>,
    taken: Taken,
    count: Arc<AtomicU64>,
}

impl OrderFile {
    pub(super) fn open(path: &Path, taken: Taken, count: Arc<AtomicU64>) -> Result<Arc<OrderFile>, InboxError> {
        let ended: Arc<Mutex<HashSet<u64>>> = Arc::default();
        let over = Arc::clone(&ended);
        let inbox = FileInbox::open(path, move |state, message| {
            let mut kept = State::read(state);
            kept.kept.retain(|kept| !lock(&over).contains(&kept.number));
            kept.taken += 1;
            match serde_json::from_slice::<Order>(&message.body) {
                Ok(order) => kept.take(order),
                Err(error) => tracing::error!(%error, "an order that this program cannot read is left out"),
            }
            *state = kept.write();
            Bytes::new()
        })?;
        count.store(State::read(inbox.state()).taken, Ordering::Relaxed);
        Ok(Arc::new(OrderFile { inbox: Mutex::new(inbox), ended, taken, count }))
    }

    /// Has done what an earlier agent took and, as far as the records say, did not do.
    pub(super) fn take_up(&self, host: &Host) {
        let kept = State::read(lock(&self.inbox).state()).kept;
        let (left, done): (Vec<Kept>, Vec<Kept>) = kept.into_iter().partition(|kept| needs_doing(host, &kept.order));
        done.iter().for_each(|kept| self.ended(kept.number));
        for Kept { order, .. } in &left {
            tracing::info!(app = order.app, generation = order.generation, "an order of before is done");
        }
        // The driver lives as long as the edge is known.
        let _ = self.taken.send(left);
    }

    /// An order has been done: the next write goes without it.
    pub(super) fn ended(&self, number: u64) {
        lock(&self.ended).insert(number);
    }

    /// An order is not to be done, ever: the file is without it when this returns. Tried until it is.
    pub(super) async fn take_out(self: &Arc<Self>, number: u64) {
        self.ended(number);
        loop {
            let file = Arc::clone(self);
            match tokio::task::spawn_blocking(move || file.sweep()).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::warn!(%error, "an order that was refused cannot be taken off the disk yet"),
                Err(error) => return tracing::error!(%error, "taking an order off the disk failed"),
            }
            tokio::time::sleep(KEEP_AGAIN).await;
        }
    }

    /// Writes the file without what has ended, where it has some. Blocking.
    fn sweep(&self) -> std::io::Result<()> {
        let mut inbox = lock(&self.inbox);
        let mut state = State::read(inbox.state());
        let before = state.kept.len();
        state.kept.retain(|kept| !lock(&self.ended).contains(&kept.number));
        if state.kept.len() < before {
            inbox.amend(|octets| *octets = state.write())?;
            self.prune(&inbox);
        }
        Ok(())
    }

    /// What is not in the file needs no mark.
    fn prune(&self, inbox: &FileInbox) {
        let kept: HashSet<u64> = State::read(inbox.state()).kept.iter().map(|kept| kept.number).collect();
        lock(&self.ended).retain(|number| kept.contains(number));
    }
}

/// The file as a link writes it.
pub(super) struct OrderInbox(pub(super) Arc<OrderFile>);

impl Inbox for OrderInbox {
    fn load(&mut self, stream: &StreamId) -> Result<Option<Vec<u8>>, InboxError> {
        lock(&self.0.inbox).load(stream)
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, InboxError> {
        let file = &*self.0;
        let mut inbox = lock(&file.inbox);
        let before = State::read(inbox.state()).taken;
        let answers = inbox.apply(batch)?;
        file.prune(&inbox);
        file.count.store(before + batch.messages.len() as u64, Ordering::Relaxed);
        // From here on it is on disk.
        let orders = batch.messages.iter().zip(before + 1..).filter_map(|(message, number)| {
            let order = serde_json::from_slice(&message.body).ok()?;
            tracing::debug!(number, ?order, "an order is taken");
            Some(Kept { number, order })
        });
        let _ = file.taken.send(orders.collect());
        Ok(answers)
    }
}

/// Whether what is wanted goes beyond what this host is. The version is not looked at: one that was tried and given up is not
/// tried again behind the edge's back.
fn needs_doing(host: &Host, order: &Order) -> bool {
    let record = host.record(&order.app);
    let known = record.generation.0;
    match &order.what {
        What::Place { role: wanted, .. } => {
            order.generation > known
                || (order.generation == known && record.role == Role::Incoming && *wanted == Hold::Owner)
        }
        What::Drain { .. } => record.role != Role::Absent && order.generation >= known,
        What::Forget => order.generation > known || (!record.is_tombstone() && order.generation == known),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(role: Hold) -> What {
        What::Place { role, version: 1, digest: "d".repeat(64), exclusive: None, wait_ms: None }
    }

    /// The generations and kinds that are kept of what came for one application.
    fn kept(orders: &[(u64, What)]) -> Vec<(u64, What)> {
        let mut state = State::default();
        for (generation, what) in orders {
            state.taken += 1;
            state.take(Order { id: 0, app: "shop".into(), generation: *generation, what: what.clone() });
        }
        State::read(&state.write()).kept.into_iter().map(|kept| (kept.order.generation, kept.order.what)).collect()
    }

    #[test]
    fn an_order_of_a_smaller_generation_stands_for_none_before_it() {
        let owner = || place(Hold::Owner);
        let drain = || What::Drain { within_ms: 1 };
        for orders in [
            [(1, owner()), (0, What::Forget)],
            [(2, owner()), (1, drain())],
            [(2, owner()), (1, owner())],
            [(2, drain()), (1, What::Forget)],
            [(2, What::Forget), (1, What::Forget)],
        ] {
            assert_eq!(kept(&orders), orders);
        }
    }

    #[test]
    fn of_orders_that_follow_each_other_those_are_kept_that_the_next_does_not_do_as_well() {
        let owner = || place(Hold::Owner);
        let drain = || What::Drain { within_ms: 1 };
        assert_eq!(kept(&[(1, owner()), (1, drain())]), [(1, drain())]);
        assert_eq!(kept(&[(1, owner()), (1, drain()), (1, What::Forget)]), [(1, What::Forget)]);
        // Files that were forgotten are not the next one's.
        assert_eq!(kept(&[(1, What::Forget), (2, owner())]), [(1, What::Forget), (2, owner())]);
        assert_eq!(kept(&[(1, What::Forget), (2, owner()), (2, What::Forget)]), [(2, What::Forget)]);
        // However long it goes on.
        let long: Vec<_> = (1..100).flat_map(|n| [(n, owner()), (n, drain()), (n, What::Forget)]).collect();
        assert_eq!(kept(&long).len(), 1);
    }
}
