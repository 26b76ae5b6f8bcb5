//! The stream between two peers, in one mode, as one machine: both halves, the hello, patience, the goodbye.
//!
//! It does no I/O and knows no clock: the driver tells it what happened and when (`now`: time since any fixed moment,
//! never decreasing), and asks it what to store, send, apply and report. What a driver does, in any order, until nothing
//! is left to do: [`Stream::take_records`] → append and sync → [`Stream::stored`]; [`Stream::deliver`] → inbox →
//! [`Stream::applied`]; [`Stream::transmit`] → connection; [`Stream::event`] → user; then sleep until
//! [`Stream::deadline`] and call [`Stream::tick`].
//!
//! A connection may lose, repeat and reorder frames, but a frame never reaches a connection that it wasn't sent on. A
//! process that starts again opens its streams anew from its log and its inbox, and never goes on with an old connection.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::config::Config;
use crate::inbound::{Batch, Inbound};
use crate::outbound::{Outbound, SendError, TooLate};
use crate::record::{Bodies, Record, Recovered};
use crate::rules::{Rules, Sound};
use crate::stats::Stats;
use crate::types::{App, Event, POSITION_MAX, Position, StreamId};
use crate::wire::{self, Body, Frame};

/// Where the connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Away {
        since: Duration,
        dropped: bool,
    },
    /// Greeting: the peer's hello hasn't come. Ours goes out at `again`.
    Greeting {
        again: Duration,
        tries: u32,
    },
    /// The peer's hello has come; `confirmed` once it is seen to have ours.
    Up {
        again: Duration,
        tries: u32,
        confirmed: bool,
    },
    /// The peer and we cannot speak. Nothing goes either way until the next connection.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    deadline: Duration,
    again: Duration,
    closed: bool,
}

/// One stream: two logs, one in each direction. See the module.
#[derive(Debug)]
pub struct Stream<R: Rules = Sound> {
    id: StreamId,
    config: Config,
    outbound: Outbound<R>,
    inbound: Inbound<R>,
    link: Link,
    heard: Duration,
    leaving: Option<Leaving>,
    peer_leaves: bool,
    peer_drained: bool,
    /// A goodbye of ours is to answer the peer's.
    reply_goodbye: bool,
    events: VecDeque<Event>,
    stats: Stats,
}

impl<R: Rules> Stream<R> {
    /// `recovered`: from the log, or [`Recovered::new`]. `saved`: what the inbox last stored, if it did. `seed`: of the
    /// order of message numbers; anything that differs from run to run.
    pub fn open(
        id: StreamId,
        config: Config,
        recovered: Recovered,
        saved: Option<&[u8]>,
        now: Duration,
        seed: u64,
    ) -> Result<Stream<R>, SavedError> {
        let config = config.mended();
        let inbound =
            Inbound::new(id.clone(), saved, &config, seed).map_err(|source| SavedError { id: id.clone(), source })?;
        Ok(Stream {
            outbound: Outbound::new(id.direction(), recovered, now),
            inbound,
            id,
            config,
            link: Link::Away { since: now, dropped: false },
            heard: now,
            leaving: None,
            peer_leaves: false,
            peer_drained: false,
            reply_goodbye: false,
            events: VecDeque::new(),
            stats: Stats::default(),
        })
    }

    #[must_use]
    pub fn id(&self) -> &StreamId {
        &self.id
    }

    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The longest body that either side may send.
    #[must_use]
    pub fn body_max(&self) -> usize {
        self.config.body_max
    }

