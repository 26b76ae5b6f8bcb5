//! The two queues shared with the kernel: entries in, completions out.

use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

/// `io_uring_enter` flags, as in `<linux/io_uring.h>`.
const GETEVENTS: u32 = 1 << 0;
const EXT_ARG: u32 = 1 << 3;
const NO_IOWAIT: u32 = 1 << 7;

/// How often a push to a full queue tries to make room before the ring is given up. Each try submits and reaps, so one
/// is enough unless memory is short.
const PUSH_TRIES_MAX: u32 = 1_000;

/// A ring and the completions taken from it.
pub(super) struct Queue {
    ring: IoUring,
    /// Completions reaped and not yet handled: normally filled by [`reap`](Queue::reap), and early when the kernel
    /// wants its queue emptied before it takes more.
    reaped: Vec<cqueue::Entry>,
    /// Flags of every wait.
    wait_flags: u32,
    /// Whether completions wait in the kernel for an enter that asks for events (DEFER_TASKRUN).
    pub(super) deferred: bool,
    /// System calls made.
    pub(super) syscalls: u64,
    /// Times that the kernel had more completions than places for them. It keeps them until there are some.
    pub(super) overflowed: u64,
    /// The error that ended this ring; every wait reports it.
    lost: Option<i32>,
}

impl Queue {
    /// `entries` is the submission queue's size; the completion queue has four times as many, because a multishot
    /// operation completes many times for one submission.
    ///
    /// # Errors
    /// As `io_uring_setup(2)`.
    pub(super) fn new(entries: u32, defer: bool) -> io::Result<Queue> {
        let mut builder = IoUring::builder();
        // SUBMIT_ALL: one bad entry does not hold back those behind it. SINGLE_ISSUER and DEFER_TASKRUN (6.1):
        // completion work runs in our own wait, in one batch, and interrupts nothing.
        builder.setup_cqsize(entries * 4).setup_clamp().dontfork().setup_submit_all().setup_single_issuer();
        let deferring = if defer { builder.clone().setup_defer_taskrun().build(entries).map(Some) } else { Ok(None) };
        let deferring = match deferring {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => None,
            other => other?,
        };
        let deferred = deferring.is_some();
        let ring = match deferring {
            Some(ring) => ring,
            // 6.0 knows no DEFER_TASKRUN; COOP_TASKRUN at least sends no interrupt for a completion.
            None => builder.setup_coop_taskrun().build(entries)?,
        };
        let mut known = Probe::new();
        ring.submitter().register_probe(&mut known)?;
        let params = ring.params();
        // Multishot receive cannot be asked for by name; SEND_ZC came with it (6.0) and can.
        let recent = known.is_supported(opcode::SendZc::CODE);
        if !recent || !params.is_feature_ext_arg() || !params.is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        // Sleeping for work is idleness, not waiting for a disk: keep it out of the machine's iowait figure.
        let no_iowait = if params.is_feature_no_iowait() { NO_IOWAIT } else { 0 };
        let reaped = Vec::with_capacity(params.cq_entries() as usize);
        Ok(Queue { ring, reaped, wait_flags: GETEVENTS | no_iowait, deferred, syscalls: 0, overflowed: 0, lost: None })
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Queues an entry; submits first when the queue is full.
    ///
    /// # Safety
    /// What the entry points to must stay valid until it completed, or, where the kernel copies it, until it was
    /// submitted.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        for _ in 0..PUSH_TRIES_MAX {
            // SAFETY: as the caller promises.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            match self.enter(0, None) {
                Ok(()) => {}
                Err(error) => {
                    self.lost.get_or_insert(error.raw_os_error().unwrap_or(libc::EIO));
                    return;
                }
            }
            self.reap();
        }
        self.lost.get_or_insert(libc::EBUSY);
    }

    /// One system call: submits everything and, with `want`, waits for a completion or for `timeout` to pass.
    pub(super) fn enter(&mut self, want: u32, timeout: Option<Duration>) -> io::Result<()> {
        if let Some(errno) = self.lost {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let queued = self.ring.submission().len() as u32;
        self.syscalls += 1;
        let submitter = self.ring.submitter();
        let entered = match timeout {
            // SAFETY: no argument is passed.
            None => unsafe { submitter.enter::<libc::sigset_t>(queued, want, self.wait_flags, None) },
            Some(timeout) => {
                let timespec = Timespec::from(timeout);
                let args = SubmitArgs::new().timespec(&timespec);
                // SAFETY: `args` is what EXT_ARG announces, and lives until the call returned.
                unsafe { submitter.enter(queued, want, self.wait_flags | EXT_ARG, Some(&args)) }
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // ETIME: the deadline passed. EINTR: a signal came. EBUSY and EAGAIN: the completions must be reaped,
                // or memory is short; what was not submitted stays queued for the next call.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Takes the completions that are there.
    pub(super) fn reap(&mut self) {
        self.overflowed += u64::from(self.ring.submission().cq_overflow());
        self.reaped.extend(self.ring.completion());
    }

    /// What was reaped and is not handled yet.
    pub(super) fn reaped(&self) -> &[cqueue::Entry] {
        &self.reaped
    }

    /// Whether everything was submitted, and every completion that this brought at once has been reaped.
    pub(super) fn is_settled(&mut self) -> bool {
        let submission = self.ring.submission();
        submission.is_empty() && !submission.cq_overflow()
    }

    /// Whether completions are there without another system call.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.reaped.is_empty() || !self.ring.completion().is_empty()
    }

    /// Swaps what was reaped for `spare`, which is empty, so that handling a batch may push.
    pub(super) fn take_reaped(&mut self, spare: &mut Vec<cqueue::Entry>) {
        debug_assert!(spare.is_empty());
        std::mem::swap(&mut self.reaped, spare);
    }
}
