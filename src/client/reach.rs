//! Which edge a command means, and how its private port is spoken to.
//!
//! Over TLS wherever the certificates of its cluster are known: `--ca`, or the edge's own state directory. In the clear only to
//! this machine: a token is worth everything that an operator can do (`docs/security.md`), so that it crosses no network unless
//! the other end has proved to be an edge of the cluster. The certificate is an edge's whatever address it has, so that it is
//! asked for by that name ([`Role::Edge`]), not by the address.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;
use serde::Deserialize;
use steady_cluster::connect::Connector;
use steady_cluster::{Role, tls};
use tokio::sync::watch;

use super::http::Http;
use crate::cli::{DIR, Reach};
use crate::error::Error;

/// Where the units keep an edge's state (`systemd/`).
const EDGE_DIR: &str = "/var/lib/steady/lb";
/// The authority's certificate in it.
const CA: &str = "cluster/ca.pem";

/// How the user said which edge, for messages.
#[derive(Clone, Debug)]
pub enum FoundBy {
    /// `up.json` of this directory.
    Up(PathBuf),
    /// This is an edge's state directory.
    Edge(PathBuf),
    Address,
}

/// What `up.json` says to a client.
#[derive(Debug, Deserialize)]
struct UpFile {
    private: String,
    token_file: PathBuf,
    /// The authority of its cluster.
    private_ca: Option<PathBuf>,
}

/// What an edge's `ready.json` says to a client; that of an agent has none of it.
#[derive(Debug, Deserialize)]
struct EdgeFile {
    private: String,
    token_file: Option<PathBuf>,
}

/// The edge that `reach` means: an address wins over a directory.
pub fn find(reach: &Reach) -> Result<(Http, FoundBy), Error> {
    let Some(address) = &reach.address else { return find_in(&reach.dir) };
    let token = match (&reach.token, &reach.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(path)) => read_token(path)?,
        (None, None) => {
            return Err(Error::Usage(
                "--address needs a token: --token-file FILE (the edge's [private] token_file), --token, or STEADY_TOKEN"
                    .to_owned(),
            ));
        }
    };
    Ok((open(address, reach.ca.as_deref(), &token)?, FoundBy::Address))
}

/// The edge that this very process started.
pub fn own(private: &str, token_file: &Path, ca: &Path, dir: &Path) -> Result<(Http, FoundBy), Error> {
    Ok((open_near(private, Some(ca), &read_token(token_file)?)?, FoundBy::Up(dir.to_owned())))
}

fn find_in(dir: &Path) -> Result<(Http, FoundBy), Error> {
    if let Some(up) = read::<UpFile>(&dir.join("up.json"))? {
        let http = open_near(&up.private, up.private_ca.as_deref(), &read_token(&up.token_file)?)?;
        return Ok((http, FoundBy::Up(dir.to_owned())));
    }
    match read::<EdgeFile>(&dir.join("ready.json")) {
        Ok(Some(edge)) => {
            let token = read_token(&edge.token_file.unwrap_or_else(|| dir.join("token")))?;
            Ok((open(&edge.private, Some(&dir.join(CA)), &token)?, FoundBy::Edge(dir.to_owned())))
        }
        // An agent's is not of this kind.
        Ok(None) | Err(Error::Failed(_)) => Err(nobody(dir)),
        Err(error) => Err(error),
    }
}

fn nobody(dir: &Path) -> Error {
    if Path::new(EDGE_DIR) == dir {
        return Error::Unreachable(format!(
            "no edge runs with the state directory {} (there is no ready.json in it); start it: systemctl start steady-lb",
            dir.display()
        ));
    }
    let named = if dir == Path::new(DIR) { String::new() } else { format!(" --dir {}", dir.display()) };
    Error::Unreachable(format!(
        "no `steady up` is running for {0} (there is no {0}/up.json).\n  Start one:             steady up{named}\n  On an \
         edge's machine:  --dir {EDGE_DIR} (the edge's state_dir), as root\n  From another machine:  --address IP:PORT \
         --ca FILE --token-file FILE",
        dir.display(),
    ))
}

/// A daemon's file, if it is there.
fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| Error::Failed(format!("{} is damaged: {error}", path.display()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::Unreachable(unreadable("", path, &error))),
    }
}

fn read_token(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Error::Unreachable(unreadable("the token in ", path, &error)))
}

fn unreadable(what: &str, path: &Path, error: &io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => {
            "; it is for its owner alone: run this as root, or as that user (sudo -u steady)"
        }
        _ => "",
    };
    format!("cannot read {what}{}: {error}{advice}", path.display())
}

/// In the clear where the edge is on this machine, else as [`open`].
fn open_near(address: &str, ca: Option<&Path>, token: &str) -> Result<Http, Error> {
    let (_, addrs) = resolve(address)?;
    open(address, ca.filter(|_| !is_here(&addrs)), token)
}

