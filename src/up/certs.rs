//! A local certificate authority and the edge's certificate, kept across runs and renewed before they end.
//!
//! Nothing trusts the authority but those who are told to (`curl --cacert DIR/ca.pem`); its key never leaves the state
//! directory.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::error::Error;
use crate::up::place::{make_private, write_aside, write_aside_mode};

const CA_NAME: &str = "Steady local authority";
const CA_DAYS: i64 = 3650;
/// Browsers refuse a certificate that is valid for longer than 398 days.
const LEAF_DAYS: i64 = 397;
/// Renewed when less than this remains, so that a system left running for weeks does not meet its end.
const RENEW_DAYS: i64 = 60;
/// Clocks differ a little between a machine and its containers.
const BACKDATE: Duration = Duration::hours(1);

/// What the files hold, so that they need not be parsed to know when to renew.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    ca_until: i64,
    leaf_until: i64,
    names: Vec<String>,
}

#[derive(Debug)]
pub struct Certs {
    /// The authority's certificate, for clients.
    pub ca: PathBuf,
    /// Whether a new authority was made: those who trusted the old one must be told.
    pub new_ca: bool,
}

/// Makes sure that `dir/certs/local.{crt,key}` is valid for `names` at `now`, signed by the authority of `dir/ca.pem`.
pub fn ensure(dir: &Path, names: &[String], now: OffsetDateTime) -> Result<Certs, Error> {
    let certs = dir.join("certs");
    make_private(&certs)?;
    let (ca_pem, ca_key) = (dir.join("ca.pem"), dir.join("ca.key"));
    let (leaf_pem, leaf_key) = (certs.join("local.crt"), certs.join("local.key"));
    let record_path = dir.join("certs.json");
    let soon = (now + Duration::days(RENEW_DAYS)).unix_timestamp();
    let record: Option<Record> = fs::read(&record_path).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let old_ca = record.as_ref().filter(|record| record.ca_until > soon && ca_pem.exists());
    let old_key = old_ca.and_then(|_| fs::read_to_string(&ca_key).ok()).and_then(|pem| KeyPair::from_pem(&pem).ok());
    if let (Some(record), Some(_)) = (old_ca, &old_key)
        && record.leaf_until > soon
        && record.names == names
        && leaf_pem.exists()
        && leaf_key.exists()
    {
        return Ok(Certs { ca: ca_pem, new_ca: false });
    }

    let new_ca = old_key.is_none();
    let ca_until = match old_ca {
        Some(record) if !new_ca => record.ca_until,
        _ => (now + Duration::days(CA_DAYS)).unix_timestamp(),
    };
    let key = match old_key {
        Some(key) => key,
        None => KeyPair::generate().map_err(failed)?,
    };
    let params = ca_params(now, ca_until)?;
    if new_ca {
        write_aside_mode(&ca_key, key.serialize_pem().as_bytes(), 0o600)?;
        write_aside(&ca_pem, params.self_signed(&key).map_err(failed)?.pem().as_bytes())?;
    }
    let issuer = Issuer::new(params, key);
    let leaf_until = (now + Duration::days(LEAF_DAYS)).unix_timestamp();
    let key = KeyPair::generate().map_err(failed)?;
    let leaf = leaf_params(names, now, leaf_until)?.signed_by(&key, &issuer).map_err(failed)?;
    write_aside_mode(&leaf_key, key.serialize_pem().as_bytes(), 0o600)?;
    write_aside(&leaf_pem, leaf.pem().as_bytes())?;
    let record = Record { ca_until, leaf_until, names: names.to_vec() };
    let text = serde_json::to_vec(&record).map_err(|error| Error::Failed(error.to_string()))?;
    write_aside(&record_path, &text)?;
    Ok(Certs { ca: ca_pem, new_ca })
}

/// The names that the edge's certificate is for. A wildcard directly below a top-level name (`*.localhost`) is refused by
/// OpenSSL's clients, so the samples are named one by one there as well.
pub fn names(domains: &[&str], samples: &[&str]) -> Vec<String> {
    let wild = domains.iter().flat_map(|domain| [format!("*.{domain}"), (*domain).to_owned()]);
    let single = domains.iter().filter(|domain| !domain.contains('.'));
    let named = single.flat_map(|domain| samples.iter().map(move |sample| format!("{sample}.{domain}")));
    wild.chain(named).collect()
}

/// The same at every run but for its dates, which a signature by it does not show.
fn ca_params(now: OffsetDateTime, until: i64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    dated(&mut params, now, until)?;
    Ok(params)
}

fn leaf_params(names: &[String], now: OffsetDateTime, until: i64) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("localhost", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    dated(&mut params, now, until)?;
    Ok(params)
}

fn dated(params: &mut CertificateParams, now: OffsetDateTime, until: i64) -> Result<(), Error> {
    params.not_before = now - BACKDATE;
    params.not_after = OffsetDateTime::from_unix_timestamp(until).map_err(failed)?;
    Ok(())
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(format!("cannot make the local certificates: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-01-01 00:00 UTC);

    fn state(dir: &Path) -> (Vec<u8>, Vec<u8>) {
        (fs::read(dir.join("ca.pem")).unwrap(), fs::read(dir.join("certs/local.crt")).unwrap())
    }

    #[test]
    fn certificates_are_kept_until_they_near_their_end_and_the_authority_outlives_the_leaf() {
        let dir = tempfile::tempdir().unwrap();
        let names = names(&["steady.page", "localhost"], &["hello"]);
        assert!(ensure(dir.path(), &names, NOW).unwrap().new_ca);
        let first = state(dir.path());
        assert!(!ensure(dir.path(), &names, NOW + Duration::days(300)).unwrap().new_ca);
        assert_eq!(state(dir.path()), first);
        assert!(!ensure(dir.path(), &names, NOW + Duration::days(380)).unwrap().new_ca);
        let second = state(dir.path());
        assert_eq!(second.0, first.0);
        assert_ne!(second.1, first.1);
        assert!(ensure(dir.path(), &names, NOW + Duration::days(3640)).unwrap().new_ca);
        assert_ne!(state(dir.path()).0, first.0);
    }

    #[test]
    fn other_names_give_another_leaf_and_a_lost_key_another_authority() {
        let dir = tempfile::tempdir().unwrap();
        ensure(dir.path(), &names(&["a.example"], &[]), NOW).unwrap();
        let first = state(dir.path());
        ensure(dir.path(), &names(&["b.example"], &[]), NOW).unwrap();
        let second = state(dir.path());
        assert_eq!(first.0, second.0);
        assert_ne!(first.1, second.1);
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        assert!(ensure(dir.path(), &names(&["b.example"], &[]), NOW).unwrap().new_ca);
    }

    #[test]
    fn openssl_verifies_the_leaf_for_every_wildcard_domain() {
        let dir = tempfile::tempdir().unwrap();
        let names = names(&["steady.page", "steady.sh", "localhost"], &["hello"]);
        let now = OffsetDateTime::now_utc();
        // Twice, so that the second leaf is signed by an authority read back from its files.
        ensure(dir.path(), &[], now).unwrap();
        ensure(dir.path(), &names, now).unwrap();
        for host in ["x.steady.page", "x.steady.sh", "hello.localhost", "localhost"] {
            let output = std::process::Command::new("openssl")
                .args(["verify", "-verify_hostname", host, "-CAfile"])
                .arg(dir.path().join("ca.pem"))
                .arg(dir.path().join("certs/local.crt"))
                .output();
            let Ok(output) = output else {
                eprintln!("SKIPPED: openssl is not installed");
                return;
            };
            assert!(output.status.success(), "{host}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
