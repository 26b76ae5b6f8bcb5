//! The worker: one thread's loop over a driver's batches.
//!
//! A batch of completions is run to its end, then every connection that has something to say sends once, then the worker
//! waits again. What an event causes elsewhere (a request to route again, input to parse again) goes through a queue, so
//! that nothing recurses.
//!
//! The worker is one struct; what it does is told in files of one idea each: `downstream` (accepting, requests), `attempt`
//! (routing, responses, trying again), `parking` (what waits), `upstream` (connections to targets), `relay` (bodies), `ending` (how things
//! end), `pressure` (what all bodies hold), `deadlines`, `liveness` (of upstreams), `wire` (bytes in and out of a connection, TLS).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steady_http::Head;
use steady_ring::{ConnId, Driver, Event, ListenerId, Pieces, RecvBuf, Time, Timers};

use crate::batches::Batches;
use crate::bounds::Bounds;
use crate::conn::{Conn, Stage};
use crate::crowd::Crowd;
use crate::exchange::{Exchange, Exchanges, Key};
use crate::hash::KeyHash;
use crate::held::Total;
use crate::limits::{Limits, Timeouts};
use crate::parking::Parkings;
use crate::plane::{Command, Seat};
use crate::policy::{ParkKey, Policy};
use crate::refusal::Refusal;
use crate::spares::Spares;
use crate::stats::Stats;
use crate::upstream::Upstream;

/// How one listener's connections begin.
#[derive(Clone, Debug)]
pub struct Listener {
    pub tls: bool,
    /// The PROXY protocol's header (v1 or v2) is required on every connection.
    pub proxy_protocol: bool,
    /// The codecs' bounds for what comes in here.
    pub limits: steady_http::Limits,
}

/// What a worker is built from.
#[derive(Clone, Debug)]
pub struct Config {
    pub listeners: Vec<Listener>,
    pub limits: Limits,
    /// The codecs' bounds towards upstreams.
    pub upstream_limits: steady_http::Limits,
}

/// Work that an event caused elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Todo {
    /// Route this exchange.
    Route(Key),
    /// Give the codec of this connection another turn with its pending input.
    Refeed(ConnId),
    /// A connection to this target went: those who wait may need another.
    Serve(u64),
}

/// An entry of the timing wheel: a slot, whose present occupant says whether anything is due, and the time the entry was
/// set for. An entry whose time is not the slot's any more is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey {
    pub slot: Slot,
    pub at: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Conn(u32),
    Exchange(u32),
}

pub(crate) struct ConnSlot {
    pub conn: Option<Box<Conn>>,
    /// When this slot's entry in the timing wheel fires; `Time::MAX` when it has none.
    pub armed: Time,
}

/// The connection, unless it is gone.
#[inline]
pub(crate) fn lookup(conns: &mut [ConnSlot], id: ConnId) -> Option<&mut Conn> {
    conns.get_mut(id.index())?.conn.as_deref_mut().filter(|conn| conn.id == id)
}

pub(crate) struct ListenerState {
    pub config: Listener,
    pub codec_limits: Rc<steady_http::Limits>,
    pub id: Option<ListenerId>,
}

/// A graceful end that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    pub(crate) since: Time,
    /// What has not ended by itself is cut then.
    pub(crate) until: Time,
}

