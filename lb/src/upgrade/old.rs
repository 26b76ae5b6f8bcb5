//! The old process: what it offers to one that comes to take over, and how it lets go.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use steady_proxy::tls::TicketKeys;
use steady_sys::fds;
use steady_sys::kin::Kin;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::new::Elders;
use super::wire::{self, Message, PROTOCOL, Process};
use super::{OF_UP, Successor};
use crate::control::Control;
use crate::limits::{UPGRADE_ANSWER, UPGRADE_HELD, UPGRADE_PREPARE};
use crate::run::PRIVATE;

/// Where a new process finds the old one, in the state directory.
pub const SOCKET: &str = "upgrade.sock";

pub const BELONGS_TO_UP: &str = "this edge belongs to a `steady up`, which would start another: stop and start that";

/// What a process that takes over gets.
#[derive(Debug)]
pub struct Offer {
    sockets: Mutex<Vec<Socket>>,
    lock: Mutex<Option<OwnedFd>>,
    tickets: Option<Arc<TicketKeys>>,
    elders: Arc<Elders>,
    version: String,
}

#[derive(Debug)]
struct Socket {
    name: &'static str,
    /// In the configuration.
    addr: SocketAddr,
    fd: OwnedFd,
}

impl Offer {
    pub fn new(tickets: Option<Arc<TicketKeys>>, elders: Arc<Elders>, version: &str) -> Offer {
        Offer { sockets: Mutex::default(), lock: Mutex::default(), tickets, elders, version: version.to_owned() }
    }

    /// Keeps a duplicate of a listening socket, by what it is for and its address in the configuration.
    pub fn add(&self, name: &'static str, addr: SocketAddr, socket: impl AsFd) -> io::Result<()> {
        let fd = socket.as_fd().try_clone_to_owned()?;
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(Socket { name, addr, fd });
        Ok(())
    }

    /// Sets whether the workers' listeners block, once nobody else accepts from them: to the ring one that does costs less, epoll
    /// needs one that does not.
    pub fn set_blocking(&self, blocking: bool) -> io::Result<()> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workers = sockets.iter().filter(|socket| socket.name != PRIVATE);
        workers.try_for_each(|socket| steady_sys::net::set_nonblocking(&socket.fd, !blocking))
    }

    /// Keeps a duplicate of the state directory's lock.
    pub fn set_lock(&self, lock: impl AsFd) -> io::Result<()> {
        let copy = lock.as_fd().try_clone_to_owned()?;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        Ok(())
    }

    /// Lets go of the sockets: a port that nobody accepts from any more refuses instead of keeping clients waiting.
    pub fn close(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn copies(&self) -> io::Result<(Vec<Socket>, Option<OwnedFd>)> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let sockets = sockets.iter().map(|socket| Ok(Socket { fd: socket.fd.try_clone()?, ..*socket }));
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((sockets.collect::<io::Result<_>>()?, lock.as_ref().map(OwnedFd::try_clone).transpose()?))
    }
}

/// Waits for processes that come to take over; one at a time is attended to.
#[derive(Debug)]
pub struct Desk {
    heirs: mpsc::Receiver<Heir>,
    attending: JoinHandle<()>,
    successor: Option<Successor>,
}

/// A process that is prepared to take over.
#[derive(Debug)]
pub struct Heir {
    stream: UnixStream,
    pub pid: u32,
    _only: OwnedSemaphorePermit,
}

impl Desk {
    /// Opens it in the state directory, which this process holds.
    pub fn open(dir: &Path, offer: Arc<Offer>, successor: Option<Successor>) -> io::Result<Desk> {
        let path = dir.join(SOCKET);
        // A predecessor's; it needs it no more.
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let (sender, heirs) = mpsc::channel(1);
        let attending = tokio::spawn(attend(listener, offer, sender));
        Ok(Desk { heirs, attending, successor })
    }

    /// The next process that is prepared. Safe to cancel.
    pub async fn next(&mut self) -> Heir {
        match self.heirs.recv().await {
            Some(heir) => heir,
            None => std::future::pending().await,
        }
    }

