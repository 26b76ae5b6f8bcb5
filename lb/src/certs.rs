//! Certificates from a directory: pairs `NAME.crt` and `NAME.key` (PEM), chosen by the name that a client asks for, replaced
//! on change without a restart.
//!
//! A [`CertSet`] is immutable and is what handshakes see; a [`CertDir`] makes the next one whenever the directory differs
//! from what it last read. A pair that cannot be used never takes the place of one that can: the old one stays, loudly.
//! Changes are found by looking at the files' identity and change time, once a second: that works on every file system and
//! through the symbolic links that certificate tools like to swing, and a look costs two `stat` a pair.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureAlgorithm};
use steady_proxy::tls::{self, TicketKeys};
use tokio::sync::{Notify, watch};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// How often the directory is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A chain is a few KiB; answers to a wrong file in the directory.
const FILE_OCTETS_MAX: u64 = 256 * 1024;

/// Pairs in one directory. Each costs two `stat` a second.
const PAIRS_MAX: usize = 10_000;

/// From when on the end of a certificate is complained about.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Why a pair cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    #[error("{0} is larger than {FILE_OCTETS_MAX} octets: not a certificate or key")]
    TooLarge(PathBuf),
    #[error("{0}: no usable PEM: {1}")]
    Pem(PathBuf, rustls::pki_types::pem::Error),
    #[error("{0} holds no certificate (expected \"BEGIN CERTIFICATE\")")]
    NoCertificate(PathBuf),
    #[error("{path}: certificate {number} of the chain cannot be read: {reason}")]
    Certificate { path: PathBuf, number: usize, reason: String },
    #[error("{0}: the first certificate is an authority's; the server's own must come first, then its issuers")]
    AuthorityFirst(PathBuf),
    #[error(
        "{path}: certificate {number} did not issue the one before it; order the chain from the server's own upwards"
    )]
    ChainOrder { path: PathBuf, number: usize },
    #[error("{0}: the certificate names no host (subjectAltName DNS)")]
    NoNames(PathBuf),
    #[error("{0}: the key does not belong to the certificate beside it, or is of no supported kind: {1}")]
    Key(PathBuf, rustls::Error),
}

/// One usable pair.
#[derive(Clone, Debug)]
struct Pair {
    certified: Arc<CertifiedKey>,
    /// Lower case; `*.steady.page` for a wildcard.
    names: Vec<String>,
    expires: SystemTime,
}

impl Pair {
    /// `host` in lower case. A wildcard stands for exactly one label (RFC 9525 section 6.3).
    fn is_valid_for(&self, host: &str) -> bool {
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => parent == Some(suffix),
            None => name == host,
        })
    }
}

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

    /// File name and end of each certificate, for a metric.
    pub fn expiries(&self) -> impl Iterator<Item = (&str, SystemTime)> {
        self.pairs.iter().map(|(name, pair)| (name.as_str(), pair.expires))
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
    set: Arc<CertSet>,
    /// The directory could not be read last time; said once.
    unreadable: bool,
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
        // Later an unreadable directory keeps what was read; at the start it is a mistake of whoever configured it.
        fs::read_dir(dir)?;
        let mut certs =
            CertDir { dir: dir.to_owned(), entries: BTreeMap::new(), set: Arc::default(), unreadable: false };
        certs.look(Look::Now, now);
        Ok(certs)
    }

    /// The pairs in use.
    pub fn set(&self) -> Arc<CertSet> {
        self.set.clone()
    }

    /// Checks every pair without using any: for `--check`. Empty when all is well.
    pub fn check(dir: &Path) -> io::Result<Vec<(String, CertError)>> {
        let mut errors = Vec::new();
        for name in pair_names(dir)? {
            if let Err(error) = load(dir, &name) {
                errors.push((name, error));
            }
        }
        Ok(errors)
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
}

