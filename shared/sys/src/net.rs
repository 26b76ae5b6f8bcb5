//! Stream sockets by raw descriptor: what the drivers need and `std::net` does not offer.
//!
//! Every descriptor made here is close-on-exec from its first moment.

use std::ffi::c_int;
use std::io;
use std::mem::{self, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// An address as the kernel reads it.
#[derive(Clone, Copy)]
pub struct RawAddr {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl std::fmt::Debug for RawAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawAddr(family {}, {} octets)", self.storage.ss_family, self.len)
    }
}

impl RawAddr {
    /// Room for an address that the kernel writes.
    pub fn empty() -> RawAddr {
        // SAFETY: all zeroes is a valid `sockaddr_storage` (family AF_UNSPEC).
        RawAddr { storage: unsafe { mem::zeroed() }, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    pub fn tcp(addr: SocketAddr) -> RawAddr {
        let mut raw = RawAddr::empty();
        match addr {
            SocketAddr::V4(v4) => raw.write(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => raw.write(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        }
        raw
    }

    /// # Errors
    /// `InvalidInput` for a path that is empty, has a NUL, or is longer than a unix address holds (107 octets).
    pub fn unix(path: &Path) -> io::Result<RawAddr> {
        let bytes = path.as_os_str().as_bytes();
        // SAFETY: all zeroes is a valid `sockaddr_un`.
        let mut un: libc::sockaddr_un = unsafe { mem::zeroed() };
        if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= un.sun_path.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("`{}` cannot be a unix socket's path: 1 to 107 octets, none of them zero", path.display()),
            ));
        }
        un.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in un.sun_path.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        let mut raw = RawAddr::empty();
        raw.write(un);
        raw.len = (mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1) as libc::socklen_t;
        Ok(raw)
    }

    fn write<T>(&mut self, addr: T) {
        const { assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>()) };
        // SAFETY: `storage` is larger than `T` and aligned for every socket address.
        unsafe { (&raw mut self.storage).cast::<T>().write(addr) };
        self.len = size_of::<T>() as libc::socklen_t;
    }

    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    /// Address and length for a call that writes them.
    pub fn parts_mut(&mut self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        ((&raw mut self.storage).cast(), &raw mut self.len)
    }

