//! The reliable message stream that agents and edges speak over the control channel.
//!
//! A message that was taken is kept on disk until the peer has applied it and answered, through crashes of either side;
//! it is applied exactly once and in order. The protocol is a state machine without I/O ([`Stream`]); the durable
//! [`Log`] stands on a [`Disk`] that can be simulated; the receiver's cursor is stored with the effects by an [`Inbox`];
//! [`io`] drives all three on tokio over any connection.
//!
//! # Use
//!
//! ```no_run
//! # use steady_stream::{App, MemoryInbox, Mode, Outcome, io::{Lane, Link, Names}};
//! # async fn example(connection: tokio::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
//! let names = Names { local: "host-7".into(), peer: "edge-1".into() };
//! let inbox = MemoryInbox::new(|_stream, message| message.body.clone()); // applies and answers; see `Inbox` for durable ones
//! let (link, mut events) = Link::open(names, "/var/lib/steady/stream/edge-1", vec![Lane::new(Mode(0), inbox)]).await?;
//! tokio::spawn(async move { while let Some(event) = events.next().await { println!("{event:?}") } });
//!
//! let attached = link.clone();
//! tokio::spawn(async move { attached.attach(connection).await }); // once for each connection; resolves when it has ended
//!
//! let call = link.sender(Mode(0)).send(App(12), &b"started"[..]).await?; // it is on disk
//! match call.await {
//!     Some(Outcome::Answered(answer)) => println!("applied: {answer:?}"),
//!     Some(Outcome::Withdrawn | Outcome::Dropped { .. }) => println!("not applied, or in doubt"),
//!     None => println!("this process closes; the message stays in the log"),
//! }
//! # Ok(()) }
//! ```
//!
//! # One message, walked through
//!
//! 1. `send` gives the message the next **position** of its log and a checksum over position, application and body. The
//!    record goes into the commit that is next to run; when that is synced, `send` returns ([`Stream::take_records`],
//!    [`Log::append`], [`Stream::stored`]). Only now may it leave.
//! 2. The receiver has granted **message numbers**, a quarter of its window at a time. The position's number is its place
//!    in the grant's seeded permutation ([`Grant`]); without one, the message waits and the sender says that it is blocked,
//!    upon which the receiver doubles its window.
//! 3. The frame carries position, number, body and checksum, and whatever feedback the other direction owes, which the
//!    peer processes first. A frame that is lost is known by feedback that acknowledges a later one, or after 20 ms by a
//!    probe that wants feedback at once.
//! 4. The receiver checks epoch, window, number and checksum, and holds the message: it is **received**. Bits in its
//!    feedback say which are; one that is missing is asked for at once. All of this is memory, and may be lost.
//! 5. Consecutive messages go to the [`Inbox`] as a [`Batch`], which applies them and stores the sealed cursor in one
//!    transaction: they are **durable** ([`Stream::deliver`], [`Stream::applied`]). After a crash the receiver greets with
//!    its durable cursor, and the sender, who still has everything above, goes on from there.
//! 6. Feedback carries the durable cursor and the answers. The sender resolves the call, trims its log, and tells its new
//!    **floor** with the next frame, so that the receiver forgets the answer.
//!
//! What each state and counter means to an operator is in `docs/stream.md`; why it is so, in `docs/decisions/stream.md`.

mod config;
mod fault;
mod inbound;
mod inbox;
pub mod io;
mod log;
mod machine;
mod number;
mod outbound;
mod record;
mod rules;
mod stats;
mod types;
pub mod wire;

pub use config::{Config, Sync};
pub use fault::{Faults, Loss};
pub use inbound::Batch;
pub use inbox::{FileInbox, Inbox, InboxError, MemoryInbox};
pub use log::{Damage, Disk, FileDisk, Log, LogConfig, LogError, LogIdentity};
pub use machine::{SavedError, Stream};
pub use number::Grant;
pub use outbound::{SendError, TooLate};
pub use record::{Bodies, Kept, NoBodies, Record, Recovered};
#[doc(hidden)]
pub use rules::Rules;
pub use rules::Sound;
pub use stats::Stats;
pub use types::{App, Epoch, Event, Message, Mode, Outcome, Position, StreamId, checksum};
