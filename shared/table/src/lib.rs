//! The routing table of an edge: from the authority of a request to the application and the hosts that serve it.
//!
//! A table is a large **base file** (memory-mapped, read-only, never changed in place) and a small bounded **overlay** (a
//! log beside the base), so that one deployment does not rewrite a million entries:
//!
//! ```text
//!   resolve(b"Shop.steady.page:443")
//!        │ lower case, no port, no trailing dot; "steady.page" is a domain of ours
//!        ▼
//!     hash("shop") ─▶ overlay: in memory, ≤ a few thousand entries ─▶ found, or removed
//!        └──────────▶ base: one 64-byte line of slots ─▶ one record ─▶ Route
//! ```
//!
//! * [`Routes`] is one version of the whole table, immutable; a worker reads it without a lock, an allocation or a system call.
//! * [`TableDir`] is the writer that the control side owns: [`TableDir::replace`] writes a new base, [`TableDir::apply`] adds
//!   changes to the overlay and folds it into a new base when it is full.
//! * [`open_latest`] reads the newest table of a directory that is whole, with nothing else alive.
//!
//! Everything in a file is checked once, when it is opened: a look-up in a table that opened finds what was written, and a
//! file that was damaged, or made by an enemy, is refused with a [`Damage`] that says where and why. Even so every read of a
//! look-up is bounds-checked, so that a page that rots later costs a wrong answer, never a crash.
//! The format is in `docs/table-format.md`.
//!
//! Dropping the last `Routes` of a base unmaps it, which takes milliseconds for a large one: do that on the control side.

#![allow(unsafe_code)] // Only for mapping files, in `base`.

mod authority;
mod base;
mod bytes;
mod check;
mod dir;
mod error;
mod hash;
mod index;
mod lists;
mod log;
mod model;
mod name;
mod overlay;
mod record;
mod routes;

pub use dir::{Limits, Options, TableDir, open_latest};
pub use error::{Damage, DamageReason, Error, Invalid, Result};
pub use model::{
    App, Change, Contents, Endpoint, Host, HostIndex, MAX_APPS, MAX_DOMAINS, MAX_ENDPOINTS, MAX_HOSTS, Moving,
};
pub use name::{AppName, BadHost, BadName, DomainName};
pub use record::Route;
pub use routes::{Resolution, Routes};
