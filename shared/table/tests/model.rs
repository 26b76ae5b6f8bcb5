//! Random histories of a table against a plain map: changes, new tables and restarts in any order, with an overlay so small
//! that it is folded often.

mod common;

use std::collections::BTreeMap;

use common::*;
use proptest::prelude::*;
use steady_table::{App, Change, Contents, Endpoint, Error, HostIndex, Limits, Moving, Options, Routes, TableDir};

const HOSTS: u32 = 4;

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Change>),
    Replace,
    Reopen,
}

#[derive(Clone, Debug, Default)]
struct Model {
    apps: BTreeMap<String, App>,
    customs: BTreeMap<String, String>,
    domains: usize,
    hosts: u32,
}

fn app_name() -> impl Strategy<Value = String> {
    (0u32..24).prop_map(|n| format!("app-{n}"))
}

fn custom_name() -> impl Strategy<Value = String> {
    (0u32..6).prop_map(|n| format!("www{n}.example.org"))
}

fn any_app() -> impl Strategy<Value = App> {
    let endpoints = prop::collection::btree_map(0..HOSTS, (1u16..9, any::<u32>()), 1..4);
    (app_name(), 0u64..4, any::<bool>(), any::<u32>(), endpoints, prop::option::of((0..HOSTS, 1..HOSTS))).prop_map(
        |(text, generation, exclusive, version, endpoints, moving)| App {
            name: name(&text),
            generation,
            exclusive: exclusive && endpoints.len() == 1,
            version,
            endpoints: endpoints
                .into_iter()
                .map(|(host, (weight, version))| Endpoint { host: HostIndex(host), weight, version })
                .collect(),
            moving: moving.map(|(from, by)| Moving {
                from: HostIndex(from),
                to: HostIndex((from + by) % HOSTS),
                generation: generation + 1,
            }),
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => any_app().prop_map(Change::Put),
        3 => app_name().prop_map(|text| Change::Remove(name(&text))),
        2 => (custom_name(), app_name()).prop_map(|(custom, app)| Change::PutDomain(domain(&custom), name(&app))),
        1 => custom_name().prop_map(|text| Change::RemoveDomain(domain(&text))),
        1 => (1..=HOSTS).prop_map(|hosts| Change::SetHosts((0..hosts).map(host).collect())),
        1 => (1usize..4).prop_map(|count| Change::SetDomains(suffixes(count))),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => prop::collection::vec(change(), 1..5).prop_map(Step::Apply),
        1 => Just(Step::Replace),
        2 => Just(Step::Reopen),
    ]
}

fn suffixes(count: usize) -> Vec<steady_table::DomainName> {
    ["localhost", "steady.page", "steady.sh"].iter().take(count).map(|text| domain(text)).collect()
}

impl Model {
    /// What the changes leave, or `None` when they break a rule.
    fn apply(&self, changes: &[Change]) -> Option<Model> {
        let mut next = self.clone();
        for change in changes {
            match change {
                Change::Put(app) => {
                    let had = next.apps.insert(app.name.to_string(), app.clone());
                    if had.is_some_and(|had| had.generation > app.generation) {
                        return None;
                    }
                }
                Change::Remove(name) => _ = next.apps.remove(name.as_str())?,
                Change::PutDomain(domain, app) => {
                    let had = next.customs.insert(domain.to_string(), app.to_string());
                    if had.is_some_and(|had| had != app.as_str()) {
                        return None;
                    }
                }
                Change::RemoveDomain(domain) => _ = next.customs.remove(domain.as_str())?,
                Change::SetHosts(hosts) => next.hosts = hosts.len() as u32,
                Change::SetDomains(domains) => next.domains = domains.len(),
            }
        }
        let known = |host: HostIndex| host.0 < next.hosts;
        let hosts_known = next.apps.values().all(|app| {
            app.endpoints.iter().all(|e| known(e.host)) && app.moving.is_none_or(|m| known(m.from) && known(m.to))
        });
        (hosts_known && next.customs.values().all(|app| next.apps.contains_key(app))).then_some(next)
    }

    fn contents(&self) -> Contents {
        let customs = self.customs.iter().map(|(custom, app)| (domain(custom), name(app)));
        Contents {
            hosts: (0..self.hosts).map(host).collect(),
            domains: suffixes(self.domains),
            apps: self.apps.values().cloned().collect(),
            customs: customs.collect(),
        }
    }

    fn check(&self, routes: &Routes, revision: u64) {
        assert_eq!(routes.revision(), revision);
        let apps: BTreeMap<String, App> = routes.apps().map(|route| (route.name().to_owned(), to_app(route))).collect();
        assert_eq!(apps, self.apps);
        assert_eq!((routes.app_count(), routes.apps().count()), (self.apps.len(), self.apps.len()));
        let customs: BTreeMap<_, _> = routes.customs().map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        assert_eq!(customs, self.customs);
        assert_eq!((routes.custom_count(), routes.customs().count()), (self.customs.len(), self.customs.len()));
        assert_eq!(routes.hosts().len() as u32, self.hosts);
        for n in 0..24 {
            let text = format!("app-{n}");
            assert_eq!(routes.by_name(&text).map(to_app), self.apps.get(&text).cloned());
            for suffix in suffixes(3).iter().map(ToString::to_string).enumerate() {
                let ours = suffix.0 < self.domains;
                let found = if ours { self.apps.get(&text).map_or("no such app", |_| &text) } else { "not ours" };
                assert_eq!(resolved(routes, &format!("{}.{}:80", text.to_uppercase(), suffix.1)), found);
                assert_eq!(resolved(routes, &format!("{text}.{}", suffix.1)), found);
            }
        }
        for n in 0..6 {
            let custom = format!("www{n}.example.org");
            assert_eq!(resolved(routes, &custom), self.customs.get(&custom).map_or("not ours", |app| app));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_table_holds_what_its_history_says(steps in prop::collection::vec(step(), 1..40), bound in 0usize..12) {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits { overlay_entries: bound, log_bytes: 4096 };
        let options = Options { limits, ..Options::default() };
        let (mut table, _, _) = TableDir::open_with(dir.path(), options.clone()).unwrap();
        let mut model = Model { domains: 2, hosts: HOSTS, ..Model::default() };
        let (mut routes, mut revision) = (table.replace(model.contents(), 1).unwrap(), 1);
        for step in steps {
            match step {
                Step::Apply(changes) => match (model.apply(&changes), table.apply(&routes, &changes, revision + 1)) {
                    (Some(next), Ok(applied)) => {
                        (model, routes) = (next, applied);
                        revision += 1;
                    }
                    (None, Err(Error::Invalid(reasons))) => prop_assert!(!reasons.is_empty()),
                    (expected, found) => panic!("expected {expected:?}, found {found:?}"),
                },
                Step::Replace => {
                    revision += 3;
                    routes = table.replace(model.contents(), revision).unwrap();
                }
                Step::Reopen => {
                    drop(table);
                    let (again, found, damage) = TableDir::open_with(dir.path(), options.clone()).unwrap();
                    prop_assert_eq!(damage, vec![]);
                    (table, routes) = (again, found.unwrap());
                }
            }
            model.check(&routes, revision);
        }
    }
}