/// Speaks to `address` over TLS if there is a `ca`, and in the clear to this machine only.
fn open(address: &str, ca: Option<&Path>, token: &str) -> Result<Http, Error> {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (scheme, rest.trim_end_matches('/')),
        None => ("", address),
    };
    let (authority, addrs) = resolve(rest)?;
    match (scheme, ca) {
        ("" | "https", Some(_)) | ("", None) => {}
        ("http", None) => {}
        ("http", Some(_)) => return Err(Error::Usage(format!("--ca is for TLS: write {rest}, without http://"))),
        ("https", None) => return Err(Error::Usage(format!("{address} is TLS, which needs --ca FILE: {WHICH_CA}"))),
        _ => return Err(Error::Usage(format!("{address} cannot be spoken to: write IP:PORT"))),
    }
    let mut authorization = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| Error::Usage("the token has octets that no token has".to_owned()))?;
    authorization.set_sensitive(true);
    let Some(ca) = ca else {
        if !is_here(&addrs) {
            return Err(Error::Usage(format!(
                "{rest} is not this machine's own: without TLS whoever is on the way would read the token, so it is not \
                 sent. Give --ca FILE (or STEADY_CA): {WHICH_CA}"
            )));
        }
        let ways = addrs.into_iter().map(Connector::plain).collect();
        return Ok(Http::new(ways, &authority, false, authorization));
    };
    let pem = fs::read_to_string(ca).map_err(|error| Error::Usage(unreadable("", ca, &error)))?;
    let config = tls::client_trusting(&pem)
        .map_err(|error| Error::Usage(format!("{} holds no certificates that can be used: {error}", ca.display())))?;
    // Whoever receives keeps the last value, also when this is gone.
    let configs = watch::channel(Some(config)).1;
    let way = |addr| Connector::tls(addr, configs.clone(), Role::Edge.server_name());
    Ok(Http::new(addrs.into_iter().map(way).collect(), &authority, true, authorization))
}

const WHICH_CA: &str = "the certificate of the cluster's authority, cluster/ca.pem in the state_dir of its edge \
                        (/var/lib/steady/lb/cluster/ca.pem), copied to this machine; it is no secret";

/// The addresses of `IP:PORT` or `NAME:PORT`, and what to call them. What listens on all addresses is reached on loopback.
fn resolve(address: &str) -> Result<(String, Vec<SocketAddr>), Error> {
    let addrs = address.to_socket_addrs().map_err(|error| match error.kind() {
        ErrorKind::InvalidInput => Error::Usage(format!("`{address}` is no address of a private port: write IP:PORT")),
        _ => Error::Unreachable(format!("`{address}` cannot be found: {error}")),
    })?;
    let mut addrs: Vec<SocketAddr> = addrs.collect();
    let was = addrs.clone();
    for addr in &mut addrs {
        match addr.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
    }
    let authority = if addrs == was { address.to_owned() } else { addrs[0].to_string() };
    Ok((authority, addrs))
}

fn is_here(addrs: &[SocketAddr]) -> bool {
    addrs.iter().all(|addr| addr.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["edge.steady.internal".to_owned()]).unwrap();
        fs::write(file.path(), made.cert.pem()).unwrap();
        file
    }

    #[test]
    fn a_token_goes_in_the_clear_to_this_machine_only() {
        for here in
            ["127.0.0.1:9900", "[::1]:9900", "127.9.9.9:1", "0.0.0.0:9900", "[::]:9900", "http://127.0.0.1:9900/"]
        {
            let http = open(here, None, "t").unwrap();
            assert!(http.base().starts_with("http://"), "{here}: {}", http.base());
        }
        for away in ["192.0.2.1:9900", "http://192.0.2.1:9900", "[2001:db8::1]:9900"] {
            let error = open(away, None, "t").unwrap_err();
            assert!(matches!(&error, Error::Usage(why) if why.contains("--ca FILE")), "{away}: {error}");
        }
    }

    #[test]
    fn an_authority_means_tls_wherever_the_edge_is() {
        let ca = ca();
        for address in ["192.0.2.1:9900", "127.0.0.1:9900", "https://192.0.2.1:9900"] {
            assert!(open(address, Some(ca.path()), "t").unwrap().base().starts_with("https://"), "{address}");
        }
        assert_eq!(open("0.0.0.0:9900", Some(ca.path()), "t").unwrap().base(), "https://127.0.0.1:9900");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let (ca, empty) = (ca(), tempfile::NamedTempFile::new().unwrap());
        for (address, ca, word) in [
            ("http://127.0.0.1:9900", Some(ca.path()), "without http://"),
            ("https://127.0.0.1:9900", None, "--ca FILE"),
            ("ftp://127.0.0.1:9900", None, "IP:PORT"),
            ("127.0.0.1", None, "IP:PORT"),
            ("127.0.0.1:9900", Some(Path::new("/no/such/file")), "/no/such/file"),
            ("127.0.0.1:9900", Some(empty.path()), "holds no certificates"),
        ] {
            let error = open(address, ca, "t").unwrap_err();
            assert!(matches!(&error, Error::Usage(why) if why.contains(word)), "{address}: {error}");
        }
        assert!(matches!(open("127.0.0.1:1", None, "a\nb"), Err(Error::Usage(_))));
    }
}