    pub fn len(&self) -> libc::socklen_t {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn domain(&self) -> c_int {
        c_int::from(self.storage.ss_family)
    }

    /// The address of an AF_INET or AF_INET6 peer; `None` for any other family.
    pub fn to_tcp(&self) -> Option<SocketAddr> {
        match self.domain() {
            libc::AF_INET => {
                // SAFETY: the family says that this is a `sockaddr_in`, and the storage is large and aligned enough
                // for it.
                let v4 = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above, for `sockaddr_in6`.
                let v6 = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Turns the `-1` of a call into its `errno`.
pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for a call that made a descriptor.
fn owned(result: c_int) -> io::Result<OwnedFd> {
    // SAFETY: the kernel just made this descriptor and nobody else knows it.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An unconnected stream socket of the family of `addr`.
pub fn stream_socket(addr: &RawAddr, nonblocking: bool) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: no pointers.
    owned(unsafe { libc::socket(addr.domain(), flags, 0) })
}

/// A listening TCP socket on `addr` (port 0: any free one). SO_REUSEADDR is set, so that a restart does not wait for
/// old connections in TIME_WAIT. `backlog`: connections that wait to be accepted; the kernel caps it at
/// `net.core.somaxconn`. `[::]` takes IPv4 too, whatever `net.ipv6.bindv6only` says.
pub fn listen_tcp(addr: SocketAddr, backlog: u32) -> io::Result<OwnedFd> {
    listen_in(addr, false, backlog)
}

/// As [`listen_tcp`], of IPv6 alone: the IPv4 addresses of that port are left to other listeners.
pub fn listen_tcp_v6_only(addr: SocketAddr, backlog: u32) -> io::Result<OwnedFd> {
    listen_in(addr, true, backlog)
}

fn listen_in(addr: SocketAddr, v6_only: bool, backlog: u32) -> io::Result<OwnedFd> {
    let raw = RawAddr::tcp(addr);
    let socket = stream_socket(&raw, false)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if addr.is_ipv6() {
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, c_int::from(v6_only))?;
    }
    bind_and_listen(socket, &raw, backlog)
}

/// Whether an IPv6 socket takes no IPv4. What is bound stays as it is.
pub fn is_v6_only(socket: impl AsFd) -> io::Result<bool> {
    option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).map(|value| value != 0)
}

/// Whether a program could bind `addr` now, also one that does not set SO_REUSEADDR: nobody listens there, and no
/// connection of a former listener lingers.
pub fn can_bind(addr: SocketAddr) -> io::Result<bool> {
    let raw = RawAddr::tcp(addr);
    let socket = stream_socket(&raw, false)?;
    // SAFETY: `raw` is a valid address of `len` octets for the time of the call.
    match check(unsafe { libc::bind(socket.as_raw_fd(), raw.as_ptr(), raw.len()) }) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(false),
        Err(error) => Err(error),
    }
}

/// A listening unix socket at `path`, which must not exist: whoever owns the path removes what a predecessor left.
pub fn listen_unix(path: &Path, backlog: u32) -> io::Result<OwnedFd> {
    let raw = RawAddr::unix(path)?;
    bind_and_listen(stream_socket(&raw, false)?, &raw, backlog)
}

fn bind_and_listen(socket: OwnedFd, addr: &RawAddr, backlog: u32) -> io::Result<OwnedFd> {
    // SAFETY: `addr` is a valid address of `len` octets for the time of the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), addr.as_ptr(), addr.len()) })?;
    let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
    // SAFETY: no pointers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) })?;
    Ok(socket)
}

/// Where a socket is bound.
pub fn local_addr(socket: &OwnedFd) -> io::Result<RawAddr> {
    let mut raw = RawAddr::empty();
    // SAFETY: storage and length are valid and the kernel writes at most `len` octets.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut raw.storage).cast(), &mut raw.len) })?;
    Ok(raw)
}

/// Whom a socket is connected to.
///
/// # Errors
/// `NotConnected` when the peer is gone already.
pub fn peer_addr(socket: &OwnedFd) -> io::Result<RawAddr> {
    let mut raw = RawAddr::empty();
    // SAFETY: storage and length are valid and the kernel writes at most `len` octets.
    check(unsafe { libc::getpeername(socket.as_raw_fd(), (&raw mut raw.storage).cast(), &mut raw.len) })?;
    Ok(raw)
}

/// Whether a socket is AF_INET or AF_INET6.
pub fn is_tcp(socket: &OwnedFd) -> io::Result<bool> {
    let domain = option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
    Ok(domain == libc::AF_INET || domain == libc::AF_INET6)
}

/// Takes the next connection of a listening socket.
///
/// # Errors
/// `WouldBlock` when none waits in a socket that does not block; else what accept(2) says.
pub fn accept(listener: &OwnedFd) -> io::Result<OwnedFd> {
    let fd = listener.as_raw_fd();
    // SAFETY: null pointers ask for no address.
    owned(unsafe { libc::accept4(fd, std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_CLOEXEC) })
}

/// Whether a descriptor is a TCP socket that listens.
pub fn is_listening_tcp(fd: &OwnedFd) -> io::Result<bool> {
    let is_stream = option(fd, libc::SOL_SOCKET, libc::SO_TYPE)? == libc::SOCK_STREAM;
    Ok(is_stream && is_tcp(fd)? && option(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN)? != 0)
}

/// Sends small segments at once (TCP_NODELAY). Accepted sockets inherit it from their listener.
pub fn set_nodelay(socket: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)
}

/// Ends connections whose other end is gone without a word (SO_KEEPALIVE): it is asked after `quiet`, in whole seconds, of
/// silence, and three times more, each after a third of that. Accepted sockets inherit it from their listener.
pub fn set_keepalive(socket: &impl AsFd, quiet: Duration) -> io::Result<()> {
    let seconds = c_int::try_from(quiet.as_secs()).unwrap_or(c_int::MAX).max(1);
    let socket = socket.as_fd();
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, seconds)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, (seconds / 3).max(1))?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 3)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)
}

