use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::ClientConnection;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use steady_proxy::tls::{Scratch, Tls};

use super::pair::FILE_OCTETS_MAX;
use super::*;

const ALPN: &[&[u8]] = &[b"h2"];
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// An authority that clients trust, and a directory of certificates that it signed.
struct Fixture {
    dir: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

fn now() -> SystemTime {
    SystemTime::now()
}

impl Fixture {
    fn new() -> Fixture {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Fixture { dir: tempfile::tempdir().unwrap(), authority }
    }

    /// PEM of a certificate for `names` and of its key.
    fn issue(&self, names: &[&str]) -> (String, String) {
        self.issue_for(names, now() - DAY, now() + 90 * DAY)
    }

    fn issue_for(&self, names: &[&str], begins: SystemTime, ends: SystemTime) -> (String, String) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (begins.into(), ends.into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        (params.signed_by(&key, &self.authority).unwrap().pem(), key.serialize_pem())
    }

    /// Renamed into place, as tools do: each is a new file, however fast they follow each other.
    fn put(&self, name: &str, (chain, key): &(String, String)) {
        for (extension, pem) in [("crt", chain), ("key", key)] {
            let path = self.dir.path().join(format!("{name}.{extension}"));
            fs::write(self.dir.path().join(".new"), pem).unwrap();
            fs::rename(self.dir.path().join(".new"), path).unwrap();
        }
    }

    fn open(&self) -> CertDir {
        CertDir::open(self.dir.path(), now()).unwrap()
    }

    fn error(&self) -> CertError {
        let (mut errors, usable) = self.check(now());
        assert_eq!((errors.len(), usable), (1, 0), "{errors:?}");
        errors.remove(0)
    }

    fn check(&self, now: SystemTime) -> (Vec<CertError>, usize) {
        CertDir::check(self.dir.path(), PAIRS_MAX, now).unwrap()
    }

