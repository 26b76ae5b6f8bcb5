//! From the store's records to the routing table, and the rules that a change must keep before it is stored.
//!
//! Pure: what the table would say of a commit is found out before the store is asked to keep it, so that a change is refused
//! whole, with every reason, and the two never disagree.

use std::collections::{HashMap, HashSet};

use steady_table::{
    App, AppName, Change, Contents as TableContents, DomainName, Endpoint, Host, HostIndex, MAX_DOMAINS,
};
use steady_table::{MAX_HOSTS, Moving, Routes};

use crate::store::{AppRecord, Commit, Contents, HostRecord, Write};

/// Every application has one endpoint for now; its weight only matters among several.
const WEIGHT: u16 = 1;

/// How a commit reaches the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Derived {
    /// The routes stay as they are.
    Nothing,
    Changes(Vec<Change>),
    /// Hosts changed their places: the table is written anew from the store.
    Anew,
}

/// The places of hosts in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    hosts: Vec<Host>,
    by_name: HashMap<String, HostIndex>,
}

impl Places {
    pub fn new(hosts: Vec<Host>) -> Places {
        let by_name =
            hosts.iter().enumerate().map(|(place, host)| (host.name().to_owned(), HostIndex(place as u32))).collect();
        Places { hosts, by_name }
    }

    fn find(&self, name: &str) -> Result<HostIndex, String> {
        self.by_name.get(name).copied().ok_or_else(|| format!("there is no host {name}: name one of the configuration"))
    }
}

/// What `commit` does to `routes`; every reason why it cannot be, if it cannot. `left_out`: custom domains that the store has and
/// the routes have not.
pub fn derive(routes: &Routes, commit: &Commit, left_out: &HashSet<DomainName>) -> Result<Derived, Vec<String>> {
    let mut reasons = Vec::new();
    let (places, moved) = place_hosts(routes, commit, &mut reasons);
    let mut changes = Vec::new();
    if places.hosts != routes.hosts() {
        changes.push(Change::SetHosts(places.hosts.clone()));
    }
    let domains = derive_domains(routes, commit, &mut changes, &mut reasons);
    let apps = derive_apps(routes, commit, &places, &mut changes, &mut reasons);
    derive_customs(routes, commit, (&domains, left_out), &apps, &mut changes, &mut reasons);
    if !reasons.is_empty() {
        return Err(reasons);
    }
    Ok(match (moved, changes.is_empty()) {
        (true, _) => Derived::Anew,
        (false, true) => Derived::Nothing,
        (false, false) => Derived::Changes(changes),
    })
}

/// The list of hosts afterwards, and whether one that stays has another place in it.
fn place_hosts(routes: &Routes, commit: &Commit, reasons: &mut Vec<String>) -> (Places, bool) {
    let mut hosts = routes.hosts().to_vec();
    for write in &commit.writes {
        match write {
            Write::PutHost(record) => match Host::new(&record.name, &record.addr) {
                Ok(host) => match hosts.iter_mut().find(|known| known.name() == record.name) {
                    Some(known) => *known = host,
                    None => hosts.push(host),
                },
                Err(error) => reasons.push(error.to_string()),
            },
            Write::RemoveHost(name) => {
                hosts.retain(|host| host.name() != name);
                if routes.apps().any(|app| lives_on(routes, &app, name)) {
                    reasons.push(format!("host {name} still has applications: move them first"));
                }
            }
            _ => {}
        }
    }
    if hosts.len() > MAX_HOSTS {
        reasons.push(format!("{} hosts are more than {MAX_HOSTS}", hosts.len()));
    }
    let before = routes.hosts().iter().map(Host::name);
    let moved = hosts.iter().map(Host::name).zip(before).any(|(now, before)| now != before)
        || hosts.len() < routes.hosts().len();
    (Places::new(hosts), moved)
}

fn lives_on(routes: &Routes, app: &steady_table::Route<'_>, host: &str) -> bool {
    let named = |index: HostIndex| routes.host(index).is_some_and(|known| known.name() == host);
    app.endpoints().any(|endpoint| named(endpoint.host)) || app.moving().is_some_and(|moving| named(moving.to))
}