/// See the module.
pub struct Worker<D: Driver, P: Policy> {
    pub(crate) driver: D,
    pub(crate) policy: P,
    pub(crate) seat: Seat<P>,
    pub(crate) snapshot: Arc<P::Snapshot>,
    pub(crate) version: u64,
    pub(crate) timeouts: Timeouts,
    pub(crate) limits: Limits,
    /// What the policy asked for last.
    bounds: Option<Arc<Bounds>>,
    pub(crate) upstream_limits: Rc<steady_http::Limits>,
    pub(crate) listeners: Vec<ListenerState>,
    pub(crate) conns: Vec<ConnSlot>,
    pub(crate) conns_open: usize,
    pub(crate) crowd: Crowd,
    pub(crate) exchanges: Exchanges<P::Ticket>,
    /// What their bodies hold.
    pub(crate) held: Total,
    /// When it is to be looked at again whether they hold too much.
    pub(crate) relieve_again: Time,
    /// From the last batch to this one.
    pub(crate) since_last: Duration,
    /// The second that it is in the present batch.
    pub(crate) second: u32,
    second_ends: Time,
    /// Exchanges that are over, kept for their memory.
    pub(crate) spares: Vec<Box<Exchange<P::Ticket>>>,
    pub(crate) upstreams: HashMap<u64, Upstream, KeyHash>,
    pub(crate) parked: Parkings,
    pub(crate) timers: Timers<TimerKey>,
    /// Deadlines are not looked at before then, as the worker itself was late; `Time::ZERO`: it was not.
    pub(crate) patient: Time,
    /// Send buffers that came back.
    pub(crate) buffers: Spares,
    /// Lists of pieces that came back.
    pub(crate) lists: Vec<Pieces>,
    /// What the connection at hand received, in the clear: bodies in it need not be copied.
    pub(crate) incoming: Option<RecvBuf>,
    pub(crate) dirty: Vec<ConnId>,
    /// Connections to upstreams whose request's body waits for the end of the batch.
    pub(crate) unsent: Vec<ConnId>,
    /// Connections whose handshake waits for its certificate.
    pub(crate) shaking: Vec<ConnId>,
    pub(crate) todo: VecDeque<Todo>,
    events: Vec<Event>,
    /// Where codecs put the head of the event at hand.
    pub(crate) scratch: Head,
    /// Where TLS puts what it decrypted.
    pub(crate) plain: Vec<u8>,
    pub(crate) tls_scratch: crate::tls::Scratch,
    pub(crate) now: Time,
    pub(crate) batches: Batches,
    pub(crate) stats: Arc<Stats>,
    /// Randomness that nothing depends on for safety (keys of WebSocket handshakes).
    pub(crate) rng: fastrand::Rng,
    pub(crate) draining: Option<Drain>,
    /// Until when the log is spared lines that every request may cause.
    warn_again: Time,
}

/// Between two such lines.
const WARN_EVERY: Duration = Duration::from_secs(1);

impl<D: Driver, P: Policy> std::fmt::Debug for Worker<D, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Worker({} connections, {} exchanges)", self.conns_open, self.exchanges.len())
    }
}

impl<D: Driver, P: Policy> Worker<D, P> {
    /// A worker in its seat of a plane. `sockets` are the listeners of `config`, in its order.
    ///
    /// # Errors
    /// When the driver cannot take a listener.
    pub fn new(
        driver: D,
        mut policy: P,
        seat: Seat<P>,
        config: &Config,
        sockets: Vec<D::Socket>,
    ) -> io::Result<Worker<D, P>> {
        seat.place(driver.waker());
        let (version, snapshot) = seat.latest();
        let timeouts = policy.published(&snapshot);
        let now = driver.now();
        let stats = seat.stats();
        let listeners = config
            .listeners
            .iter()
            .map(|listener| ListenerState {
                config: listener.clone(),
                codec_limits: Rc::new(listener.limits.clone()),
                id: None,
            })
            .collect();
        let mut worker = Worker {
            driver,
            policy,
            seat,
            snapshot,
            version,
            timeouts,
            limits: config.limits.clone(),
            bounds: None,
            upstream_limits: Rc::new(config.upstream_limits.clone()),
            listeners,
            conns: Vec::new(),
            conns_open: 0,
            crowd: Crowd::default(),
            exchanges: Exchanges::new(),
            held: Total::default(),
            relieve_again: Time::ZERO,
            since_last: Duration::ZERO,
            second: 0,
            second_ends: Time::ZERO,
            spares: Vec::new(),
            upstreams: HashMap::default(),
            parked: Parkings::default(),
            timers: Timers::new(now),
            patient: Time::ZERO,
            buffers: Spares::default(),
            lists: Vec::new(),
            incoming: None,
            dirty: Vec::new(),
            unsent: Vec::new(),
            shaking: Vec::new(),
            todo: VecDeque::new(),
            events: Vec::new(),
            scratch: Head::new(),
            plain: Vec::new(),
            tls_scratch: crate::tls::Scratch::default(),
            now,
            batches: Batches::default(),
            stats,
            rng: fastrand::Rng::new(),
            draining: None,
            warn_again: Time::ZERO,
        };
        worker.take_bounds();
        for (index, socket) in sockets.into_iter().enumerate() {
            worker.listeners[index].id = Some(worker.driver.listen(socket)?);
        }
        worker.seat.settled(version);
        Ok(worker)
    }

