//! The message stream beside NATS JetStream: messages a second, and processor time a message, by when a message counts as kept.
//!
//! Both keep 256 octets a message on the same disk before its sender hears that it is kept, have the same number of messages on
//! their way, and hand each to a receiver once. What a sender learns is not the same: from Steady that the receiver has applied
//! the message, from JetStream that the server has stored it. So a round lasts until the sender has heard of every message and
//! the receiver has had each and said so, and its processor time is that of all processes. What a receiver does is in memory in both,
//! but for one row, in which Steady's has its cursor and state in a file that is synced: JetStream leaves that to the receiver.
//!
//! JetStream of Debian 12 (2.9) cannot be told to sync: it does so every two minutes. Its synced rows run in a directory whose files the
//! kernel writes synchronously (`chattr +S`), so that a message is on the disk when its write returns, as with `sync_always`
//! of later versions. It has nothing like one sync for many messages, so those rows stand beside both of Steady's.

mod nats;
mod stream;

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use steady_stream::Sync;
use steady_sys::usage::cpu_nanos;

type Failure = Box<dyn Error + Send + std::marker::Sync>;

/// Messages a second and processor time a message of Steady's message stream and of NATS JetStream, in interleaved rounds.
#[derive(Debug, Parser)]
struct Args {
    /// Messages of a round that are synced one by one; five times as many where they are not
    #[arg(long, default_value_t = 5_000)]
    messages: usize,
    /// Octets of a message
    #[arg(long, default_value_t = 256)]
    octets: usize,
    /// Messages that wait for their answer at once
    #[arg(long, default_value_t = 256)]
    outstanding: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// A directory on the disk that is to be measured (ext4, for the synced rows of JetStream)
    #[arg(long, default_value = ".")]
    disk: PathBuf,
}

/// One round's work.
#[derive(Clone, Debug)]
struct Job {
    messages: usize,
    octets: usize,
    outstanding: usize,
    directory: PathBuf,
}

/// What one round came to.
#[derive(Clone, Copy, Debug)]
struct Took {
    rate: f64,
    cpu_us: f64,
}

impl Job {
    fn took(&self, wall: Duration, cpu: Duration) -> Took {
        let count = self.messages as f64;
        Took { rate: count / wall.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / count }
    }
}

/// Times what the processes do until it is asked.
struct Watch {
    processes: Vec<u32>,
    begun: Instant,
    before: Duration,
}

impl Watch {
    fn start(others: &[u32]) -> Watch {
        let processes: Vec<u32> = others.iter().copied().chain([std::process::id()]).collect();
        Watch { begun: Instant::now(), before: cpu(&processes), processes }
    }

    fn took(&self, job: &Job) -> Took {
        job.took(self.begun.elapsed(), cpu(&self.processes).saturating_sub(self.before))
    }
}

fn cpu(processes: &[u32]) -> Duration {
    Duration::from_nanos(processes.iter().filter_map(|pid| cpu_nanos(*pid)).sum())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// `durable`: what the receiver did with a message is synced too, with its cursor, before the sender hears of it.
    Stream {
        sync: Sync,
        durable: bool,
    },
    Nats {
        synced: bool,
    },
}

const SUBJECTS: [(&str, Subject); 6] = [
    ("stream, synced per message", Subject::Stream { sync: Sync::PerMessage, durable: false }),
    ("stream, synced per batch", Subject::Stream { sync: Sync::PerBatch, durable: false }),
    ("stream, synced per batch, and at the receiver", Subject::Stream { sync: Sync::PerBatch, durable: true }),
    ("jetstream, synced per message", Subject::Nats { synced: true }),
    ("stream, never synced", Subject::Stream { sync: Sync::Never, durable: false }),
    ("jetstream, never synced", Subject::Nats { synced: false }),
];
/// Which of them stands beside which.
const PAIRS: [(usize, usize); 4] = [(0, 3), (1, 3), (2, 3), (4, 5)];

fn main() -> Result<(), Failure> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut all: Vec<Vec<Took>> = vec![Vec::new(); SUBJECTS.len()];
    for round in 0..args.rounds {
        for turn in 0..SUBJECTS.len() {
            // Each begins in turn, and the order is another one every second round.
            let turn = if round % 2 == 0 { turn } else { SUBJECTS.len() - turn };
            let at = (round + turn) % SUBJECTS.len();
            let (name, subject) = SUBJECTS[at];
            // What the one before wrote and removed is not to be paid by this one's first sync.
            Command::new("sync").status()?;
            let directory = tempfile::tempdir_in(&args.disk)?;
            let is_slow =
                matches!(subject, Subject::Stream { sync: Sync::PerMessage, .. } | Subject::Nats { synced: true });
            let messages = if is_slow { args.messages } else { 5 * args.messages };
            let job = Job {
                messages,
                octets: args.octets,
                outstanding: args.outstanding,
                directory: directory.path().into(),
            };
            let took = match subject {
                Subject::Stream { sync, durable } => runtime.block_on(stream::round(&job, sync, durable)),
                Subject::Nats { synced } => runtime.block_on(nats::round(&job, synced)),
            };
            let took = took.map_err(|error| format!("{name}: {error}"))?;
            eprintln!("round {}: {name}: {:.0} messages/s, {:.1} µs each", round + 1, took.rate, took.cpu_us);
            all[at].push(took);
        }
    }
    show(&args, &all);
    Ok(())
}

/// Median and range, as a table of Markdown.
fn show(args: &Args, all: &[Vec<Took>]) {
    println!("{} octets, {} on their way, {} rounds\n", args.octets, args.outstanding, args.rounds);
    println!("| | messages/s | CPU µs per message | ratio of rates | ratio of CPU |\n|---|---|---|---|---|");
    for (at, (name, _)) in SUBJECTS.iter().enumerate() {
        let rates = spread(all[at].iter().map(|took| took.rate).collect(), 0);
        let cpu = spread(all[at].iter().map(|took| took.cpu_us).collect(), 1);
        let ratio = |of: fn(&Took) -> f64| {
            let peer = PAIRS.iter().find(|(ours, _)| *ours == at).map(|(_, theirs)| *theirs);
            peer.map_or(String::new(), |peer| {
                spread(all[at].iter().zip(&all[peer]).map(|(ours, theirs)| of(ours) / of(theirs)).collect(), 2)
            })
        };
        println!("| {name} | {rates} | {cpu} | {} | {} |", ratio(|took| took.rate), ratio(|took| took.cpu_us));
    }
}

fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    match (values.first(), values.get(values.len() / 2), values.last()) {
        (Some(least), Some(middle), Some(most)) => format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})"),
        _ => String::new(),
    }
}
