//! The message stream with one registered host: orders to it, events from it (`docs/decisions/channel.md`).
//!
//! An order is on this edge's disk when it is sent and on the host's when it is applied; what came of it is an event, which
//! the caller waits for. A call that gives up takes its order back if it was never sent, so that *unreachable* still means
//! that the host knows nothing; unless the order undoes what may still be on its way ([`GivenUp`]). Events are stored in the
//! transaction that stores the stream's cursor.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use steady_cluster::channel::Capacity;
use steady_cluster::channel::accept::Calls;
use steady_cluster::channel::pipe::pipe;
use steady_cluster::channel::talk::{AppEvent, Event, MODE, Order, Outcome, PATH, What, app_id};
use steady_stream::io::{Call, Lane, Link, Names, OpenError, Standing};
use steady_stream::{App, Batch, Faults, Inbox, InboxError, Mode, SendError, StreamId};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::store::{Commit, EventRecord, Store, Write};

/// What every host's stream needs of the edge.
#[derive(Clone, Debug)]
pub struct Streams {
    /// The logs: a directory a host.
    pub dir: PathBuf,
    /// This edge's name as a member.
    pub edge: String,
    pub store: Arc<dyn Store>,
    pub faults: Faults,
}

/// See the module.
#[derive(Debug)]
pub struct Orders {
    host: String,
    streams: Streams,
    /// In use, since it was first needed. One that has ended, because its disk was full or failed, is opened anew.
    link: Mutex<Option<Link>>,
    opening: tokio::sync::Mutex<()>,
    shared: Arc<Shared>,
    ids: AtomicU64,
    /// By application: the order that stays in the log with nobody waiting, and its generation.
    left: Mutex<HashMap<String, (u64, Call)>>,
}

/// What becomes of an order that was not sent yet when its caller gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    TakenBack,
    /// It stays, to arrive behind every order before it: those may be in doubt, and only what comes behind them can undo them.
    /// Fenced by its generation, and harmless where there is nothing to undo. [`What::Forget`] always does. Of one
    /// application the last alone stays, so that a host which is away costs the log no more than one of these for each.
    Stays,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<HashMap<u64, oneshot::Sender<Outcome>>>,
    /// What the host told since it registered.
    capacity: Mutex<Option<Capacity>>,
}

/// Why an order has no outcome.
#[derive(Debug)]
pub enum NoOutcome {
    /// The host never saw it and never will.
    Unsent(String),
    /// It may have been done.
    InDoubt(String),
}

impl Orders {
    pub fn new(host: &str, streams: Streams) -> Orders {
        // Ids of an earlier process of this edge mean nothing to this one: they begin where time has got to.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ids = AtomicU64::new(u64::try_from(since.as_micros()).unwrap_or(0));
        Orders {
            host: host.to_owned(),
            streams,
            link: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            shared: Arc::default(),
            ids,
            left: Mutex::default(),
        }
    }

    /// How the link stands; `None` before it was first needed.
    pub fn standing(&self) -> Option<Standing> {
        lock(&self.link).as_ref().and_then(|link| link.standing(Mode(MODE)))
    }

    pub fn capacity(&self) -> Option<Capacity> {
        *lock(&self.shared.capacity)
    }

    /// The host has registered with these numbers.
    pub fn registered(&self, capacity: Capacity) {
        *lock(&self.shared.capacity) = Some(capacity);
    }

    /// Its agent is another process than before: what that was asked may be done or not, and nobody will tell.
    pub fn agent_restarted(&self) {
        lock(&self.shared.waiting).clear();
    }

