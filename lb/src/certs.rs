//! Certificates from a directory: pairs `NAME.crt` and `NAME.key` (PEM), chosen by the name that a client asks for, replaced
//! on change without a restart.
//!
//! A [`CertSet`] is immutable and is what handshakes see; a [`CertDir`] makes the next one whenever the directory differs
//! from what it last read. A pair that cannot be used never takes the place of one that can: the old one stays, loudly.
//! Changes are found by looking at the files' identity and change time, once a second: that works on every file system and
//! through the symbolic links that certificate tools like to swing, and a look costs two `stat` a pair.

mod pair;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureAlgorithm};
use steady_proxy::tls::{self, TicketKeys};
use tokio::sync::{Notify, watch};

pub use pair::CertError;
use pair::{Pair, load, paths};

/// How often the directory is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pairs in one directory, unless `tls.pairs_max` says otherwise. Each costs two `stat` a second.
pub const PAIRS_MAX: usize = 10_000;

/// How often certificates that end soon, or have ended, are complained about.
const COMPLAIN_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// The certificates of one moment.
#[derive(Debug, Default)]
pub struct CertSet {
    /// By file name; the first is the default.
    pairs: Vec<(String, Pair)>,
    exact: HashMap<String, Candidates>,
    /// Under what follows `*.`.
    wildcard: HashMap<String, Candidates>,
}

/// Indices of pairs for one name, the preferred first: ECDSA (ten times cheaper to sign with than RSA), then the one that
/// lives longest.
type Candidates = Vec<usize>;

impl CertSet {
    fn new(pairs: Vec<(String, Pair)>) -> CertSet {
        let mut set = CertSet { pairs, ..CertSet::default() };
        let mut order: Vec<usize> = (0..set.pairs.len()).collect();
        order.sort_by_key(|&at| {
            let pair = &set.pairs[at].1;
            let slow = pair.certified.key.algorithm() != SignatureAlgorithm::ECDSA;
            (slow, std::cmp::Reverse(pair.expires))
        });
        for at in order {
            for name in &set.pairs[at].1.names {
                let (index, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut set.wildcard, parent),
                    None => (&mut set.exact, name.as_str()),
                };
                index.entry(name.to_owned()).or_default().push(at);
            }
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Some certificate is valid for `name` (any case, no port).
    pub fn serves(&self, name: &str) -> bool {
        !self.candidates(&lower(name)).is_empty()
    }

    /// The certificate that a client which asked for `server_name` was given is valid for `authority` too (any case, no
    /// port). If not, a request for it on that connection is 421 (RFC 9110 section 15.5.20).
    pub fn covers(&self, server_name: Option<&str>, authority: &str) -> bool {
        let authority = lower(authority);
        // Candidates for one name differ in their kind of key; which was chosen depended on the client, so all must do.
        let given = match server_name {
            Some(name) if name.eq_ignore_ascii_case(&authority) => return self.serves(name),
            Some(name) => self.candidates(&lower(name)),
            None if self.pairs.is_empty() => &[],
            None => &[0],
        };
        !given.is_empty() && given.iter().all(|&at| self.pairs[at].1.is_valid_for(&authority))
    }

    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// When the first of them ends.
    pub fn first_end(&self) -> Option<SystemTime> {
        self.pairs.iter().map(|(_, pair)| pair.expires).min()
    }

    /// Exact before wildcard.
    fn candidates(&self, name: &str) -> &[usize] {
        let wildcard = || name.split_once('.').filter(|(label, _)| !label.is_empty());
        self.exact
            .get(name)
            .or_else(|| wildcard().and_then(|(_, parent)| self.wildcard.get(parent)))
            .map_or(&[], Vec::as_slice)
    }
}

fn lower(name: &str) -> std::borrow::Cow<'_, str> {
    if name.bytes().any(|octet| octet.is_ascii_uppercase()) { name.to_ascii_lowercase().into() } else { name.into() }
}

impl ResolvesServerCert for CertSet {
    /// A client that names nothing gets the first certificate by file name; one that names what is not served, none.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = hello.server_name() else {
            return self.pairs.first().map(|(_, pair)| pair.certified.clone());
        };
        let candidates = self.candidates(&lower(name)).iter().map(|&at| &self.pairs[at].1.certified);
        let mut usable = candidates.filter(|pair| pair.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.next().cloned()
    }
}

/// The directory, and what was last read from it.
#[derive(Debug)]
pub struct CertDir {
    dir: PathBuf,
    entries: BTreeMap<String, Entry>,
    pairs_max: usize,
    set: Arc<CertSet>,
    /// The directory could not be read last time; said once.
    unreadable: bool,
    /// There were more pairs than may be last time; said once.
    crowded: bool,
    /// When it was last looked for certificates that end soon.
    complained: SystemTime,
}

