//! Where access-log lines go: from the workers to one thread that appends them to a file.
//!
//! A worker writes whole lines into a block of its own ([`LogWriter`]) and hands the block over when it is full or old. The
//! thread writes it and hands it back, so that in steady state nothing is allocated and a line costs a worker no system call.
//! A worker never waits: when all its blocks are under way (a slow or full disk), what it holds is dropped and counted. Each
//! worker has blocks of its own, so that none takes another's place. A line is written whole or not at all, except where a
//! disk fills up in the middle of one; writing goes on from there when there is room again.

pub mod json;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sample::{Kind, Sample, Samples};

/// A block's room.
pub const BLOCK_OCTETS: usize = 64 * 1024;

/// A longer line is dropped and counted: a part of one would be no JSON. A block is handed over when no line of this length
/// is sure to fit any more.
pub const LINE_OCTETS_MAX: usize = 16 * 1024;

/// Blocks of one worker, the one that it fills included. Made when first needed: 4 MiB, about 10,000 lines of 300 octets, a
/// tenth of a second of a worker at full speed while the disk stalls.
pub const BLOCKS_PER_WRITER: usize = 64;

/// How long a line may wait in its worker's block, where [`LogWriter::tick`] is called.
pub const AGE_MAX: Duration = Duration::from_millis(100);

/// Messages to the thread: all blocks of 64 workers.
const QUEUE: usize = 64 * BLOCKS_PER_WRITER;

/// After a write failed.
const RETRY_EVERY: Duration = Duration::from_secs(1);

const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// What the log cost and lost.
#[derive(Debug, Default)]
pub struct LogCounters {
    octets_written: AtomicU64,
    lines_dropped: AtomicU64,
    blocks_dropped: AtomicU64,
    write_errors: AtomicU64,
}

impl LogCounters {
    pub fn octets_written(&self) -> u64 {
        self.octets_written.load(Relaxed)
    }

    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped.load(Relaxed)
    }

    pub fn blocks_dropped(&self) -> u64 {
        self.blocks_dropped.load(Relaxed)
    }

    /// Failures to write or to reopen.
    pub fn write_errors(&self) -> u64 {
        self.write_errors.load(Relaxed)
    }

    fn dropped(&self, lines: u32) {
        self.lines_dropped.fetch_add(u64::from(lines), Relaxed);
        self.blocks_dropped.fetch_add(1, Relaxed);
    }
}

impl Samples for LogCounters {
    fn visit(&self, each: &mut dyn FnMut(Sample)) {
        for (name, help, value) in [
            ("access_log_octets_written_total", "Octets written to the access log.", self.octets_written()),
            ("access_log_lines_dropped_total", "Lines lost: the disk was too slow or full.", self.lines_dropped()),
            ("access_log_blocks_dropped_total", "Blocks of lines lost, for the same reasons.", self.blocks_dropped()),
            ("access_log_write_errors_total", "Failed writes to the access log.", self.write_errors()),
        ] {
            each(Sample { name, help, kind: Kind::Counter, label: None, value });
        }
    }
}

/// What the thread writes to.
trait Output: Send + 'static {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize>;
    fn reopen(&mut self) -> io::Result<()>;
}

struct Appended {
    path: PathBuf,
    file: File,
}

impl Appended {
    fn open(path: &Path) -> io::Result<Appended> {
        Ok(Appended { path: path.to_owned(), file: open(path)? })
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl Output for Appended {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.file.write(octets)
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        Ok(())
    }
}

/// Standard output, past the buffer of the standard library.
struct Stdout(File);

impl Output for Stdout {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.0.write(octets)
    }

    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log: owns the thread. Dropping it writes what was handed over, tries each block once, and ends the thread; drop the
/// writers first.
#[derive(Debug)]
pub struct LogSink {
    sender: SyncSender<Message>,
    handle: LogHandle,
    thread: Option<JoinHandle<()>>,
}

/// Asks the log for something, from any thread.
#[derive(Clone, Debug)]
pub struct LogHandle {
    shared: Arc<Shared>,
    sender: SyncSender<Message>,
    thread: thread::Thread,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Arc<LogCounters>,
    reopen: AtomicBool,
    stop: AtomicBool,
}

enum Message {
    Block(Block),
    /// Look at the flags.
    Wake,
}

struct Block {
    octets: Vec<u8>,
    /// Where it goes when it is empty.
    home: SyncSender<Vec<u8>>,
}

impl LogSink {
    /// Appends to the file at `path`, made (0640) when it is not there; `-` is standard output.
    pub fn open(path: &Path) -> io::Result<LogSink> {
        if path == Path::new("-") {
            let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
            return LogSink::start(Stdout(stdout));
        }
        LogSink::start(Appended::open(path)?)
    }

    fn start(output: impl Output) -> io::Result<LogSink> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        let scribe = Scribe { output, receiver, shared: shared.clone(), complained: None };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || scribe.run())?;
        let handle = LogHandle { shared, sender: sender.clone(), thread: thread.thread().clone() };
        Ok(LogSink { sender, handle, thread: Some(thread) })
    }

    /// For one worker.
    pub fn writer(&self) -> LogWriter {
        let (home, spare) = mpsc::sync_channel(BLOCKS_PER_WRITER);
        LogWriter {
            block: Vec::with_capacity(BLOCK_OCTETS),
            lines: 0,
            begun: None,
            made: 1,
            sender: self.sender.clone(),
            home,
            spare,
            counters: self.handle.shared.counters.clone(),
        }
    }

    pub fn handle(&self) -> LogHandle {
        self.handle.clone()
    }

    pub fn counters(&self) -> Arc<LogCounters> {
        self.handle.shared.counters.clone()
    }
}