    /// Runs until the plane stops it, or a drain has ended.
    ///
    /// # Errors
    /// When the driver fails as a whole.
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn(None)? {}
        Ok(())
    }

    /// Waits for a batch, at most until `until` or the next deadline, and runs it to its end. `false`: there is nothing
    /// more to do, ever.
    ///
    /// # Errors
    /// When the driver fails as a whole.
    pub fn turn(&mut self, until: Option<Time>) -> io::Result<bool> {
        let drained = self.draining.map(|drain| drain.until);
        let sooner = |a: Option<Time>, b: Option<Time>| a.map_or(b, |a| Some(b.map_or(a, |b| a.min(b))));
        let due = self.next_due();
        let deadline = sooner(sooner(due, until), sooner(drained, self.policy.due()));
        let mut events = std::mem::take(&mut self.events);
        self.driver.wait(deadline, &mut events)?;
        let last = std::mem::replace(&mut self.now, self.driver.now());
        self.since_last = self.now.since(last);
        if self.now >= self.second_ends {
            self.begin_second();
        }
        self.refresh();
        for event in events.drain(..) {
            self.dispatch(event);
            self.run_todo();
        }
        self.events = events;
        if !self.is_patient(due) {
            self.expire();
        }
        self.run_todo();
        self.relieve();
        self.flush_dirty();
        self.batches.ended(self.driver.now().since(self.now));
        self.policy.batch_ended(self.now);
        self.stats.driver(&self.driver.stats());
        Ok(!self.is_over())
    }

    /// The seconds of the clock are counted when they change, not in every batch: a division each.
    #[cold]
    fn begin_second(&mut self) {
        let seconds = self.now.since(Time::ZERO).as_secs();
        self.second = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.second_ends = Time::ZERO + Duration::from_secs(seconds + 1);
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Received { conn, buf } => self.received(conn, buf),
            Event::Sent { conn, buf } => self.sent(conn, buf),
            Event::Accepted { listener, conn, peer } => self.accepted(listener, conn, peer),
            Event::Connected { conn } => self.connected(conn),
            Event::EndOfStream { conn } => self.end_of_stream(conn),
            Event::Failed { conn, op, error } => self.failed(conn, op, &error),
            Event::Closed { conn } => self.closed(conn),
            Event::AcceptFailed { error, .. } => {
                self.stats.accept_failed.add(1);
                tracing::warn!(%error, "cannot accept connections for now; raise LimitNOFILE if this goes on");
            }
            Event::ListenerClosed { listener } => {
                for state in &mut self.listeners {
                    if state.id == Some(listener) {
                        state.id = None;
                    }
                }
            }
            // Nothing here gives connections away.
            Event::Released { .. } | Event::Woken => {}
        }
    }

    pub(crate) fn run_todo(&mut self) {
        while let Some(todo) = self.todo.pop_front() {
            match todo {
                Todo::Route(key) => self.route(key),
                Todo::Refeed(conn) => self.refeed(conn),
                Todo::Serve(upstream) => self.serve(upstream),
            }
        }
    }

    /// Takes a new snapshot into use, and whatever control asks for.
    fn refresh(&mut self) {
        if self.seat.version() != self.version {
            let (version, snapshot) = self.seat.latest();
            self.version = version;
            let timeouts = self.policy.published(&snapshot);
            self.snapshot = snapshot;
            self.stats.publications.add(1);
            let others = self.take_bounds();
            if std::mem::replace(&mut self.timeouts, timeouts) != timeouts || others {
                self.arm_all();
            }
            self.resume_ready();
            self.resume_handshakes();
            self.run_todo();
            self.seat.settled(version);
        }
        while let Some(command) = self.seat.command() {
            match command {
                Command::Drain { deadline } => self.drain(self.now + deadline),
                Command::Inspect(look) => self.inspect(Refusal::Cut, |listed| look(listed)),
            }
            self.run_todo();
        }
    }

    /// Puts the bounds in force that the snapshot asks for. Connections keep the codec's that they began with. `false`: they are
    /// what they were.
    fn take_bounds(&mut self) -> bool {
        let Some(bounds) = self.policy.bounds(&self.snapshot) else { return false };
        if self.bounds.as_ref() == Some(&bounds) {
            return false;
        }
        let clients = Rc::new(bounds.clients.clone());
        self.listeners.iter_mut().for_each(|listener| listener.codec_limits = Rc::clone(&clients));
        self.upstream_limits = Rc::new(bounds.upstreams.clone());
        let before = std::mem::replace(&mut self.limits, bounds.worker.clone());
        self.recount_clients(&before);
        self.bounds = Some(bounds);
        true
    }

    /// Routes again what is parked and may go on under the new snapshot.
    fn resume_ready(&mut self) {
        let snapshot = Arc::clone(&self.snapshot);
        let keys: Vec<ParkKey> = self.parked.keys().collect();
        for key in keys {
            if self.policy.may_resume(&snapshot, key) {
                self.resume(key);
            }
        }
    }

    /// Whether a line that every request may cause can be logged; if so, no other for a while.
    pub(crate) fn may_warn(&mut self) -> bool {
        let may = self.now >= self.warn_again;
        if may {
            self.warn_again = self.now + WARN_EVERY;
        }
        may
    }

    pub(crate) fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        lookup(&mut self.conns, id)
    }

    /// Puts a new connection into its slot.
    pub(crate) fn insert(&mut self, conn: Conn) {
        let index = conn.id.index();
        if self.conns.len() <= index {
            self.conns.resize_with(index + 1, || ConnSlot { conn: None, armed: Time::MAX });
        }
        debug_assert!(self.conns[index].conn.is_none(), "the driver reports Closed before it reuses a slot");
        self.conns_open += 1;
        let gauge = if conn.is_down() { &self.stats.connections_open } else { &self.stats.upstream_open };
        gauge.add(1);
        self.conns[index].conn = Some(Box::new(conn));
        self.arm_conn(index as u32);
    }

    fn is_over(&mut self) -> bool {
        if self.seat.is_stopped() {
            return true;
        }
        let Some(Drain { until, .. }) = self.draining else { return false };
        let late = self.now >= until;
        if late {
            self.cut_all();
            // The answers were handed to the driver; it submits them when it is asked to wait. What comes of it does not
            // matter any more, and neither does whether it failed.
            let _ = self.driver.wait(Some(self.now), &mut Vec::new());
        }
        let closed = self.listeners.iter().all(|state| state.id.is_none());
        if closed {
            self.seat.deaf();
        }
        let idle = closed && self.exchanges.len() == 0 && self.stats.connections_open.value() == 0;
        let over = late || idle;
        if over {
            self.seat.drained();
        }
        over
    }

    /// Connections open now, of either side.
    pub fn connections(&self) -> usize {
        self.conns_open
    }

    /// Exchanges under way now.
    pub fn exchanges(&self) -> usize {
        self.exchanges.len()
    }

    /// Targets that have connections, or requests that wait for one.
    pub fn upstreams(&self) -> usize {
        self.upstreams.len()
    }

    /// Octets of bodies that wait between two connections, and of input and output that wait on connections.
    pub fn held_bytes(&self) -> usize {
        let conns = self.conns.iter().filter_map(|slot| slot.conn.as_deref());
        let conns = conns.map(|conn| conn.aside.pending.len() + conn.out.len() + conn.aside.wire.len());
        let bodies = self.exchanges.iter().map(|exchange| exchange.upload.held.len() + exchange.download.held.len());
        debug_assert_eq!(self.held.octets(), bodies.sum::<usize>(), "what is counted and what is there");
        self.held.octets() + conns.sum::<usize>()
    }

    pub fn driver(&self) -> &D {
        &self.driver
    }

    pub fn policy(&self) -> &P {
        &self.policy
    }

    /// Whether a connection may still take part in exchanges.
    pub(crate) fn is_usable(&mut self, id: ConnId) -> bool {
        self.conn(id).is_some_and(|conn| conn.stage == Stage::Open)
    }
}
