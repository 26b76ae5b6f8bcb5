//! The cluster's authority: one key that signs the certificates of all members, on the edge, in a file that only its owner
//! reads.
//!
//! `ca.key` and `ca.pem` in a directory, made at first start. `ca.pem` may hold further certificates behind the first: they
//! are trusted too and sign nothing (another edge's authority, the one that this one replaced).

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::{Fingerprint, Member, fingerprint};

/// How long a member's certificate is good: what a stolen one is worth at most, and twenty days of an edge that is away
/// before anything fails, since renewal begins after a third.
pub const MEMBER_LIFE: Duration = Duration::from_secs(30 * DAY);
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * DAY);
/// Clocks of members that run behind ours are forgiven this much.
const BACKDATE: Duration = Duration::from_secs(3600);
const DAY: u64 = 24 * 60 * 60;
/// A request of a P-256 key is 400 octets of PEM.
pub const REQUEST_OCTETS_MAX: usize = 8 * 1024;
const SERIAL_OCTETS: usize = 16;

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    fingerprint: Fingerprint,
    trust_pem: String,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} can be read by others (mode {mode:o}): whoever has it can be any member; replace the authority, or chmod 600 it \
         if nobody else has used this machine", path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{}: {what}", path.display())]
    Unusable { path: PathBuf, what: String },
    #[error("this is no signing request of ours: {0}")]
    Request(String),
    #[error("the certificate cannot be made: {0}")]
    Issue(String),
}

impl Authority {
    /// Reads the authority of `dir`, or makes one that is good from `now` on.
    pub fn open(dir: &Path, now: SystemTime) -> Result<Authority, AuthorityError> {
        let (key_path, pem_path) = (dir.join("ca.key"), dir.join("ca.pem"));
        if !pem_path.exists() {
            // A key without its certificate is of a first start that did not end: it has signed nothing.
            make(dir, &key_path, &pem_path, now)?;
        }
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| AuthorityError::Io { path, source }
        };
        let mode = fs::metadata(&key_path).map_err(at(&key_path))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuthorityError::Exposed { path: key_path, mode });
        }
        let key_pem = fs::read_to_string(&key_path).map_err(at(&key_path))?;
        let trust_pem = fs::read_to_string(&pem_path).map_err(at(&pem_path))?;
        let unusable = |path: &Path, what: String| AuthorityError::Unusable { path: path.to_owned(), what };
        let certificates = CertificateDer::pem_slice_iter(trust_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| unusable(&pem_path, error.to_string()))?;
        let own = certificates.first().ok_or_else(|| unusable(&pem_path, "it holds no certificate".into()))?;
        let key = KeyPair::from_pem(&key_pem).map_err(|error| unusable(&key_path, error.to_string()))?;
        if !has_key(own, &key) {
            return Err(unusable(
                &key_path,
                format!("it is not the key of the first certificate in {}", pem_path.display()),
            ));
        }
        let fingerprint = fingerprint(own);
        let issuer = Issuer::from_ca_cert_der(own, key).map_err(|error| unusable(&pem_path, error.to_string()))?;
        Ok(Authority { issuer, fingerprint, trust_pem })
    }

    /// SHA-256 of the certificate that signs: what a join token pins.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificates that members are to trust, as PEM.
    pub fn trust(&self) -> &str {
        &self.trust_pem
    }

    /// A certificate for `member` and the key that signed `request` (PEM), with the authority's own behind it: PEM. Nothing of
    /// the request but its key is used.
    ///
    /// # Errors
    /// [`AuthorityError::Request`] when the request is not whole, its signature wrong or its key no P-256 one.
    pub fn issue(&self, request: &str, member: &Member, now: SystemTime) -> Result<String, AuthorityError> {
        if request.len() > REQUEST_OCTETS_MAX {
            return Err(AuthorityError::Request(format!("it has more than {REQUEST_OCTETS_MAX} octets")));
        }
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|error| AuthorityError::Request(error.to_string()))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::Request("its key is not of the kind ECDSA P-256".into()));
        }
        let failed = |error: rcgen::Error| AuthorityError::Issue(error.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, member.to_string());
        for name in [member.dns_name(), member.role().dns_name()] {
            params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(failed)?));
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let mut serial = [0; SERIAL_OCTETS];
        crate::token::random(&mut serial);
        // Positive, and never shorter than it looks (RFC 5280 §4.1.2.2).
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + MEMBER_LIFE).into();
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(failed)?;
        Ok(format!("{}{}", certificate.pem(), self.own_pem()))
    }

    /// The signing certificate alone.
    fn own_pem(&self) -> &str {
        const END: &str = "-----END CERTIFICATE-----";
        let end = self.trust_pem.find(END).map_or(self.trust_pem.len(), |at| at + END.len());
        &self.trust_pem[..end]
    }
}

/// Whether the certificate is this key's.
fn has_key(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, parsed)| parsed.public_key().subject_public_key.data == key.public_key_raw())
}

fn make(dir: &Path, key_path: &Path, pem_path: &Path, now: SystemTime) -> Result<(), AuthorityError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| AuthorityError::Io { path, source }
    };
    let failed = |error: rcgen::Error| AuthorityError::Issue(error.to_string());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::default();
    // Two clusters' authorities must not look alike to those who pick an issuer by its name.
    let mut mark = [0; 4];
    crate::token::random(&mut mark);
    params.distinguished_name.push(DnType::CommonName, format!("Steady cluster {}", crate::hex(&mark)));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    let certificate = params.self_signed(&key).map_err(failed)?;
    write_private(key_path, key.serialize_pem().as_bytes()).map_err(at(key_path))?;
    write_private(pem_path, certificate.pem().as_bytes()).map_err(at(pem_path))
}

/// Writes a file that only its owner reads: aside, synced, renamed.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    let aside = path.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&aside);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    file.write_all(contents).and_then(|()| file.sync_all())?;
    fs::rename(&aside, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(dir)?.sync_all()
}
