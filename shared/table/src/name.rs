//! Names that are right by construction: of applications, of domains, of hosts.

use std::borrow::Borrow;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::model::Host;

/// The longest label of a host name (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;
/// The longest host name without its trailing dot (RFC 1035 §2.3.4: 255 octets on the wire).
pub(crate) const HOST_NAME_MAX: usize = 253;
/// `sun_path` holds 108 bytes with the closing zero (unix(7)).
const UNIX_PATH_MAX: usize = 107;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind}: {why}")]
pub struct BadName {
    pub text: String,
    pub kind: &'static str,
    pub why: &'static str,
}

/// Why a host's name or address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    #[error("{0:?} is not a host's name: use 1 to 63 letters, digits, '-', '_' or '.'")]
    Name(String),
    #[error(
        "{0:?} is not a host's address: write IP:PORT (an IPv6 address in brackets) or unix:/absolute/path of at most 107 bytes"
    )]
    Addr(String),
}

/// The name of an application: 1 to 63 of `a-z`, `0-9` and `-`, neither beginning nor ending with `-`, so that it is one
/// label of a host name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppName(Box<str>);

impl AppName {
    pub fn new(text: &str) -> Result<AppName, BadName> {
        match label_fault(text.as_bytes()) {
            None => Ok(AppName(text.into())),
            Some(why) => Err(BadName { text: text.into(), kind: "an application's name", why }),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A key for the application that stays the same in every table and process: the first 8 bytes, little-endian, of the
    /// SHA-256 of the name. Tenants choose names, so a weaker hash would let one share another's counters and limits.
    pub fn id(&self) -> u64 {
        let digest = Sha256::digest(self.0.as_bytes());
        crate::bytes::u64_at(&digest, 0).expect("a digest has 32 bytes")
    }
}

/// A host name in lower case without a trailing dot: 1 to 253 bytes, labels of 1 to 63 of `a-z`, `0-9`, `-` and `_`. A
/// wildcard suffix (`steady.page`) or the whole name of a custom domain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainName(Box<str>);

impl DomainName {
    pub fn new(text: &str) -> Result<DomainName, BadName> {
        let bad = |why| Err(BadName { text: text.into(), kind: "a domain", why });
        if text.len() > HOST_NAME_MAX {
            return bad("it is longer than 253 bytes");
        }
        if text.as_bytes().iter().any(u8::is_ascii_uppercase) {
            return bad("write it in lower case");
        }
        for label in text.as_bytes().split(|b| *b == b'.') {
            if label.is_empty() {
                return bad("it has an empty label");
            }
            if label.len() > LABEL_MAX {
                return bad("it has a label longer than 63 bytes");
            }
            if label.iter().any(|b| !matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) {
                return bad("it has something other than letters, digits, '-' and '_' in a label");
            }
        }
        Ok(DomainName(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What keeps `label` from being an application's name.
pub(crate) fn label_fault(label: &[u8]) -> Option<&'static str> {
    if label.is_empty() || label.len() > LABEL_MAX {
        return Some("it must have 1 to 63 characters");
    }
    if label.iter().any(|b| !matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        return Some("it may have only a-z, 0-9 and '-'");
    }
    if label.starts_with(b"-") || label.ends_with(b"-") {
        return Some("it may neither begin nor end with '-'");
    }
    None
}

pub(crate) fn check_host(name: &str, addr: &str) -> Result<(), BadHost> {
    let right = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > LABEL_MAX || !name.bytes().all(right) {
        return Err(BadHost::Name(name.into()));
    }
    let good = match addr.strip_prefix("unix:") {
        Some(path) => path.starts_with('/') && path.len() <= UNIX_PATH_MAX && !path.contains('\0'),
        None => addr.parse::<SocketAddr>().is_ok_and(|a| a.port() != 0),
    };
    if good { Ok(()) } else { Err(BadHost::Addr(addr.into())) }
}

macro_rules! text_type {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                $name::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

text_type!(AppName);
text_type!(DomainName);

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.addr())
    }
}
