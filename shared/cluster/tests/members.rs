//! Who gets through to whom, by rustls itself on both sides, and what the authority keeps.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::ClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::ServerConnection;
use rustls::{AlertDescription, ClientConfig, Error, ServerConfig};
use steady_cluster::authority::{AuthorityError, MEMBER_LIFE};
use steady_cluster::{Authority, Identity, IdentityError, Member, Request, Role, tls};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn authority(dir: &Path) -> Authority {
    Authority::open(dir, SystemTime::now()).unwrap()
}

fn member(role: Role, name: &str) -> Member {
    Member::new(role, name).unwrap()
}

fn identity(authority: &Authority, role: Role, name: &str) -> Identity {
    let request = Request::new().unwrap();
    let now = SystemTime::now();
    let certificate = authority.issue(request.pem(), &member(role, name), now).unwrap();
    Identity::new(&request, &certificate, authority.trust(), now).unwrap()
}

/// Carries octets both ways until nobody has anything to say; what each side makes of it.
fn meet(
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    server: Arc<ServerConfig>,
) -> (Result<(), Error>, Result<(), Error>) {
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut at_client, mut at_server) = (Ok(()), Ok(()));
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() && at_server.is_ok() {
            server.read_tls(&mut rest).unwrap();
            at_server = server.process_new_packets().map(|_| ());
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() && at_client.is_ok() {
            client.read_tls(&mut rest).unwrap();
            at_client = client.process_new_packets().map(|_| ());
        }
    }
    (at_client, at_server)
}

#[test]
fn an_edge_reaches_a_host_under_its_name_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let (edge, host) = (identity(&authority, Role::Edge, "e"), identity(&authority, Role::Host, "h1"));
    let client = tls::data_client(&edge).unwrap();
    let server = tls::data_server(&host).unwrap();
    assert_eq!(meet(Arc::clone(&client), host.member().server_name(), Arc::clone(&server)), (Ok(()), Ok(())));
    let (at_client, _) = meet(client, member(Role::Host, "h2").server_name(), server);
    assert!(matches!(at_client, Err(Error::InvalidCertificate(_))), "{at_client:?}");
}

#[test]
fn a_host_cannot_forge_an_edge_towards_another_host() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    // Not by its name either.
    for name in ["h1", "edge", "x.edge"] {
        let forger = identity(&authority, Role::Host, name);
        let host = identity(&authority, Role::Host, "h2");
        let client = tls::data_client(&forger).unwrap();
        let (at_client, at_server) = meet(client, host.member().server_name(), tls::data_server(&host).unwrap());
        assert!(matches!(at_server, Err(Error::InvalidCertificate(_))), "{at_server:?}");
        assert_eq!(at_client, Err(Error::AlertReceived(AlertDescription::AccessDenied)));
    }
}

#[test]
fn a_host_cannot_pass_for_an_edge_towards_one_that_joins() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let (edge, host) = (identity(&authority, Role::Edge, "e"), identity(&authority, Role::Host, "h1"));
    let first = || tls::first_contact(authority.fingerprint()).unwrap();
    let name = Role::Edge.server_name();
    assert_eq!(meet(first(), name.clone(), tls::private_server(&edge).unwrap()), (Ok(()), Ok(())));
    assert!(meet(first(), name.clone(), tls::private_server(&host).unwrap()).0.is_err());
    let (other_dir, mine) = (tempfile::tempdir().unwrap(), authority.fingerprint());
    let other = identity(&Authority::open(other_dir.path(), SystemTime::now()).unwrap(), Role::Edge, "e");
    assert!(meet(tls::first_contact(mine).unwrap(), name, tls::private_server(&other).unwrap()).0.is_err());
}

