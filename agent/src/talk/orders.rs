//! What becomes of an edge's orders: begun in their order, told of when they have ended.
//!
//! They are on disk ([`super::kept`]) until they have. One to place an application that a later one overrides before it was
//! begun is not begun: nothing is started only to be stopped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use steady_cluster::channel::Hold;
use steady_cluster::channel::talk::{Event, Order, Outcome, What};
use steady_stream::io::Link;
use tokio::sync::{mpsc, oneshot, watch};

use super::answer;
use super::kept::{Kept, OrderFile};
use crate::gate::{Generation, Role};
use crate::host::Host;
use crate::records::Digest;
use crate::supervise::actor::{Drained, Place, Refusal, StartFailure};
use crate::supervise::told;

/// A drain is held to an hour, whoever asks for it.
const DRAIN_MAX: Duration = Duration::from_secs(3600);

/// Whether `before` is for nothing: it places an application, and `later` is one that the host takes whatever it made of that.
pub(super) fn overrides(later: &Order, before: &Order) -> bool {
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
    file: Arc<OrderFile>,
    /// Not begun yet.
    waiting: VecDeque<Kept>,
}

impl Driver {
    pub(super) fn new(host: Arc<Host>, link: watch::Receiver<Link>, file: Arc<OrderFile>) -> Driver {
        Driver { host, link, file, waiting: VecDeque::new() }
    }

    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Vec<Kept>>) {
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
    async fn begin(&self, Kept { number, order }: Kept) {
        let (host, link, file) = (Arc::clone(&self.host), self.link.clone(), Arc::clone(&self.file));
        let id = order.id;
        let doing = if self.waiting.iter().any(|later| overrides(&later.order, &order)) {
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
            match outcome.status {
                // The records say what it did.
                200..300 => file.ended(number),
                // This host fails, or stops: it is done at the next start, unless something comes behind it.
                500..504 => {}
                // Before the edge hears it: it may give the application to another host from then on.
                _ => file.take_out(number).await,
            }
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
                        let (detail, output) = (told(failure.reason), Some(told(failure.output)));
                        Outcome { status: 422, detail, output, ..good }
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
    let (status, detail, generation) = (refusal.status(), told(refusal.to_string()), refusal.known());
    Outcome { status, detail, generation, ..Outcome::default() }
}
