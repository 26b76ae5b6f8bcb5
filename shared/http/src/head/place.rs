//! Filling a head in place, for decoders that write straight into its arena: octets are appended first, and only then
//! said to be a field's or a pseudo-field's.

use super::{Entry, Head, Method, Name, Span};

impl Head {
    /// The arena. Only to be appended to, or cut back to where it was.
    pub(crate) fn arena_mut(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    pub(crate) fn arena(&self) -> &[u8] {
        &self.arena
    }

    fn tail(&self, start: usize) -> Span {
        Span { start: start as u32, len: (self.arena.len() - start) as u32 }
    }

    /// Appends a field: its name is the arena from `start` to `value` (not looked at when `id` says it), its value the
    /// arena from `value` on.
    pub(crate) fn place_field(&mut self, id: Name, start: usize, value: usize) {
        let name = Span { start: start as u32, len: (value - start) as u32 };
        let value = self.tail(value);
        self.entries.push(Entry { id, never_indexed: false, name, value });
    }

    /// The field that was appended last may be kept by no table.
    pub(crate) fn mark_never_indexed(&mut self) {
        if let Some(entry) = self.entries.last_mut() {
            entry.never_indexed = true;
        }
    }

    /// The method is the arena from `start` on.
    pub(crate) fn place_method(&mut self, start: usize) {
        self.method = Method::from_bytes(&self.arena[start..]);
        if self.method == Method::Other {
            self.method_token = self.tail(start);
        } else {
            self.arena.truncate(start);
        }
    }

    /// The path is the arena from `start` on.
    pub(crate) fn place_path(&mut self, start: usize) {
        self.path = self.tail(start);
    }

    /// The protocol is the arena from `start` on.
    pub(crate) fn place_protocol(&mut self, start: usize) {
        self.protocol = self.tail(start);
    }

    /// The authority is these octets of the arena.
    pub(crate) fn place_authority(&mut self, start: usize, len: usize) {
        self.authority = Span { start: start as u32, len: len as u32 };
    }

    /// Joins all cookie fields into the first, with `; ` between them (RFC 9113 §8.2.3). Empty ones say nothing, and a last one
    /// would leave white space at the end, which the next hop calls malformed.
    pub(crate) fn join_cookies(&mut self) {
        let start = self.arena.len();
        for entry in self.entries.iter().filter(|entry| entry.id == Name::Cookie && entry.value.len > 0) {
            if self.arena.len() > start {
                self.arena.extend_from_slice(b"; ");
            }
            let at = entry.value.start as usize;
            self.arena.extend_from_within(at..at + entry.value.len as usize);
        }
        let joined = self.tail(start);
        let mut first = true;
        self.entries.retain_mut(|entry| {
            if entry.id != Name::Cookie {
                return true;
            }
            entry.value = joined;
            std::mem::take(&mut first)
        });
    }
}