/// The error that a socket holds for us (SO_ERROR), cleared by the call.
pub fn take_error(socket: &OwnedFd) -> io::Result<()> {
    match option(socket, libc::SOL_SOCKET, libc::SO_ERROR)? {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Sets or clears O_NONBLOCK, which belongs to the open file, so to every duplicate of the descriptor.
pub fn set_nonblocking(fd: &OwnedFd, on: bool) -> io::Result<()> {
    // SAFETY: no pointers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let wanted = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    if wanted != flags {
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) })?;
    }
    Ok(())
}

/// Ends the sending direction (FIN).
pub fn shutdown_write(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; a wrong descriptor is an error, not undefined.
    check(unsafe { libc::shutdown(fd, libc::SHUT_WR) }).map(drop)
}

/// Has the socket's close reset the connection (SO_LINGER with no time to linger), rather than end it.
pub fn reset_on_close(fd: RawFd) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (value, len) = ((&raw const linger).cast(), size_of::<libc::linger>() as libc::socklen_t);
    // SAFETY: `value` points to `len` readable octets; a wrong descriptor is an error, not undefined.
    check(unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, value, len) }).map(drop)
}

/// A non-blocking event counter at zero.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

/// Adds one to an event counter. A full counter already woke its reader, so that no error is left to report.
pub fn signal_eventfd(fd: BorrowedFd<'_>) {
    let one = 1u64;
    // SAFETY: eight readable octets.
    unsafe { libc::write(fd.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
}

/// Two connected unix stream sockets.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the kernel just made both, and nobody else knows them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

fn option(socket: impl AsFd, level: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` has room for the `len` octets that the kernel may write.
    check(unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw mut value).cast(), &mut len) })?;
    Ok(value)
}

fn set_option(socket: impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is readable for the `len` octets given.
    check(unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), len) })
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcp_address_survives_the_way_through_the_kernels_form() {
        for text in ["127.0.0.1:8080", "[::1]:443", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddr::tcp(addr).to_tcp(), Some(addr));
        }
    }

    #[test]
    fn a_unix_path_that_does_not_fit_is_refused() {
        assert!(RawAddr::unix(Path::new(&"x".repeat(107))).is_ok());
        assert!(RawAddr::unix(Path::new(&"x".repeat(108))).is_err());
        assert!(RawAddr::unix(Path::new("")).is_err());
    }

    #[test]
    fn a_listener_says_where_it_is_bound() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let addr = local_addr(&listener).unwrap().to_tcp().unwrap();
        assert_ne!(addr.port(), 0);
        assert!(is_tcp(&listener).unwrap());
        std::net::TcpStream::connect(addr).unwrap();
    }

    #[test]
    fn all_addresses_of_ipv6_take_ipv4_too_unless_they_are_to_leave_it_to_others() {
        let v4 = listen_tcp(SocketAddr::from(([0, 0, 0, 0], 0)), 16).unwrap();
        let port = local_addr(&v4).unwrap().to_tcp().unwrap().port();
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        // A machine without IPv6 has nothing to tell.
        let Ok(alone) = listen_tcp_v6_only(any, 16) else { return };
        assert!(is_v6_only(&alone).unwrap());
        drop(alone);
        assert_eq!(listen_tcp(any, 16).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(!is_v6_only(listen_tcp("[::]:0".parse().unwrap(), 16).unwrap()).unwrap());
    }

    #[test]
    fn what_is_accepted_asks_after_its_other_end_as_its_listener_was_told() {
        let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        set_keepalive(&listener, Duration::from_secs(60)).unwrap();
        let addr = local_addr(&listener).unwrap().to_tcp().unwrap();
        let _client = std::net::TcpStream::connect(addr).unwrap();
        set_nonblocking(&listener, false).unwrap();
        let accepted = accept(&listener).unwrap();
        assert_eq!(option(&accepted, libc::SOL_SOCKET, libc::SO_KEEPALIVE).unwrap(), 1);
        let tcp = |name| option(&accepted, libc::IPPROTO_TCP, name).unwrap();
        assert_eq!((tcp(libc::TCP_KEEPIDLE), tcp(libc::TCP_KEEPINTVL), tcp(libc::TCP_KEEPCNT)), (60, 20, 3));
    }
}
