//! One version of the whole table, for reading.

use std::sync::Arc;

use crate::authority::{Authority, NameBuf, parse, without_port};
use crate::base::Base;
use crate::hash::hash;
use crate::lists::Domains;
use crate::model::{Host, HostIndex};
use crate::name::DomainName;
use crate::overlay::Overlay;
use crate::record::{CustomLayout, Route, custom_app, is_removed, key};

/// A whole table of one revision. It never changes; a clone shares everything. Reading takes no lock, no allocation and no
/// system call.
#[derive(Clone, Debug)]
pub struct Routes {
    pub(crate) base: Arc<Base>,
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) hosts: Arc<[Host]>,
    pub(crate) domains: Arc<Domains>,
    pub(crate) revision: u64,
}

/// Where a request for an authority goes.
#[derive(Clone, Copy, Debug)]
pub enum Resolution<'a> {
    App(Route<'a>),
    /// The name is one of ours, but no application has it.
    NoSuchApp,
    /// A host name (or an address) that neither is a custom domain nor lies under a domain of ours.
    NotOurs,
    /// Not an authority at all.
    Bad,
}

impl Routes {
    /// Finds the application for the authority of a request (`Host` or `:authority`): case, one trailing dot and the port do
    /// not matter. `NAME.suffix` is the application NAME; a custom domain is compared whole.
    pub fn resolve(&self, authority: &[u8]) -> Resolution<'_> {
        match self.resolve_as_written(authority) {
            Some(route) => Resolution::App(route),
            None => self.resolve_any(authority),
        }
    }

    /// The way of nearly every request: the bytes are an application's name, a dot and a domain just as the table has them,
    /// perhaps with a port. What is found in the table needs no other check.
    fn resolve_as_written(&self, authority: &[u8]) -> Option<Route<'_>> {
        let host = without_port(authority);
        let dot = host.iter().position(|byte| *byte == b'.')?;
        let (name, suffix) = (&host[..dot], &host[dot + 1..]);
        if self.domains.contains(suffix) { self.app(name) } else { None }
    }

    /// Any other way to write an authority.
    fn resolve_any(&self, authority: &[u8]) -> Resolution<'_> {
        let mut buf: NameBuf = [0; 256];
        let (host, first) = match parse(authority, &mut buf) {
            Authority::Name { host, first } => (host, first),
            Authority::Literal => return Resolution::NotOurs,
            Authority::Bad => return Resolution::Bad,
        };
        if let Some(first) = first
            && self.domains.contains(&host[first + 1..])
        {
            return self.app(&host[..first]).map_or(Resolution::NoSuchApp, Resolution::App);
        }
        if let Some(app) = self.custom(host) {
            return self.app(app).map_or(Resolution::NoSuchApp, Resolution::App);
        }
        match self.domains.covering(host) {
            Some(_) => Resolution::NoSuchApp,
            None => Resolution::NotOurs,
        }
    }

    /// The application of this exact name.
    pub fn by_name(&self, name: &str) -> Option<Route<'_>> {
        self.app(name.as_bytes())
    }

    /// The application that a custom domain (lower case, no trailing dot) serves.
    pub fn custom_domain(&self, domain: &str) -> Option<&str> {
        self.custom(domain.as_bytes()).and_then(|app| std::str::from_utf8(app).ok())
    }

    pub fn host(&self, index: HostIndex) -> Option<&Host> {
        self.hosts.get(index.0 as usize)
    }

    /// The hosts in the order of their indexes.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The wildcard suffixes, sorted.
    pub fn domains(&self) -> &[DomainName] {
        self.domains.as_slice()
    }

    /// Every application once, in no particular order.
    pub fn apps(&self) -> impl Iterator<Item = Route<'_>> {
        let base = self.base.app_index().walk().map(|(_, record)| record);
        let kept = base.filter(|record| {
            self.overlay.apps.count == 0
                || key::<crate::record::AppLayout>(record).is_none_or(|name| !self.overrides_app(name))
        });
        let overlay = self.overlay.apps.index().walk().map(|(_, record)| record);
        kept.chain(overlay.filter(|record| !is_removed(record))).filter_map(Route::parse)
    }

    /// Every custom domain and its application, in no particular order.
    pub fn customs(&self) -> impl Iterator<Item = (&str, &str)> {
        let base = self.base.custom_index().walk().map(|(_, record)| record);
        let kept = base.filter(|record| {
            self.overlay.customs.count == 0
                || key::<CustomLayout>(record).is_none_or(|name| !self.overrides_custom(name))
        });
        let overlay = self.overlay.customs.index().walk().map(|(_, record)| record);
        kept.chain(overlay.filter(|record| !is_removed(record))).filter_map(|record| {
            let domain = std::str::from_utf8(key::<CustomLayout>(record)?).ok()?;
            Some((domain, std::str::from_utf8(custom_app(record)?).ok()?))
        })
    }

    /// The revision that the writer gave to this version; it grows with each.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn app_count(&self) -> usize {
        self.base.apps.saturating_add_signed(self.overlay.apps_added)
    }

    pub fn custom_count(&self) -> usize {
        self.base.customs.saturating_add_signed(self.overlay.customs_added)
    }

    fn app(&self, name: &[u8]) -> Option<Route<'_>> {
        let hash = hash(self.base.seed, name);
        if self.overlay.apps.count > 0
            && let Some(record) = self.overlay.apps.index().find(hash, name)
        {
            return if is_removed(record) { None } else { Route::parse(record) };
        }
        self.base.app_index().find(hash, name).and_then(Route::parse)
    }

    fn custom(&self, domain: &[u8]) -> Option<&[u8]> {
        if self.base.customs == 0 && self.overlay.customs.count == 0 {
            return None;
        }
        let hash = hash(self.base.seed, domain);
        if let Some(record) = self.overlay.customs.index().find(hash, domain) {
            return if is_removed(record) { None } else { custom_app(record) };
        }
        self.base.custom_index().find(hash, domain).and_then(custom_app)
    }

    pub(crate) fn overrides_app(&self, name: &[u8]) -> bool {
        self.overlay.apps.index().find(hash(self.base.seed, name), name).is_some()
    }

    pub(crate) fn overrides_custom(&self, domain: &[u8]) -> bool {
        self.overlay.customs.index().find(hash(self.base.seed, domain), domain).is_some()
    }
}
