//! Bytes in and out of a worker: the [`Driver`] seam and its three drivers.
//!
//! A driver belongs to one thread. The worker asks for operations (connect, send, close); nothing is answered in the
//! call. [`Driver::wait`] submits what was asked, sleeps until something completed or the deadline passed, and appends
//! a batch of [`Event`]s. The worker runs the batch to its end, then waits again: completions are queued, then run, and
//! never recursed into.
//!
//! - `uring::Uring`: io_uring, multishot accept and receive, one provided-buffer ring.
//! - `epoll::Epoll`: the same seam where io_uring is forbidden.
//! - `sim::Sim`: a seeded network with virtual time; every fault a network knows, repeatable from one number.
//!
//! All three pass the suite in `tests/conformance.rs`.
//!
//! - `probe`: which of the real ones this machine allows, and why not the better one.
//! - `timers`: the worker's timing wheel.
//! - `config`: the real drivers' sizes, with their reasons.
//! - `slots`, `message`, `wake`: what the drivers share.

#![allow(unsafe_code)]

mod addr;
mod buffer;
mod config;
pub mod epoll;
mod event;
mod message;
pub mod probe;
pub mod sim;
mod slots;
mod time;
mod timers;
pub mod uring;
mod wake;

pub use addr::Addr;
pub use buffer::{Piece, Pieces, Pool, RecvBuf, SendBuf};
pub use config::Config;
pub use epoll::Epoll;
pub use event::{ConnId, Event, ListenerId, Op};
pub use probe::{Choice, Chosen, Unavailable, choose};
pub use sim::{Faults, Sim, SimListener, SimNet, SimSocket};
pub use steady_sys::net::{listen_tcp, listen_tcp_v6_only, listen_unix};
pub use time::Time;
pub use timers::Timers;
pub use uring::Uring;

use std::io;
use std::sync::Arc;

/// One thread's I/O. See the crate's description for the order of calls.
///
/// # Contract
/// - **Receiving** starts by itself when a connection is accepted, adopted or connected, and goes on until
///   [`pause`](Driver::pause). After `pause` a few more [`Event::Received`] may come (what the kernel had already
///   delivered); the caller keeps them.
/// - **Sending**: at most one send in flight per connection. A second [`send`](Driver::send) before
///   [`Event::Sent`] is a bug of the caller and panics. Short writes are finished by the driver: `Sent` means all of
///   it. A send (and a shutdown) asked for before [`Event::Connected`] is done as soon as the connection is there.
///   After [`Event::Failed`] with [`Op::Connect`] or [`Op::Send`] nothing is sent any more: a further buffer is
///   dropped unreported.
/// - **Ending**: after [`close`](Driver::close) the driver cancels what is under way, awaits every terminal completion,
///   closes the descriptor and reports [`Event::Closed`]; no other event of that connection follows the call. Only
///   then is the slot reused, with another generation. A connection that failed ([`Event::Failed`]) still must be
///   closed.
/// - An id of a past generation is ignored by every method.
/// - A [`RecvBuf`] goes back to the pool when it is dropped. Holding many starves the ring: what outlives the batch is
///   copied out, or a [`Piece`], of which a pool has only so many. When the pool is empty, receiving resumes by itself once buffers came back (counted in [`Stats`]).
pub trait Driver {
    /// What a listener or an accepted connection is outside the driver: a descriptor, or a simulated one.
    type Socket;

    /// The clock: monotonic, read once per call. Virtual under simulation.
    fn now(&self) -> Time;

    /// Accepts from `socket` (already bound and listening) until [`stop_listening`](Driver::stop_listening).
    /// Running out of descriptors pauses accepting for a moment and is reported as [`Event::AcceptFailed`]; it resumes
    /// by itself.
    fn listen(&mut self, socket: Self::Socket) -> io::Result<ListenerId>;

    /// Ends accepting; [`Event::ListenerClosed`] follows once no further connection can come from it. What waits in it by then
    /// is accepted before that.
    fn stop_listening(&mut self, listener: ListenerId);

