//! What an old and a new process of an edge say to each other: length-prefixed JSON over a unix stream socket, some of it
//! with file descriptors.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steady_sys::fds;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// Raised when a message changes its meaning. Two processes that differ here do not take over from each other.
pub const PROTOCOL: u32 = 1;
/// The longest message is the one with the ticket keys, of some hundred octets; answers to a stranger on the socket.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const PREFIX: usize = 4;

/// In the order in which they come.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Message {
    /// New to old: the first word.
    Take { protocol: u32, version: String },
    /// Old to new: not now, not by you, for this reason.
    Refused { why: String },
    /// Old to new: a listening socket, what it is for, and its address in the old configuration. Its descriptor comes along.
    Socket { name: String, addr: SocketAddr },
    /// Old to new: that were all sockets. The descriptor of the state directory's lock comes along.
    Offer { version: String, old: Vec<Process> },
    /// New to old: everything that could fail before the table is known has not failed.
    Prepared,
    /// Old to new: nothing is written any more, the table can be read.
    Held { ticket_keys: Option<String> },
    /// New to old: its workers accept. From here on the new process is the edge.
    Serving,
    /// New to old: it gives up.
    Failed { why: String },
    /// Old to new: table, store and private port are let go of.
    Yours,
}

/// A process: its number and when it began, so that it is never taken for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub started: u64,
}

/// Sends a message, with descriptors of which the receiver gets duplicates.
pub async fn send(stream: &mut UnixStream, message: &Message, with: &[BorrowedFd<'_>]) -> io::Result<()> {
    let octets = frame(message)?;
    let sent = loop {
        stream.writable().await?;
        match stream.try_io(Interest::WRITABLE, || fds::send(&*stream, &octets, with)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => break sent?,
        }
    };
    stream.write_all(&octets[sent..]).await
}

/// As [`send`], on a stream that blocks, without descriptors.
pub fn send_blocking(stream: &mut std::os::unix::net::UnixStream, message: &Message) -> io::Result<()> {
    io::Write::write_all(stream, &frame(message)?)
}

fn frame(message: &Message) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(message)?;
    let mut octets = (text.len() as u32).to_be_bytes().to_vec();
    octets.extend_from_slice(&text);
    Ok(octets)
}

/// The next message and the descriptors that came with it.
pub async fn receive(stream: &mut UnixStream, within: Duration) -> io::Result<(Message, Vec<OwnedFd>)> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("nothing was said for {} s", within.as_secs()));
    tokio::time::timeout(within, receive_one(stream)).await.map_err(|_| late())?
}

async fn receive_one(stream: &mut UnixStream) -> io::Result<(Message, Vec<OwnedFd>)> {
    let (mut prefix, mut had, mut with) = ([0; PREFIX], 0, Vec::new());
    while had < PREFIX {
        stream.readable().await?;
        match stream.try_io(Interest::READABLE, || fds::receive(&*stream, &mut prefix[had..], &mut with)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => had += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await?;
    Ok((serde_json::from_slice(&text)?, with))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    const SOON: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn messages_and_their_descriptors_arrive_in_order() {
        let (mut old, mut new) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        for _ in 0..3 {
            send(&mut old, &Message::Socket { name: "http".into(), addr }, &[listener.as_fd()]).await.unwrap();
        }
        send(&mut old, &Message::Yours, &[]).await.unwrap();
        for _ in 0..3 {
            let (message, mut with) = receive(&mut new, SOON).await.unwrap();
            assert!(matches!(message, Message::Socket { addr: told, .. } if told == addr), "{message:?}");
            assert_eq!(with.len(), 1);
            assert_eq!(std::net::TcpListener::from(with.pop().unwrap()).local_addr().unwrap(), addr);
        }
        let (message, with) = receive(&mut new, SOON).await.unwrap();
        assert!(matches!(message, Message::Yours) && with.is_empty());
        drop(old);
        assert_eq!(receive(&mut new, SOON).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        for octets in [&[0, 0, 0, 1, b'x'][..], &[255, 255, 255, 255], &[0, 0, 0, 9, b'{']] {
            let (mut old, mut new) = UnixStream::pair().unwrap();
            old.write_all(octets).await.unwrap();
            drop(old);
            receive(&mut new, SOON).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn silence_has_an_end() {
        let (_old, mut new) = UnixStream::pair().unwrap();
        let error = receive(&mut new, Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
