//! Listening sockets that a process did not bind itself: of the process that it replaces, or of systemd.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

/// See the module.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Socket {
    /// What it is called by whoever gave it.
    name: String,
    /// As the configuration it was bound by named it: port 0 where any free one was asked for.
    configured: Option<SocketAddr>,
    bound: SocketAddr,
    listener: TcpListener,
}

impl Inherited {
    /// Adds one.
    ///
    /// # Errors
    /// A sentence, when it is no listening TCP socket.
    pub fn add(&mut self, name: &str, configured: Option<SocketAddr>, socket: OwnedFd) -> Result<(), String> {
        if !matches!(steady_sys::net::is_listening_tcp(&socket), Ok(true)) {
            return Err(format!("the inherited socket {name} is no listening TCP socket"));
        }
        let listener = TcpListener::from(socket);
        let bound = listener.local_addr().map_err(|error| format!("the inherited socket {name}: {error}"))?;
        self.sockets.push(Socket { name: name.to_owned(), configured, bound, listener });
        Ok(())
    }

    /// The one that is bound to this address, or that was given for it under this name (which tells those with port 0 apart).
    /// With the address it really has.
    pub fn take(&mut self, name: &str, addr: SocketAddr) -> Option<(TcpListener, SocketAddr)> {
        let given = |socket: &Socket| socket.configured == Some(addr) && socket.name == name;
        let mut all = self.sockets.iter();
        let at = all.position(|socket| socket.bound == addr).or_else(|| self.sockets.iter().position(given))?;
        let socket = self.sockets.remove(at);
        Some((socket.listener, socket.bound))
    }

    /// Those that the configuration does not name.
    pub fn left(&self) -> impl Iterator<Item = String> {
        self.sockets.iter().map(|socket| format!("{} ({})", socket.name, socket.bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_what_it_was_configured_as_and_by_where_it_is_and_once() {
        let mut inherited = Inherited::default();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (first, second) = (TcpListener::bind(any).unwrap(), TcpListener::bind(any).unwrap());
        let (at_first, at_second) = (first.local_addr().unwrap(), second.local_addr().unwrap());
        inherited.add("a", Some(any), first.into()).unwrap();
        inherited.add("b", None, second.into()).unwrap();
        let mut take = |name: &str, addr| inherited.take(name, addr).map(|found| found.1);
        assert_eq!(take("a", "127.0.0.1:1".parse().unwrap()), None);
        assert_eq!(take("a", at_second), Some(at_second));
        assert_eq!(take("b", any), None);
        assert_eq!(take("a", any), Some(at_first));
        assert_eq!(take("a", any), None);
        assert_eq!(inherited.left().count(), 0);
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let refused = Inherited::default().add("x", None, one.into()).unwrap_err();
        assert!(refused.contains("x is no listening TCP socket"), "{refused}");
    }
}
