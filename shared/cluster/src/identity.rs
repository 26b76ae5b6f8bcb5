//! One member's own: its key, its certificate, and whom it trusts. In one file, so that they never disagree.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use steady_proxy::tls::provider;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Member;
use crate::authority::write_private;

/// A key of which a certificate is asked for.
#[derive(Serialize, Deserialize)]
pub struct Request {
    key_pem: String,
    request_pem: String,
}

impl Request {
    /// A new key.
    pub fn new() -> Result<Request, IdentityError> {
        let failed = |error: rcgen::Error| IdentityError::Unusable(error.to_string());
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(failed)?;
        Ok(Request { key_pem: key.serialize_pem(), request_pem: request.pem().map_err(failed)? })
    }

    /// The one of this file, or a new one that is there from now on. A join token is spent on one request: who dies before it
    /// has the answer asks with the same again, and is not turned away by a use of its own.
    pub fn kept(path: &Path) -> Result<Request, IdentityError> {
        let known = read_private(path)?.and_then(|text| serde_json::from_slice(&text).ok());
        if let Some(request) = known {
            return Ok(request);
        }
        let request = Request::new()?;
        let text = serde_json::to_vec(&request).map_err(|error| IdentityError::Unusable(error.to_string()))?;
        write_private(path, &text).map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
        Ok(request)
    }

    /// What is sent to the authority.
    pub fn pem(&self) -> &str {
        &self.request_pem
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request(..)")
    }
}

/// See the module.
pub struct Identity {
    member: Member,
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    not_before: SystemTime,
    not_after: SystemTime,
    kept: Kept,
}

/// The file.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    key: String,
    certificate: String,
    trust: String,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} can be read by others (mode {mode:o}): remove it, revoke the host, and join anew", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
    #[error("the certificate is good from {from} to {until} (seconds since 1970) and not now: are the clocks right?")]
    WrongTime { from: u64, until: u64 },
}

impl Identity {
    /// A request's key with what the authority made of it: the chain and the certificates to trust, as PEM.
    ///
    /// # Errors
    /// When they do not belong together, or the certificate is not good now.
    pub fn new(request: &Request, certificate: &str, trust: &str, now: SystemTime) -> Result<Identity, IdentityError> {
        let kept = Kept { key: request.key_pem.clone(), certificate: certificate.to_owned(), trust: trust.to_owned() };
        let identity = Identity::of(kept)?;
        if now < identity.not_before || now >= identity.not_after {
            let (from, until) = (seconds(identity.not_before), seconds(identity.not_after));
            return Err(IdentityError::WrongTime { from, until });
        }
        Ok(identity)
    }

    fn of(kept: Kept) -> Result<Identity, IdentityError> {
        let unusable = |error: &dyn std::fmt::Display| IdentityError::Unusable(error.to_string());
        let chain = certificates(&kept.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(kept.key.as_bytes()).map_err(|error| unusable(&error))?;
        let own = chain.first().ok_or_else(|| unusable(&"there is none"))?;
        let member = Member::of(own).ok_or_else(|| unusable(&"it names no member of a cluster"))?;
        let (_, parsed) = X509Certificate::from_der(own).map_err(|error| unusable(&error))?;
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let validity = parsed.validity();
        let (not_before, not_after) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&kept.trust)? {
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
        if roots.is_empty() {
            return Err(unusable(&"no authority came with it"));
        }
        let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| unusable(&error))?;
        Ok(Identity { member, certified: Arc::new(certified), roots: Arc::new(roots), not_before, not_after, kept })
    }

    /// The one of a file; `None`: there is no file.
    pub fn load(path: &Path) -> Result<Option<Identity>, IdentityError> {
        let Some(text) = read_private(path)? else { return Ok(None) };
        let kept = serde_json::from_slice(&text)
            .map_err(|error| IdentityError::Unusable(format!("{}: {error}", path.display())))?;
        Identity::of(kept).map(Some)
    }

    /// Keeps it in a file that only its owner reads.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let text = serde_json::to_vec(&self.kept).map_err(|error| IdentityError::Unusable(error.to_string()))?;
        write_private(path, &text).map_err(|source| IdentityError::Io { path: path.to_owned(), source })
    }

    pub fn member(&self) -> &Member {
        &self.member
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// A third of its life has passed, or the clock says something that cannot be: ask for another. Looked at often, never
    /// slept until: so a clock that jumps is survived.
    pub fn is_due(&self, now: SystemTime) -> bool {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        now < self.not_before || now >= self.not_before + life / 3
    }

    pub fn is_over(&self, now: SystemTime) -> bool {
        now >= self.not_after
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }

    /// Whether both trust the same authorities.
    pub fn trusts_as(&self, other: &Identity) -> bool {
        self.kept.trust == other.kept.trust
    }
}

/// Without the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("member", &self.member).field("not_after", &self.not_after).finish()
    }
}

/// A file that nobody else may read; `None`: there is none.
fn read_private(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    let failed = |source| IdentityError::Io { path: path.to_owned(), source };
    let mode = match fs::metadata(path) {
        Ok(meta) => meta.mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed { path: path.to_owned(), mode });
    }
    fs::read(path).map(Some).map_err(failed)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    read.map_err(|error| IdentityError::Unusable(error.to_string()))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
