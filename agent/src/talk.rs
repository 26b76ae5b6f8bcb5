//! What must not be lost between this host and its edge: orders that it gives, events that it is told
//! (`docs/decisions/channel.md`).
//!
//! ```text
//!   edge ──order──▶ OrderFile ──(on disk, with the cursor)─▶ Driver ─▶ Host ─▶ outcome ─┐
//!   edge ◀──event── log of the link ◀──────────────────────────── Talk::tell ◀── actors ─┘
//! ```
//!
//! For each edge that this host ever registered at there is a link with its log, in `state_dir/stream/EDGE`; one at a time has a
//! connection, and its edge is the one that is told. A link that has ended, because its disk was full or failed, is opened anew
//! with the edge's next connection. What becomes of orders is told in [`kept`] and [`orders`].

mod kept;
mod orders;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use steady_cluster::channel::talk::{Event, MODE, app_id};
use steady_stream::io::{Call, Ended, Lane, Link, Names, OpenError, Sender, Standing};
use steady_stream::{App, Faults, Mode, SendError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc, watch};

use crate::host::Host;
use kept::{OrderFile, OrderInbox};
use orders::Driver;

/// Between two attempts to have an event kept, when the log is full or its disk fails.
const KEEP_AGAIN: Duration = Duration::from_secs(1);

/// See the module.
pub struct Talk {
    dir: PathBuf,
    host: Arc<Host>,
    faults: Faults,
    edges: Mutex<HashMap<String, Edge>>,
    /// The link of the edge at which this host is registered, or was last.
    current: watch::Sender<Option<Link>>,
    orders: Arc<AtomicU64>,
}

/// An edge that this host has spoken with.
struct Edge {
    /// In use, or the last that was.
    link: watch::Sender<Link>,
    orders: Arc<OrderFile>,
}

