//! What an application writes to standard output and error: one file per application, rotated, followed live.
//!
//! Both descriptors of a process are the same pipe. A task reads it and never waits for anything else: each piece goes to
//! the kept tail, to the followers (who skip when they are slow) and to the file's writer through a bounded queue (what
//! does not fit is lost, and the log says so). The file's thread of work is one task that writes in batches off the
//! control thread.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::limits::Limits;
use crate::tree;

/// The file that is written now; older ones are `app.log.1`, `app.log.2`, ...
const FILE: &str = "app.log";
/// Octets of a log that one answer gives at most, whatever its lines are.
const TAIL_OCTETS_MAX: u64 = 8 << 20;
const READ_OCTETS: usize = 8 << 10;
const BATCH_PIECES: usize = 64;

/// A piece of a log, numbered so that a reader of the file knows which live pieces it has seen.
#[derive(Clone, Debug)]
pub struct Piece {
    pub number: u64,
    pub bytes: Bytes,
}

/// One application's log. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AppLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    to_file: mpsc::UnboundedSender<ToFile>,
    /// Octets that are in that queue, and may be.
    queued: Arc<AtomicU64>,
    queued_max: u64,
    live: broadcast::Sender<Piece>,
    /// Orders what goes to the file and to the followers, and numbers it.
    next: Mutex<Next>,
    lost_total: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Next {
    number: u64,
    lost_now: u64,
    is_mid_line: bool,
}

#[derive(Debug)]
enum ToFile {
    Write(Piece),
    Tail { lines: usize, reply: oneshot::Sender<io::Result<Tail>> },
    Remove { reply: oneshot::Sender<io::Result<()>> },
}

/// The end of a log, and the number of the last piece in it.
#[derive(Debug)]
pub struct Tail {
    pub bytes: Vec<u8>,
    pub last: u64,
}

/// Where the files are and when they rotate.
#[derive(Clone, Debug)]
pub struct Files {
    pub dir: PathBuf,
    pub bytes_max: u64,
    /// The current one included; at least 1.
    pub files_max: u32,
}

impl AppLog {
    /// Opens the log; must be called within the control runtime. Nothing is created before the first line.
    pub fn open(files: Files, limits: &Limits) -> Self {
        let (to_file, queue) = mpsc::unbounded_channel();
        let (queued, lost_total) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (live, _) = broadcast::channel(limits.log_follow_pieces);
        let writer = Writer { files, queued: Arc::clone(&queued), lost: Arc::clone(&lost_total), open: None, last: 0 };
        tokio::spawn(write_files(writer, queue));
        let queued_max = limits.log_queue_octets;
        let inner = Inner { to_file, queued, queued_max, live, next: Mutex::default(), lost_total };
        Self { inner: Arc::new(inner) }
    }

    /// Adds output. Never waits.
    pub fn append(&self, bytes: Bytes) {
        let mut next = self.inner.next.lock().unwrap_or_else(PoisonError::into_inner);
        self.push(&mut next, bytes);
    }

    /// Adds a line of the agent's own: `--- TEXT`. It begins a line even when the application left one open.
    pub fn mark(&self, text: &str) {
        let mut next = self.inner.next.lock().unwrap_or_else(PoisonError::into_inner);
        let open = if next.is_mid_line { "\n" } else { "" };
        self.push(&mut next, Bytes::from(format!("{open}--- {text}\n")));
    }

    fn push(&self, next: &mut Next, bytes: Bytes) {
        if next.lost_now > 0 {
            let note = format!("\n--- {} octets of output lost: the disk did not keep up\n", next.lost_now);
            if self.send(next, Bytes::from(note)) {
                next.lost_now = 0;
            }
        }
        let octets = bytes.len() as u64;
        next.is_mid_line = bytes.last().is_some_and(|last| *last != b'\n');
        if !self.send(next, bytes) {
            next.lost_now += octets;
            self.inner.lost_total.fetch_add(octets, Ordering::Relaxed);
        }
    }

    fn send(&self, next: &mut Next, bytes: Bytes) -> bool {
        next.number += 1;
        let piece = Piece { number: next.number, bytes };
        // No receiver is no error: nobody follows.
        let _ = self.inner.live.send(piece.clone());
        let weight = piece.weight();
        // One appends at a time, under the lock of `next`: the bound is kept.
        if self.inner.queued.load(Ordering::Relaxed) + weight > self.inner.queued_max {
            return false;
        }
        self.inner.queued.fetch_add(weight, Ordering::Relaxed);
        self.inner.to_file.send(ToFile::Write(piece)).is_ok()
    }

