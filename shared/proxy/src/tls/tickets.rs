//! The keys that session tickets are sealed with (RFC 5077, RFC 8446 section 4.6.1).
//!
//! A ticket is the whole session, sealed with AES-256-GCM under the current key, so that no worker keeps sessions and any of
//! them can resume one. A ring of two keys, the current and the previous, is shared by all workers without a lock, kept in a
//! file so that a restart does not throw every client back to a full handshake, and turned every [`PERIOD`].
//!
//! A ticket: 16 octets key name, 12 octets nonce (random: 2^32 tickets a key keep collisions below 2^-32, which is 100,000 a
//! second for a whole period), the sealed session, 16 octets tag. The name is authenticated too.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

/// How long a key seals new tickets. It opens them for as long again, so that every ticket lives at least this long.
pub const PERIOD: Duration = Duration::from_secs(12 * 60 * 60);

/// The current key and the previous one.
const KEYS_MAX: usize = 2;
const NAME: usize = 16;
const NONCE: usize = 12;
const TAG: usize = 16;
/// A TLS 1.2 session with a client's certificate chain is the largest; ours hold none and take about 150 octets.
const TICKET_OCTETS_MAX: usize = 16 * 1024;
const FILE_HEADER: &str = "steady ticket keys, version 1";

/// The ring of keys. Cheap to share: one for all configurations and workers of a process.
pub struct TicketKeys {
    ring: ArcSwap<Vec<Key>>,
    /// Where the ring is kept, and the lock of whoever turns it.
    file: Mutex<Option<PathBuf>>,
}

/// What [`TicketKeys::rotate`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// The current key is young enough; ask again after this long.
    NotDue(Duration),
    Rotated,
}

#[derive(Clone)]
struct Key {
    name: [u8; NAME],
    secret: [u8; 32],
    created: SystemTime,
    aead: Arc<RandomizedNonceKey>,
}

