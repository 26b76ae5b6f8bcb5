//! Every bound of the control side in one place: name, value, and the reason or the attack that it answers to.

use std::time::Duration;

/// A bundle as it is uploaded, compressed. A folder with its dependencies fits; a disk is not filled by one mistake.
pub const BUNDLE_BYTES: u64 = 256 << 20;
/// A bundle unpacked: what a few kilobytes of zeros may grow to while it is checked (a decompression bomb).
pub const BUNDLE_UNPACKED_BYTES: u64 = 2 << 30;
/// Entries of a bundle: `node_modules` of a large application has some tens of thousands.
pub const BUNDLE_ENTRIES: u64 = 200_000;
/// One name or record in front of an entry of a bundle, which is read into memory: far above any path that a file system takes.
pub const BUNDLE_METADATA_BYTES: u64 = 64 << 10;
/// `steady.toml` of an application, which is read into memory.
pub const BUNDLE_MANIFEST_BYTES: u64 = 64 << 10;
/// A JSON body of the private API, read into memory before it is parsed.
pub const API_BODY_BYTES: usize = 1 << 20;
/// The JSON body of a call that needs no token, to come in. Hosts join with some hundred octets; who stalls in it would keep one of the
/// few places for those without a certificate.
pub const JOIN_BODY: Duration = Duration::from_secs(10);
/// An agent's JSON answer, read into memory. 100,000 applications of one host are under 40 MB.
pub const AGENT_ANSWER_BYTES: usize = 64 << 20;
/// Uploads at once: each holds a file handle and a stream.
pub const UPLOADS: usize = 16;
/// An upload of which nothing comes for so long is given up: a client that is gone without a word would keep its place for ever.
pub const UPLOAD_STALL: Duration = Duration::from_secs(60);
/// Progress lines that wait for a slow reader of a workflow's answer; more are dropped, the last line never is.
pub const PROGRESS_LINES: usize = 256;
/// Commands that wait for the writer of the table.
pub const CONTROL_QUEUE: usize = 256;
/// What the watches of hosts found and nobody has taken in yet: they wait with more.
pub const HOST_EVENTS: usize = 64;
/// Operations that wait for the store's thread.
pub const STORE_QUEUE: usize = 256;
/// Rows of history that are kept; `GET /v1/routes` shows the last [`HISTORY_SHOWN`].
pub const HISTORY_ROWS: u64 = 10_000;
pub const HISTORY_SHOWN: usize = 100;
/// Events of hosts that are kept, of all hosts together: with a crash's last output 4 KiB each at most.
pub const EVENT_ROWS: u64 = 10_000;
/// What `GET /v1/events` shows unless it is told otherwise, and at most.
pub const EVENTS_SHOWN: usize = 100;
pub const EVENTS_SHOWN_MOST: usize = 10_000;
/// A host without a channel for so long is not waited for: a step that its order belongs to is tried again.
pub const ORDER_PATIENCE: Duration = Duration::from_secs(5);
/// Finished workflows that are kept, for people.
pub const WORKFLOW_ROWS: u64 = 1_000;

/// TCP connect to an agent: it is near, or it is not there.
pub const AGENT_CONNECT: Duration = Duration::from_secs(2);
/// An agent's answer to a question, and its head for everything that streams.
pub const AGENT_ANSWER: Duration = Duration::from_secs(10);
/// How long an application may take to become ready in one call; asked of the agent as `?wait=`.
pub const AGENT_READY_WAIT: Duration = Duration::from_secs(60);
/// What a call that waits at the agent may take beyond what it was told to wait.
pub const AGENT_GRACE: Duration = Duration::from_secs(10);
/// A bundle's way to an agent, however large.
pub const AGENT_UPLOAD: Duration = Duration::from_secs(300);
/// One question of the health check.
pub const HEALTH_ANSWER: Duration = Duration::from_secs(2);
/// Failures in a row after which a host is suspected.
pub const HEALTH_FAILURES: u32 = 3;
/// The states of all applications, asked of a host for a list.
pub const STATE_ANSWER: Duration = Duration::from_secs(2);

