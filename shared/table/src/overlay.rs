//! The changes since the base: how they are checked, and the small index that a look-up asks first.
//!
//! A [`Draft`] takes changes on top of a [`Routes`] and checks what they leave; it then becomes the overlay of the next
//! `Routes`, or, with the base, the records of the next base. Its cost is that of the changes and of the overlay, not that of
//! the base, with three exceptions which look at every entry once: a list of hosts that becomes shorter, a new list of
//! domains, and the removal of an application while there are custom domains.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::check::{self, Reasons};
use crate::error::Invalid;
use crate::index::{Builder, Built, Fault};
use crate::lists::Domains;
use crate::model::{App, Change, Host, MAX_ENDPOINTS};
use crate::name::{AppName, DomainName};
use crate::record::{
    AppLayout, CustomLayout, Layout, encode_app, encode_custom, encode_removed_app, encode_removed_custom, is_removed,
    key, mark_override, overrides, unmark,
};
use crate::routes::Routes;

/// Doublings of the overlay's slots that are tried when a key lies too far away: it must use the base's seed.
const DOUBLINGS: u32 = 4;

#[derive(Debug)]
pub(crate) struct Overlay {
    pub apps: Built<AppLayout>,
    pub customs: Built<CustomLayout>,
    /// How many more applications (custom domains) there are than in the base.
    pub apps_added: isize,
    pub customs_added: isize,
}

impl Overlay {
    pub fn empty() -> Overlay {
        Overlay { apps: Built::empty(), customs: Built::empty(), apps_added: 0, customs_added: 0 }
    }

    pub fn entries(&self) -> usize {
        self.apps.count + self.customs.count
    }
}

/// Changes on top of a table; `None` means removed.
pub(crate) struct Draft<'a> {
    routes: &'a Routes,
    apps: HashMap<AppName, Option<App>>,
    customs: HashMap<DomainName, Option<AppName>>,
    hosts: Option<Arc<[Host]>>,
    domains: Option<Arc<Domains>>,
}

/// What the changes of one batch touched, for the checks at its end.
#[derive(Default)]
struct Touched<'c> {
    put: HashSet<&'c str>,
    removed: HashSet<&'c str>,
    customs: HashSet<&'c str>,
    fewer_hosts: bool,
    domains: bool,
}

impl<'a> Draft<'a> {
    pub fn new(routes: &'a Routes) -> Self {
        Draft { routes, apps: HashMap::new(), customs: HashMap::new(), hosts: None, domains: None }
    }