    /// Starts the process that will come.
    pub fn summon(&self) {
        match &self.successor {
            Some(successor) => successor.start(),
            None => tracing::error!("it is not known how this process was started; start the new one with --upgrade"),
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.attending.abort();
    }
}

async fn attend(listener: UnixListener, offer: Arc<Offer>, heirs: mpsc::Sender<Heir>) {
    let only = Arc::new(Semaphore::new(1));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a process that wants to take over cannot be attended to for now");
                tokio::time::sleep(crate::limits::RETRY_FIRST).await;
                continue;
            }
        };
        let (offer, heirs, place) = (Arc::clone(&offer), heirs.clone(), Arc::clone(&only).try_acquire_owned());
        tokio::spawn(async move {
            match greet(stream, &offer, place.ok()).await {
                Ok(Some(heir)) => drop(heirs.send(heir).await),
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "the upgrade failed before it began; this process goes on"),
            }
        });
    }
}

/// Gives a process what it needs to prepare itself, and waits until it has. `None`: it was refused.
async fn greet(mut stream: UnixStream, offer: &Offer, place: Option<OwnedSemaphorePermit>) -> io::Result<Option<Heir>> {
    let peer = fds::peer(&stream)?;
    let (message, _) = wire::receive(&mut stream, UPGRADE_ANSWER).await?;
    let Message::Take { protocol, version } = message else { return Err(unexpected(&message)) };
    let (_, own) = UnixStream::pair()?;
    let refusal = if std::env::var_os(OF_UP).is_some() {
        Some(BELONGS_TO_UP.to_owned())
    } else if peer.uid != fds::peer(&own)?.uid {
        Some("it runs as another user".to_owned())
    } else if protocol != PROTOCOL {
        Some(format!(
            "version {} hands over by protocol {PROTOCOL} and version {version} takes over by {protocol}: restart",
            offer.version
        ))
    } else if place.is_none() {
        Some("another process is taking over just now".to_owned())
    } else {
        None
    };
    let only = match (refusal, place) {
        (None, Some(place)) => place,
        (refusal, _) => {
            let why = refusal.unwrap_or_default();
            tracing::error!(pid = peer.pid, why, "a process that wants to take over is refused");
            wire::send(&mut stream, &Message::Refused { why }, &[]).await?;
            return Ok(None);
        }
    };
    tracing::info!(pid = peer.pid, version, "a new process prepares to take over");
    let (sockets, lock) = offer.copies()?;
    for Socket { name, addr, fd } in &sockets {
        let message = Message::Socket { name: (*name).to_owned(), addr: *addr };
        wire::send(&mut stream, &message, &[fd.as_fd()]).await?;
    }
    let old = offer.elders.alive().into_iter().map(|Kin { pid, started }| Process { pid, started }).collect();
    let lock: Vec<_> = lock.iter().map(AsFd::as_fd).collect();
    wire::send(&mut stream, &Message::Offer { version: offer.version.clone(), old }, &lock).await?;
    match wire::receive(&mut stream, UPGRADE_PREPARE).await? {
        (Message::Prepared, _) => Ok(Some(Heir { stream, pid: peer.pid, _only: only })),
        (Message::Failed { why }, _) => Err(io::Error::other(format!("process {} gave up: {why}", peer.pid))),
        (message, _) => Err(unexpected(&message)),
    }
}

impl Heir {
    /// Lets it serve, with nothing written meanwhile. `None`: it did not come to that, and this process is the edge as before;
    /// on return with an heir the writer has ended.
    pub async fn take_over(mut self, control: Option<&Control>, offer: &Offer) -> Option<Heir> {
        let hold = match control {
            Some(control) => Some(control.hold().await?),
            None => None,
        };
        match self.serve(offer).await {
            Ok(()) => {
                if let Some(hold) = hold {
                    hold.end();
                }
                tracing::info!(pid = self.pid, "the new process serves");
                Some(self)
            }
            Err(error) => {
                tracing::error!(pid = self.pid, %error, "the upgrade failed; this process goes on as before");
                None
            }
        }
    }

    async fn serve(&mut self, offer: &Offer) -> io::Result<()> {
        let ticket_keys = offer.tickets.as_ref().map(|tickets| tickets.to_text());
        wire::send(&mut self.stream, &Message::Held { ticket_keys }, &[]).await?;
        match wire::receive(&mut self.stream, UPGRADE_HELD).await? {
            (Message::Serving, _) => Ok(()),
            (Message::Failed { why }, _) => Err(io::Error::other(why)),
            (message, _) => Err(unexpected(&message)),
        }
    }

    /// The stream alone, for when no runtime is left.
    pub fn into_std(self) -> io::Result<std::os::unix::net::UnixStream> {
        let stream = self.stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    }
}

fn unexpected(message: &Message) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not expected here: {message:?}"))
}
