//! One head, request or response or trailers, in canonical form (see the crate's description): an arena of octets and a
//! list of fields that point into it. No map is built; a reused head allocates nothing.

mod name;
mod place;

pub use name::Name;

/// A place in a head's arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

/// A request method. Those without a variant are [`Method::Other`], their token in the head's arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Connect,
    Other,
}

/// The scheme of a request's target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

/// One field of a [`Head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'h> {
    /// Which well-known name it is; [`Name::Other`] otherwise.
    pub id: Name,
    /// Lower case.
    pub name: &'h [u8],
    /// Without surrounding white space; no CR, LF or NUL.
    pub value: &'h [u8],
    /// The peer forbade any table to keep it (HTTP/2; RFC 7541 §6.2.3), and so it goes on.
    pub never_indexed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: Name,
    never_indexed: bool,
    /// Where the name is, when `id` does not say it.
    name: Span,
    value: Span,
}

/// The head of a message, or its trailers.
#[derive(Clone, Debug, Default)]
pub struct Head {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    /// Requests: the method.
    pub method: Method,
    method_token: Span,
    /// Requests: the scheme (HTTP/1.1 in origin form: what the listener is).
    pub scheme: Scheme,
    authority: Span,
    path: Span,
    protocol: Span,
    /// Responses: the status, 100–999. 0 in requests and trailers.
    pub status: u16,
    /// The body's length where it was declared.
    pub content_length: Option<u64>,
}

impl Head {
    pub fn new() -> Head {
        Head::default()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
        self.method = Method::Get;
        self.method_token = Span::default();
        self.scheme = Scheme::Http;
        self.authority = Span::default();
        self.path = Span::default();
        self.protocol = Span::default();
        self.status = 0;
        self.content_length = None;
    }

    /// Octets of memory that it holds.
    pub fn footprint(&self) -> usize {
        self.arena.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Octets of what is in it. Its [`footprint`](Head::footprint) is at most twice that, or what it kept from before.
    pub fn size(&self) -> usize {
        self.arena.len() + self.entries.len() * size_of::<Entry>()
    }

    /// Makes it a response with this status and no fields.
    pub fn reset_to_status(&mut self, status: u16) {
        self.clear();
        self.status = status;
    }

    fn put(&mut self, bytes: &[u8]) -> Span {
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(bytes);
        Span { start, len: bytes.len() as u32 }
    }

    fn at(&self, span: Span) -> &[u8] {
        &self.arena[span.start as usize..(span.start + span.len) as usize]
    }

    /// The method's token (`GET`).
    pub fn method_bytes(&self) -> &[u8] {
        self.method.as_bytes().unwrap_or_else(|| self.at(self.method_token))
    }

    /// Sets the method from its token.
    pub fn set_method(&mut self, token: &[u8]) {
        self.method = Method::from_bytes(token);
        if self.method == Method::Other {
            self.method_token = self.put(token);
        }
    }

    /// The authority (`name.steady.page:8443`); empty when the request has none.
    pub fn authority(&self) -> &[u8] {
        self.at(self.authority)
    }

    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority = self.put(authority);
    }

    /// Path and query (`/a?b`), `*` for OPTIONS; empty for a plain CONNECT.
    pub fn path(&self) -> &[u8] {
        self.at(self.path)
    }

    pub fn set_path(&mut self, path: &[u8]) {
        self.path = self.put(path);
    }

    /// The protocol of an extended CONNECT (`websocket`); empty otherwise.
    pub fn protocol(&self) -> &[u8] {
        self.at(self.protocol)
    }

    pub fn set_protocol(&mut self, protocol: &[u8]) {
        self.protocol = self.put(protocol);
    }

    /// Whether this request asks for a tunnel (CONNECT, plain or extended).
    pub fn is_connect(&self) -> bool {
        self.method == Method::Connect
    }