impl LogHandle {
    /// Closes the file and opens the one that its path names now, before anything else is written: after a rotation.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Relaxed);
        self.wake();
    }

    fn wake(&self) {
        // Where the queue is full the thread is not waiting for it.
        let _ = self.sender.try_send(Message::Wake);
        self.thread.unpark();
    }
}

impl Drop for LogSink {
    fn drop(&mut self) {
        self.handle.shared.stop.store(true, Relaxed);
        self.handle.wake();
        if let Some(thread) = self.thread.take() {
            // Its panic has been reported already.
            let _ = thread.join();
        }
    }
}

/// One worker's end.
#[derive(Debug)]
pub struct LogWriter {
    block: Vec<u8>,
    lines: u32,
    /// When `tick` first saw lines in the block.
    begun: Option<Duration>,
    /// Blocks that exist, wherever they are.
    made: usize,
    sender: SyncSender<Message>,
    home: SyncSender<Vec<u8>>,
    spare: Receiver<Vec<u8>>,
    counters: Arc<LogCounters>,
}

impl LogWriter {
    /// Adds a line: what `write` appends, and the line's end. `write` must only append.
    pub fn line(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.block.len();
        write(&mut self.block);
        if self.block.len() - start >= LINE_OCTETS_MAX {
            self.block.truncate(start);
            self.counters.lines_dropped.fetch_add(1, Relaxed);
            return;
        }
        self.block.push(b'\n');
        self.lines += 1;
        if self.block.len() > BLOCK_OCTETS - LINE_OCTETS_MAX {
            self.flush();
        }
    }

    /// Once a batch: hands over lines that are older than [`AGE_MAX`]. `now` is any clock that only grows.
    pub fn tick(&mut self, now: Duration) {
        if self.lines == 0 {
            return;
        }
        let begun = *self.begun.get_or_insert(now);
        if now.saturating_sub(begun) >= AGE_MAX {
            self.flush();
        }
    }

    /// When `tick` must be called next at the latest for lines not to grow old; `None`: there are none.
    pub fn due(&self) -> Option<Duration> {
        self.begun.map(|begun| begun + AGE_MAX)
    }

    /// Hands over whatever there is.
    pub fn flush(&mut self) {
        if self.lines == 0 {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        self.begun = None;
        let Some(next) = self.spare() else {
            self.counters.dropped(lines);
            self.block.clear();
            return;
        };
        let octets = std::mem::replace(&mut self.block, next);
        let block = Message::Block(Block { octets, home: self.home.clone() });
        if let Err(mpsc::TrySendError::Full(refused) | mpsc::TrySendError::Disconnected(refused)) =
            self.sender.try_send(block)
        {
            self.counters.dropped(lines);
            if let Message::Block(mut block) = refused {
                block.octets.clear();
                let _ = self.home.try_send(block.octets);
            }
        }
    }

    /// An empty block, if there may be another.
    fn spare(&mut self) -> Option<Vec<u8>> {
        if let Ok(block) = self.spare.try_recv() {
            return Some(block);
        }
        if self.made == BLOCKS_PER_WRITER {
            return None;
        }
        self.made += 1;
        Some(Vec::with_capacity(BLOCK_OCTETS))
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The thread's side.
struct Scribe<O> {
    output: O,
    receiver: Receiver<Message>,
    shared: Arc<Shared>,
    complained: Option<Instant>,
}

impl<O: Output> Scribe<O> {
    fn run(mut self) {
        // Every sender is gone only when the sink is, which says stop first.
        while let Ok(message) = self.receiver.recv() {
            self.take(message);
            if self.shared.stop.load(Relaxed) {
                break;
            }
        }
        loop {
            match self.receiver.try_recv() {
                Ok(message) => self.take(message),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, message: Message) {
        self.reopen_if_asked();
        if let Message::Block(Block { mut octets, home }) = message {
            self.write(&octets);
            octets.clear();
            octets.shrink_to(BLOCK_OCTETS);
            let _ = home.try_send(octets);
        }
    }

    /// Writes all of a block, however long that takes; when the log is being closed, as far as it goes.
    fn write(&mut self, block: &[u8]) {
        let mut at = 0;
        while at < block.len() {
            match self.output.write(&block[at..]) {
                Ok(written) if written > 0 => {
                    at += written;
                    self.shared.counters.octets_written.fetch_add(written as u64, Relaxed);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(_) => self.failed("write to", &io::ErrorKind::WriteZero.into()),
                Err(error) => self.failed("write to", &error),
            }
            if self.shared.stop.load(Relaxed) {
                let lines = block[at..].iter().filter(|&&octet| octet == b'\n').count();
                self.shared.counters.dropped(lines as u32);
                return;
            }
            thread::park_timeout(RETRY_EVERY);
            if self.reopen_if_asked() {
                // The new file does not begin in the middle of a line.
                at = block[..at].iter().rposition(|&octet| octet == b'\n').map_or(0, |end| end + 1);
            }
        }
    }

    fn reopen_if_asked(&mut self) -> bool {
        if !self.shared.reopen.swap(false, Relaxed) {
            return false;
        }
        match self.output.reopen() {
            Ok(()) => true,
            Err(error) => {
                self.failed("reopen", &error);
                false
            }
        }
    }

    fn failed(&mut self, doing: &str, error: &io::Error) {
        self.shared.counters.write_errors.fetch_add(1, Relaxed);
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            let dropped = self.shared.counters.lines_dropped();
            tracing::error!(%error, dropped, "cannot {doing} the access log; lines will be dropped until it works again");
        }
    }
}

#[cfg(test)]
mod tests;
