//! What becomes of an edge's orders: kept with the stream's cursor, begun in their order, told of when they are done.
//!
//! The inbox keeps the last order for each application until it needs doing no more. What is left of it when a link is opened is
//! compared with what the records say, and done. One to place an application that a later one overrides before it was begun
//! is not begun: nothing is started only to be stopped.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use steady_cluster::channel::Hold;
use steady_cluster::channel::talk::{Event, Order, Outcome, What};
use steady_stream::io::Link;
use steady_stream::{Batch, FileInbox, Inbox, InboxError, StreamId};
use tokio::sync::{mpsc, oneshot, watch};

use super::answer;
use crate::gate::{Generation, Role};
use crate::host::Host;
use crate::records::Digest;
use crate::supervise::actor::{Drained, Place, Refusal, StartFailure};

/// A drain is held to an hour, whoever asks for it.
const DRAIN_MAX: Duration = Duration::from_secs(3600);

/// Where orders go that are on disk: those of a batch at once, so that the first is seen with what overrides it.
pub(super) type Taken = mpsc::UnboundedSender<Vec<Order>>;

/// The orders on disk, with the stream's cursor.
pub(super) struct OrderInbox {
    inner: FileInbox,
    host: Arc<Host>,
    taken: Taken,
    count: Arc<AtomicU64>,
}

/// What the inbox's file holds beside the cursor.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// Orders since the edge's log began.
    taken: u64,
    /// The last for each application.
    orders: BTreeMap<String, Order>,
    /// Those to forget that have another behind them: what was forgotten leaves files, which are not the next one's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    forgets: BTreeMap<String, Order>,
}

impl State {
    fn read(state: &[u8]) -> State {
        // What this program wrote; a state that it cannot read is of another version, and the edge compares all the same.
        serde_json::from_slice(state).unwrap_or_default()
    }

    fn retain(&mut self, wanted: impl Fn(&Order) -> bool) {
        self.orders.retain(|_, order| wanted(order));
        self.forgets.retain(|_, order| wanted(order));
    }

    fn take(&mut self, order: Order) {
        let forgets = order.what == What::Forget;
        if let Some(before) = self.orders.insert(order.app.clone(), order)
            && before.what == What::Forget
            && !forgets
        {
            self.forgets.insert(before.app.clone(), before);
        }
    }

    /// In the order in which they are to be done.
    fn into_orders(self) -> impl Iterator<Item = Order> {
        self.forgets.into_values().chain(self.orders.into_values())
    }
}

impl OrderInbox {
    pub(super) fn open(
        path: &Path,
        host: Arc<Host>,
        taken: Taken,
        count: Arc<AtomicU64>,
    ) -> Result<OrderInbox, InboxError> {
        let known = Arc::clone(&host);
        let inner = FileInbox::open(path, move |state, message| {
            let mut kept = State::read(state);
            kept.retain(|order| needs_doing(&known, order));
            kept.taken += 1;
            match serde_json::from_slice::<Order>(&message.body) {
                Ok(order) => kept.take(order),
                Err(error) => tracing::error!(%error, "an order that this program cannot read is left out"),
            }
            *state = serde_json::to_vec(&kept).expect("fields of plain types become JSON");
            Bytes::new()
        })?;
        let inbox = OrderInbox { inner, host, taken, count };
        inbox.count();
        Ok(inbox)
    }

    fn count(&self) {
        self.count.store(State::read(self.inner.state()).taken, Ordering::Relaxed);
    }

    /// What was taken earlier and, as far as the records say, was not done.
    pub(super) fn left(&self) -> Vec<Order> {
        let left = State::read(self.inner.state()).into_orders().filter(|order| needs_doing(&self.host, order));
        left.inspect(|order| {
            tracing::info!(app = order.app, generation = order.generation, "an order of before is done")
        })
        .collect()
    }
}

impl Inbox for OrderInbox {
    fn load(&mut self, stream: &StreamId) -> Result<Option<Vec<u8>>, InboxError> {
        self.inner.load(stream)
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, InboxError> {
        let answers = self.inner.apply(batch)?;
        self.count();
        // From here on it is on disk.
        let orders = batch.messages.iter().filter_map(|message| serde_json::from_slice(&message.body).ok());
        let orders: Vec<Order> = orders.inspect(|order| tracing::debug!(?order, "an order is taken")).collect();
        let _ = self.taken.send(orders);
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
        What::Forget => !record.is_tombstone() && order.generation >= known,
    }
}

/// Whether `before` is for nothing: it places an application, and `later` is one that the host takes whatever it made of that.
fn overrides(later: &Order, before: &Order) -> bool {
    let What::Place { role: held, .. } = before.what else { return false };
    let is_taken = match later.what {
        What::Drain { .. } | What::Forget => true,
        What::Place { role: Hold::Owner, .. } => true,
        // An owner does not become incoming by its own number.
        What::Place { role: Hold::Incoming, .. } => held == Hold::Incoming || later.generation > before.generation,
        What::Place { role: Hold::Draining | Hold::Absent, .. } => false,
    };
    is_taken && later.generation >= before.generation && later.app == before.app
}

/// Does what was ordered, and tells what came of it.
pub(super) struct Driver {
    host: Arc<Host>,
    /// The one in use.
    link: watch::Receiver<Link>,
    /// Not begun yet.
    waiting: VecDeque<Order>,
}

impl Driver {
    pub(super) fn new(host: Arc<Host>, link: watch::Receiver<Link>) -> Driver {
        Driver { host, link, waiting: VecDeque::new() }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Vec<Order>>) {
        while let Some(taken) = orders.recv().await {
            self.waiting.extend(taken);
            while let Some(order) = self.waiting.pop_front() {
                while let Ok(taken) = orders.try_recv() {
                    self.waiting.extend(taken);
                }
                self.begin(order).await;
            }
        }
    }