    /// Takes over a connected socket.
    fn adopt(&mut self, socket: Self::Socket) -> io::Result<ConnId>;

    /// Begins to connect. [`Event::Connected`] or [`Event::Failed`] with [`Op::Connect`] follows.
    fn connect(&mut self, addr: &Addr) -> ConnId;

    /// Sends all of `buf`. [`Event::Sent`] hands the buffer back for reuse.
    fn send(&mut self, conn: ConnId, buf: SendBuf);

    /// As [`send`](Driver::send), for a caller whom its end need not wake: [`Event::Sent`] comes with whatever else ends a
    /// wait. A send that cannot be done at once goes on all the same.
    fn send_quietly(&mut self, conn: ConnId, buf: SendBuf) {
        self.send(conn, buf);
    }

    /// Stops receiving until [`resume`](Driver::resume), so that TCP pushes back on the peer.
    fn pause(&mut self, conn: ConnId);

    /// Goes on receiving.
    fn resume(&mut self, conn: ConnId);

    /// Half-close: nothing more is sent (FIN). Only legal with no send in flight.
    fn shutdown(&mut self, conn: ConnId);

    /// Ends the connection; [`Event::Closed`] follows.
    fn close(&mut self, conn: ConnId);

    /// As [`close`](Driver::close), but the peer is told by a reset (TCP): for a stream whose clean end would say that it is
    /// whole. What the peer has not read yet may be lost.
    fn reset(&mut self, conn: ConnId);

    /// Gives an open connection away, to another driver or another process: receiving ends, and once nothing of it is under
    /// way [`Event::Released`] follows and its socket can be [taken](Driver::take). Until then what the kernel had already
    /// delivered still comes, as after `pause`: the caller hands it on with the socket. What has not been delivered stays in the socket
    /// for whoever has it next. Afterwards only `close` and `reset` may be asked of it, which end it instead.
    ///
    /// # Panics
    /// With a send in flight, or before [`Event::Connected`].
    fn release(&mut self, conn: ConnId);

    /// The socket of a connection that was [released](Event::Released) in the batch at hand. Whatever is not taken is closed with the
    /// next wait.
    fn take(&mut self, conn: ConnId) -> Option<Self::Socket>;

    /// Submits what was asked for, waits until an event is there, `until` has passed (`None`: for ever) or a
    /// [`Waker`] was used, and appends what happened to `events`. `until` in the past only collects what is ready.
    ///
    /// # Errors
    /// Only what makes the driver unusable (a lost ring). A connection's failure is an [`Event`].
    fn wait(&mut self, until: Option<Time>, events: &mut Vec<Event>) -> io::Result<()>;

    /// A handle that makes [`wait`](Driver::wait) return with [`Event::Woken`], from any thread.
    fn waker(&self) -> Waker;

    /// What happened so far, for the metrics.
    fn stats(&self) -> Stats;
}

/// Wakes a driver from another thread. Cheap to clone; waking an awake driver costs one atomic.
#[derive(Clone)]
pub struct Waker(Arc<dyn Wake>);

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}

impl Waker {
    pub fn new(wake: Arc<dyn Wake>) -> Self {
        Waker(wake)
    }

    pub fn wake(&self) {
        self.0.wake();
    }
}

/// How a driver is woken.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// Counters of one driver, cumulative since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub accepted: u64,
    /// Accepts that failed (descriptors, memory).
    pub accept_failed: u64,
    /// Connects begun.
    pub connects: u64,
    /// Octets received.
    pub received_bytes: u64,
    /// Octets sent.
    pub sent_bytes: u64,
    /// Sends asked for.
    pub sends: u64,
    /// Times a receive found no buffer in the pool.
    pub starved: u64,
    /// Batches for which the completion queue was too small: the kernel kept the rest for the next.
    pub overflowed: u64,
    /// Waits, each at least one system call on a real driver.
    pub waits: u64,
    /// System calls made, waits included.
    pub syscalls: u64,
}

/// The real drivers' clock.
pub(crate) fn clock() -> Time {
    Time::from_nanos(steady_sys::clock::monotonic_nanos())
}
