//! File descriptors that go from one process to another over a unix stream socket (SCM_RIGHTS, unix(7)).

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::net::check;

/// Descriptors in one message.
pub const FDS_MAX: usize = 16;
/// Room for the control message that holds them, aligned as the kernel wants it.
const CONTROL_WORDS: usize = 16;

/// Sends octets (at least one) and, with the first of them, descriptors: the receiver gets duplicates of them. Returns how
/// many octets were taken.
///
/// # Errors
/// `InvalidInput` for no octets or more than [`FDS_MAX`] descriptors; else what sendmsg(2) says, `WouldBlock` among it.
pub fn send(socket: impl AsFd, octets: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    if octets.is_empty() || fds.len() > FDS_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no octets, or too many descriptors"));
    }
    let mut control = [0u64; CONTROL_WORDS];
    let mut piece = libc::iovec { iov_base: octets.as_ptr().cast_mut().cast(), iov_len: octets.len() };
    // SAFETY: all zeroes is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let bytes = (fds.len() * size_of::<RawFd>()) as u32;
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: a calculation.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(bytes) } as _;
        // SAFETY: `control` is aligned for a header and has room for the length given, which FDS_MAX bounds (checked by a test).
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (at, fd) in fds.iter().enumerate() {
                data.add(at).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: the message points to memory that outlives the call.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives octets and the descriptors that came with them, close-on-exec. `Ok(0)`: the peer has ended.
///
/// # Errors
/// What recvmsg(2) says; `InvalidData` when more descriptors came than [`FDS_MAX`] (all of them are closed).
pub fn receive(socket: impl AsFd, octets: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = [0u64; CONTROL_WORDS];
    let mut piece = libc::iovec { iov_base: octets.as_mut_ptr().cast(), iov_len: octets.len() };
    // SAFETY: all zeroes is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points to memory that is ours and outlives the call.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    let mut came = Vec::new();
    // SAFETY: the kernel wrote whole control messages of `msg_controllen` octets into `control`, and the descriptors in them
    // are new ones of ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for at in 0..bytes / size_of::<RawFd>() {
                    came.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors than fit"));
    }
    fds.append(&mut came);
    Ok(received)
}

/// The process at the other end of a connected unix socket, as it was when it connected or listened (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub pid: u32,
    pub uid: u32,
}

/// Who is at the other end.
///
/// # Errors
/// What getsockopt(2) says.
pub fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `credentials` has room for the `len` octets that the kernel may write.
    check(unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &mut len,
        )
    })?;
    Ok(Peer { pid: credentials.pid.unsigned_abs(), uid: credentials.uid })
}

/// Takes over a descriptor that the process was started with (socket activation): from here on it is close-on-exec and owned.
///
/// # Errors
/// `fd` is not open.
///
/// # Panics
/// For standard input, output and error, which have owners.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    assert!(fd > 2, "the standard descriptors have owners");
    // SAFETY: no pointers; a wrong descriptor is an error, not undefined.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and by the protocol that told us of it nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_arrive_with_their_octets_and_are_the_same_files() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut kept, sent) = UnixStream::pair().unwrap();
        let many: Vec<BorrowedFd<'_>> = (0..FDS_MAX).map(|_| sent.as_fd()).collect();
        assert_eq!(send(&ours, b"head", &many).unwrap(), 4);
        let (mut octets, mut fds) = ([0; 4], Vec::new());
        assert_eq!(receive(&theirs, &mut octets, &mut fds).unwrap(), 4);
        assert_eq!((&octets, fds.len()), (b"head", FDS_MAX));
        drop(sent);
        UnixStream::from(fds.pop().unwrap()).write_all(b"hello").unwrap();
        let mut hello = [0; 5];
        kept.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"hello");
    }

    #[test]
    fn too_many_descriptors_are_refused_and_none_leaks_out_of_a_message_without_any() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let many: Vec<BorrowedFd<'_>> = (0..=FDS_MAX).map(|_| ours.as_fd()).collect();
        assert_eq!(send(&ours, b"x", &many).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        send(&ours, b"x", &[]).unwrap();
        let mut fds = Vec::new();
        assert_eq!(receive(&theirs, &mut [0; 8], &mut fds).unwrap(), 1);
        assert!(fds.is_empty());
        drop(ours);
        assert_eq!(receive(&theirs, &mut [0; 8], &mut fds).unwrap(), 0);
    }

    #[test]
    fn the_control_message_has_room_for_all_descriptors() {
        // SAFETY: a calculation.
        let needed = unsafe { libc::CMSG_SPACE((FDS_MAX * size_of::<RawFd>()) as u32) } as usize;
        assert!(needed <= CONTROL_WORDS * size_of::<u64>());
    }

    #[test]
    fn a_peer_says_which_process_it_is() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(peer(&ours).unwrap().pid, std::process::id());
    }
}
