//! One pair, `NAME.crt` and `NAME.key`: how it is read, and what can be wrong with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use steady_proxy::tls;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A chain is a few KiB; answers to a wrong file in the directory.
pub(super) const FILE_OCTETS_MAX: u64 = 256 * 1024;

/// From when on the end of a certificate is complained about; of one that lives for days only, from the last part of its life on.
const SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const SOON_PART: u32 = 4;

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
    #[error("{0}: it has expired, and clients refuse it; renew it, or take it away")]
    Expired(PathBuf),
    #[error("{0} pairs are left out: tls.pairs_max is {1}")]
    TooMany(usize, usize),
}

/// One usable pair.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub certified: Arc<CertifiedKey>,
    /// Lower case; `*.steady.page` for a wildcard.
    pub names: Vec<String>,
    pub expires: SystemTime,
    /// For how long before its end it is complained about.
    soon: Duration,
}

impl Pair {
    /// What is left of it, nothing when it is over; `None` while that is no reason to complain.
    pub fn left(&self, now: SystemTime) -> Option<Duration> {
        let left = self.expires.duration_since(now).unwrap_or_default();
        (left < self.soon).then_some(left)
    }

    /// `host` in lower case. A wildcard stands for exactly one label (RFC 9525 section 6.3).
    pub fn is_valid_for(&self, host: &str) -> bool {
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty()).map(|(_, parent)| parent);
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(suffix) => parent == Some(suffix),
            None => name == host,
        })
    }
}

pub(super) fn paths(dir: &Path, name: &str) -> [PathBuf; 2] {
    ["crt", "key"].map(|extension| dir.join(format!("{name}.{extension}")))
}

/// Reads the pair of that name.
pub(super) fn load(dir: &Path, name: &str) -> Result<Pair, CertError> {
    let [chain_path, key_path] = paths(dir, name);
    let pem = read(&chain_path)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| CertError::Pem(chain_path.clone(), error))?;
    let (names, [begins, expires]) = check_chain(&chain_path, &chain)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&key_path)?);
    let key = key.map_err(|error| CertError::Pem(key_path.clone(), error))?;
    let certified = CertifiedKey::from_der(chain, key, &tls::provider());
    let certified = certified.map_err(|error| CertError::Key(key_path.clone(), error))?;
    let lifetime = expires.duration_since(begins).unwrap_or_default();
    Ok(Pair { certified: Arc::new(certified), names, expires, soon: SOON.min(lifetime / SOON_PART) })
}

fn read(path: &Path) -> Result<Vec<u8>, CertError> {
    let io = |error| CertError::Io(path.to_owned(), error);
    if fs::metadata(path).map_err(io)?.len() > FILE_OCTETS_MAX {
        return Err(CertError::TooLarge(path.to_owned()));
    }
    fs::read(path).map_err(io)
}

/// The names of the first certificate, its begin and its end, once the chain is found in order.
fn check_chain(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(Vec<String>, [SystemTime; 2]), CertError> {
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
    let instant = |seconds| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = own.validity();
    Ok((names, [validity.not_before.timestamp(), validity.not_after.timestamp()].map(instant)))
}
