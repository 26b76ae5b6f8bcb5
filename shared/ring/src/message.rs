//! The kernel's view of a send that has pieces.

use crate::SendBuf;

/// Segments in one `sendmsg` (UIO_MAXIOV, the kernel's limit); a longer send goes in several.
const IOVECS_MAX: usize = 1_024;

/// Segments that a message has room for when it is made.
const IOVECS_FIRST: usize = 32;

/// A `msghdr` with its segments, kept for reuse. It points into the [`SendBuf`] given last, which must stay as it is
/// until the kernel has read the message.
pub(crate) struct Message {
    header: libc::msghdr,
    iovecs: Vec<libc::iovec>,
}

impl Message {
    pub(crate) fn new() -> Message {
        // SAFETY: all zeroes is a valid `msghdr`: no name, no segments, no control data.
        Message { header: unsafe { std::mem::zeroed() }, iovecs: Vec::new() }
    }

    /// Points at what is left of `buf` after its first `skip` octets, up to [`IOVECS_MAX`] segments.
    pub(crate) fn point_at(&mut self, buf: &SendBuf, mut skip: usize) {
        self.iovecs.clear();
        if self.iovecs.capacity() == 0 {
            self.iovecs.reserve(IOVECS_FIRST);
        }
        for bytes in buf.slices() {
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            if self.iovecs.len() == IOVECS_MAX {
                break;
            }
            let rest = &bytes[skip..];
            skip = 0;
            self.iovecs.push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
        }
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = self.iovecs.len() as _;
    }

    pub(crate) fn as_ptr(&self) -> *const libc::msghdr {
        &raw const self.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Piece;

    fn lengths(message: &Message) -> Vec<usize> {
        message.iovecs.iter().map(|iovec| iovec.iov_len).collect()
    }

    #[test]
    fn a_message_points_at_what_is_left_wherever_a_short_send_stopped() {
        let mut buf = SendBuf::from(vec![0; 3]);
        [0, 2, 4].into_iter().for_each(|len| buf.splice(3, Piece::from(vec![0; len])));
        let mut message = Message::new();
        for (skip, left) in [(0, vec![3, 2, 4]), (2, vec![1, 2, 4]), (3, vec![2, 4]), (4, vec![1, 4]), (8, vec![1])] {
            message.point_at(&buf, skip);
            assert_eq!(lengths(&message), left, "after {skip}");
        }
    }

    #[test]
    fn a_message_of_too_many_segments_is_cut_where_the_kernel_cuts() {
        let mut buf = SendBuf::default();
        (0..2_000).for_each(|_| buf.splice(0, Piece::from(vec![0])));
        let mut message = Message::new();
        message.point_at(&buf, 0);
        assert_eq!(message.iovecs.len(), IOVECS_MAX);
    }
}