impl TicketKeys {
    /// Reads the ring from `path`, or makes one and writes it there (mode 0600). Keys that are too old are left out; a file
    /// that is damaged, or that others can read, is replaced, which only costs the clients a full handshake.
    pub fn open(path: &Path, now: SystemTime) -> io::Result<TicketKeys> {
        let mut ring = match read(path) {
            Ok(ring) => ring,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "ticket keys cannot be used; new ones are made");
                Vec::new()
            }
        };
        // Newest first.
        ring.retain(|key| key.is_of_use(now));
        ring.sort_by_key(|key| std::cmp::Reverse(key.created));
        ring.truncate(KEYS_MAX);
        let keys = TicketKeys { ring: ArcSwap::from_pointee(ring), file: Mutex::new(Some(path.to_owned())) };
        keys.rotate(now)?;
        Ok(keys)
    }

    /// A ring that ends with the process.
    pub fn in_memory(now: SystemTime) -> io::Result<TicketKeys> {
        let keys = TicketKeys { ring: ArcSwap::from_pointee(Vec::new()), file: Mutex::new(None) };
        keys.rotate(now)?;
        Ok(keys)
    }

    /// The ring as text, for a process that takes over from this one: tickets of either are good at both. It is a secret.
    pub fn to_text(&self) -> String {
        text_of(&self.ring.load())
    }

    /// Adds the keys of another process, given as [`to_text`](Self::to_text) wrote them.
    ///
    /// # Errors
    /// The text is no ring; nothing has changed.
    pub fn adopt(&self, text: &str, now: SystemTime) -> io::Result<()> {
        let given = parse(text)?;
        let _turning = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ring: Vec<Key> = self.ring.load().iter().cloned().collect();
        let new = given.into_iter().filter(|key| key.is_of_use(now) && ring.iter().all(|own| own.name != key.name));
        let new: Vec<Key> = new.collect();
        ring.extend(new);
        ring.sort_by_key(|key| std::cmp::Reverse(key.created));
        ring.truncate(KEYS_MAX);
        self.ring.store(Arc::new(ring));
        Ok(())
    }

    /// Makes a new current key when it is time, and writes the ring. When that fails the new key is used all the same
    /// (a key must not outlive its period because a disk is full), but does not survive a restart.
    ///
    /// For the control side: it takes a lock and syncs a file.
    pub fn rotate(&self, now: SystemTime) -> io::Result<Rotation> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = self.ring.load_full();
        if let Some(current) = ring.first()
            && current.age(now) < PERIOD
            && current.is_of_use(now)
        {
            return Ok(Rotation::NotDue(PERIOD - current.age(now)));
        }
        let mut next = vec![Key::generate(now)?];
        next.extend(ring.iter().filter(|key| key.is_of_use(now)).take(KEYS_MAX - 1).cloned());
        let written = file.as_deref().map_or(Ok(()), |path| write(path, &next));
        self.ring.store(Arc::new(next));
        written.map(|()| Rotation::Rotated)
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let ring = self.ring.load();
        let key = ring.first()?;
        let mut ticket = vec![0; NAME + NONCE + plain.len() + TAG];
        let (head, sealed) = ticket.split_at_mut(NAME + NONCE);
        let (body, tag_room) = sealed.split_at_mut(plain.len());
        body.copy_from_slice(plain);
        let (nonce, tag) = key.aead.seal_in_place_separate_tag(Aad::from(key.name), body).ok()?;
        tag_room.copy_from_slice(tag.as_ref());
        head[..NAME].copy_from_slice(&key.name);
        head[NAME..].copy_from_slice(nonce.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_OCTETS_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        let ring = self.ring.load();
        let key = ring.iter().find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        let length = key.aead.open_in_place(Nonce::from(nonce), Aad::from(*name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl std::fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TicketKeys").field("keys", &self.ring.load().len()).finish_non_exhaustive()
    }
}

impl Key {
    fn generate(created: SystemTime) -> io::Result<Key> {
        let mut random = [0; NAME + 32];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random numbers to be had"))?;
        Key::new(&random[..NAME], &random[NAME..], created).ok_or_else(|| io::Error::other("unusable key"))
    }

    fn new(name: &[u8], secret: &[u8], created: SystemTime) -> Option<Key> {
        Some(Key {
            name: name.try_into().ok()?,
            secret: secret.try_into().ok()?,
            created,
            aead: Arc::new(RandomizedNonceKey::new(&AES_256_GCM, secret).ok()?),
        })
    }

    /// A key from the future was written under another clock and would never be turned.
    fn is_of_use(&self, now: SystemTime) -> bool {
        self.age(now) < 2 * PERIOD && self.created <= now + PERIOD
    }

    /// A clock that was set back makes it younger, never older.
    fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.created).unwrap_or_default()
    }
}

fn read(path: &Path) -> io::Result<Vec<Key>> {
    let exposed = fs::metadata(path)?.permissions().mode() & 0o077;
    if exposed != 0 {
        return Err(io::Error::other("others than the owner may read or write the file"));
    }
    parse(&fs::read_to_string(path)?)
}

fn parse(text: &str) -> io::Result<Vec<Key>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file is damaged");
    let mut lines = text.lines();
    if lines.next() != Some(FILE_HEADER) {
        return Err(damaged());
    }
    let key = |line: &str| {
        let mut words = line.split(' ');
        let (name, secret) = (unhex(words.next()?)?, unhex(words.next()?)?);
        let created = UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
        Key::new(&name, &secret, created).filter(|_| words.next().is_none())
    };
    lines.map(|line| key(line).ok_or_else(damaged)).collect()
}

/// One key a line after the header: name, secret (both hexadecimal), seconds since 1970.
fn text_of(ring: &[Key]) -> String {
    let mut text = format!("{FILE_HEADER}\n");
    for key in ring {
        let created = key.created.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        text.push_str(&format!("{} {} {created}\n", hex(&key.name), hex(&key.secret)));
    }
    text
}