#[derive(Debug, Default)]
struct Entry {
    pair: Option<Pair>,
    /// What the files were when they were last read, well or not.
    read: Option<Identity>,
    /// What they were at the last look.
    seen: Option<Identity>,
    /// They were not there at the last look.
    missed: bool,
}

/// Tells one state of a pair's files from another.
type Identity = [Option<FileIdentity>; 2];
type FileIdentity = (u64, u64, i64, i64);

/// When to read what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// When it has been the same for two looks: whoever replaces a certificate and then its key is not caught between.
    Settled,
    /// At once: at the start, and when the operator says so.
    Now,
}

impl CertDir {
    /// Reads the directory for the first time. A pair that cannot be used is complained about and left out.
    pub fn open(dir: &Path, now: SystemTime) -> io::Result<CertDir> {
        CertDir::open_some(dir, PAIRS_MAX, now)
    }

    /// As [`CertDir::open`], with so many pairs at most.
    pub fn open_some(dir: &Path, pairs_max: usize, now: SystemTime) -> io::Result<CertDir> {
        // Later an unreadable directory keeps what was read; at the start it is a mistake of whoever configured it.
        fs::read_dir(dir)?;
        let mut certs = CertDir {
            dir: dir.to_owned(),
            entries: BTreeMap::new(),
            pairs_max,
            set: Arc::default(),
            unreadable: false,
            crowded: false,
            complained: now,
        };
        certs.look(Look::Now, now);
        Ok(certs)
    }

    /// The pairs in use.
    pub fn set(&self) -> Arc<CertSet> {
        self.set.clone()
    }

    /// Checks every pair without using any: for `--check`. What is wrong, and how many pairs could be used.
    pub fn check(dir: &Path, pairs_max: usize, now: SystemTime) -> io::Result<(Vec<CertError>, usize)> {
        let (mut errors, mut usable) = (Vec::new(), 0);
        let names = pair_names(dir)?;
        if names.len() > pairs_max {
            errors.push(CertError::TooMany(names.len() - pairs_max, pairs_max));
        }
        for name in names.iter().take(pairs_max) {
            match load(dir, name) {
                Ok(pair) if pair.expires <= now => errors.push(CertError::Expired(paths(dir, name)[0].clone())),
                Ok(_) => usable += 1,
                Err(error) => errors.push(error),
            }
        }
        Ok((errors, usable))
    }

    /// Looks for changes; `true` when there is a new set.
    pub fn look(&mut self, when: Look, now: SystemTime) -> bool {
        let names = match pair_names(&self.dir) {
            Ok(names) => names,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    let dir = self.dir.display();
                    tracing::error!(%dir, %error, "cannot read the certificate directory; the certificates in use stay");
                }
                return false;
            }
        };
        self.unreadable = false;
        let names = self.bounded(names);
        let mut changed = false;
        self.entries.retain(|name, entry| {
            let is_there = names.binary_search(name).is_ok();
            // One who replaces a file may take the old one away first.
            let stays = is_there || (when == Look::Settled && !std::mem::replace(&mut entry.missed, true));
            entry.missed &= !is_there;
            if !stays && entry.pair.is_some() {
                tracing::info!(certificate = %name, "certificate removed");
                changed = true;
            }
            stays
        });
        for name in names {
            let identity = identify(&self.dir, &name);
            let entry = self.entries.entry(name.clone()).or_default();
            let settled = entry.seen.replace(identity) == Some(identity) || when == Look::Now;
            if !settled || entry.read == Some(identity) {
                continue;
            }
            entry.read = Some(identity);
            changed |= entry.read_pair(&self.dir, &name, now);
        }
        if changed {
            let pairs = self.entries.iter().filter_map(|(name, entry)| Some((name.clone(), entry.pair.clone()?)));
            self.set = Arc::new(CertSet::new(pairs.collect()));
        }
        changed
    }

    /// The names of the pairs that may be. Those that are in use keep their places; of others the first have what is left.
    fn bounded(&mut self, mut names: Vec<String>) -> Vec<String> {
        let left_out = names.len().saturating_sub(self.pairs_max);
        let was_crowded = std::mem::replace(&mut self.crowded, left_out > 0);
        if left_out == 0 {
            return names;
        }
        let in_use = |name: &String| self.entries.get(name).is_some_and(|entry| entry.pair.is_some());
        names.sort_by_cached_key(|name| !in_use(name));
        names.truncate(self.pairs_max);
        names.sort_unstable();
        if !was_crowded {
            let (dir, pairs_max) = (self.dir.display(), self.pairs_max);
            tracing::error!(%dir, pairs_max, left_out, "more certificates than tls.pairs_max: what is over is left out");
        }
        names
    }

    /// Once a day: the certificates that have ended or end soon, and what is left of each.
    fn complaints(&mut self, now: SystemTime) -> Vec<(String, Duration)> {
        match now.duration_since(self.complained) {
            Ok(since) if since < COMPLAIN_EVERY => return Vec::new(),
            // A clock that was set back is no reason to wait for it.
            Ok(_) | Err(_) => self.complained = now,
        }
        let ending = self.set.pairs.iter().filter_map(|(name, pair)| Some((name.clone(), pair.left(now)?)));
        ending.collect()
    }
}

