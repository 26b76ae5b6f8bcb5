//! What must not be lost between this host and its edge: orders that it gives, events that it is told
//! (`docs/decisions/channel.md`).
//!
//! ```text
//!   edge ──order──▶ OrderInbox ─(on disk, with the cursor)─▶ Talk::drive ─▶ Host ─▶ outcome ─┐
//!   edge ◀──event── log of the link ◀──────────────────────────────── Talk::tell ◀── actors ─┘
//! ```
//!
//! For each edge that this host ever registered at there is a link with its log, in `state_dir/stream/EDGE`; one at a time has a
//! connection, and its edge is the one that is told. The inbox keeps the last order for each application until it needs doing
//! no more; what is left of it when the agent starts is compared with what the records say, and done.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use serde::{Deserialize, Serialize};
use steady_cluster::channel::Hold;
use steady_cluster::channel::talk::{Event, MODE, Order, Outcome, What, app_id};
use steady_stream::io::{Call, Ended, Lane, Link, Names, OpenError, Sender, Standing};
use steady_stream::{App, Batch, Faults, FileInbox, Inbox, InboxError, Mode, StreamId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use crate::gate::{Generation, Role};
use crate::host::Host;
use crate::records::Digest;
use crate::supervise::actor::{Place, Refusal, StartFailure};

/// A drain is held to an hour, whoever asks for it.
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// Between two attempts to have an event kept, when the log is full or its disk fails.
const KEEP_AGAIN: Duration = Duration::from_secs(1);

/// See the module.
pub struct Talk {
    dir: PathBuf,
    host: Arc<Host>,
    faults: Faults,
    links: Mutex<HashMap<String, Link>>,
    /// The link of the edge at which this host is registered, or was last.
    current: watch::Sender<Option<Link>>,
    orders: Arc<AtomicU64>,
}

impl std::fmt::Debug for Talk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Talk").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Talk {
    pub fn new(state_dir: &Path, host: Arc<Host>, faults: Faults) -> Arc<Talk> {
        let (links, current, orders) = (Mutex::default(), watch::Sender::new(None), Arc::default());
        Arc::new(Talk { dir: state_dir.join("stream"), host, faults, links, current, orders })
    }

    /// Speaks the stream with this edge until the connection ends.
    pub async fn attach(
        self: &Arc<Self>,
        edge: &str,
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Ended, OpenError> {
        let link = self.link(edge).await?;
        self.current.send_replace(Some(link.clone()));
        Ok(link.attach(io).await)
    }

    /// How the link in use stands.
    pub fn standing(&self) -> Option<Standing> {
        self.current.borrow().as_ref().and_then(|link| link.standing(Mode(MODE)))
    }

    /// Orders taken from the edge in use since its log began, over restarts of this agent.
    pub fn orders(&self) -> u64 {
        self.orders.load(Ordering::Relaxed)
    }

    /// Keeps what actors tell until the edge has it, for ever. When this host turns to another edge, what the one before cannot
    /// have heard goes along; what it may have heard stays in its log, so that nothing is told twice.
    pub async fn tell(&self, mut events: mpsc::Receiver<Event>) {
        let mut current = self.current.subscribe();
        // Before this host is registered anywhere there is nobody to tell; then it tells everything it is.
        let Ok(Some(mut link)) = current.wait_for(Option::is_some).await.map(|link| link.clone()) else { return };
        let mut open: VecDeque<(Event, Call)> = VecDeque::new();
        loop {
            tokio::select! {
                changed = current.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let next = current.borrow_and_update().clone();
                    let Some(next) = next.filter(|next| next.names() != link.names()) else { continue };
                    link = next;
                    for (event, call) in std::mem::take(&mut open) {
                        if call.withdraw().await.is_ok() {
                            tracing::info!(edge = link.names().peer, ?event, "the edge before never heard this");
                            open.extend(keep(&link.sender(Mode(MODE)), &event).await.map(|call| (event, call)));
                        }
                    }
                }
                event = events.recv() => {
                    let Some(event) = event else { return };
                    while open.front_mut().is_some_and(|(_, call)| call.now_or_never().is_some()) {
                        open.pop_front();
                    }
                    let kept = keep(&link.sender(Mode(MODE)), &event).await;
                    // What came of an order is only for whoever gave it, and a capacity is told with every registration.
                    open.extend(kept.filter(|_| matches!(event, Event::App(_))).map(|call| (event, call)));
                }
            }
        }
    }

    async fn link(self: &Arc<Self>, edge: &str) -> Result<Link, OpenError> {
        let mut links = self.links.lock().await;
        if let Some(link) = links.get(edge) {
            return Ok(link.clone());
        }
        let dir = self.dir.join(edge);
        let no_inbox = |source| OpenError::Inbox { mode: Mode(MODE), source };
        let made = std::fs::create_dir_all(&dir);
        made.map_err(|source| OpenError::Io { directory: dir.clone(), source })?;
        let (taken, orders) = mpsc::unbounded_channel();
        let inbox = OrderInbox::open(&dir.join("orders"), Arc::clone(&self.host), taken, Arc::clone(&self.orders))
            .map_err(no_inbox)?;
        let left = inbox.left();
        let names = Names { local: self.host.shared.host_name.clone(), peer: edge.to_owned() };
        let mut lane = Lane::new(Mode(MODE), inbox);
        lane.config.faults = self.faults;
        let (link, mut reported) = Link::open(names, &dir, vec![lane]).await?;
        let edge = edge.to_owned();
        let log = edge.clone();
        tokio::spawn(async move {
            while let Some(event) = reported.next().await {
                tracing::info!(edge = log, ?event, "the stream with the edge");
            }
        });
        let driver = Driver { host: Arc::clone(&self.host), sender: link.sender(Mode(MODE)) };
        tokio::spawn(driver.run(left, orders));
        links.insert(edge, link.clone());
        Ok(link)
    }
}

