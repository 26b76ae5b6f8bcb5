//! What a table answers, and what it refuses to hold.

mod common;

use common::*;
use steady_table::{Change, Contents, Error, Host, HostIndex, Invalid, Limits, Options, Routes, TableDir};

fn made(contents: Contents) -> (tempfile::TempDir, TableDir, Routes) {
    let dir = tempfile::tempdir().unwrap();
    let (mut table, none, damage) = TableDir::open(dir.path()).unwrap();
    assert!(none.is_none() && damage.is_empty());
    let routes = table.replace(contents, 1).unwrap();
    (dir, table, routes)
}

fn invalid(result: steady_table::Result<Routes>) -> Vec<Invalid> {
    match result {
        Err(Error::Invalid(reasons)) => reasons,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_name_under_any_of_the_domains_is_that_application() {
    let (_dir, _table, routes) = made(contents());
    for authority in
        ["shop.steady.page", "SHOP.steady.SH.", "shop.localhost:8080", "www.example.org", "WWW.Example.org.:443"]
    {
        assert_eq!(resolved(&routes, authority), "shop", "{authority}");
    }
    assert_eq!(resolved(&routes, "blog.steady.page"), "blog");
}

#[test]
fn what_is_ours_but_no_application_differs_from_what_is_not_ours() {
    let (_dir, _table, routes) = made(contents());
    for authority in
        ["nope.steady.page", "steady.page", "localhost", "a.shop.steady.page", "a_b.steady.page", "-a.localhost"]
    {
        assert_eq!(resolved(&routes, authority), "no such app", "{authority}");
    }
    for authority in ["example.org", "shop.example.org", "shop", "page", "127.0.0.1:80", "[::1]:80", "xsteady.page"] {
        assert_eq!(resolved(&routes, authority), "not ours", "{authority}");
    }
    for authority in ["", "shop..page", "shop.steady.page:x", "a@shop.steady.page"] {
        assert_eq!(resolved(&routes, authority), "bad", "{authority}");
    }
}

#[test]
fn a_domain_below_another_domain_has_its_own_names() {
    let mut contents = contents();
    contents.domains.push(domain("wiki.steady.page"));
    let (_dir, _table, routes) = made(contents);
    assert_eq!(resolved(&routes, "wiki.steady.page"), "wiki");
    assert_eq!(resolved(&routes, "shop.wiki.steady.page"), "shop");
}

#[test]
fn a_route_tells_everything_that_was_put() {
    let mut full = app("full", 2);
    full.generation = u64::MAX - 1;
    full.exclusive = true;
    full.version = u32::MAX;
    full.endpoints[0].weight = u16::MAX;
    full.endpoints[0].version = 77;
    full.moving = moving(2, 0, u64::MAX);
    let mut wide = app(&"w".repeat(63), 0);
    wide.endpoints = (0..64).map(|n| steady_table::Endpoint { version: n, ..endpoint(n % 3) }).collect();
    let mut contents = contents();
    contents.apps.extend([full.clone(), wide.clone()]);
    let (dir, table, routes) = made(contents);
    drop(table);
    let (reopened, _) = steady_table::open_latest(dir.path()).unwrap();
    for routes in [&routes, &reopened.unwrap()] {
        for app in [&full, &wide] {
            let route = routes.by_name(app.name.as_str()).unwrap();
            assert_eq!(to_app(route), *app);
            assert_eq!(route.app_id(), app.name.id());
        }
        assert_eq!(routes.hosts(), [host(0), host(1), host(2)]);
        assert_eq!(routes.host(HostIndex(2)).unwrap().addr(), "10.0.0.3:7000");
        assert!(routes.host(HostIndex(3)).is_none());
        assert_eq!((routes.app_count(), routes.custom_count(), routes.revision()), (5, 1, 1));
    }
}

#[test]
fn the_id_of_an_application_is_the_same_in_every_table() {
    // The first 8 bytes of the SHA-256 of "abc" (FIPS 180-2, appendix B.1), little-endian.
    assert_eq!(name("abc").id(), u64::from_le_bytes([0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea]));
}

#[test]
fn an_empty_table_resolves_nothing_and_takes_changes() {
    let (_dir, mut table, routes) = made(Contents::default());
    assert_eq!(resolved(&routes, "shop.steady.page"), "not ours");
    let changes =
        [Change::Put(app("shop", 0)), Change::SetHosts(vec![host(0)]), Change::SetDomains(vec![domain("a.b")])];
    let routes = table.apply(&routes, &changes, 2).unwrap();
    assert_eq!(resolved(&routes, "shop.a.b"), "shop");
    assert_eq!(routes.app_count(), 1);
}

#[test]
fn changes_show_in_the_next_table_and_not_in_the_one_before() {
    let (_dir, mut table, first) = made(contents());
    let mut moved = app("shop", 0);
    moved.moving = moving(0, 1, 2);
    let changes = [
        Change::Put(moved.clone()),
        Change::Put(app("new", 2)),
        Change::Remove(name("wiki")),
        Change::PutDomain(domain("new.example.org"), name("new")),
    ];
    let second = table.apply(&first, &changes, 2).unwrap();
    assert_eq!(to_app(second.by_name("shop").unwrap()), moved);
    assert_eq!(app_names(&second), ["blog", "new", "shop"]);
    assert_eq!(resolved(&second, "new.example.org"), "new");
    assert_eq!(resolved(&second, "wiki.steady.page"), "no such app");
    assert_eq!((second.app_count(), second.custom_count()), (3, 2));
    assert_eq!(app_names(&first), ["blog", "shop", "wiki"]);
    assert_eq!(first.by_name("shop").unwrap().moving(), None);

    let changes =
        [Change::RemoveDomain(domain("www.example.org")), Change::Remove(name("shop")), Change::Put(app("wiki", 0))];
    let third = table.apply(&second, &changes, 3).unwrap();
    assert_eq!(app_names(&third), ["blog", "new", "wiki"]);
    assert_eq!(resolved(&third, "www.example.org"), "not ours");
}

#[test]
fn every_broken_rule_of_a_table_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { reserved: vec![name("api")], ..Options::default() };
    let (mut table, _, _) = TableDir::open_with(dir.path(), options).unwrap();
    let mut bad = contents();
    bad.hosts.push(Host::new("h0", "unix:/run/x").unwrap());
    bad.domains.push(domain("steady.sh"));
    bad.apps.extend([app("api", 0), app("far", 9)]);
    bad.apps.push(steady_table::App { endpoints: vec![], ..app("none", 0) });
    bad.apps.push(steady_table::App { endpoints: vec![endpoint(0); 2], exclusive: true, ..app("twice", 0) });
    bad.apps.push(steady_table::App { moving: moving(1, 1, 1), ..app("still", 0) });
    bad.apps.push(steady_table::App { endpoints: vec![endpoint(0); 65], ..app("many", 0) });
    let mut idle = app("idle", 0);
    idle.endpoints[0].weight = 0;
    bad.apps.push(idle);
    bad.customs.push((domain("x.org"), name("nobody")));
    bad.customs.push((domain("a.b.steady.page"), name("shop")));
    let expected = [
        Invalid::DuplicateHost { name: "h0".into() },
        Invalid::DuplicateDomain { domain: domain("steady.sh") },
        Invalid::Reserved { app: name("api") },
        Invalid::UnknownHost { app: "far".into(), host: HostIndex(9), hosts: 4 },
        Invalid::NoEndpoint { app: "none".into() },
        Invalid::ExclusiveTwice { app: "twice".into(), count: 2 },
        Invalid::DuplicateEndpoint { app: "twice".into(), host: HostIndex(0) },
        Invalid::MovesNowhere { app: "still".into(), host: HostIndex(1) },
        Invalid::MoveGeneration { app: "still".into(), generation: 1, moving: 1 },
        Invalid::TooManyEndpoints { app: "many".into(), count: 65 },
        Invalid::NoWeight { app: "idle".into() },
        Invalid::CustomWithoutApp { domain: domain("x.org"), app: name("nobody") },
        Invalid::CustomUnderSuffix { domain: domain("a.b.steady.page"), suffix: domain("steady.page") },
    ];
    assert_eq!(invalid(table.replace(bad, 1)), expected);

    let mut double = contents();
    double.apps.push(app("shop", 1));
    assert_eq!(invalid(table.replace(double, 1)), [Invalid::DuplicateApp { app: name("shop") }]);
    let mut double = contents();
    double.customs.push((domain("www.example.org"), name("blog")));
    assert_eq!(invalid(table.replace(double, 1)), [Invalid::CustomTwice { domain: domain("www.example.org") }]);
    assert!(steady_table::open_latest(dir.path()).unwrap().0.is_none(), "something was written");
}

#[test]
fn a_change_that_breaks_a_rule_changes_nothing() {
    let (dir, mut table, routes) = made(contents());
    let refused: &[(&[Change], Invalid)] = &[
        (&[Change::Remove(name("none"))], Invalid::UnknownApp { app: name("none") }),
        (
            &[Change::Remove(name("shop"))],
            Invalid::StillServes { app: name("shop"), domain: domain("www.example.org") },
        ),
        (
            &[Change::PutDomain(domain("www.example.org"), name("blog"))],
            Invalid::DuplicateCustom { domain: domain("www.example.org"), app: name("shop") },
        ),
        (&[Change::RemoveDomain(domain("x.org"))], Invalid::UnknownCustom { domain: domain("x.org") }),
        (
            &[Change::SetHosts(vec![host(0), host(1)])],
            Invalid::UnknownHost { app: "wiki".into(), host: HostIndex(2), hosts: 2 },
        ),
        (
            &[Change::SetDomains(vec![domain("example.org")])],
            Invalid::CustomUnderSuffix { domain: domain("www.example.org"), suffix: domain("example.org") },
        ),
        (
            &[Change::Put(steady_table::App { generation: 0, ..app("blog", 1) })],
            Invalid::GenerationBack { app: "blog".into(), had: 1, given: 0 },
        ),
        (
            &[
                Change::Put(steady_table::App { endpoints: vec![endpoint(0); 70_000], ..app("x", 1) }),
                Change::Put(app("x", 1)),
            ],
            Invalid::TooManyEndpoints { app: "x".into(), count: 70_000 },
        ),
    ];
    for (changes, reason) in refused {
        let good = Change::Put(app("good", 0));
        let changes: Vec<_> = [good].into_iter().chain(changes.iter().cloned()).collect();
        assert_eq!(invalid(table.apply(&routes, &changes, 2)), std::slice::from_ref(reason));
    }
    drop(table);
    let (reopened, damage) = steady_table::open_latest(dir.path()).unwrap();
    assert_eq!((reopened.unwrap().revision(), damage), (1, vec![]));
}

#[test]
fn a_table_of_wrong_entries_is_refused_in_a_page_of_reasons() {
    let (_dir, mut table, _) = made(contents());
    let apps = (0..5000).map(|n| app(&format!("a{n}"), 9));
    let reasons = invalid(table.replace(Contents { hosts: vec![host(0)], domains: vec![], apps, customs: vec![] }, 2));
    assert_eq!(reasons.len(), 101);
    assert_eq!(reasons.last(), Some(&Invalid::More { count: 4900 }));
}

#[test]
fn hosts_may_shrink_when_nobody_needs_the_last_one() {
    let (_dir, mut table, routes) = made(contents());
    let changes = [Change::SetHosts(vec![host(0), host(1)]), Change::Put(app("wiki", 1))];
    let routes = table.apply(&routes, &changes, 2).unwrap();
    assert_eq!(routes.hosts().len(), 2);
    assert_eq!(routes.by_name("wiki").unwrap().endpoints().next().unwrap().host, HostIndex(1));
}

#[test]
fn revisions_only_grow_and_changes_go_on_top_of_the_newest() {
    let (_dir, mut table, first) = made(contents());
    assert!(matches!(table.apply(&first, &[], 1), Err(Error::StaleRevision { current: 1, given: 1 })));
    assert!(matches!(table.replace(contents(), 1), Err(Error::StaleRevision { .. })));
    let second = table.apply(&first, &[], 7).unwrap();
    assert_eq!(second.revision(), 7);
    assert!(matches!(table.apply(&first, &[], 8), Err(Error::NotCurrent { current: 7, given: 1 })));
}

#[test]
fn a_full_overlay_becomes_part_of_a_new_base() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { overlay_entries: 8, ..Limits::default() };
    let (mut table, _, _) = TableDir::open_with(dir.path(), Options { limits, ..Options::default() }).unwrap();
    let mut routes = table.replace(contents(), 1).unwrap();
    let bases = || {
        std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "base"))
            .count()
    };
    for n in 0..9 {
        assert_eq!(bases(), 1);
        routes = table.apply(&routes, &[Change::Put(app(&format!("a{n}"), 1))], 2 + n).unwrap();
    }
    assert_eq!(bases(), 2);
    let changes = [Change::Remove(name("a0")), Change::Remove(name("wiki"))];
    routes = table.apply(&routes, &changes, 20).unwrap();
    let expected = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "blog", "shop"];
    assert_eq!((app_names(&routes), routes.app_count()), (expected.map(String::from).to_vec(), 10));
    drop(table);
    let (reopened, damage) = steady_table::open_latest(dir.path()).unwrap();
    assert_eq!((app_names(&reopened.unwrap()), damage), (expected.map(String::from).to_vec(), vec![]));
}

#[test]
fn a_hundred_thousand_applications_are_found_each_and_no_others() {
    let count = 100_000;
    let apps = (0..count).map(|n| app(&format!("tenant-{n}"), n % 3));
    let hosts = vec![host(0), host(1), host(2)];
    let (_dir, mut table, _) = made(Contents::default());
    let contents = Contents { hosts, domains: vec![domain("steady.page")], apps, customs: vec![] };
    let routes = table.replace(contents, 2).unwrap();
    assert_eq!((routes.app_count(), routes.apps().count()), (count as usize, count as usize));
    for n in 0..count {
        let route = routes.by_name(&format!("tenant-{n}")).unwrap();
        assert_eq!(route.endpoints().next().unwrap().host, HostIndex(n % 3));
    }
    assert!((count..2 * count).all(|n| routes.by_name(&format!("tenant-{n}")).is_none()));
    let routes = table.apply(&routes, &[Change::Remove(name("tenant-7"))], 3).unwrap();
    assert_eq!(resolved(&routes, "tenant-7.steady.page"), "no such app");
    assert_eq!(resolved(&routes, "tenant-8.steady.page"), "tenant-8");
}

#[test]
fn a_table_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<Routes>();
}