    /// Speaks the stream over a channel until one of them ends; why.
    pub async fn attach(&self, mut calls: Calls) -> Result<String, String> {
        let link = self.link().await.map_err(|error| error.to_string())?;
        let (writing, body) = pipe();
        let request = hyper::Request::post(format!("http://{}{PATH}", self.host)).body(body);
        let answer = calls.send_request(request.map_err(|error| error.to_string())?).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("the host answered {}", answer.status()));
        }
        let body = http_body_util::BodyDataStream::new(answer.into_body());
        Ok(format!("{:?}", link.attach(writing.and(body)).await))
    }

    /// Has the host do something; what came of it.
    pub async fn order(
        &self,
        app: &str,
        generation: u64,
        what: What,
        given_up: GivenUp,
        deadline: Duration,
        hopeless: impl Future<Output = String>,
    ) -> Result<Outcome, NoOutcome> {
        let link = self.link().await.map_err(|error| NoOutcome::Unsent(error.to_string()))?;
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        let waiting = Waiting::new(&self.shared, id, tell);
        let given_up = if what == What::Forget { GivenUp::Stays } else { given_up };
        let order = Order { id, app: app.to_owned(), generation, what };
        let body = serde_json::to_vec(&order).expect("fields of plain types become JSON");
        let sent = link.sender(Mode(MODE)).send(App(app_id(app)), body).await;
        let call = sent.map_err(|error| match error {
            // Its fate is open: the log may have it.
            SendError::Log(_) | SendError::Ended => NoOutcome::InDoubt(error.to_string()),
            _ => NoOutcome::Unsent(error.to_string()),
        })?;
        tracing::debug!(host = self.host, id, app, generation, position = call.position(), "an order is kept");
        if given_up == GivenUp::Stays {
            self.supersede(app, generation).await;
        }
        let why = tokio::select! {
            outcome = told => match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(_) => "its agent was started anew".to_owned(),
            },
            () = tokio::time::sleep(deadline) => {
                format!("nothing within {}", steady_sys::text::format_duration(deadline))
            }
            why = hopeless => why,
        };
        drop(waiting);
        if given_up == GivenUp::Stays {
            tracing::debug!(host = self.host, id, "an order stays with nobody waiting");
            self.leave(app, generation, call);
            return Err(NoOutcome::InDoubt(why));
        }
        match call.withdraw().await {
            Ok(()) => {
                tracing::debug!(host = self.host, id, "an order is withdrawn");
                Err(NoOutcome::Unsent(why))
            }
            Err(_) => Err(NoOutcome::InDoubt(why)),
        }
    }

    /// Something that stays was kept behind what stays already: takes that back, if it was not sent.
    async fn supersede(&self, app: &str, generation: u64) {
        let before = match lock(&self.left).entry(app.to_owned()) {
            Entry::Occupied(left) if left.get().0 <= generation => left.remove().1,
            _ => return,
        };
        // Too late is as well: then the host gets both, in their order.
        if before.withdraw().await.is_ok() {
            tracing::debug!(host = self.host, "an order is withdrawn");
        }
    }

    fn leave(&self, app: &str, generation: u64, call: Call) {
        let mut left = lock(&self.left);
        left.retain(|_, (_, call)| call.now_or_never().is_none());
        left.entry(app.to_owned()).or_insert((generation, call));
    }

    async fn link(&self) -> Result<Link, OpenError> {
        let in_use = || lock(&self.link).clone().filter(|link| !link.is_over());
        if let Some(link) = in_use() {
            return Ok(link);
        }
        let _alone = self.opening.lock().await;
        if let Some(link) = in_use() {
            return Ok(link);
        }
        let link = self.open().await?;
        *lock(&self.link) = Some(link.clone());
        Ok(link)
    }

    async fn open(&self) -> Result<Link, OpenError> {
        let inbox = EventInbox {
            host: self.host.clone(),
            store: Arc::clone(&self.streams.store),
            runtime: Handle::current(),
            shared: Arc::clone(&self.shared),
        };
        let names = Names { local: self.streams.edge.clone(), peer: self.host.clone() };
        let mut lane = Lane::new(Mode(MODE), inbox);
        lane.config.faults = self.streams.faults;
        let (link, mut reported) = Link::open(names, self.streams.dir.join(&self.host), vec![lane]).await?;
        let host = self.host.clone();
        tokio::spawn(async move {
            while let Some(event) = reported.next().await {
                tracing::info!(host, ?event, "the stream with a host");
            }
        });
        Ok(link)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A caller's place among those that wait; given up with it.
struct Waiting<'a> {
    shared: &'a Shared,
    id: u64,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, id: u64, tell: oneshot::Sender<Outcome>) -> Waiting<'a> {
        lock(&shared.waiting).insert(id, tell);
        Waiting { shared, id }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.shared.waiting).remove(&self.id);
    }
}

/// Where a host's events take effect: rows in the store, in one transaction with the cursor; then whoever waits is told.
struct EventInbox {
    host: String,
    store: Arc<dyn Store>,
    runtime: Handle,
    shared: Arc<Shared>,
}

impl EventInbox {
    fn row(&self, event: AppEvent) -> EventRecord {
        EventRecord { host: self.host.clone(), event }
    }
}

impl Inbox for EventInbox {
    fn load(&mut self, stream: &StreamId) -> Result<Option<Vec<u8>>, InboxError> {
        Ok(self.runtime.block_on(self.store.cursor(stream.to_string()))?)
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, InboxError> {
        let (mut writes, mut others) = (Vec::new(), Vec::new());
        for message in &batch.messages {
            match serde_json::from_slice(&message.body) {
                Ok(Event::App(event)) => writes.push(Write::AddEvent(self.row(event))),
                Ok(other) => others.push(other),
                Err(error) => {
                    tracing::error!(host = self.host, %error, "an event that this program cannot read is left out")
                }
            }
        }
        let answers = vec![Bytes::new(); batch.messages.len()];
        writes.push(Write::SetCursor(batch.stream.to_string(), batch.seal(&answers)));
        self.runtime.block_on(self.store.commit(Commit { writes, ..Commit::default() }))?;
        for other in others {
            match other {
                Event::Outcome(outcome) => {
                    let waiting = lock(&self.shared.waiting).remove(&outcome.id);
                    // Its caller may have given up.
                    let _ = waiting.map(|tell| tell.send(outcome));
                }
                Event::Capacity(capacity) => *lock(&self.shared.capacity) = Some(capacity),
                Event::App(_) => {}
            }
        }
        Ok(answers)
    }
}