/// All workers run a publication: they answer within a batch, so this only passes when one is stuck.
pub const SETTLE: Duration = Duration::from_secs(10);
/// First and longest pause between two attempts of a step that may only go forward.
pub const RETRY_FIRST: Duration = Duration::from_millis(100);
pub const RETRY_MOST: Duration = Duration::from_secs(5);
/// Applications of one host that are put right at once when it returns: enough that their way there and back does not add up, few
/// enough that a host which comes back with thousands is not given all their archives together.
pub const RECONCILED_AT_ONCE: usize = 16;
/// Changes of one application that wait for the one under way, which may itself wait for a host for hours; a client that leaves
/// does not take its change along, and each deployment keeps its bundle on the disk. A move by force is let in beside them.
pub const CHANGES_WAITING_MAX: usize = 16;
/// A generation that a host may have seen: a move a microsecond gives out as many in 280 years. One that says more is broken or lies,
/// and would leave its application no number above.
pub const GENERATION_MOST: u64 = 1 << 53;
/// Hosts that are asked at once what they hold of an application, before it gets a new generation.
pub const ASKED_AT_ONCE: usize = 64;
/// Attempts of a step that only tidies up and that a host's return repeats anyway.
pub const TIDY_ATTEMPTS: u32 = 3;
/// Attempts of a step before the hand-over when the agent could not be reached.
pub const PREPARE_ATTEMPTS: u32 = 3;
/// Attempts to restart a database that another process holds for a moment (SQLite's busy time-out).
pub const STORE_BUSY: Duration = Duration::from_secs(5);

/// Memory for what is known of latencies, over all applications and hosts; past it the applications that are quiet for longest
/// are forgotten first. A thousand active ones take about 30 MiB.
pub const REPORTS_BYTES: usize = 128 << 20;
/// One report, read into memory. 16,384 active applications with everything that was measured are under 40 MB.
pub const REPORT_BYTES: u32 = 64 << 20;
/// An agent reports every second: one that says nothing for so long is asked anew.
pub const REPORT_SILENCE: Duration = Duration::from_secs(5);
/// Before reports are asked for again, with jitter from half to one and a half of it.
pub const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at what this edge itself measured.
pub const OWN_LOOK: Duration = Duration::from_secs(1);
/// What an agent counts from further back than this, and this edge has never heard of, was not counted now.
pub const LIFE_NEW: Duration = Duration::from_secs(1800);
/// Applications that the workers measure at once, each worker for itself: each takes 14 KiB. Past it an application is
/// served and not measured here; its agent still does.
pub const METERS_MAX: usize = 16_384;
/// Measured numbers of an application that was quiet this long are let go.
pub const METERS_QUIET: Duration = Duration::from_secs(600);

/// Processes that were replaced and still carry connections, beside the one that serves: each holds memory and descriptors of
/// its own. With one more the oldest is ended at once.
pub const OLD_PROCESSES_MAX: usize = 2;
/// A process that is being replaced, or that replaces one, answers what needs no work.
pub const UPGRADE_ANSWER: Duration = Duration::from_secs(10);
/// A new process reads its configuration, its certificates and its logs.
pub const UPGRADE_PREPARE: Duration = Duration::from_secs(60);
/// A new process maps the table, of a million names at most, and starts its workers; changes by the API wait as long.
pub const UPGRADE_HELD: Duration = Duration::from_secs(30);
/// An old process ends its control side.
pub const UPGRADE_LET_GO: Duration = Duration::from_secs(30);
/// Calls of the private API that are under way when a process is replaced.
pub const UPGRADE_API: Duration = Duration::from_secs(1);
/// The store's thread finishes what it has begun, and workers end their accepts.
pub const UPGRADE_STORE: Duration = Duration::from_secs(5);
/// What a new process accepted is finished, where the old one did not let go after all.
pub const UPGRADE_GIVE_UP: Duration = Duration::from_secs(5);
/// How often an old process looks for a new routing table.
pub const UPGRADE_TABLE_LOOK: Duration = Duration::from_millis(100);