fn derive_domains(
    routes: &Routes,
    commit: &Commit,
    changes: &mut Vec<Change>,
    reasons: &mut Vec<String>,
) -> Vec<DomainName> {
    let mut domains = routes.domains().to_vec();
    for write in &commit.writes {
        let Write::SetDomains(list) = write else { continue };
        let mut seen = HashSet::new();
        for domain in list.iter().filter(|domain| !seen.insert(*domain)) {
            reasons.push(format!("domain {domain} is given twice: leave one out"));
        }
        if list.len() > MAX_DOMAINS {
            reasons.push(format!("{} domains are more than {MAX_DOMAINS}", list.len()));
        }
        domains.clone_from(list);
    }
    let same =
        domains.len() == routes.domains().len() && domains.iter().all(|domain| routes.domains().contains(domain));
    if !same {
        changes.push(Change::SetDomains(domains.clone()));
        let removed = |custom: &str| {
            commit.writes.iter().any(|write| matches!(write, Write::RemoveCustom(domain) if domain.as_str() == custom))
        };
        for (custom, app) in routes.customs().filter(|(custom, _)| !removed(custom)) {
            if let Some(suffix) = covering(&domains, custom) {
                reasons.push(format!("custom domain {custom} (of {app}) would lie under {suffix}: remove it first"));
            }
        }
    }
    domains
}

/// Which applications there are after the commit, as far as it changes that.
fn derive_apps<'a>(
    routes: &Routes,
    commit: &'a Commit,
    places: &Places,
    changes: &mut Vec<Change>,
    reasons: &mut Vec<String>,
) -> HashMap<&'a AppName, bool> {
    let mut there = HashMap::new();
    for write in &commit.writes {
        match write {
            Write::PutApp(record) => {
                there.insert(&record.name, true);
                match table_app(record, places) {
                    Ok(app) => changes.push(Change::Put(app)),
                    Err(reason) => reasons.push(reason),
                }
            }
            Write::RemoveApp(name) => {
                there.insert(name, false);
                if routes.by_name(name.as_str()).is_some() {
                    changes.push(Change::Remove(name.clone()));
                }
            }
            _ => {}
        }
    }
    there
}

fn derive_customs(
    routes: &Routes,
    commit: &Commit,
    (domains, left_out): (&[DomainName], &HashSet<DomainName>),
    apps: &HashMap<&AppName, bool>,
    changes: &mut Vec<Change>,
    reasons: &mut Vec<String>,
) {
    for (domain, app) in left_behind(routes, commit, apps) {
        reasons.push(format!("custom domain {domain} still serves {app}: remove it, or give it to another, first"));
    }
    for write in &commit.writes {
        match write {
            Write::PutCustom(domain, app) => {
                let there = apps.get(app).copied().unwrap_or_else(|| routes.by_name(app.as_str()).is_some());
                if !there {
                    reasons.push(format!("custom domain {domain} names {app}, which does not exist: deploy it first"));
                }
                if let Some(suffix) = covering(domains, domain.as_str()) {
                    reasons.push(format!(
                        "custom domain {domain} is or lies under {suffix}, whose names are applications"
                    ));
                }
                if routes.custom_domain(domain.as_str()).is_some_and(|known| known != app.as_str()) {
                    changes.push(Change::RemoveDomain(domain.clone()));
                }
                changes.push(Change::PutDomain(domain.clone(), app.clone()));
            }
            Write::RemoveCustom(domain) => match routes.custom_domain(domain.as_str()) {
                Some(_) => changes.push(Change::RemoveDomain(domain.clone())),
                None if left_out.contains(domain) => {}
                None => reasons.push(format!("there is no custom domain {domain}")),
            },
            _ => {}
        }
    }
    // An application goes after the domains that serve it.
    changes.sort_by_key(|change| match change {
        Change::SetHosts(_) => 0,
        Change::RemoveDomain(_) => 1,
        Change::SetDomains(_) => 2,
        Change::Put(_) => 3,
        Change::Remove(_) => 4,
        Change::PutDomain(..) => 5,
    });
}

/// Custom domains that go on serving an application which the commit removes.
fn left_behind<'r>(
    routes: &'r Routes,
    commit: &Commit,
    apps: &HashMap<&AppName, bool>,
) -> impl Iterator<Item = (&'r str, &'r str)> {
    let removed: HashSet<&str> = apps.iter().filter(|(_, there)| !**there).map(|(app, _)| app.as_str()).collect();
    let settled: HashSet<&str> = commit
        .writes
        .iter()
        .filter_map(|write| match write {
            // Given to one that goes, it is refused as such.
            Write::RemoveCustom(domain) | Write::PutCustom(domain, _) => Some(domain.as_str()),
            _ => None,
        })
        .collect();
    // Most commits remove none, and need not look at every domain.
    let customs = (!removed.is_empty()).then(|| routes.customs()).into_iter().flatten();
    let left: Vec<_> = customs.filter(|(domain, app)| removed.contains(app) && !settled.contains(domain)).collect();
    left.into_iter()
}