impl std::fmt::Debug for Talk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Talk").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Talk {
    pub fn new(state_dir: &Path, host: Arc<Host>, faults: Faults) -> Arc<Talk> {
        let (edges, current, orders) = (Mutex::default(), watch::Sender::new(None), Arc::default());
        Arc::new(Talk { dir: state_dir.join("stream"), host, faults, edges, current, orders })
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
        // Of them the first is being kept; more than one when another edge is to have what the one before cannot have heard. Those
        // stay in that one's log until it is their turn: this process may end meanwhile.
        let mut waiting: VecDeque<(Event, Option<Call>)> = VecDeque::new();
        loop {
            match current.has_changed() {
                Err(_) => return,
                Ok(true) => {
                    let Some(next) = current.borrow_and_update().clone() else { continue };
                    let before = std::mem::replace(&mut link, next);
                    // The same edge over a link that was opened anew: what was kept is in its log.
                    if before.names() != link.names() {
                        for (event, call) in std::mem::take(&mut open).into_iter().rev() {
                            waiting.push_front((event, Some(call)));
                        }
                    }
                }
                Ok(false) => {}
            }
            // Looks at what is in use and leaves it to be seen above.
            let mut next = current.clone();
            let Some((event, before)) = waiting.front_mut() else {
                tokio::select! {
                    _ = next.changed() => {}
                    event = events.recv() => match event {
                        Some(event) => waiting.push_back((event, None)),
                        None => return,
                    },
                }
                continue;
            };
            if let Some(before) = before.take() {
                if before.withdraw().await.is_err() {
                    // It may have heard it.
                    waiting.pop_front();
                    continue;
                }
                tracing::info!(edge = link.names().peer, ?event, "the edge before never heard this");
            }
            while open.front_mut().is_some_and(|(_, call)| call.now_or_never().is_some()) {
                open.pop_front();
            }
            let kept = keep(&link.sender(Mode(MODE)), event, async { drop(next.changed().await) }).await;
            match kept {
                Keeping::Kept(call) => {
                    // A capacity is told with every registration.
                    let event = waiting.pop_front().map(|(event, _)| event);
                    open.extend(event.filter(|event| matches!(event, Event::App(_))).map(|event| (event, call)));
                }
                Keeping::Never => drop(waiting.pop_front()),
                Keeping::GivenUp => {}
                Keeping::Ended => {
                    let in_use = |next: &Option<Link>| next.as_ref().is_some_and(|next| !next.is_over());
                    if current.clone().wait_for(in_use).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn link(&self, edge: &str) -> Result<Link, OpenError> {
        let mut edges = self.edges.lock().await;
        if let Some(link) = edges.get(edge).map(|edge| edge.link.borrow().clone()).filter(|link| !link.is_over()) {
            return Ok(link);
        }
        if let Some(known) = edges.get(edge) {
            let link = self.open(edge, &known.orders).await?;
            known.link.send_replace(link.clone());
            return Ok(link);
        }
        let dir = self.dir.join(edge);
        let made = std::fs::create_dir_all(&dir);
        made.map_err(|source| OpenError::Io { directory: dir.clone(), source })?;
        let (taken, begun) = mpsc::unbounded_channel();
        let orders = OrderFile::open(&dir.join("orders"), taken, Arc::clone(&self.orders));
        let orders = orders.map_err(|source| OpenError::Inbox { mode: Mode(MODE), source })?;
        let link = self.open(edge, &orders).await?;
        let used = watch::Sender::new(link.clone());
        orders.take_up(&self.host);
        tokio::spawn(Driver::new(Arc::clone(&self.host), used.subscribe(), Arc::clone(&orders)).run(begun));
        edges.insert(edge.to_owned(), Edge { link: used, orders });
        Ok(link)
    }

    async fn open(&self, edge: &str, orders: &Arc<OrderFile>) -> Result<Link, OpenError> {
        let names = Names { local: self.host.shared.host_name.clone(), peer: edge.to_owned() };
        let mut lane = Lane::new(Mode(MODE), OrderInbox(Arc::clone(orders)));
        lane.config.faults = self.faults;
        let (link, mut reported) = Link::open(names, self.dir.join(edge), vec![lane]).await?;
        let edge = edge.to_owned();
        tokio::spawn(async move {
            while let Some(event) = reported.next().await {
                tracing::info!(edge, ?event, "the stream with the edge");
            }
        });
        Ok(link)
    }
}

/// What came of keeping an event.
enum Keeping {
    Kept(Call),
    /// No log takes it, ever.
    Never,
    GivenUp,
    /// The link has ended.
    Ended,
}

/// Gives an event to the log; tried until it is there, or until `give_up`. An edge that is never
/// coming back ends that by its patience.
async fn keep(sender: &Sender, event: &Event, give_up: impl Future<Output = ()>) -> Keeping {
    let app = match event {
        Event::App(event) => app_id(&event.app),
        Event::Outcome(_) | Event::Capacity(_) => 0,
    };
    let body = Bytes::from(serde_json::to_vec(event).expect("fields of plain types become JSON"));
    let mut give_up = std::pin::pin!(give_up);
    loop {
        match sender.send(App(app), body.clone()).await {
            Ok(call) => {
                tracing::debug!(position = call.position(), ?event, "an event is kept");
                return Keeping::Kept(call);
            }
            Err(SendError::Ended) => return Keeping::Ended,
            Err(error @ SendError::TooLong { .. }) => {
                tracing::error!(%error, "an event is left out");
                return Keeping::Never;
            }
            Err(error) => tracing::warn!(%error, "an event cannot be kept yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(KEEP_AGAIN) => {}
            () = &mut give_up => return Keeping::GivenUp,
        }
    }
}

/// As [`keep`], for this edge alone, over whichever link with it is in use by then.
async fn answer(mut link: watch::Receiver<Link>, event: &Event) {
    loop {
        let sender = link.borrow_and_update().sender(Mode(MODE));
        let kept = keep(&sender, event, std::future::pending()).await;
        // The agent ends with the sender of links.
        if !matches!(kept, Keeping::Ended) || link.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use steady_cluster::channel::talk::Outcome;
    use steady_stream::MemoryInbox;

    use super::*;

    fn outcome(octets: usize) -> Event {
        Event::Outcome(Outcome { id: 1, status: 422, detail: "x".repeat(octets), ..Outcome::default() })
    }

    #[tokio::test]
    async fn an_event_that_finds_no_room_in_the_log_can_be_given_up_and_one_that_is_too_long_waits_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut lane = Lane::new(Mode(MODE), MemoryInbox::new(|_, _| Bytes::new()));
        lane.config.messages_max = 1;
        let names = Names { local: "h1".into(), peer: "edge".into() };
        let (link, _) = Link::open(names, dir.path(), vec![lane]).await.unwrap();
        let sender = link.sender(Mode(MODE));
        let forever = std::future::pending::<()>;
        assert!(matches!(keep(&sender, &outcome(2 << 20), forever()).await, Keeping::Never));
        assert!(matches!(keep(&sender, &outcome(1), forever()).await, Keeping::Kept(_)));
        assert!(matches!(keep(&sender, &outcome(1), async {}).await, Keeping::GivenUp));
    }
}