#[test]
fn an_authority_is_made_once_for_its_owner_alone_and_refused_when_others_can_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("cluster");
    let first = authority(&cluster);
    let key = cluster.join("ca.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(authority(&cluster).fingerprint(), first.fingerprint());
    assert_eq!(fs::read_dir(&cluster).unwrap().count(), 2);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let open = || Authority::open(&cluster, SystemTime::now());
    assert!(matches!(open(), Err(AuthorityError::Exposed { mode: 0o640, .. })));
    fs::remove_file(&key).unwrap();
    assert!(matches!(open(), Err(AuthorityError::Io { .. })), "a lost key is not replaced in silence");
    let other = tempfile::tempdir().unwrap();
    authority(other.path());
    fs::copy(other.path().join("ca.key"), &key).unwrap();
    assert!(open().unwrap_err().to_string().contains("not the key of the first certificate"));
}

#[test]
fn an_identity_is_kept_in_one_private_file_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(&dir.path().join("cluster"));
    let file = dir.path().join("identity.json");
    assert!(Identity::load(&file).unwrap().is_none());
    let host = identity(&authority, Role::Host, "h1");
    host.save(&file).unwrap();
    let loaded = Identity::load(&file).unwrap().unwrap();
    assert_eq!((loaded.member(), loaded.not_after()), (host.member(), host.not_after()));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    assert!(matches!(Identity::load(&file), Err(IdentityError::Exposed { mode: 0o604, .. })));
}

#[test]
fn renewal_begins_after_a_third_and_a_clock_that_jumps_asks_for_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let host = identity(&authority(dir.path()), Role::Host, "h1");
    let now = SystemTime::now();
    assert!(!host.is_due(now) && !host.is_due(now + MEMBER_LIFE / 4));
    assert!(host.is_due(now + MEMBER_LIFE / 2) && !host.is_over(now + MEMBER_LIFE / 2));
    assert!(host.is_due(now - DAY));
    assert!(host.is_over(now + MEMBER_LIFE + DAY));
}

#[test]
fn a_certificate_that_is_not_good_by_this_clock_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let now = SystemTime::now();
    for theirs in [now + 40 * DAY, now - 40 * DAY] {
        let request = Request::new().unwrap();
        let certificate = authority.issue(request.pem(), &member(Role::Host, "h1"), theirs).unwrap();
        let taken = Identity::new(&request, &certificate, authority.trust(), now);
        assert!(matches!(taken, Err(IdentityError::WrongTime { .. })), "{taken:?}");
    }
}

#[test]
fn a_request_says_nothing_but_its_key_and_a_foreign_key_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    // One that asks to be an authority and an edge.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["edge.steady.internal".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let greedy = params.serialize_request(&key).unwrap().pem().unwrap();
    let pem = authority.issue(&greedy, &member(Role::Host, "h1"), SystemTime::now()).unwrap();
    let request = Request::new().unwrap();
    assert!(Identity::new(&request, &pem, authority.trust(), SystemTime::now()).is_err(), "not this request's key");
    use rustls::pki_types::pem::PemObject as _;
    let der = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!parsed.is_ca());
    let names = parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!((names, Member::of(&der)), (2, Some(member(Role::Host, "h1"))));
    let large = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let other = rcgen::CertificateParams::default().serialize_request(&large).unwrap().pem().unwrap();
    for bad in [other, greedy.replacen('A', "B", 1), "x".repeat(10_000), String::new()] {
        let refused = authority.issue(&bad, &member(Role::Host, "h1"), SystemTime::now());
        assert!(matches!(refused, Err(AuthorityError::Request(_))), "{refused:?}");
    }
}

#[test]
fn a_request_is_the_same_for_whoever_asks_again_after_a_death_and_nobody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("join-request.json");
    let first = Request::kept(&path).unwrap();
    let again = Request::kept(&path).unwrap();
    assert_eq!(first.pem(), again.pem());
    // What was signed for the first is good with the key of the other.
    let authority = authority(dir.path());
    let now = SystemTime::now();
    let certificate = authority.issue(first.pem(), &member(Role::Host, "h1"), now).unwrap();
    Identity::new(&again, &certificate, authority.trust(), now).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, "{\"key_pem").unwrap();
    assert_ne!(Request::kept(&path).unwrap().pem(), first.pem(), "one that was cut short is made anew");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Request::kept(&path), Err(IdentityError::Exposed { .. })));
}
