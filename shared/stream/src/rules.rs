//! The protocol's load-bearing rules as constants, so that tests can break one and show that it is noticed.
//!
//! The machine, the log and nothing else are generic over [`Rules`]. [`Sound`] is what everyone uses: every constant is
//! `false`, so the compiler removes each branch, and no configuration reaches a type parameter.

use std::fmt::Debug;

/// Which rule of the protocol is broken on purpose. Implemented by tests only.
#[doc(hidden)]
pub trait Rules: Copy + Default + Debug + Send + Sync + 'static {
    const TRIM_AT_RECEIVED: bool = false;
    const CURSOR_APART_FROM_EFFECT: bool = false;
    const NO_TRANSMIT_AFTER_GRANT: bool = false;
    const EPOCH_NOT_COMPARED: bool = false;
    const TOMBSTONE_SKIPPED: bool = false;
    const WINDOW_OFF_BY_ONE: bool = false;
    const ACKNOWLEDGED_AFTER_BODY: bool = false;
    const RESUME_FROM_NEXT: bool = false;
    const VERIFIER_IGNORED: bool = false;
    const TORN_RECORD_ACCEPTED: bool = false;
}

/// Every rule kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sound;

impl Rules for Sound {}