    /// The names of the certificate that a client gets which asks for `name`, as its DER.
    fn handshake(&self, set: &Arc<CertSet>, name: &str) -> Option<Vec<u8>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let config = Certs::new(set.clone(), None, &[]).unwrap().config?;
        let mut server = Tls::server(config);
        let (mut scratch, mut plain, mut out) = (Scratch::default(), Vec::new(), Vec::new());
        while client.is_handshaking() {
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            server.receive(&hello, &mut scratch, &mut plain, &mut out).ok()?;
            let flight = std::mem::take(&mut out);
            let mut flight = &flight[..];
            while !flight.is_empty() {
                client.read_tls(&mut flight).unwrap();
                client.process_new_packets().ok()?;
            }
        }
        Some(client.peer_certificates()?[0].to_vec())
    }
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn a_client_gets_the_certificate_for_the_name_it_asks_for() {
    let fixture = Fixture::new();
    let wildcard = fixture.issue(&["*.steady.page", "steady.page"]);
    let exact = fixture.issue(&["special.steady.page"]);
    fixture.put("wildcard", &wildcard);
    fixture.put("exact", &exact);
    let set = fixture.open().set();
    assert_eq!(fixture.handshake(&set, "app.steady.page"), Some(der(&wildcard.0)));
    assert_eq!(fixture.handshake(&set, "APP.Steady.Page"), Some(der(&wildcard.0)));
    assert_eq!(fixture.handshake(&set, "steady.page"), Some(der(&wildcard.0)));
    assert_eq!(fixture.handshake(&set, "special.steady.page"), Some(der(&exact.0)));
    assert_eq!(fixture.handshake(&set, "a.b.steady.page"), None);
    assert_eq!(fixture.handshake(&set, "elsewhere.example"), None);
}

#[test]
fn a_client_that_names_nothing_gets_the_first_by_file_name() {
    let fixture = Fixture::new();
    let first = fixture.issue(&["127.0.0.1", "first.example"]);
    fixture.put("b", &fixture.issue(&["127.0.0.1", "second.example"]));
    fixture.put("a", &first);
    // A client of an address sends no server name.
    assert_eq!(fixture.handshake(&fixture.open().set(), "127.0.0.1"), Some(der(&first.0)));
}

#[test]
fn a_wildcard_serves_exactly_one_label_in_any_case() {
    let fixture = Fixture::new();
    fixture.put("w", &fixture.issue(&["*.steady.page"]));
    let set = fixture.open().set();
    for served in ["a.steady.page", "A.STEADY.PAGE", "xn--bcher-kva.steady.page"] {
        assert!(set.serves(served), "{served}");
    }
    for not in ["steady.page", "a.b.steady.page", ".steady.page", "a.steady.sh", "asteady.page", "", "page"] {
        assert!(!set.serves(not), "{not}");
    }
}

#[test]
fn a_connection_serves_only_what_its_own_certificate_names() {
    let fixture = Fixture::new();
    fixture.put("a", &fixture.issue(&["*.steady.page"]));
    fixture.put("b", &fixture.issue(&["own.steady.page", "custom.example"]));
    let set = fixture.open().set();
    assert!(set.covers(Some("one.steady.page"), "one.steady.page"));
    assert!(set.covers(Some("one.steady.page"), "TWO.steady.page"));
    assert!(set.covers(Some("one.steady.page"), "own.steady.page"), "the wildcard is valid for it too");
    assert!(!set.covers(Some("one.steady.page"), "custom.example"));
    assert!(set.covers(Some("custom.example"), "own.steady.page"));
    assert!(!set.covers(Some("custom.example"), "one.steady.page"));
    assert!(set.covers(None, "one.steady.page"));
    assert!(!set.covers(None, "custom.example"));
    assert!(!set.covers(Some("gone.example"), "gone.example"));
    assert!(!CertSet::default().covers(None, "one.steady.page"));
}

#[test]
fn a_change_is_taken_when_it_has_settled_or_at_once_when_asked() {
    let fixture = Fixture::new();
    fixture.put("a", &fixture.issue(&["old.example"]));
    let mut certs = fixture.open();
    assert!(!certs.look(Look::Settled, now()));
    fixture.put("a", &fixture.issue(&["new.example"]));
    assert!(!certs.look(Look::Settled, now()), "not settled yet");
    assert!(certs.set().serves("old.example"));
    assert!(certs.look(Look::Settled, now()));
    assert!(certs.set().serves("new.example") && !certs.set().serves("old.example"));
    fixture.put("b", &fixture.issue(&["added.example"]));
    assert!(certs.look(Look::Now, now()));
    assert!(certs.set().serves("added.example"));
    fs::remove_file(fixture.dir.path().join("a.crt")).unwrap();
    assert!(!certs.look(Look::Settled, now()), "it may be about to be replaced");
    assert!(certs.look(Look::Settled, now()));
    assert!(!certs.set().serves("new.example") && certs.set().serves("added.example"));
    assert!(!certs.look(Look::Now, now()), "nothing has changed");
}

#[test]
fn a_pair_that_is_taken_away_before_the_next_one_comes_is_served_meanwhile() {
    let fixture = Fixture::new();
    fixture.put("a", &fixture.issue(&["old.example"]));
    let mut certs = fixture.open();
    for _ in 0..2 {
        let next = fixture.issue(&["old.example"]);
        fs::remove_file(fixture.dir.path().join("a.crt")).unwrap();
        assert!(!certs.look(Look::Settled, now()) && certs.set().serves("old.example"));
        fixture.put("a", &next);
        assert!(!certs.look(Look::Settled, now()) && certs.set().serves("old.example"));
        assert!(certs.look(Look::Settled, now()) && certs.set().serves("old.example"), "the new one");
    }
}

#[test]
fn a_bad_replacement_leaves_the_old_pair_in_use() {
    let fixture = Fixture::new();
    fixture.put("a", &fixture.issue(&["good.example"]));
    let mut certs = fixture.open();
    let (chain, _) = fixture.issue(&["other.example"]);
    let (_, key) = fixture.issue(&["other.example"]);
    for bad in [(chain, key.clone()), ("".into(), key), ("nonsense".into(), "nonsense".into())] {
        fixture.put("a", &bad);
        assert!(!certs.look(Look::Now, now()));
        assert!(certs.set().serves("good.example"));
    }
    fs::remove_file(fixture.dir.path().join("a.key")).unwrap();
    assert!(!certs.look(Look::Now, now()));
    assert!(certs.set().serves("good.example"));
    fs::rename(fixture.dir.path(), fixture.dir.path().with_extension("away")).unwrap();
    assert!(!certs.look(Look::Now, now()), "an unreadable directory changes nothing");
    assert!(certs.set().serves("good.example"));
    fs::remove_dir_all(fixture.dir.path().with_extension("away")).unwrap();
}

#[test]
fn what_is_wrong_with_a_pair_is_said() {
    let fixture = Fixture::new();
    let (chain, key) = fixture.issue(&["a.example"]);
    let authority = fixture.authority.pem();
    fixture.put("a", &(format!("{chain}{authority}"), key.clone()));
    assert!(matches!(fixture.check(now()), (errors, 1) if errors.is_empty()));
    fixture.put("a", &(format!("{authority}{chain}"), key.clone()));
    assert!(matches!(fixture.error(), CertError::ChainOrder { number: 2, .. } | CertError::AuthorityFirst(_)));
    fixture.put("a", &(format!("{chain}{chain}"), key.clone()));
    assert!(matches!(fixture.error(), CertError::ChainOrder { number: 2, .. }));
    fixture.put("a", &(chain.clone(), fixture.issue(&["a.example"]).1));
    assert!(matches!(fixture.error(), CertError::Key(..)));
    fixture.put("a", &(key.clone(), key.clone()));
    assert!(matches!(fixture.error(), CertError::NoCertificate(_)));
    fixture.put("a", &(chain.clone(), chain.clone()));
    assert!(matches!(fixture.error(), CertError::Pem(..)));
    fixture.put("a", &fixture.issue(&[]));
    assert!(matches!(fixture.error(), CertError::NoNames(_)));
    fixture.put("a", &(" ".repeat(FILE_OCTETS_MAX as usize + 1), key));
    assert!(matches!(fixture.error(), CertError::TooLarge(_)));
}

#[test]
fn a_certificate_that_ends_soon_is_complained_about_once_a_day_and_one_that_has_ended_fails_the_check() {
    let fixture = Fixture::new();
    let begin = now();
    fixture.put("month", &fixture.issue_for(&["a.example"], begin, begin + 30 * DAY));
    fixture.put("days", &fixture.issue_for(&["b.example"], begin, begin + 4 * DAY));
    let mut certs = CertDir::open(fixture.dir.path(), begin).unwrap();
    assert_eq!(certs.set().len(), 2);
    // To the second, as certificates have it.
    let first_end = certs.set().first_end().unwrap().duration_since(begin).unwrap();
    assert!((first_end.as_secs_f64() - 4.0 * DAY.as_secs_f64()).abs() <= 1.0, "{first_end:?}");
    let mut names = |day: f64| -> Vec<String> {
        let complaints = certs.complaints(begin + DAY.mul_f64(day));
        complaints.into_iter().map(|(name, left)| format!("{name} {}", left.as_secs() / DAY.as_secs())).collect()
    };
    // The last quarter of four days, the last week of a month.
    for (day, expected) in [(0.5, vec![]), (2.9, vec![]), (3.5, vec![]), (3.95, vec!["days 0"]), (4.5, vec![])] {
        assert_eq!(names(day), expected, "day {day}");
    }
    assert_eq!(names(24.5), ["days 0", "month 5"]);
    assert_eq!(names(2.0), <[String; 0]>::default(), "a clock that was set back");
    assert_eq!(names(3.5), ["days 0"]);
    assert!(matches!(fixture.check(begin + DAY), (errors, 2) if errors.is_empty()));
    let (errors, usable) = fixture.check(begin + 5 * DAY);
    assert!(matches!(&errors[..], [CertError::Expired(path)] if path.ends_with("days.crt")), "{errors:?}");
    assert_eq!(usable, 1);
}

#[test]
fn of_more_pairs_than_may_be_those_in_use_stay_and_the_rest_is_left_out() {
    let fixture = Fixture::new();
    for name in ["b", "c", "d"] {
        fixture.put(name, &fixture.issue(&[&format!("{name}.example")]));
    }
    let mut certs = CertDir::open_some(fixture.dir.path(), 2, now()).unwrap();
    let served = |certs: &CertDir| -> Vec<bool> {
        ["a.example", "b.example", "c.example", "d.example"].map(|name| certs.set().serves(name)).into()
    };
    assert_eq!(served(&certs), [false, true, true, false]);
    fixture.put("a", &fixture.issue(&["a.example"]));
    assert!(!certs.look(Look::Now, now()));
    // One that is in use is renewed all the same.
    fixture.put("c", &fixture.issue(&["c.example", "d.example"]));
    assert!(certs.look(Look::Now, now()));
    assert_eq!(served(&certs), [false, true, true, true]);
    fs::remove_file(fixture.dir.path().join("b.crt")).unwrap();
    assert!(certs.look(Look::Now, now()));
    assert_eq!(served(&certs), [true, false, true, true]);
    let (errors, usable) = CertDir::check(fixture.dir.path(), 2, now()).unwrap();
    assert!(matches!(errors[..], [CertError::TooMany(1, 2)]), "{errors:?}");
    assert_eq!(usable, 2);
}

#[test]
fn of_two_certificates_for_a_name_the_longer_lived_one_is_used() {
    let fixture = Fixture::new();
    let long = fixture.issue(&["a.example"]);
    fixture.put("a", &fixture.issue_for(&["a.example"], now() - 2 * DAY, now() - DAY));
    fixture.put("b", &long);
    let set = fixture.open().set();
    assert_eq!(fixture.handshake(&set, "a.example"), Some(der(&long.0)));
    assert!(set.first_end().unwrap() < now());
}

#[tokio::test]
async fn a_watched_directory_is_read_again_when_asked() {
    let fixture = Fixture::new();
    let reload = Arc::new(Notify::new());
    let mut certs = watch(fixture.dir.path(), PAIRS_MAX, None, ALPN, reload.clone()).unwrap();
    assert!(certs.borrow().config.is_none(), "no certificate yet");
    fixture.put("a", &fixture.issue(&["a.example"]));
    reload.notify_one();
    certs.changed().await.unwrap();
    let current = certs.borrow_and_update().clone();
    assert!(current.set.serves("a.example"));
    assert_eq!(current.config.unwrap().alpn_protocols, ALPN);
}

#[tokio::test]
async fn a_directory_that_is_not_there_cannot_be_watched() {
    let error = watch(Path::new("/nonexistent/certs"), PAIRS_MAX, None, ALPN, Arc::new(Notify::new())).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/certs"), "{error}");
}
