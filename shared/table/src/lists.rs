//! The two short lists of a table, which are kept on the heap: hosts and wildcard domains.
//!
//! Encoded as a count (`u32`) and the entries: a host as name and address, a domain as its name, each text with its length
//! before it in one byte.

use std::sync::Arc;

use crate::bytes::{Reader, put_short_text};
use crate::check::Reasons;
use crate::model::{Host, MAX_DOMAINS, MAX_HOSTS};
use crate::name::DomainName;

/// Up to so many domains are compared one by one.
const FEW: usize = 8;

/// The wildcard suffixes, sorted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Domains(Vec<DomainName>);

impl Domains {
    /// `domains` has no name twice (`check` has seen it).
    pub fn new(mut domains: Vec<DomainName>) -> Domains {
        domains.sort_unstable();
        Domains(domains)
    }

    pub fn contains(&self, name: &[u8]) -> bool {
        if self.0.len() <= FEW {
            // Lengths differ more often than not, and comparing them is cheaper than searching.
            return self.0.iter().any(|domain| domain.as_str().as_bytes() == name);
        }
        self.0.binary_search_by(|domain| domain.as_str().as_bytes().cmp(name)).is_ok()
    }

    /// The suffix that `name` is or lies under, at any depth.
    pub fn covering(&self, name: &[u8]) -> Option<&DomainName> {
        let mut rest = name;
        loop {
            if let Ok(at) = self.0.binary_search_by(|domain| domain.as_str().as_bytes().cmp(rest)) {
                return self.0.get(at);
            }
            let dot = rest.iter().position(|b| *b == b'.')?;
            rest = &rest[dot + 1..];
        }
    }

    pub fn as_slice(&self) -> &[DomainName] {
        &self.0
    }
}

pub(crate) fn encode_hosts(hosts: &[Host], out: &mut Vec<u8>) {
    out.extend_from_slice(&(hosts.len() as u32).to_le_bytes());
    for host in hosts {
        put_short_text(out, host.name());
        put_short_text(out, host.addr());
    }
}

pub(crate) fn decode_hosts(reader: &mut Reader<'_>) -> Result<Arc<[Host]>, String> {
    let count = count(reader, MAX_HOSTS)?;
    let mut hosts = Vec::with_capacity(count.min(reader.0.len()));
    for _ in 0..count {
        let cut = "the list of hosts is cut off";
        let (name, addr) = (reader.short_text().ok_or(cut)?, reader.short_text().ok_or(cut)?);
        hosts.push(Host::new(name, addr).map_err(|bad| bad.to_string())?);
    }
    let mut reasons = Reasons::default();
    crate::check::hosts(&hosts, &mut reasons);
    reasons.into_text()?;
    Ok(hosts.into())
}

pub(crate) fn encode_domains(domains: &[DomainName], out: &mut Vec<u8>) {
    out.extend_from_slice(&(domains.len() as u32).to_le_bytes());
    for domain in domains {
        put_short_text(out, domain.as_str());
    }
}

pub(crate) fn decode_domains(reader: &mut Reader<'_>) -> Result<Vec<DomainName>, String> {
    let count = count(reader, MAX_DOMAINS)?;
    let mut domains = Vec::with_capacity(count.min(reader.0.len()));
    for _ in 0..count {
        let name = reader.short_text().ok_or("the list of domains is cut off")?;
        domains.push(DomainName::new(name).map_err(|bad| bad.to_string())?);
    }
    let mut reasons = Reasons::default();
    crate::check::domains(&domains, &mut reasons);
    reasons.into_text()?;
    Ok(domains)
}

fn count(reader: &mut Reader<'_>, most: usize) -> Result<usize, String> {
    let count = reader.u32().ok_or("the list has no count")? as usize;
    if count > most { Err(format!("a list of {count}, the most is {most}")) } else { Ok(count) }
}
