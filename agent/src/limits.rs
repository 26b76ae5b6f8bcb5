//! Every limit of the agent's control side that is not a matter of taste: its name, its value, and what it answers to.
//!
//! What an operator may want to change has a key in the configuration ([`crate::config`]); the rest is here, and is passed
//! in, so that tests can make time short.

use std::time::Duration;

/// Applications' versions that are measured at once, over all workers: each takes 21 KiB. Applications are processes, which
/// take a thousand times that; the bound is for a fault. What comes past it is served, and not measured.
pub const METERS_MAX: usize = 16_384;
/// Measured numbers of an application that was quiet this long are let go.
pub const METERS_QUIET: Duration = Duration::from_secs(600);
/// Between two reports when nothing happens.
pub const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Between two looks whether something happened that is worth a report at once: half of what it may take to be told.
pub const REPORT_LOOK: Duration = Duration::from_millis(50);
/// How old what is told of an application's processes may be: which there are, and what memory they hold.
pub const PROCESSES_EVERY: Duration = Duration::from_secs(10);

/// What `apps.apps_max` may be at most: with more, a host could not register, whose registration says all that it has
/// ([`REGISTRATION_OCTETS_MAX`](steady_cluster::channel::REGISTRATION_OCTETS_MAX)).
pub const APPS_MAX: u64 = 60_000;
/// Events that wait to be written to the log of the edge's link: a burst of crashes, or the time before the first registration.
pub const EVENTS_MAX: usize = 4096;

/// Octets of one text that others are told (a reason, what a process wrote last): what a bundle holds finds its way into it, and
/// a message of the stream has an end.
pub const TOLD_OCTETS_MAX: usize = 16 << 10;

/// Times and bounds of supervision.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Between two probes of a starting process. Short, because a cold application's visitors wait for it.
    pub start_probe_every: Duration,
    /// Between two probes of a process that serves: a hung one is found within a few of these.
    pub probe_every: Duration,
    /// Between probes once one has failed: enough for a passing stall, soon enough for those who wait.
    pub probe_again_after: Duration,
    /// For one probe to be answered. An application may be busy for a while without being hung.
    pub probe_timeout: Duration,
    /// Probes that fail one after another before a process counts as hung.
    pub probe_failures_max: u32,
    /// The first wait after a crash; it doubles with each crash that follows.
    pub backoff_first: Duration,
    /// The longest wait after a crash: a broken application costs next to nothing, and a mended one is back in a minute.
    pub backoff_last: Duration,
    /// A process that served this long starts again from the first wait.
    pub backoff_reset_after: Duration,
    /// Starts that fail one after another before requests are answered 502 instead of waiting. It is started again
    /// after each back-off all the same.
    pub failures_before_refusal: u32,
    /// For a process that did not become ready: from SIGTERM to SIGKILL.
    pub failed_start_grace: Duration,
    /// For requests that were cut to leave the workers before the process is told to stop.
    pub cut_grace: Duration,
    /// Last output of a process that is kept for its crash report.
    pub output_kept_octets: usize,
    /// Octets of one application's output that may wait for the disk, small pieces counted somewhat larger than they are;
    /// past it output is lost, and the log says so. An application never blocks on a slow disk.
    pub log_queue_octets: u64,
    /// Pieces that a reader who follows a log may fall behind before it skips.
    pub log_follow_pieces: usize,
    /// Lines of a log that one request may ask for.
    pub log_lines_max: usize,
    /// Commands that may wait for one application's actor.
    pub commands_max: usize,
    /// A JSON body of the API.
    pub api_body_octets_max: usize,
    /// How long a `wait` may be asked for: nothing is held open for ever.
    pub api_wait_max: Duration,
    /// An unused bundle is kept this long: it may have been uploaded a moment before the application that wants it.
    pub bundle_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start_probe_every: Duration::from_millis(25),
            probe_every: Duration::from_secs(10),
            probe_again_after: Duration::from_millis(500),
            probe_timeout: Duration::from_secs(5),
            probe_failures_max: 3,
            backoff_first: Duration::from_millis(100),
            backoff_last: Duration::from_secs(60),
            backoff_reset_after: Duration::from_secs(60),
            failures_before_refusal: 5,
            failed_start_grace: Duration::from_secs(1),
            cut_grace: Duration::from_millis(250),
            output_kept_octets: 4096,
            log_queue_octets: 4 * 1024 * 1024,
            log_follow_pieces: 256,
            log_lines_max: 100_000,
            commands_max: 64,
            api_body_octets_max: 64 << 10,
            api_wait_max: Duration::from_secs(600),
            bundle_grace: Duration::from_secs(3600),
        }
    }
}