    /// The fields in the order they came.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = Field<'_>> {
        self.entries.iter().map(|entry| {
            let name = if entry.id == Name::Other { self.at(entry.name) } else { entry.id.as_bytes() };
            Field { id: entry.id, name, value: self.at(entry.value), never_indexed: entry.never_indexed }
        })
    }

    /// How many fields there are.
    pub fn field_count(&self) -> usize {
        self.entries.len()
    }

    /// The first field of this well-known name.
    pub fn get(&self, id: Name) -> Option<&[u8]> {
        debug_assert_ne!(id, Name::Other);
        self.entries.iter().find(|entry| entry.id == id).map(|entry| self.at(entry.value))
    }

    /// Every field of this well-known name.
    pub fn all(&self, id: Name) -> impl Iterator<Item = &[u8]> {
        self.entries.iter().filter(move |entry| entry.id == id).map(|entry| self.at(entry.value))
    }

    /// The first field of this name, given in lower case.
    pub fn get_named(&self, name: &[u8]) -> Option<&[u8]> {
        match Name::from_bytes(name) {
            Name::Other => self.entries.iter().find(|entry| self.at(entry.name) == name).map(|e| self.at(e.value)),
            id => self.get(id),
        }
    }

    /// Appends a field. `name` must be lower case.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        debug_assert!(!name.iter().any(u8::is_ascii_uppercase));
        let id = Name::from_bytes(name);
        let name = self.put(name);
        let value = self.put(value);
        self.entries.push(Entry { id, never_indexed: false, name, value });
    }

    /// Appends a field of a well-known name.
    pub fn push_known(&mut self, id: Name, value: &[u8]) {
        debug_assert_ne!(id, Name::Other);
        let value = self.put(value);
        self.entries.push(Entry { id, never_indexed: false, name: Span::default(), value });
    }

    /// Appends a field whose name is lower-cased on the way in.
    pub fn push_lowercasing(&mut self, name: &[u8], value: &[u8]) {
        let id = Name::from_any_case(name);
        // A well-known name is in its number.
        let name = self.put(if id == Name::Other { name } else { b"" });
        self.arena[name.start as usize..].make_ascii_lowercase();
        let value = self.put(value);
        self.entries.push(Entry { id, never_indexed: false, name, value });
    }

    /// Like [`push_lowercasing`](Head::push_lowercasing), and says which name it was: for a parser that takes some fields
    /// away again with [`pop`](Head::pop).
    pub(crate) fn push_parsed(&mut self, name: &[u8], value: &[u8]) -> Name {
        self.push_lowercasing(name, value);
        self.entries.last().map_or(Name::Other, |entry| entry.id)
    }

    /// Takes away the field that was pushed last, its octets too.
    pub(crate) fn pop(&mut self) {
        if let Some(entry) = self.entries.pop() {
            self.arena.truncate(entry.name.start as usize);
        }
    }

    /// Sets the path to `/` and what follows it: an absolute-form target that has a query but no path.
    pub(crate) fn set_path_below_root(&mut self, rest: &[u8]) {
        self.path = self.put(b"/");
        self.arena.extend_from_slice(rest);
        self.path.len += rest.len() as u32;
    }

    /// Keeps only the fields that `keep` says yes to.
    pub fn retain(&mut self, mut keep: impl FnMut(Field<'_>) -> bool) {
        let arena = &self.arena;
        let slice = |span: Span| &arena[span.start as usize..(span.start + span.len) as usize];
        self.entries.retain(|entry| {
            let name = if entry.id == Name::Other { slice(entry.name) } else { entry.id.as_bytes() };
            keep(Field { id: entry.id, name, value: slice(entry.value), never_indexed: entry.never_indexed })
        });
    }

    /// Removes every field of this well-known name.
    pub fn remove(&mut self, id: Name) {
        debug_assert_ne!(id, Name::Other);
        self.entries.retain(|entry| entry.id != id);
    }

    /// Replaces every field of this well-known name by one.
    pub fn set(&mut self, id: Name, value: &[u8]) {
        self.remove(id);
        self.push_known(id, value);
    }
}

impl Method {
    /// The token, unless it is [`Method::Other`].
    pub const fn as_bytes(self) -> Option<&'static [u8]> {
        Some(match self {
            Method::Get => b"GET",
            Method::Head => b"HEAD",
            Method::Post => b"POST",
            Method::Put => b"PUT",
            Method::Delete => b"DELETE",
            Method::Options => b"OPTIONS",
            Method::Patch => b"PATCH",
            Method::Trace => b"TRACE",
            Method::Connect => b"CONNECT",
            Method::Other => return None,
        })
    }

    /// Methods are case-sensitive (RFC 9110 §9.1).
    pub const fn from_bytes(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"TRACE" => Method::Trace,
            b"CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }
}

impl Scheme {
    pub const fn as_bytes(self) -> &'static [u8] {
        match self {
            Scheme::Http => b"http",
            Scheme::Https => b"https",
        }
    }
}

/// A `Content-Length` (RFC 9110 §8.6): digits, and no more than a signed number of 64 bits holds, which is what most software counts
/// octets with; both versions take the same ones, as what one takes the other is told. No sign, no white space; a list of equal
/// lengths, which a recipient may accept, is none.
pub(crate) fn parse_length(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let length = text.iter().try_fold(0u64, |length, octet| {
        let digit = octet.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        length.checked_mul(10)?.checked_add(digit.into())
    })?;
    (length <= i64::MAX as u64).then_some(length)
}

/// Whether a tunnel of this protocol (`NAME` or `NAME/VERSION`) is carried through: none of another HTTP, nor of TLS inside the
/// connection. Whoever is granted one speaks past everything that is between.
pub(crate) fn is_carried(protocol: &[u8]) -> bool {
    let name = protocol.split(|&octet| octet == b'/').next().unwrap_or_default();
    ![&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|other| name.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cleared_head_keeps_its_memory_and_none_of_its_contents() {
        let mut head = Head::new();
        head.set_method(b"BREW");
        head.set_authority(b"a.steady.page");
        head.set_path(b"/pot");
        head.push_lowercasing(b"X-Milk", b"yes");
        head.push_known(Name::Accept, b"*/*");
        assert_eq!(head.method_bytes(), b"BREW");
        assert_eq!(head.get_named(b"x-milk"), Some(&b"yes"[..]));
        assert_eq!(head.get(Name::Accept), Some(&b"*/*"[..]));
        let footprint = head.footprint();
        head.clear();
        assert_eq!(head.footprint(), footprint);
        assert_eq!((head.field_count(), head.authority(), head.path()), (0, &b""[..], &b""[..]));
        assert_eq!(head.method_bytes(), b"GET");
    }

    #[test]
    fn fields_keep_their_order_when_some_are_removed() {
        let mut head = Head::new();
        for (name, value) in [("a", "1"), ("cookie", "2"), ("b", "3"), ("cookie", "4")] {
            head.push(name.as_bytes(), value.as_bytes());
        }
        head.remove(Name::Cookie);
        let left: Vec<_> = head.fields().map(|field| field.value.to_vec()).collect();
        assert_eq!(left, [b"1".to_vec(), b"3".to_vec()]);
    }
}