    /// Removes the files, with everything that has been appended by now. What comes afterwards begins new ones.
    pub async fn remove(&self) -> io::Result<()> {
        let gone = || io::Error::other("the log's writer has ended");
        let (reply, answer) = oneshot::channel();
        self.inner.to_file.send(ToFile::Remove { reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Octets that were lost since the agent started, because the disk did not keep up or did not take them.
    pub fn lost_total(&self) -> u64 {
        self.inner.lost_total.load(Ordering::Relaxed)
    }

    /// The last `lines` lines, older files included, after everything that has been appended by now.
    pub async fn tail(&self, lines: usize) -> io::Result<Tail> {
        let gone = || io::Error::other("the log's writer has ended");
        let (reply, answer) = oneshot::channel();
        self.inner.to_file.send(ToFile::Tail { lines, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// What is appended from now on. A reader that is too slow gets `Lagged`.
    pub fn follow(&self) -> broadcast::Receiver<Piece> {
        self.inner.live.subscribe()
    }
}

/// The last output of one process, for its crash report.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    octets: Arc<Mutex<VecDeque<u8>>>,
}

impl Kept {
    fn push(&self, bytes: &[u8], most: usize) {
        let mut octets = self.octets.lock().unwrap_or_else(PoisonError::into_inner);
        octets.extend(&bytes[bytes.len().saturating_sub(most)..]);
        let surplus = octets.len().saturating_sub(most);
        octets.drain(..surplus);
    }

    pub fn text(&self) -> String {
        let octets = self.octets.lock().unwrap_or_else(PoisonError::into_inner);
        let (a, b) = octets.as_slices();
        String::from_utf8_lossy(&[a, b].concat()).into_owned()
    }
}

/// What a piece costs in the queue beside its octets.
const PIECE_OVERHEAD: u64 = 64;

impl Piece {
    fn weight(&self) -> u64 {
        self.bytes.len() as u64 + PIECE_OVERHEAD
    }
}

/// Reads a process's pipe to its end.
pub async fn pump(mut from: pipe::Receiver, log: AppLog, kept: Kept, kept_octets: usize) {
    let mut buffer = vec![0; READ_OCTETS];
    // A read error is an end too: there is nothing more to be had.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        kept.push(&buffer[..count], kept_octets);
        log.append(Bytes::copy_from_slice(&buffer[..count]));
    }
}

async fn write_files(writer: Writer, mut queue: mpsc::UnboundedReceiver<ToFile>) {
    let mut writer = Some(writer);
    let mut batch = Vec::with_capacity(BATCH_PIECES);
    while queue.recv_many(&mut batch, BATCH_PIECES).await > 0 {
        let Some(mut taken) = writer.take() else { return };
        let mut work = std::mem::replace(&mut batch, Vec::with_capacity(BATCH_PIECES));
        let done = tokio::task::spawn_blocking(move || {
            work.drain(..).for_each(|item| taken.handle(item));
            taken
        });
        match done.await {
            Ok(back) => writer = Some(back),
            Err(_) => return,
        }
    }
}

struct Writer {
    files: Files,
    queued: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    open: Option<(File, u64)>,
    last: u64,
}

impl Writer {
    fn handle(&mut self, item: ToFile) {
        match item {
            ToFile::Write(piece) => {
                self.queued.fetch_sub(piece.weight(), Ordering::Relaxed);
                self.last = piece.number;
                if let Err(error) = self.write(&piece.bytes) {
                    tracing::warn!(dir = %self.files.dir.display(), %error, "an application's log cannot be written");
                    self.open = None;
                    self.lost.fetch_add(piece.bytes.len() as u64, Ordering::Relaxed);
                }
            }
            ToFile::Tail { lines, reply } => {
                let tail = tail_of(&self.files, lines).map(|bytes| Tail { bytes, last: self.last });
                // Whoever asked may have left.
                let _ = reply.send(tail);
            }
            ToFile::Remove { reply } => {
                // Else what comes would go on in a file that has no name any more.
                self.open = None;
                let _ = reply.send(tree::remove(&self.files.dir));
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let is_full =
            self.open.as_ref().is_some_and(|(_, size)| *size > 0 && size + bytes.len() as u64 > self.files.bytes_max);
        if is_full {
            self.open = None;
            rotate(&self.files)?;
        }
        let (file, size) = match &mut self.open {
            Some(open) => open,
            None => {
                fs::create_dir_all(&self.files.dir)?;
                let file = OpenOptions::new().create(true).append(true).open(self.files.dir.join(FILE))?;
                let size = file.metadata()?.len();
                self.open.insert((file, size))
            }
        };
        file.write_all(bytes)?;
        *size += bytes.len() as u64;
        Ok(())
    }
}

fn numbered(dir: &Path, number: u32) -> PathBuf {
    if number == 0 { dir.join(FILE) } else { dir.join(format!("{FILE}.{number}")) }
}

fn rotate(files: &Files) -> io::Result<()> {
    let oldest = files.files_max.saturating_sub(1);
    for number in (0..oldest).rev() {
        match fs::rename(numbered(&files.dir, number), numbered(&files.dir, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if oldest == 0 { fs::remove_file(files.dir.join(FILE)) } else { Ok(()) }
}

/// The last `lines` lines over the current file and the older ones, at most [`TAIL_OCTETS_MAX`].
fn tail_of(files: &Files, lines: usize) -> io::Result<Vec<u8>> {
    let mut tail: Vec<u8> = Vec::new();
    for number in 0..files.files_max {
        let mut file = match File::open(numbered(&files.dir, number)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        let room = TAIL_OCTETS_MAX.saturating_sub(tail.len() as u64);
        file.seek(SeekFrom::Start(size.saturating_sub(room)))?;
        let mut older = Vec::new();
        file.take(room).read_to_end(&mut older)?;
        older.extend_from_slice(&tail);
        tail = older;
        if let Some(start) = start_of_last(&tail, lines) {
            tail.drain(..start);
            break;
        }
    }
    Ok(tail)
}

/// Where the last `lines` lines begin; `None` when there are not more than that.
fn start_of_last(text: &[u8], lines: usize) -> Option<usize> {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    if lines == 0 {
        return Some(text.len());
    }
    let breaks = body.iter().enumerate().rev().filter(|(_, octet)| **octet == b'\n');
    breaks.map(|(at, _)| at + 1).nth(lines - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path, bytes_max: u64, files_max: u32, limits: &Limits) -> AppLog {
        AppLog::open(Files { dir: dir.to_owned(), bytes_max, files_max }, limits)
    }

    #[tokio::test]
    async fn the_tail_is_the_last_lines_across_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), 40, 3, &Limits::default());
        for number in 0..8 {
            log.append(Bytes::from(format!("line number {number}\n")));
        }
        let tail = log.tail(4).await.unwrap();
        assert_eq!(
            String::from_utf8(tail.bytes).unwrap(),
            "line number 4\nline number 5\nline number 6\nline number 7\n"
        );
        let tail = log.tail(1).await.unwrap();
        assert_eq!(String::from_utf8(tail.bytes).unwrap(), "line number 7\n");
    }

    #[tokio::test]
    async fn no_more_files_are_kept_than_allowed_and_none_outgrows_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), 100, 3, &Limits::default());
        for number in 0..200 {
            log.append(Bytes::from(format!("line number {number}\n")));
            log.tail(0).await.unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["app.log", "app.log.1", "app.log.2"]);
        for name in names {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 100);
        }
    }

    #[tokio::test]
    async fn what_is_appended_after_the_files_were_removed_begins_new_ones() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(&dir.path().join("log"), 1 << 20, 3, &Limits::default());
        log.append(Bytes::from("of the first\n"));
        log.remove().await.unwrap();
        assert!(!dir.path().join("log").exists());
        log.append(Bytes::from("of the second\n"));
        assert_eq!(log.tail(10).await.unwrap().bytes, b"of the second\n");
    }

    #[tokio::test]
    async fn output_that_the_disk_does_not_take_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "a file, where its folder should be").unwrap();
        let log = log(&path, 1 << 20, 3, &Limits::default());
        log.append(Bytes::from("0123456789"));
        assert!(log.tail(1).await.is_err());
        assert_eq!(log.lost_total(), 10);
        fs::remove_file(&path).unwrap();
        log.append(Bytes::from("there is room\n"));
        assert_eq!(log.tail(1).await.unwrap().bytes, b"there is room\n");
    }

