//! The rules of a table, one place for what is written and for what is read.

use std::collections::HashSet;

use crate::error::{Error, Invalid};
use crate::model::{App, Endpoint, Host, HostIndex, MAX_DOMAINS, MAX_ENDPOINTS, MAX_HOSTS, Moving};
use crate::name::DomainName;
use crate::record::Route;

/// Reasons that are listed one by one; the others are counted. A table of a million wrong entries is refused in one page.
const LISTED: usize = 100;

#[derive(Debug, Default)]
pub(crate) struct Reasons {
    listed: Vec<Invalid>,
    more: usize,
}

impl Reasons {
    pub fn push(&mut self, reason: Invalid) {
        if self.listed.len() < LISTED {
            self.listed.push(reason);
        } else {
            self.more += 1;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    pub fn into_error(mut self) -> Error {
        if self.more > 0 {
            self.listed.push(Invalid::More { count: self.more });
        }
        Error::Invalid(self.listed)
    }

    pub fn into_result(self) -> Result<(), Error> {
        if self.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    /// The first reason as a text.
    pub fn into_text(self) -> Result<(), String> {
        self.listed.first().map_or(Ok(()), |reason| Err(reason.to_string()))
    }
}

pub(crate) fn app(app: &App, hosts: usize, reasons: &mut Reasons) {
    let endpoints = app.endpoints.iter().copied();
    placement(app.name.as_str(), app.generation, app.exclusive, endpoints, app.moving, hosts, reasons);
}

pub(crate) fn route(route: Route<'_>, hosts: usize, reasons: &mut Reasons) {
    let (exclusive, moving) = (route.is_exclusive(), route.moving());
    placement(route.name(), route.generation(), exclusive, route.endpoints(), moving, hosts, reasons);
}

fn placement(
    name: &str,
    generation: u64,
    exclusive: bool,
    endpoints: impl ExactSizeIterator<Item = Endpoint> + Clone,
    moving: Option<Moving>,
    hosts: usize,
    reasons: &mut Reasons,
) {
    let name = || name.to_owned();
    let count = endpoints.len();
    if count == 0 {
        reasons.push(Invalid::NoEndpoint { app: name() });
    } else if count > MAX_ENDPOINTS {
        return reasons.push(Invalid::TooManyEndpoints { app: name(), count });
    } else if endpoints.clone().all(|e| e.weight == 0) {
        reasons.push(Invalid::NoWeight { app: name() });
    }
    if exclusive && count > 1 {
        reasons.push(Invalid::ExclusiveTwice { app: name(), count });
    }
    let mut known = |host: HostIndex| {
        if host.0 as usize >= hosts {
            reasons.push(Invalid::UnknownHost { app: name(), host, hosts });
        }
    };
    endpoints.clone().for_each(|e| known(e.host));
    if let Some(moving) = moving {
        known(moving.from);
        known(moving.to);
        if moving.from == moving.to {
            reasons.push(Invalid::MovesNowhere { app: name(), host: moving.to });
        }
        if moving.generation <= generation {
            reasons.push(Invalid::MoveGeneration { app: name(), generation, moving: moving.generation });
        }
    }
    for (at, e) in endpoints.clone().enumerate() {
        if endpoints.clone().take(at).any(|before| (before.host, before.version) == (e.host, e.version)) {
            reasons.push(Invalid::DuplicateEndpoint { app: name(), host: e.host });
        }
    }
}

pub(crate) fn hosts(hosts: &[Host], reasons: &mut Reasons) {
    if hosts.len() > MAX_HOSTS {
        return reasons.push(Invalid::TooManyHosts { count: hosts.len() });
    }
    let mut seen = HashSet::with_capacity(hosts.len());
    for host in hosts {
        if !seen.insert(host.name()) {
            reasons.push(Invalid::DuplicateHost { name: host.name().to_owned() });
        }
    }
}

pub(crate) fn domains(domains: &[DomainName], reasons: &mut Reasons) {
    if domains.len() > MAX_DOMAINS {
        return reasons.push(Invalid::TooManyDomains { count: domains.len() });
    }
    let mut seen = HashSet::with_capacity(domains.len());
    for domain in domains {
        if !seen.insert(domain) {
            reasons.push(Invalid::DuplicateDomain { domain: domain.clone() });
        }
    }
}
