//! What is measured about requests, in a form that is cheap to record, exact to add up and small to send.
//!
//! * [`RequestTiming`] is where the time of one request went; an agent sends it to the edge in a field.
//! * [`Histogram`] collects durations. One worker writes it, any thread reads it; snapshots add up exactly.
//! * [`Counter`] and [`Gauge`] are numbers with one writer and any readers.
//! * A [`Meter`] is what one worker measures of one subject; [`Meters`] adds up those of all workers.
//! * A [`Report`] is how an agent tells an edge.
//! * [`Ewma`] is a moving average over time.
//!
//! Durations are whole microseconds and points in time whole nanoseconds of some monotonic clock, both `u64`: what reads the
//! clock is the caller's business.

mod cell;
mod collector;
mod ewma;
mod histogram;
mod journal;
mod meter;
mod report;
mod request;
mod snapshot;
pub mod varint;

pub use cell::{Counter, Gauge};
pub use collector::{Collector, Gathered, Sum};
pub use ewma::Ewma;
pub use histogram::{BUCKETS, Histogram, MAX_US};
pub use meter::{Begun, Meter, Meters, Pen};
pub use report::{BadReport, Entry, Report, State, Told, Writer};
pub use request::{BadTiming, RequestTiming};
pub use snapshot::{Accumulator, BadSnapshot, Snapshot};
