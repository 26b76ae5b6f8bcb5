//! A simulated network with virtual time: every fault a network knows, repeatable from one number.
//!
//! A [`SimNet`] is the network, the clock and the dice; each [`Sim`] is one worker's driver on it. All of it lives in
//! one thread. Bytes are cut into segments, delayed, held up and delivered at any boundary; connections are refused,
//! lost, reset; buffers run out. What is under way is bounded, so that back-pressure is real. Same seed, same calls:
//! same history ([`SimNet::fingerprint`]).
//!
//! # How a harness steps several workers
//! [`Sim::wait`](crate::Driver::wait) never blocks: it submits what its worker asked for, appends what is due at the
//! current virtual time, remembers `until` as the node's deadline, and returns. Time moves only between the rounds:
//!
//! ```text
//! loop {
//!     loop {                                     // 1. everything that can happen now, happens
//!         for worker in workers { worker.turn() }    // wait(next deadline), then run the batch
//!         if no worker got an event and !net.runnable() { break }
//!     }
//!     if done { break }
//!     if !net.advance_to_next() { panic!("nothing will ever happen again") }   // 2. time goes on
//! }
//! ```
//!
//! The harness may step the workers in any order, a random one drawn from the same seed for instance; one that it
//! [stalls](Sim::stall) it does not step until that is over.
//!
//! - `faults`: what goes wrong, and how often.
//! - `net`: the network: ends, segments, what is scheduled.
//! - `driver`: a node's side of it.

mod driver;
mod faults;
mod net;

use std::cell::RefCell;
use std::rc::Rc;

use self::net::{EndKey, Net};
use crate::{Addr, Time};

pub use self::driver::Sim;
pub use self::faults::Faults;

/// The network. Cheap to clone: all clones are one network.
#[derive(Clone)]
pub struct SimNet(Rc<RefCell<Net>>);

impl std::fmt::Debug for SimNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let net = self.0.borrow();
        write!(f, "SimNet(at {}, {} connection ends)", net.now, net.open_ends())
    }
}

impl SimNet {
    pub fn new(seed: u64, faults: Faults) -> SimNet {
        SimNet(Rc::new(RefCell::new(Net::new(seed, faults))))
    }

    /// A driver for one more node.
    pub fn driver(&self) -> Sim {
        Sim::new(self.0.clone())
    }

    /// A listening socket. Clones of it share one queue of connections, as duplicated descriptors do; the address is
    /// free again once all of them are gone.
    ///
    /// # Panics
    /// The address is in use: a bug of the harness.
    pub fn bind(&self, addr: impl Into<Addr>) -> SimSocket {
        let addr = addr.into();
        self.0.borrow_mut().bind(addr.clone());
        SimSocket { net: self.0.clone(), kind: Kind::Listener(addr) }
    }

    /// Two connected sockets, for [`adopt`](crate::Driver::adopt).
    pub fn pair(&self) -> (SimSocket, SimSocket) {
        let (one, other) = self.0.borrow_mut().pair();
        let socket = |end| SimSocket { net: self.0.clone(), kind: Kind::Connected(Some(end)) };
        (socket(one), socket(other))
    }

    pub fn now(&self) -> Time {
        self.0.borrow().now
    }

    /// Whether a node has something to do at the current time: events due, operations asked for, a deadline reached, a
    /// waker used.
    pub fn runnable(&self) -> bool {
        self.0.borrow().runnable()
    }

    /// When the next thing happens: now if a node is [`runnable`](SimNet::runnable); `None` if nothing ever will.
    pub fn next_event_at(&self) -> Option<Time> {
        self.0.borrow().next_event_at()
    }

    /// Moves time on to `to`; everything due until then happens, in order.
    pub fn advance(&self, to: Time) {
        self.0.borrow_mut().advance(to);
    }

    /// Moves time on to the next thing that happens. False if nothing ever will.
    pub fn advance_to_next(&self) -> bool {
        let next = self.next_event_at();
        next.inspect(|&at| self.advance(at)).is_some()
    }

    /// Changes the weather, for all that is sent from now on. The buffers of drivers that exist stay as they are.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }

    /// Connection ends that exist, each connection counting two: those of drivers and those that wait to be accepted or
    /// adopted. Zero at the end of a test, or something leaks.
    pub fn open_connections(&self) -> usize {
        self.0.borrow().open_ends()
    }

    /// A number that sums up every event reported so far, with its time: equal histories have equal ones.
    pub fn fingerprint(&self) -> u64 {
        self.0.borrow().fingerprint
    }
}

/// A listening or a connected socket outside of any driver.
pub struct SimSocket {
    net: Rc<RefCell<Net>>,
    kind: Kind,
}

/// What [`SimNet::bind`] makes.
pub type SimListener = SimSocket;

enum Kind {
    Listener(Addr),
    /// `None` once a driver took it over.
    Connected(Option<EndKey>),
}

impl std::fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Listener(addr) => write!(f, "SimSocket(listening on {addr})"),
            Kind::Connected(_) => f.write_str("SimSocket(connected)"),
        }
    }
}

impl SimSocket {
    /// Another descriptor of the same listener.
    ///
    /// # Panics
    /// On a connected socket.
    #[must_use]
    pub fn duplicate(&self) -> SimSocket {
        let Kind::Listener(addr) = &self.kind else { panic!("only listeners are shared") };
        self.net.borrow_mut().bind_again(addr);
        SimSocket { net: self.net.clone(), kind: Kind::Listener(addr.clone()) }
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let mut net = self.net.borrow_mut();
        match &self.kind {
            Kind::Listener(addr) => net.unbind(addr),
            Kind::Connected(Some(end)) => net.close_end(*end),
            Kind::Connected(None) => {}
        }
    }
}