    /// Messages of ours that are not finished.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.outbound.waiting()
    }

    /// Octets of message bodies that are not finished.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.outbound.bytes()
    }

    /// Messages of the peer's that are received and not durable; at most [`Self::window`].
    #[must_use]
    pub fn in_hand(&self) -> u64 {
        self.inbound.in_hand()
    }

    /// The window that is granted to the peer now.
    #[must_use]
    pub fn window(&self) -> u64 {
        self.inbound.window()
    }

    /// Octets of memory that grow with what waits and with what is held.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.outbound.memory() + self.inbound.memory()
    }

    #[must_use]
    pub fn is_established(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// The measured round trip; zero before the first measurement.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.outbound.round_trip()
    }

    /// Takes a message. It is kept once the records that [`Self::take_records`] then gives are stored.
    pub fn send(&mut self, now: Duration, app: App, body: Bytes) -> Result<Position, SendError> {
        if self.leaving.is_some() {
            return Err(SendError::Leaving);
        }
        self.outbound.send(now, app, body, &self.config)
    }

    /// Takes a message back that was never sent. [`Event::Finished`] follows once that is stored.
    pub fn withdraw(&mut self, position: Position) -> Result<(), TooLate> {
        self.outbound.withdraw(position)
    }

    /// What to append now, in order; empty while a commit is under way. Answer with [`Self::stored`].
    pub fn take_records(&mut self) -> Vec<Record> {
        self.outbound.take_records()
    }

    /// The records taken last are on disk.
    pub fn stored(&mut self, now: Duration) {
        let waited = self.outbound.is_waiting_for_the_peer();
        self.outbound.stored(now, &self.config, &mut self.events);
        if !waited && self.outbound.is_waiting_for_the_peer() {
            self.heard = now;
        }
    }

    /// A connection to the peer is there. The one before, if any, has ended.
    pub fn connected(&mut self, now: Duration) {
        self.disconnected(now);
        self.stats.connections += 1;
        self.heard = now;
        self.link = Link::Greeting { again: now, tries: 0 };
    }

    /// The connection has ended.
    pub fn disconnected(&mut self, now: Duration) {
        if matches!(self.link, Link::Away { .. }) {
            return;
        }
        self.outbound.disconnected();
        self.inbound.disconnected();
        self.link = Link::Away { since: now, dropped: false };
        self.peer_leaves = false;
        self.reply_goodbye = false;
        if self.leaving.is_some() && self.outbound.waiting() == 0 {
            self.close();
        }
        self.peer_drained = false;
    }

    /// Takes nothing new, sends what waits, and ends with [`Event::Closed`]: when both sides have drained or at `deadline`.
    /// What is left then stays in the log.
    pub fn goodbye(&mut self, now: Duration, deadline: Duration) {
        if self.leaving.is_none() {
            self.leaving = Some(Leaving { deadline, again: now, closed: false });
        }
    }

    /// A frame of this mode came over the connection.
    pub fn receive(&mut self, now: Duration, frame: Frame) {
        self.stats.frames_received += 1;
        if matches!(self.link, Link::Away { .. } | Link::Refused) {
            return;
        }
        self.heard = now;
        let Frame { feedback, body, .. } = frame;
        if R::ACKNOWLEDGED_AFTER_BODY {
            self.body(now, body);
            self.acknowledge(now, feedback);
        } else {
            self.acknowledge(now, feedback);
            self.body(now, body);
        }
    }

    fn acknowledge(&mut self, now: Duration, feedback: Option<wire::Feedback>) {
        if let Some(feedback) = feedback
            && self.is_established()
        {
            self.outbound.feedback(now, &feedback, &self.config, &mut self.stats, &mut self.events);
        }
    }

    fn body(&mut self, now: Duration, body: Option<Body>) {
        if let Some(Body::Hello(hello)) = body {
            self.hello(now, &hello);
            return;
        }
        // Only one who has our hello sends anything else.
        if let Link::Up { confirmed, .. } = &mut self.link {
            *confirmed = true;
        } else {
            return;
        }
        match body {
            Some(Body::Data(data)) => self.inbound.data(now, data, &self.config, &mut self.stats),
            Some(Body::Probe(probe)) => self.inbound.probed(&probe, &self.config, &mut self.stats),
            Some(Body::Goodbye(goodbye)) => self.farewell(goodbye),
            Some(Body::Hello(_)) | None => {}
        }
    }

    fn hello(&mut self, now: Duration, hello: &wire::Hello) {
        match &mut self.link {
            Link::Up { confirmed, .. } if hello.seen => {
                // It repeats its hello until it hears anything else: what told it so was lost.
                *confirmed = true;
                self.inbound.answer_now();
            }
            Link::Up { again, confirmed, .. } => {
                // Ours was lost, or has crossed this one.
                *again = (*again).min(now);
                *confirmed = false;
            }
            Link::Greeting { .. } => self.greeted(now, hello),
            Link::Away { .. } | Link::Refused => {}
        }
    }

    fn greeted(&mut self, now: Duration, hello: &wire::Hello) {
        if !self.outbound.settled() {
            // The floor isn't stored yet; the peer repeats its hello.
            return;
        }
        if let Err(refusal) = self.check(hello) {
            self.events.push_back(refusal);
            self.link = Link::Refused;
            return;
        }
        if let Err(refusal) = self.inbound.greet(hello, &mut self.events) {
            self.events.push_back(refusal);
            // The peer finds out from ours.
            self.link = Link::Refused;
            return;
        }
        let knows = hello.peer_epoch == self.outbound.epoch || R::EPOCH_NOT_COMPARED;
        let from = if knows { hello.received_below } else { 0 };
        let resumed = self.outbound.established(now, from, &self.config);
        self.link = Link::Up { again: now, tries: 0, confirmed: hello.seen };
        self.events.push_back(Event::Established { resumed });
    }

    /// Whether this is the peer and the stream that we mean, and our own log is the one it knows.
    fn check(&self, hello: &wire::Hello) -> Result<(), Event> {
        let detail = if hello.version != wire::VERSION {
            format!("it speaks version {}, we speak {}: upgrade the older side", hello.version, wire::VERSION)
        } else if hello.floor > POSITION_MAX || hello.received_below > POSITION_MAX {
            format!("it names positions past {POSITION_MAX}, where no log comes: it is broken, or not one of ours")
        } else if hello.epoch == 0 {
            // To us that is: none known yet.
            "it does not say which log it has (epoch 0): it is broken, or not one of ours".to_owned()
        } else if hello.from != self.id.peer || hello.to != self.id.local {
            format!(
                "it says {:?} to {:?}; we are {:?} and expect {:?}",
                hello.from, hello.to, self.id.local, self.id.peer
            )
        } else if R::EPOCH_NOT_COMPARED {
            return Ok(());
        } else if hello.peer_epoch > self.outbound.epoch {
            let (epoch, known) = (self.outbound.epoch, hello.peer_epoch);
            format!("it knows a log of ours begun at {known}, ours was begun at {epoch}: an old copy was put back")
        } else if hello.peer_epoch == self.outbound.epoch && hello.received_below > self.outbound.next() {
            let (received, next) = (hello.received_below, self.outbound.next());
            format!("it has our messages below {received}, our log ends at {next}: the log was cut; begin a new one")
        } else {
            return Ok(());
        };
        Err(Event::PeerIsAnother { detail })
    }

    fn farewell(&mut self, goodbye: wire::Goodbye) {
        if !self.peer_leaves {
            self.peer_leaves = true;
            if self.leaving.is_none() {
                self.outbound.held = true;
                self.events.push_back(Event::PeerLeaves);
            }
        }
        self.peer_drained |= goodbye.drained;
        if self.leaving.is_none() {
            self.reply_goodbye = true;
        } else if goodbye.drained && self.outbound.drained() {
            self.reply_goodbye = true;
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(leaving) = &mut self.leaving
            && !leaving.closed
        {
            leaving.closed = true;
            self.events.push_back(Event::Closed { left: self.outbound.waiting() as u64 });
        }
    }

    /// The next consecutive messages for the inbox; `None` while a batch is with it. Answer with [`Self::applied`].
    pub fn deliver(&mut self, now: Duration) -> Option<Batch> {
        self.inbound.deliver(now, &self.config)
    }

    /// The inbox has applied the batch and stored what [`Batch::seal`] gave for these answers; both are on disk.
    pub fn applied(&mut self, now: Duration, answers: Vec<Bytes>) {
        self.inbound.applied(now, answers, &self.config, &mut self.stats);
    }

    /// The next frame for the connection, until `None`. An error: a body cannot be read from the log.
    pub fn transmit(&mut self, now: Duration, bodies: &mut dyn Bodies) -> std::io::Result<Option<Frame>> {
        let settled = self.outbound.settled();
        match &mut self.link {
            Link::Away { .. } | Link::Refused => return Ok(None),
            Link::Greeting { again, tries } if now >= *again && settled => {
                *again = now + hello_after(&self.config, *tries);
                *tries += 1;
                return Ok(Some(self.our_hello(false)));
            }
            Link::Greeting { .. } => return Ok(None),
            Link::Up { again, tries, confirmed } if !*confirmed && now >= *again => {
                *again = now + hello_after(&self.config, *tries);
                *tries += 1;
                return Ok(Some(self.our_hello(true)));
            }
            Link::Up { .. } => {}
        }
        let waited = self.outbound.is_waiting_for_the_peer();
        let body = match self.outbound.transmit(now, bodies, &self.config, &mut self.stats)? {
            Some(body) => {
                // Silence counts from when there is something to answer.
                self.heard = if waited { self.heard } else { now };
                Some(body)
            }
            None => self.our_goodbye(now),
        };
        let alone = body.is_none();
        if alone && !self.inbound.feedback_due(now) {
            return Ok(None);
        }
        let feedback = (alone || self.inbound.feedback_rides()).then(|| self.inbound.feedback());
        self.stats.feedback_alone += u64::from(alone);
        self.stats.frames_sent += 1;
        Ok(Some(Frame { mode: self.id.mode.0, feedback, body }))
    }

    fn our_hello(&mut self, seen: bool) -> Frame {
        self.stats.frames_sent += 1;
        let hello = wire::Hello {
            version: wire::VERSION,
            from: self.id.local.clone(),
            to: self.id.peer.clone(),
            epoch: self.outbound.epoch,
            floor: self.outbound.floor,
            next: self.outbound.next(),
            peer_epoch: self.inbound.epoch,
            received_below: self.inbound.received_below(),
            durable_below: self.inbound.durable_below,
            seen,
        };
        Frame { mode: self.id.mode.0, feedback: None, body: Some(Body::Hello(hello)) }
    }

    fn our_goodbye(&mut self, now: Duration) -> Option<Body> {
        let drained = self.outbound.drained();
        if std::mem::take(&mut self.reply_goodbye) {
            return Some(Body::Goodbye(wire::Goodbye { drained }));
        }
        let leaving = self.leaving.as_mut()?;
        if leaving.closed || now < leaving.again || !drained {
            return None;
        }
        leaving.again = now + self.config.probe_after.max(self.outbound.round_trip() * 2);
        Some(Body::Goodbye(wire::Goodbye { drained }))
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Duration) {
        self.outbound.tick(now, &self.config, &mut self.stats, &mut self.events);
        self.inbound.tick(now, &self.config, &mut self.stats, &mut self.events);
        match &mut self.link {
            Link::Away { since, dropped } if !*dropped && now >= *since + self.config.patience => {
                *dropped = true;
                if self.outbound.waiting() > 0 {
                    self.stats.messages_dropped += self.outbound.drop_all();
                }
            }
            Link::Greeting { .. } if now >= self.heard + self.config.silence_max => self.silent(now),
            Link::Up { .. }
                if now >= self.heard + self.config.silence_max && self.outbound.is_waiting_for_the_peer() =>
            {
                self.silent(now);
            }
            _ => {}
        }
        if self.leaving.is_some_and(|leaving| now >= leaving.deadline) {
            self.close();
        }
    }

    fn silent(&mut self, now: Duration) {
        self.heard = now;
        self.events.push_back(Event::Silent);
    }

    /// When [`Self::tick`] or [`Self::transmit`] has something to do next, if nothing else happens. May be past.
    #[must_use]
    pub fn deadline(&self, now: Duration) -> Option<Duration> {
        let link = match self.link {
            Link::Away { since, dropped: false } => Some(since + self.config.patience),
            Link::Away { .. } | Link::Refused => None,
            Link::Greeting { again, .. } if self.outbound.settled() => {
                Some(again.min(self.heard + self.config.silence_max))
            }
            Link::Greeting { .. } => Some(self.heard + self.config.silence_max),
            Link::Up { again, confirmed, .. } => {
                let silent = self.outbound.is_waiting_for_the_peer().then(|| self.heard + self.config.silence_max);
                [(!confirmed).then_some(again), silent].into_iter().flatten().min()
            }
        };
        let leaving = self.leaving.filter(|leaving| !leaving.closed).map(|leaving| {
            if self.is_established() && self.outbound.drained() {
                leaving.deadline.min(leaving.again)
            } else {
                leaving.deadline
            }
        });
        let halves = [self.outbound.deadline(&self.config), self.inbound.deadline(now, &self.config)];
        [link, leaving].into_iter().chain(halves).flatten().min()
    }

    /// What to report next, in the order in which it happened.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

/// What an inbox gave back for this stream is not what a batch sealed.
#[derive(Debug, thiserror::Error)]
#[error(
    "what the inbox holds for {id} cannot be read ({source}): restore its store; without it, messages would be applied twice"
)]
pub struct SavedError {
    id: StreamId,
    source: prost::DecodeError,
}

/// How long until a hello is repeated: the probe's time, doubled each time, up to a second.
fn hello_after(config: &Config, tries: u32) -> Duration {
    (config.probe_after * (1 << tries.min(6))).min(Duration::from_secs(1).max(config.probe_after))
}
