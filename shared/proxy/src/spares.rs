//! Memory that came back, for whoever needs some next: what idle connections hold is little because these share it.

use steady_ring::{Driver, SendBuf};

use crate::limits::Limits;
use crate::policy::Policy;
use crate::worker::Worker;

/// Buffers that came back, kept for reuse: the last one first, whose memory is still warm.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    buffers: Vec<Vec<u8>>,
    /// Octets of all of them.
    bytes: usize,
}

impl Spares {
    /// An empty buffer, with memory where there is one.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps a buffer, within the limits.
    #[inline]
    pub(crate) fn keep(&mut self, buffer: Vec<u8>, limits: &Limits) {
        if buffer.capacity() > 0 {
            self.push(buffer, limits);
        }
    }

    fn push(&mut self, mut buffer: Vec<u8>, limits: &Limits) {
        let capacity = buffer.capacity();
        if capacity <= limits.spare_buffer_bytes_max
            && self.bytes + capacity <= limits.spare_bytes_max
            && self.buffers.len() < limits.spare_buffers_max
        {
            buffer.clear();
            self.bytes += capacity;
            self.buffers.push(buffer);
        }
    }
}

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Keeps a buffer for reuse.
    pub(crate) fn spare(&mut self, buffer: Vec<u8>) {
        self.buffers.keep(buffer, &self.limits);
    }

    /// As [`spare`](Worker::spare), of the two things that an output has: its octets' memory and its list of pieces.
    pub(crate) fn spare_out(&mut self, mut buf: SendBuf) {
        if let Some(list) = buf.take_list()
            && self.lists.len() < self.limits.spare_buffers_max
        {
            self.lists.push(list);
        }
        self.spare(buf.bytes);
    }
}
