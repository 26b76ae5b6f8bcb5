//! The new process: it asks the old one for its sockets, prepares itself, serves, and is given the rest.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use steady_sys::fds;
use steady_sys::kin::Kin;
use tokio::net::UnixStream;

use super::Inherited;
use super::old::SOCKET;
use super::wire::{self, Message, PROTOCOL, Process};
use crate::limits::{OLD_PROCESSES_MAX, UPGRADE_ANSWER, UPGRADE_LET_GO};

/// How long a process that has closed its end may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);
const GONE_LOOK: Duration = Duration::from_millis(10);

/// Why nothing was taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("the running edge refuses: {0}")]
    Refused(String),
    #[error("the running edge (process {pid}) did not hand over: {source}")]
    Broken { pid: u32, source: io::Error },
    #[error("{0}")]
    Unusable(String),
}

/// A process that takes over from another one.
#[derive(Debug)]
pub struct Taking {
    stream: UnixStream,
    old: Kin,
    /// The old one died: nothing is asked of it any more.
    orphan: bool,
    lock: Option<OwnedFd>,
}

impl Taking {
    /// Asks the process that runs in this state directory for its place. `None`: none runs there.
    pub async fn begin(dir: &Path, version: &str, elders: &Elders) -> Result<Option<(Taking, Inherited)>, TakeError> {
        let mut stream = match UnixStream::connect(dir.join(SOCKET)).await {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(TakeError::Unusable(format!("{}: {error}", dir.join(SOCKET).display()))),
        };
        let pid = fds::peer(&stream).map_err(|error| TakeError::Unusable(error.to_string()))?.pid;
        let broken = |source| TakeError::Broken { pid, source };
        let old = Kin::of(pid).ok_or_else(|| broken(io::ErrorKind::NotFound.into()))?;
        let take = Message::Take { protocol: PROTOCOL, version: version.to_owned() };
        wire::send(&mut stream, &take, &[]).await.map_err(broken)?;
        let mut inherited = Inherited::default();
        loop {
            let (message, mut with) = wire::receive(&mut stream, UPGRADE_ANSWER).await.map_err(broken)?;
            match message {
                Message::Socket { name, addr } => {
                    let socket =
                        with.pop().ok_or_else(|| TakeError::Unusable(format!("{addr} came without a socket")))?;
                    inherited.add(&name, Some(addr), socket).map_err(TakeError::Unusable)?;
                }
                Message::Offer { version, old: list } => {
                    tracing::info!(pid, version, "taking over from the running edge");
                    elders.set(list.into_iter().map(|Process { pid, started }| Kin { pid, started }), old);
                    return Ok(Some((Taking { stream, old, orphan: false, lock: with.pop() }, inherited)));
                }
                Message::Refused { why } => return Err(TakeError::Refused(why)),
                message => return Err(TakeError::Unusable(format!("not expected here: {message:?}"))),
            }
        }
    }

    /// The lock of the state directory, which is held all the while.
    pub fn lock(&mut self) -> Option<OwnedFd> {
        self.lock.take()
    }

    /// Everything is ready but the table. On return nobody writes it any more; the old process' ticket keys, if it has some.
    pub async fn prepared(&mut self) -> Result<Option<String>, TakeError> {
        match self.ask(&Message::Prepared, UPGRADE_ANSWER).await? {
            Some(Message::Held { ticket_keys }) => Ok(ticket_keys),
            None => Ok(None),
            Some(message) => Err(TakeError::Unusable(format!("not expected here: {message:?}"))),
        }
    }

    /// The workers accept. On return the old process has let go of everything but what it still carries.
    pub async fn serving(&mut self) -> Result<(), TakeError> {
        match self.ask(&Message::Serving, UPGRADE_LET_GO).await? {
            Some(Message::Yours) | None => Ok(()),
            Some(message) => Err(TakeError::Unusable(format!("not expected here: {message:?}"))),
        }
    }

    /// Gives up.
    pub async fn fail(&mut self, why: &str) {
        // Where it does not arrive, the end of the stream says as much.
        let _ = wire::send(&mut self.stream, &Message::Failed { why: why.to_owned() }, &[]).await;
    }

    /// Says something and waits for the answer. `None`: the old process is dead, and everything is free.
    async fn ask(&mut self, what: &Message, within: Duration) -> Result<Option<Message>, TakeError> {
        if self.orphan {
            return Ok(None);
        }
        let answer = async {
            wire::send(&mut self.stream, what, &[]).await?;
            Ok(wire::receive(&mut self.stream, within).await?.0)
        };
        match answer.await {
            Ok(message) => Ok(Some(message)),
            Err(source) => {
                if self.is_old_gone().await {
                    tracing::warn!(pid = self.old.pid, "the old process has ended by itself; its place is taken");
                    self.orphan = true;
                    return Ok(None);
                }
                Err(TakeError::Broken { pid: self.old.pid, source })
            }
        }
    }

    async fn is_old_gone(&self) -> bool {
        let gone = async {
            while self.old.is_alive() {
                tokio::time::sleep(GONE_LOOK).await;
            }
        };
        tokio::time::timeout(GONE_WITHIN, gone).await.is_ok()
    }
}

/// Processes that were replaced and still carry connections, the oldest first.
#[derive(Debug, Default)]
pub struct Elders {
    list: Mutex<Vec<Kin>>,
}

impl Elders {
    fn set(&self, older: impl Iterator<Item = Kin>, latest: Kin) {
        *self.list.lock().unwrap_or_else(PoisonError::into_inner) = older.chain([latest]).collect();
    }

    /// Those that live.
    pub fn alive(&self) -> Vec<Kin> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|kin| kin.is_alive());
        list.clone()
    }

    /// Ends the oldest where there are too many.
    pub fn cap(&self) {
        let alive = self.alive();
        for oldest in &alive[..alive.len().saturating_sub(OLD_PROCESSES_MAX)] {
            tracing::warn!(
                pid = oldest.pid,
                "{OLD_PROCESSES_MAX} old processes drain already: the oldest is ended at once, with what it still carries"
            );
            self.tell(*oldest, libc::SIGTERM);
        }
    }

    /// They end, with what they still carry.
    pub fn end(&self) {
        for elder in self.alive() {
            tracing::warn!(
                pid = elder.pid,
                "an old process still carries connections: it is told to end, and cuts them"
            );
            self.tell(elder, libc::SIGTERM);
        }
    }

    /// They open their logs again.
    pub fn reopen_logs(&self) {
        self.alive().into_iter().for_each(|elder| self.tell(elder, libc::SIGHUP));
    }

    fn tell(&self, elder: Kin, signal: i32) {
        if let Err(error) = elder.signal(signal) {
            tracing::error!(pid = elder.pid, %error, "an old process cannot be told");
        }
    }
}
