//! Where to connect to.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// The address of a peer: TCP, or a unix socket by its path. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addr {
    Tcp(SocketAddr),
    Unix(Arc<Path>),
}

impl fmt::Display for Addr {
    /// `127.0.0.1:80` or `unix:/run/app.sock`, as [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Addr::Tcp(addr) => addr.fmt(f),
            Addr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Addr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Addr::Unix(Arc::from(Path::new(path))));
        }
        text.parse().map(Addr::Tcp).map_err(|_| {
            format!("`{text}` is not an address: write IP:PORT (127.0.0.1:8080, [::1]:8080) or unix:/path/to/socket")
        })
    }
}

impl From<SocketAddr> for Addr {
    fn from(addr: SocketAddr) -> Self {
        Addr::Tcp(addr)
    }
}