/// A certificate of which so much is left; zero: it has ended.
fn complain(name: &str, left: Duration) {
    if left.is_zero() {
        tracing::error!(certificate = %name, "certificate has expired; clients refuse it");
    } else {
        tracing::warn!(certificate = %name, hours = left.as_secs() / 3600, "certificate expires soon");
    }
}

impl Entry {
    fn read_pair(&mut self, dir: &Path, name: &str, now: SystemTime) -> bool {
        match load(dir, name) {
            Ok(pair) => {
                if let Some(left) = pair.left(now) {
                    complain(name, left);
                }
                tracing::info!(certificate = %name, names = ?pair.names, "certificate in use");
                self.pair = Some(pair);
                true
            }
            Err(error) if self.pair.is_some() => {
                tracing::error!(certificate = %name, %error, "the new certificate cannot be used; the old one stays");
                false
            }
            Err(error) => {
                tracing::error!(certificate = %name, %error, "certificate cannot be used");
                false
            }
        }
    }
}

/// The stems of all `*.crt`, sorted.
fn pair_names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let Ok(file) = entry?.file_name().into_string() else { continue };
        // A hidden file is one that is being written, or a link that is being swung.
        if let Some(name) = file.strip_suffix(".crt")
            && !name.is_empty()
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn identify(dir: &Path, name: &str) -> Identity {
    let identity = |meta: Metadata| (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
    paths(dir, name).map(|path| fs::metadata(path).ok().map(identity))
}

/// What handshakes run on: a set, and the configuration that resolves from it.
#[derive(Clone, Debug, Default)]
pub struct Certs {
    pub set: Arc<CertSet>,
    /// `None` while there is no usable certificate.
    pub config: Option<Arc<ServerConfig>>,
}

impl Certs {
    fn new(set: Arc<CertSet>, tickets: Option<&Arc<TicketKeys>>, alpn: &[&[u8]]) -> Result<Certs, rustls::Error> {
        if set.is_empty() {
            return Ok(Certs { set, config: None });
        }
        let tickets = tickets.map(|keys| keys.clone() as Arc<_>);
        let config = tls::server_config(set.clone(), tickets, alpn)?;
        Ok(Certs { set, config: Some(Arc::new(config)) })
    }
}

/// Why watching could not begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("cannot read the certificate directory {0}: {1}")]
    Dir(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Reads `dir`, and goes on to look at it until nobody receives any more: every [`LOOK_EVERY`], and at once when `reload`
/// is notified. Turns the ticket keys and complains about certificates that end on the way. Call it on a tokio runtime.
pub fn watch(
    dir: &Path,
    pairs_max: usize,
    tickets: Option<Arc<TicketKeys>>,
    alpn: &'static [&'static [u8]],
    reload: Arc<Notify>,
) -> Result<watch::Receiver<Certs>, WatchError> {
    let certs = CertDir::open_some(dir, pairs_max, SystemTime::now());
    let mut certs = certs.map_err(|error| WatchError::Dir(dir.to_owned(), error))?;
    if certs.set.is_empty() {
        let dir = dir.display();
        tracing::error!(%dir, "no usable certificate (pairs NAME.crt and NAME.key); TLS is refused until there is one");
    }
    let (sender, receiver) = watch::channel(Certs::new(certs.set(), tickets.as_ref(), alpn)?);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let when = tokio::select! {
                _ = ticks.tick() => Look::Settled,
                () = reload.notified() => Look::Now,
                () = sender.closed() => return,
            };
            let keys = tickets.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let now = SystemTime::now();
                if let Some(Err(error)) = keys.map(|keys| keys.rotate(now)) {
                    tracing::error!(%error, "new ticket keys could not be written; a restart will cost full handshakes");
                }
                let changed = certs.look(when, now);
                certs.complaints(now).iter().for_each(|(name, left)| complain(name, *left));
                (certs, changed)
            });
            let changed;
            match looked.await {
                Ok(done) => (certs, changed) = done,
                // The runtime is going down.
                Err(_) => return,
            }
            if changed {
                match Certs::new(certs.set(), tickets.as_ref(), alpn) {
                    Ok(next) => drop(sender.send_replace(next)),
                    Err(error) => tracing::error!(%error, "the new certificates cannot be used; the old ones stay"),
                }
            }
        }
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests;