    /// Has the application's actor take it, so that orders keep their order; its end is waited for beside.
    async fn begin(&self, order: Order) {
        let (host, link) = (Arc::clone(&self.host), self.link.clone());
        let id = order.id;
        let doing = if self.waiting.iter().any(|later| overrides(later, &order)) {
            tracing::info!(app = order.app, generation = order.generation, "a later order came before this was begun");
            Err(Refusal::Invalid("another order came behind it before it was begun".to_owned()))
        } else {
            self.hand_over(order).await
        };
        tokio::spawn(async move {
            let outcome = match doing {
                Ok(doing) => doing.end(&host).await,
                Err(refusal) => refused(&refusal),
            };
            answer(link, &Event::Outcome(Outcome { id, ..outcome })).await;
        });
    }

    async fn hand_over(&self, order: Order) -> Result<Doing, Refusal> {
        let generation = Generation(order.generation);
        match order.what {
            What::Place { role, version, digest, exclusive, wait_ms } => {
                let role = match role {
                    Hold::Owner => Role::Owner,
                    Hold::Incoming => Role::Incoming,
                    Hold::Draining | Hold::Absent => {
                        return Err(Refusal::Invalid("to take an application away, drain it".to_owned()));
                    }
                };
                let digest = Digest::parse(&digest);
                let digest = digest.ok_or_else(|| Refusal::Invalid("that is no bundle's digest".to_owned()))?;
                let place = Place { generation, role, version: u64::from(version), digest, exclusive };
                let (ready, heard) = oneshot::channel();
                let wait = wait_ms.map(Duration::from_millis);
                let taken = self.host.begin_place(&order.app, place, wait.is_some().then_some(ready)).await?;
                Ok(Doing::Place { taken, wait, heard })
            }
            What::Drain { within_ms } => {
                let within = Duration::from_millis(within_ms).min(DRAIN_MAX);
                Ok(Doing::Drain(self.host.begin_drain(&order.app, generation, within, false).await?))
            }
            What::Forget => {
                let within = self.host.shared.config.get().drain_timeout;
                Ok(Doing::Drain(self.host.begin_drain(&order.app, generation, within, true).await?))
            }
        }
    }
}

/// An order that its actor has.
enum Doing {
    Place {
        taken: oneshot::Receiver<Result<(), Refusal>>,
        wait: Option<Duration>,
        heard: oneshot::Receiver<Result<(), StartFailure>>,
    },
    Drain(oneshot::Receiver<Result<Drained, Refusal>>),
}

impl Doing {
    async fn end(self, host: &Host) -> Outcome {
        let stopping = || Outcome { status: 503, detail: "the agent is stopping".to_owned(), ..Outcome::default() };
        let good = Outcome { status: 200, ..Outcome::default() };
        match self {
            Doing::Drain(drained) => match drained.await {
                Ok(Ok(drained)) => {
                    let ms = u64::try_from(drained.took.as_millis()).unwrap_or(u64::MAX);
                    Outcome { cut: drained.cut, ms, ..good }
                }
                Ok(Err(refusal)) => refused(&refusal),
                Err(_) => stopping(),
            },
            Doing::Place { taken, wait, heard } => {
                match taken.await {
                    Ok(Ok(())) => {}
                    Ok(Err(refusal)) => return refused(&refusal),
                    Err(_) => return stopping(),
                }
                let Some(wait) = wait else { return good };
                let wait = wait.min(host.shared.limits.api_wait_max);
                match tokio::time::timeout(wait, heard).await {
                    Ok(Ok(Ok(()))) => good,
                    Ok(Ok(Err(failure))) => {
                        Outcome { status: 422, detail: failure.reason, output: Some(failure.output), ..good }
                    }
                    Ok(Err(_)) => stopping(),
                    Err(_) => {
                        let detail =
                            format!("it is not ready after {wait:?} and goes on starting; ask again for its state");
                        Outcome { status: 504, detail, ..good }
                    }
                }
            }
        }
    }
}

fn refused(refusal: &Refusal) -> Outcome {
    let (status, detail, generation) = (refusal.status(), refusal.to_string(), refusal.known());
    Outcome { status, detail, generation, ..Outcome::default() }
}