fn covering<'a>(domains: &'a [DomainName], name: &str) -> Option<&'a DomainName> {
    domains.iter().find(|suffix| {
        name.strip_suffix(suffix.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

fn table_app(record: &AppRecord, places: &Places) -> Result<App, String> {
    let from = places.find(&record.host)?;
    let moving = match &record.moving {
        None => None,
        Some(moving) => Some(Moving { from, to: places.find(&moving.to)?, generation: moving.generation }),
    };
    Ok(App {
        name: record.name.clone(),
        generation: record.generation,
        exclusive: record.exclusive,
        version: record.version,
        endpoints: vec![Endpoint { host: from, weight: WEIGHT, version: record.version }],
        moving,
    })
}

/// Custom domains of applications that the store does not have. No change makes any; an earlier version's could.
pub fn orphans(contents: &Contents) -> Vec<(DomainName, AppName)> {
    let apps: HashSet<&AppName> = contents.apps.iter().map(|app| &app.name).collect();
    contents.customs.iter().filter(|(_, app)| !apps.contains(app)).cloned().collect()
}

/// The whole table of a store. Records that name a host or an application that is not there are left out and told.
pub fn whole(contents: Contents) -> (TableContents, Vec<String>) {
    let mut told = Vec::new();
    let hosts: Vec<Host> = contents.hosts.iter().filter_map(|record| table_host(record, &mut told)).collect();
    let places = Places::new(hosts.clone());
    let mut apps = Vec::with_capacity(contents.apps.len());
    for record in &contents.apps {
        match table_app(record, &places) {
            Ok(app) => apps.push(app),
            Err(reason) => told.push(format!("application {}: {reason}", record.name)),
        }
    }
    let there: HashSet<&AppName> = apps.iter().map(|app| &app.name).collect();
    let mut customs = Vec::with_capacity(contents.customs.len());
    for (domain, app) in contents.customs {
        if !there.contains(&app) {
            told.push(format!("custom domain {domain}: there is no application {app}"));
        } else if let Some(suffix) = covering(&contents.domains, domain.as_str()) {
            told.push(format!("custom domain {domain} is or lies under {suffix}, whose names are applications"));
        } else {
            customs.push((domain, app));
        }
    }
    (TableContents { hosts, domains: contents.domains, apps, customs }, told)
}

fn table_host(record: &HostRecord, told: &mut Vec<String>) -> Option<Host> {
    Host::new(&record.name, &record.addr).map_err(|error| told.push(error.to_string())).ok()
}

/// Most differences that are listed one by one.
const DIFFERENCES_SHOWN: usize = 20;

/// How a table differs from what the store says, in words; empty if it does not.
pub fn differences(routes: &Routes, wanted: &TableContents) -> Vec<String> {
    let mut found = Vec::new();
    if routes.hosts() != wanted.hosts {
        found.push("the list of hosts".to_owned());
    }
    let domains: HashSet<_> = routes.domains().iter().collect();
    if domains != wanted.domains.iter().collect() {
        found.push("the list of domains".to_owned());
    }
    for app in &wanted.apps {
        match routes.by_name(app.name.as_str()) {
            None => found.push(format!("application {} is missing", app.name)),
            Some(route) => {
                let same = route.generation() == app.generation
                    && route.version() == app.version
                    && route.is_exclusive() == app.exclusive
                    && route.moving() == app.moving
                    && route.endpoints().eq(app.endpoints.iter().copied());
                if !same {
                    found.push(format!("application {} is another", app.name));
                }
            }
        }
    }
    if routes.app_count() > wanted.apps.len() || found.iter().any(|what| what.ends_with("missing")) {
        let known: HashSet<_> = wanted.apps.iter().map(|app| app.name.as_str()).collect();
        let surplus = routes.apps().filter(|route| !known.contains(route.name()));
        found.extend(surplus.map(|route| format!("application {} is too many", route.name())));
    }
    let customs: HashSet<(&str, &str)> = wanted.customs.iter().map(|(d, a)| (d.as_str(), a.as_str())).collect();
    if routes.custom_count() != customs.len() || !routes.customs().all(|custom| customs.contains(&custom)) {
        found.push("the custom domains".to_owned());
    }
    if found.len() > DIFFERENCES_SHOWN {
        let more = found.len() - DIFFERENCES_SHOWN;
        found.truncate(DIFFERENCES_SHOWN);
        found.push(format!("and {more} more"));
    }
    found
}