impl Entry {
    fn read_pair(&mut self, dir: &Path, name: &str, now: SystemTime) -> bool {
        match load(dir, name) {
            Ok(pair) => {
                match pair.expires.duration_since(now) {
                    Err(_) => tracing::warn!(certificate = %name, "certificate has expired; clients will refuse it"),
                    Ok(left) if left < EXPIRES_SOON => {
                        tracing::warn!(certificate = %name, hours = left.as_secs() / 3600, "certificate expires soon");
                    }
                    Ok(_) => {}
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
    if names.len() > PAIRS_MAX {
        return Err(io::Error::other(format!("more than {PAIRS_MAX} certificates")));
    }
    Ok(names)
}

fn paths(dir: &Path, name: &str) -> [PathBuf; 2] {
    ["crt", "key"].map(|extension| dir.join(format!("{name}.{extension}")))
}

fn identify(dir: &Path, name: &str) -> Identity {
    let identity = |meta: Metadata| (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec());
    paths(dir, name).map(|path| fs::metadata(path).ok().map(identity))
}

fn load(dir: &Path, name: &str) -> Result<Pair, CertError> {
    let [chain_path, key_path] = paths(dir, name);
    let pem = read(&chain_path)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| CertError::Pem(chain_path.clone(), error))?;
    let (names, expires) = check_chain(&chain_path, &chain)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?);
    let key = key.map_err(|error| CertError::Pem(key_path.clone(), error))?;
    let certified = CertifiedKey::from_der(chain, key, &tls::provider());
    let certified = certified.map_err(|error| CertError::Key(key_path.clone(), error))?;
    Ok(Pair { certified: Arc::new(certified), names, expires })
}

fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    let io = |error| CertError::Io(path.to_owned(), error);
    if fs::metadata(path).map_err(io)?.len() > FILE_OCTETS_MAX {
        return Err(CertError::TooLarge(path.to_owned()));
    }
    fs::read(path).map_err(io)
}

/// The names and the end of the first certificate, once the chain is found in order.
fn check_chain(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(Vec<String>, SystemTime), CertError> {
    let mut parsed: Vec<X509Certificate<'_>> = Vec::new();
    for (at, der) in chain.iter().enumerate() {
        let number = at + 1;
        let unreadable = |reason: String| CertError::Certificate { path: path.to_owned(), number, reason };
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        if parsed.last().is_some_and(|below| below.issuer().as_raw() != certificate.subject().as_raw()) {
            return Err(CertError::ChainOrder { path: path.to_owned(), number });
        }
        parsed.push(certificate);
    }
    let own = parsed.first().ok_or_else(|| CertError::NoCertificate(path.to_owned()))?;
    // One that signed itself is its own authority, which is fine where it is meant (tests, private networks).
    if own.is_ca() && own.subject().as_raw() != own.issuer().as_raw() || own.is_ca() && chain.len() > 1 {
        return Err(CertError::AuthorityFirst(path.to_owned()));
    }
    let san = own.subject_alternative_name();
    let san =
        san.map_err(|error| CertError::Certificate { path: path.to_owned(), number: 1, reason: error.to_string() })?;
    let names: Vec<String> = san
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return Err(CertError::NoNames(path.to_owned()));
    }
    let expires = u64::try_from(own.validity().not_after.timestamp()).unwrap_or(0);
    Ok((names, UNIX_EPOCH + Duration::from_secs(expires)))
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
/// is notified. Turns the ticket keys on the way. Call it on a tokio runtime.
pub fn watch(
    dir: &Path,
    tickets: Option<Arc<TicketKeys>>,
    alpn: &'static [&'static [u8]],
    reload: Arc<Notify>,
) -> Result<watch::Receiver<Certs>, WatchError> {
    let mut certs = CertDir::open(dir, SystemTime::now()).map_err(|error| WatchError::Dir(dir.to_owned(), error))?;
    if certs.set.is_empty() {
        let dir = dir.display();
        tracing::warn!(%dir, "no usable certificate (pairs NAME.crt and NAME.key); TLS is refused until there is one");
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