    #[tokio::test]
    async fn a_mark_begins_its_own_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), 1 << 20, 3, &Limits::default());
        log.mark("started");
        log.append(Bytes::from("half a line"));
        log.mark("exited");
        let tail = log.tail(10).await.unwrap();
        assert_eq!(String::from_utf8(tail.bytes).unwrap(), "--- started\nhalf a line\n--- exited\n");
    }

    #[tokio::test]
    async fn a_follower_continues_exactly_where_the_tail_ended() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), 1 << 20, 3, &Limits::default());
        let mut live = log.follow();
        log.append(Bytes::from("one\n"));
        let tail = log.tail(10).await.unwrap();
        log.append(Bytes::from("two\n"));
        assert_eq!(tail.bytes, b"one\n");
        let mut followed = Vec::new();
        while followed.is_empty() {
            let piece = live.recv().await.unwrap();
            if piece.number > tail.last {
                followed.extend_from_slice(&piece.bytes);
            }
        }
        assert_eq!(followed, b"two\n");
    }

    #[tokio::test]
    async fn what_does_not_fit_the_queue_is_lost_and_said_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { log_queue_octets: 4 * (10 + PIECE_OVERHEAD), ..Limits::default() };
        let log = log(dir.path(), 1 << 20, 3, &limits);
        // The writer's task cannot run while this one does not yield.
        for _ in 0..10 {
            log.append(Bytes::from("0123456789"));
        }
        assert_eq!(log.lost_total(), 60);
        log.tail(0).await.unwrap();
        log.append(Bytes::from("after\n"));
        let text = String::from_utf8(log.tail(10).await.unwrap().bytes).unwrap();
        assert!(text.ends_with("--- 60 octets of output lost: the disk did not keep up\nafter\n"), "{text}");
    }

    #[test]
    fn the_kept_output_is_the_last() {
        let kept = Kept::default();
        kept.push(b"0123456789", 8);
        kept.push(b"abc", 8);
        assert_eq!(kept.text(), "56789abc");
        kept.push(&[b'x'; 100], 8);
        assert_eq!(kept.text(), "xxxxxxxx");
    }
}
