//! The seam where the receiver's cursor is stored together with the effects of the messages: exactly once applied.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;

use crate::inbound::Batch;
use crate::types::{Message, StreamId};

/// Why an inbox could not do its part. The batch is given to it again, after a pause, until it can.
pub type InboxError = Box<dyn std::error::Error + Send + Sync>;

/// Where the messages of a peer take effect. Called on a thread that may block.
///
/// # The contract
/// [`Inbox::apply`] makes the effects of all messages of the batch, and the octets of [`Batch::seal`] under the stream's
/// name, durable **in one transaction**. When it returns an error, or doesn't return, neither happened. That, and nothing
/// else, is what makes a message apply once: a crash leaves both or neither, and the peer sends again what is not there.
///
/// With SQLite it is one table, `cursors(stream TEXT PRIMARY KEY, saved BLOB)`, one statement in `load`, and in `apply`
/// the effects and one `INSERT OR REPLACE` between `BEGIN` and `COMMIT`. Effects outside the store (start a process) are
/// not for an inbox: it records what is wanted, and something else compares that with what is.
pub trait Inbox: Send + 'static {
    /// What was last stored for the stream.
    fn load(&mut self, stream: &StreamId) -> Result<Option<Vec<u8>>, InboxError>;

    /// Applies a batch, in order, and stores what it seals, as above. Returns the answers, one for each message.
    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, InboxError>;
}

/// An inbox in memory: for tests, and for streams whose effects do not outlive the process.
pub struct MemoryInbox {
    saved: HashMap<StreamId, Vec<u8>>,
    handler: Handler,
}

type Handler = Box<dyn FnMut(&StreamId, &Message) -> Bytes + Send>;

impl MemoryInbox {
    /// `handler` applies one message and answers it.
    pub fn new(handler: impl FnMut(&StreamId, &Message) -> Bytes + Send + 'static) -> MemoryInbox {
        MemoryInbox { saved: HashMap::new(), handler: Box::new(handler) }
    }
}

impl fmt::Debug for MemoryInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryInbox").field("streams", &self.saved.len()).finish_non_exhaustive()
    }
}

impl Inbox for MemoryInbox {
    fn load(&mut self, stream: &StreamId) -> Result<Option<Vec<u8>>, InboxError> {
        Ok(self.saved.get(stream).cloned())
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, InboxError> {
        let answers: Vec<Bytes> = batch.messages.iter().map(|message| (self.handler)(&batch.stream, message)).collect();
        self.saved.insert(batch.stream.clone(), batch.seal(&answers));
        Ok(answers)
    }
}

/// An inbox whose whole state is one small file: cursor and state are written aside together, synced and renamed.
///
/// For a host without a store, whose state is what it is to run: `handler` changes the state (any octets) and answers.
/// Written whole for each batch, so the state should be small. One file for each stream.
pub struct FileInbox {
    path: PathBuf,
    saved: Option<Vec<u8>>,
    state: Vec<u8>,
    handler: StateHandler,
}

type StateHandler = Box<dyn FnMut(&mut Vec<u8>, &Message) -> Bytes + Send>;

impl FileInbox {
    /// `path`: the file; its directory must exist.
    ///
    /// # Errors
    /// The file is there and cannot be read, or is not what was written.
    pub fn open(
        path: impl Into<PathBuf>,
        handler: impl FnMut(&mut Vec<u8>, &Message) -> Bytes + Send + 'static,
    ) -> Result<FileInbox, InboxError> {
        let path = path.into();
        let (saved, state) = match fs::read(&path) {
            Ok(octets) => {
                let (saved, state) = split(&octets).ok_or_else(|| {
                    format!("{} is damaged; restore it, or remove it and the peer's log", path.display())
                })?;
                (Some(saved.to_vec()), state.to_vec())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, Vec::new()),
            Err(error) => return Err(format!("{}: {error}", path.display()).into()),
        };
        Ok(FileInbox { path, saved, state, handler: Box::new(handler) })
    }

    /// The state as of the last batch.
    #[must_use]
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// Changes the state between two batches; the cursor stays. Durable once this returns; on an error nothing has changed.
    /// Before the first batch there is no file, and nothing to change.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn amend(&mut self, change: impl FnOnce(&mut Vec<u8>)) -> std::io::Result<()> {
        let Some(saved) = &self.saved else { return Ok(()) };
        let mut state = self.state.clone();
        change(&mut state);
        self.write(saved, &state)?;
        self.state = state;
        Ok(())
    }

    fn write(&self, saved: &[u8], state: &[u8]) -> std::io::Result<()> {
        let mut octets = vec![0; 8];
        octets[4..].copy_from_slice(&u32::try_from(saved.len()).expect("a cursor is small").to_le_bytes());
        octets.extend_from_slice(saved);
        octets.extend_from_slice(state);
        let sum = crc32c::crc32c(&octets[4..]);
        octets[..4].copy_from_slice(&sum.to_le_bytes());
        let aside = self.path.with_extension("new");
        let mut file = fs::File::create(&aside)?;
        file.write_all(&octets)?;
        file.sync_data()?;
        fs::rename(&aside, &self.path)?;
        fs::File::open(self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(".".as_ref()))?
            .sync_all()
    }
}

fn split(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let sum = u32::from_le_bytes(*octets.first_chunk()?);
    let length = u32::from_le_bytes(*octets.get(4..)?.first_chunk()?) as usize;
    let rest = octets.get(8..)?;
    (crc32c::crc32c(&octets[4..]) == sum && length <= rest.len()).then(|| rest.split_at(length))
}

impl fmt::Debug for FileInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileInbox").field("path", &self.path).field("state", &self.state.len()).finish_non_exhaustive()
    }
}

impl Inbox for FileInbox {
    fn load(&mut self, _stream: &StreamId) -> Result<Option<Vec<u8>>, InboxError> {
        Ok(self.saved.clone())
    }

    fn apply(&mut self, batch: &Batch) -> Result<Vec<Bytes>, InboxError> {
        let mut state = self.state.clone();
        let answers: Vec<Bytes> = batch.messages.iter().map(|message| (self.handler)(&mut state, message)).collect();
        let saved = batch.seal(&answers);
        self.write(&saved, &state)?;
        self.saved = Some(saved);
        self.state = state;
        Ok(answers)
    }
}
