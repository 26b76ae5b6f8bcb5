//! Little-endian reads and writes that cannot panic: a read past the end is `None`.

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

/// Reads fields one after another; every method is `None` once the bytes run out.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        let value = u32_at(self.0, 0)?;
        self.0 = &self.0[4..];
        Some(value)
    }

    /// A text with its length before it in one byte.
    pub fn short_text(&mut self) -> Option<&'a str> {
        let len = self.u8()?;
        std::str::from_utf8(self.take(len.into())?).ok()
    }
}

/// Appends a text of at most 255 bytes with its length before it in one byte. The types of this crate keep every such text
/// within that.
pub(crate) fn put_short_text(out: &mut Vec<u8>, text: &str) {
    let len = u8::try_from(text.len()).expect("names and addresses are bounded by their types");
    out.push(len);
    out.extend_from_slice(text.as_bytes());
}
