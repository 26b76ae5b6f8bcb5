//! The names of members, and how a certificate says them.

use std::fmt;

use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// No public name lies under it: `internal` is set aside for private use (ICANN resolution 2024.07.29.06).
const DOMAIN: &str = "steady.internal";
/// A name and the rest of what a certificate calls it must be a DNS name: 253 octets, labels of 63.
const NAME_OCTETS_MAX: usize = 63;

/// What a member is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Forwards requests to hosts, and holds the authority.
    Edge,
    /// Runs applications.
    Host,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Edge => "edge",
            Role::Host => "host",
        }
    }

    /// The name that every certificate of this role is valid for, beside its own.
    pub fn dns_name(self) -> String {
        format!("{}.{DOMAIN}", self.as_str())
    }

    pub fn server_name(self) -> ServerName<'static> {
        ServerName::DnsName(DnsName::try_from(self.dns_name()).expect("both parts are DNS labels"))
    }
}

/// One member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    role: Role,
    name: Box<str>,
}

/// A name that no certificate can say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a member's name: write 1 to {NAME_OCTETS_MAX} lower-case letters, digits and inner dashes, in parts \
     separated by dots"
)]
pub struct BadName(pub String);

impl Member {
    pub fn new(role: Role, name: &str) -> Result<Member, BadName> {
        let is_label = |label: &str| {
            let inner = label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > NAME_OCTETS_MAX || !name.split('.').all(is_label) {
            return Err(BadName(name.to_owned()));
        }
        Ok(Member { role, name: name.into() })
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `h1.host.steady.internal`.
    pub fn dns_name(&self) -> String {
        format!("{}.{}", self.name, self.role.dns_name())
    }

    /// What whoever connects to this member asks its certificate for.
    pub fn server_name(&self) -> ServerName<'static> {
        ServerName::DnsName(DnsName::try_from(self.dns_name()).expect("checked when it was made"))
    }

    /// Whom a certificate is for. It is read, not verified.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Member> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let names = parsed.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(|name| match name {
            GeneralName::DNSName(name) => Member::parse(name),
            _ => None,
        })
    }

    fn parse(dns_name: &str) -> Option<Member> {
        let rest = dns_name.strip_suffix(DOMAIN)?.strip_suffix('.')?;
        let (name, role) = rest.rsplit_once('.')?;
        let role = [Role::Edge, Role::Host].into_iter().find(|known| known.as_str() == role)?;
        Member::new(role, name).ok()
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role.as_str(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_certificate_calls_a_member_says_its_role_and_its_name() {
        for name in ["h1", "a.b-c", "edge", "x.edge"] {
            let member = Member::new(Role::Host, name).unwrap();
            assert_eq!(Member::parse(&member.dns_name()), Some(member));
        }
        for other in ["host.steady.internal", "h1.steady.internal", "h1.host.steady.page", "h1.guest.steady.internal"] {
            assert_eq!(Member::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_that_is_no_dns_name_is_refused() {
        let long = "a".repeat(64);
        for name in ["", "H1", "-a", "a-", "a..b", ".a", "a.", "a b", "*.x", "ä", &long] {
            assert!(Member::new(Role::Host, name).is_err(), "{name}");
        }
    }
}