    /// Takes one batch of changes. After an error the draft is of no more use.
    pub fn make<'c>(
        &mut self,
        changes: impl IntoIterator<Item = &'c Change>,
        reserved: &[AppName],
    ) -> Result<(), Reasons> {
        let mut reasons = Reasons::default();
        let mut touched = Touched::default();
        for change in changes {
            self.take(change, reserved, &mut touched, &mut reasons);
        }
        self.check_apps(&touched, &mut reasons);
        self.check_customs(&touched, &mut reasons);
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn take<'c>(&mut self, change: &'c Change, reserved: &[AppName], touched: &mut Touched<'c>, reasons: &mut Reasons) {
        match change {
            Change::Put(app) => {
                if app.endpoints.len() > MAX_ENDPOINTS {
                    // Here and not at the end: even one that is replaced in the same batch is written to the log.
                    let (app, count) = (app.name.to_string(), app.endpoints.len());
                    return reasons.push(Invalid::TooManyEndpoints { app, count });
                }
                if reserved.contains(&app.name) {
                    reasons.push(Invalid::Reserved { app: app.name.clone() });
                }
                if let Some(had) = self.generation(&app.name)
                    && had > app.generation
                {
                    let (app, given) = (app.name.to_string(), app.generation);
                    reasons.push(Invalid::GenerationBack { app, had, given });
                }
                touched.removed.remove(app.name.as_str());
                touched.put.insert(app.name.as_str());
                self.apps.insert(app.name.clone(), Some(app.clone()));
            }
            Change::Remove(name) => {
                if self.generation(name).is_none() {
                    reasons.push(Invalid::UnknownApp { app: name.clone() });
                }
                touched.put.remove(name.as_str());
                touched.removed.insert(name.as_str());
                self.apps.insert(name.clone(), None);
            }
            Change::PutDomain(domain, app) => {
                if let Some(other) = self.custom(domain)
                    && other != *app
                {
                    reasons.push(Invalid::DuplicateCustom { domain: domain.clone(), app: other });
                }
                touched.customs.insert(domain.as_str());
                self.customs.insert(domain.clone(), Some(app.clone()));
            }
            Change::RemoveDomain(domain) => {
                if self.custom(domain).is_none() {
                    reasons.push(Invalid::UnknownCustom { domain: domain.clone() });
                }
                touched.customs.remove(domain.as_str());
                self.customs.insert(domain.clone(), None);
            }
            Change::SetHosts(hosts) => {
                check::hosts(hosts, reasons);
                touched.fewer_hosts |= hosts.len() < self.hosts().len();
                self.hosts = Some(hosts.clone().into());
            }
            Change::SetDomains(domains) => {
                check::domains(domains, reasons);
                touched.domains = true;
                self.domains = Some(Arc::new(Domains::new(domains.clone())));
            }
        }
    }

    fn check_apps(&self, touched: &Touched<'_>, reasons: &mut Reasons) {
        let hosts = self.hosts().len();
        if touched.fewer_hosts {
            self.apps.values().flatten().for_each(|app| check::app(app, hosts, reasons));
            let unchanged = self.routes.apps().filter(|route| !self.apps.contains_key(route.name()));
            unchanged.for_each(|route| check::route(route, hosts, reasons));
        } else {
            let put = touched.put.iter().filter_map(|name| self.apps.get(*name)?.as_ref());
            put.for_each(|app| check::app(app, hosts, reasons));
        }
    }

    fn check_customs(&self, touched: &Touched<'_>, reasons: &mut Reasons) {
        let all = touched.domains || !touched.removed.is_empty();
        let changed = self.customs.iter().filter_map(|(domain, app)| Some((domain, app.as_ref()?)));
        for (domain, app) in changed.filter(|(domain, _)| all || touched.customs.contains(domain.as_str())) {
            self.check_custom(domain, app, touched, reasons);
        }
        if !all {
            return;
        }
        for (domain, app) in self.routes.customs().filter(|(domain, _)| !self.customs.contains_key(*domain)) {
            let covered = touched.domains && self.domains().covering(domain.as_bytes()).is_some();
            if !covered && !touched.removed.contains(app) {
                continue;
            }
            // Names of the table are names; the conversion is for the types.
            if let (Ok(domain), Ok(app)) = (DomainName::new(domain), AppName::new(app)) {
                self.check_custom(&domain, &app, touched, reasons);
            }
        }
    }

    fn check_custom(&self, domain: &DomainName, app: &AppName, touched: &Touched<'_>, reasons: &mut Reasons) {
        if self.generation(app).is_none() {
            let (domain, app) = (domain.clone(), app.clone());
            reasons.push(if touched.removed.contains(app.as_str()) {
                Invalid::StillServes { app, domain }
            } else {
                Invalid::CustomWithoutApp { domain, app }
            });
        }
        if let Some(suffix) = self.domains().covering(domain.as_str().as_bytes()) {
            reasons.push(Invalid::CustomUnderSuffix { domain: domain.clone(), suffix: suffix.clone() });
        }
    }

    /// The generation of an application that exists.
    fn generation(&self, name: &AppName) -> Option<u64> {
        match self.apps.get(name) {
            Some(app) => app.as_ref().map(|app| app.generation),
            None => self.routes.by_name(name.as_str()).map(|route| route.generation()),
        }
    }

    fn custom(&self, domain: &DomainName) -> Option<AppName> {
        match self.customs.get(domain) {
            Some(app) => app.clone(),
            None => self.routes.custom_domain(domain.as_str()).and_then(|app| AppName::new(app).ok()),
        }
    }

    pub fn hosts(&self) -> &Arc<[Host]> {
        self.hosts.as_ref().unwrap_or(&self.routes.hosts)
    }

    pub fn domains(&self) -> &Arc<Domains> {
        self.domains.as_ref().unwrap_or(&self.routes.domains)
    }

    /// The table with these changes in its overlay.
    pub fn finish(&self, revision: u64) -> Result<Routes, Fault> {
        let seed = self.routes.base.seed;
        let (mut apps, mut customs) = (Builder::new(), Builder::new());
        self.overlay_apps(&mut apps, true);
        self.overlay_customs(&mut customs, true);
        let (apps, customs) = (apps.build(seed, DOUBLINGS), customs.build(seed, DOUBLINGS));
        let (apps, customs) = (apps.map_err(|(_, fault)| fault)?, customs.map_err(|(_, fault)| fault)?);
        let overlay = Overlay { apps_added: added(&apps), customs_added: added(&customs), apps, customs };
        Ok(Routes {
            base: self.routes.base.clone(),
            overlay: Arc::new(overlay),
            hosts: self.hosts().clone(),
            domains: self.domains().clone(),
            revision,
        })
    }

    /// The records of a new base: those of the old one that still hold, and the overlay's.
    pub fn fold(&self) -> (Builder<AppLayout>, Builder<CustomLayout>) {
        let (mut apps, mut customs) = (Builder::new(), Builder::new());
        for (_, record) in self.routes.base.app_index().walk() {
            let name = key_text::<AppLayout>(record);
            if !self.apps.contains_key(name) && !self.routes.overrides_app(name.as_bytes()) {
                apps.push(|out| out.extend_from_slice(record));
            }
        }
        for (_, record) in self.routes.base.custom_index().walk() {
            let name = key_text::<CustomLayout>(record);
            if !self.customs.contains_key(name) && !self.routes.overrides_custom(name.as_bytes()) {
                customs.push(|out| out.extend_from_slice(record));
            }
        }
        self.overlay_apps(&mut apps, false);
        self.overlay_customs(&mut customs, false);
        (apps, customs)
    }

    /// The overlay's records, old and new, with its marks or, for a base, without them and without the removed.
    fn overlay_apps(&self, out: &mut Builder<AppLayout>, marks: bool) {
        for (_, record) in self.routes.overlay.apps.index().walk() {
            if !self.apps.contains_key(key_text::<AppLayout>(record)) {
                keep(record, out, marks);
            }
        }
        for (name, app) in &self.apps {
            let in_base = marks && self.in_base_app(name);
            match app {
                Some(app) => push_marked(out, in_base, |bytes| encode_app(app, bytes)),
                None if in_base => out.push(|bytes| encode_removed_app(name.as_str(), bytes)),
                None => {}
            }
        }
    }

    fn overlay_customs(&self, out: &mut Builder<CustomLayout>, marks: bool) {
        for (_, record) in self.routes.overlay.customs.index().walk() {
            if !self.customs.contains_key(key_text::<CustomLayout>(record)) {
                keep(record, out, marks);
            }
        }
        for (domain, app) in &self.customs {
            let in_base = marks && self.in_base_custom(domain);
            match app {
                Some(app) => push_marked(out, in_base, |bytes| encode_custom(domain, app.as_str(), bytes)),
                None if in_base => out.push(|bytes| encode_removed_custom(domain.as_str(), bytes)),
                None => {}
            }
        }
    }

    fn in_base_app(&self, name: &AppName) -> bool {
        let name = name.as_str().as_bytes();
        self.routes.base.app_index().find(crate::hash::hash(self.routes.base.seed, name), name).is_some()
    }

    fn in_base_custom(&self, domain: &DomainName) -> bool {
        let domain = domain.as_str().as_bytes();
        self.routes.base.custom_index().find(crate::hash::hash(self.routes.base.seed, domain), domain).is_some()
    }
}

fn key_text<L: Layout>(record: &[u8]) -> &str {
    key::<L>(record).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
}

fn keep<L: Layout>(record: &[u8], out: &mut Builder<L>, marks: bool) {
    if marks {
        out.push(|bytes| bytes.extend_from_slice(record));
    } else if !is_removed(record) {
        out.push(|bytes| {
            let at = bytes.len();
            bytes.extend_from_slice(record);
            unmark(&mut bytes[at..]);
        });
    }
}

fn push_marked<L: Layout>(out: &mut Builder<L>, in_base: bool, encode: impl FnOnce(&mut Vec<u8>)) {
    out.push(|bytes| {
        let at = bytes.len();
        encode(bytes);
        if in_base {
            mark_override(&mut bytes[at..]);
        }
    });
}

/// New entries less removed ones: only an entry of the base is ever marked as removed.
fn added<L: Layout>(built: &Built<L>) -> isize {
    let one = |record: &[u8]| match (is_removed(record), overrides(record)) {
        (true, _) => -1,
        (false, true) => 0,
        (false, false) => 1,
    };
    built.index().walk().map(|(_, record)| one(record)).sum()
}