/// Gives an event to the log; tried until it is there. An edge that is never coming back ends that by its patience. `None`: the
/// link has ended.
async fn keep(sender: &Sender, event: &Event) -> Option<Call> {
    let app = match event {
        Event::App(event) => app_id(&event.app),
        Event::Outcome(_) | Event::Capacity(_) => 0,
    };
    let body = Bytes::from(serde_json::to_vec(event).expect("fields of plain types become JSON"));
    loop {
        match sender.send(App(app), body.clone()).await {
            Ok(call) => {
                tracing::debug!(position = call.position(), ?event, "an event is kept");
                return Some(call);
            }
            Err(steady_stream::SendError::Ended) => return None,
            Err(error) => tracing::warn!(%error, "an event cannot be kept yet"),
        }
        tokio::time::sleep(KEEP_AGAIN).await;
    }
}

/// The orders on disk: the last for each application, with the stream's cursor.
struct OrderInbox {
    inner: FileInbox,
    taken: mpsc::UnboundedSender<Order>,
    count: Arc<AtomicU64>,
}

/// What the inbox's file holds beside the cursor.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// Orders since the edge's log began.
    taken: u64,
    orders: BTreeMap<String, Order>,
}

fn read(state: &[u8]) -> State {
    // What this program wrote; a state that it cannot read is of another version, and the edge compares all the same.
    serde_json::from_slice(state).unwrap_or_default()
}

impl OrderInbox {
    fn open(
        path: &Path,
        host: Arc<Host>,
        taken: mpsc::UnboundedSender<Order>,
        count: Arc<AtomicU64>,
    ) -> Result<OrderInbox, InboxError> {
        let inner = FileInbox::open(path, move |state, message| {
            let mut kept = read(state);
            kept.orders.retain(|_, order| needs_doing(&host, order));
            kept.taken += 1;
            match serde_json::from_slice::<Order>(&message.body) {
                Ok(order) => drop(kept.orders.insert(order.app.clone(), order)),
                Err(error) => tracing::error!(%error, "an order that this program cannot read is left out"),
            }
            *state = serde_json::to_vec(&kept).expect("fields of plain types become JSON");
            Bytes::new()
        })?;
        let inbox = OrderInbox { inner, taken, count };
        inbox.count();
        Ok(inbox)
    }

    fn count(&self) {
        self.count.store(read(self.inner.state()).taken, Ordering::Relaxed);
    }

    /// What an earlier agent took and may not have done.
    fn left(&self) -> Vec<Order> {
        read(self.inner.state()).orders.into_values().collect()
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
        for order in batch.messages.iter().filter_map(|message| serde_json::from_slice(&message.body).ok()) {
            tracing::debug!(?order, "an order is taken");
            let _ = self.taken.send(order);
        }
        Ok(answers)
    }
}

/// Whether what is wanted goes beyond what this host is. The version is not looked at: one that was tried and given up is not
/// tried again behind the edge's back.
fn needs_doing(host: &Host, order: &Order) -> bool {
    let (role, known) = match host.find(&order.app) {
        Some(handle) => (handle.status.borrow().record.role, handle.status.borrow().record.generation.0),
        None => (Role::Absent, 0),
    };
    match &order.what {
        What::Place { role: wanted, .. } => {
            order.generation > known || (order.generation == known && role == Role::Incoming && *wanted == Hold::Owner)
        }
        What::Drain { .. } | What::Forget => role != Role::Absent && order.generation >= known,
    }
}

/// Does what was ordered, and tells what came of it.
struct Driver {
    host: Arc<Host>,
    sender: Sender,
}

impl Driver {
    async fn run(self, left: Vec<Order>, mut orders: mpsc::UnboundedReceiver<Order>) {
        for order in left.into_iter().filter(|order| needs_doing(&self.host, order)) {
            tracing::info!(app = order.app, generation = order.generation, "an order of before is done now");
            self.begin(order).await;
        }
        while let Some(order) = orders.recv().await {
            self.begin(order).await;
        }
    }

    /// Has the application's actor take it, so that orders keep their order; its end is waited for beside.
    async fn begin(&self, order: Order) {
        let (host, sender) = (Arc::clone(&self.host), self.sender.clone());
        let id = order.id;
        match self.hand_over(order).await {
            Ok(doing) => {
                tokio::spawn(async move {
                    let outcome = doing.end(&host).await;
                    keep(&sender, &Event::Outcome(Outcome { id, ..outcome })).await;
                });
            }
            Err(refusal) => drop(keep(&sender, &Event::Outcome(Outcome { id, ..refused(&refusal) })).await),
        }
    }

    async fn hand_over(&self, order: Order) -> Result<Doing, Refusal> {
        let generation = Generation(order.generation);
        match order.what {
            What::Place { role, version, digest, wait_ms } => {
                let role = match role {
                    Hold::Owner => Role::Owner,
                    Hold::Incoming => Role::Incoming,
                    Hold::Draining | Hold::Absent => {
                        return Err(Refusal::Invalid("to take an application away, drain it".to_owned()));
                    }
                };
                let digest = Digest::parse(&digest);
                let digest = digest.ok_or_else(|| Refusal::Invalid("that is no bundle's digest".to_owned()))?;
                let place = Place { generation, role, version: u64::from(version), digest };
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
    Drain(oneshot::Receiver<Result<crate::supervise::actor::Drained, Refusal>>),
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