/// Written aside, synced, renamed: a crash leaves the old file or the new one.
fn write(path: &Path, ring: &[Key]) -> io::Result<()> {
    let text = text_of(ring);
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.new", std::process::id()));
    let written = (|| {
        // A leftover's mode would stay.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&aside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + hours * 3600)
    }

    #[test]
    fn a_ticket_opens_under_the_current_and_the_previous_key_and_no_longer() {
        let keys = TicketKeys::in_memory(at(0)).unwrap();
        let ticket = keys.encrypt(b"a session").unwrap();
        assert_eq!(keys.rotate(at(11)).unwrap(), Rotation::NotDue(Duration::from_secs(3600)));
        assert_eq!(keys.rotate(at(12)).unwrap(), Rotation::Rotated);
        assert_eq!(keys.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(keys.rotate(at(24)).unwrap(), Rotation::Rotated);
        assert_eq!(keys.decrypt(&ticket), None);
    }

    #[test]
    fn a_clock_that_is_set_back_a_little_keeps_the_keys_and_far_back_has_them_turned() {
        let keys = TicketKeys::in_memory(at(100)).unwrap();
        let ticket = keys.encrypt(b"a session").unwrap();
        assert!(matches!(keys.rotate(at(99)), Ok(Rotation::NotDue(_))), "an hour makes no key older");
        assert_eq!(keys.decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        // A key of a time that will not be for long would seal until then.
        assert_eq!(keys.rotate(at(2)).unwrap(), Rotation::Rotated);
        let sealed = keys.encrypt(b"another").unwrap();
        assert!(matches!(keys.rotate(at(13)), Ok(Rotation::NotDue(_))));
        assert_eq!(keys.rotate(at(14)).unwrap(), Rotation::Rotated);
        assert_eq!(keys.decrypt(&sealed).as_deref(), Some(&b"another"[..]));
        assert_eq!(keys.decrypt(&ticket), None, "the key from the future is gone");
    }

    #[test]
    fn a_ticket_survives_a_restart_and_the_file_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket-keys");
        let ticket = TicketKeys::open(&path, at(0)).unwrap().encrypt(b"a session").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(TicketKeys::open(&path, at(1)).unwrap().decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(TicketKeys::open(&path, at(13)).unwrap().decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(TicketKeys::open(&path, at(25)).unwrap().decrypt(&ticket), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn tickets_of_a_process_and_of_the_one_that_took_over_from_it_open_at_both() {
        let (old, new) = (TicketKeys::in_memory(at(0)).unwrap(), TicketKeys::in_memory(at(1)).unwrap());
        let of_old = old.encrypt(b"a session").unwrap();
        new.adopt(&old.to_text(), at(1)).unwrap();
        new.adopt(&old.to_text(), at(1)).unwrap();
        assert_eq!(new.decrypt(&of_old).as_deref(), Some(&b"a session"[..]));
        assert_eq!(new.ring.load().len(), 2);
        new.adopt("nonsense", at(1)).unwrap_err();
        // With the same file they are the same keys, so the new one's tickets open at the old one too.
        let dir = tempfile::tempdir().unwrap();
        let old = TicketKeys::open(&dir.path().join("keys"), at(0)).unwrap();
        let new = TicketKeys::open(&dir.path().join("keys"), at(1)).unwrap();
        new.adopt(&old.to_text(), at(1)).unwrap();
        assert_eq!(old.decrypt(&new.encrypt(b"another").unwrap()).as_deref(), Some(&b"another"[..]));
    }

    #[test]
    fn keys_that_are_damaged_or_were_exposed_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket-keys");
        let ticket = TicketKeys::open(&path, at(0)).unwrap().encrypt(b"a session").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(TicketKeys::open(&path, at(1)).unwrap().decrypt(&ticket), None);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let ticket = TicketKeys::open(&path, at(1)).unwrap().encrypt(b"a session").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert_eq!(TicketKeys::open(&path, at(1)).unwrap().decrypt(&ticket), None);
    }

    #[test]
    fn a_ticket_that_was_tampered_with_or_cut_does_not_open() {
        let keys = TicketKeys::in_memory(at(0)).unwrap();
        let ticket = keys.encrypt(b"a session").unwrap();
        for index in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[index] ^= 1;
            assert_eq!(keys.decrypt(&changed), None, "octet {index}");
            assert_eq!(keys.decrypt(&ticket[..index]), None, "cut at {index}");
        }
        assert_eq!(keys.decrypt(&vec![0; TICKET_OCTETS_MAX + 1]), None);
    }
}
