//! What every [`Store`] must do. Each test gets a store that is opened afresh; the file behind it is shared, so each uses
//! names of its own.

use std::sync::Arc;

use serde_json::json;
use steady_table::{AppName, DomainName};

use super::*;

pub(crate) fn name(text: &str) -> AppName {
    AppName::new(text).unwrap()
}

fn domain(text: &str) -> DomainName {
    DomainName::new(text).unwrap()
}

fn app(text: &str, host: &str, generation: u64) -> AppRecord {
    AppRecord {
        name: name(text),
        host: host.into(),
        generation,
        moving: None,
        version: 1,
        digest: "d".repeat(64),
        exclusive: false,
        created_at: 1,
        updated_at: 2,
    }
}

fn commit(what: &str, writes: Vec<Write>) -> Commit {
    Commit { at_ms: 7, what: what.into(), expect: Vec::new(), writes }
}

pub(crate) async fn all(open: impl Fn() -> Arc<dyn Store>) {
    starts_empty(&*open()).await;
    keeps_what_was_committed_over_a_restart(&open).await;
    a_failed_expectation_writes_nothing(&*open()).await;
    numbers_only_grow_and_outlive_the_application(&*open()).await;
    only_changes_of_the_routes_make_revisions(&*open()).await;
    hosts_keep_their_places(&*open()).await;
    finds_applications_by_owner_and_by_target(&*open()).await;
    gives_back_unfinished_workflows_in_order(&open).await;
    knows_which_bundles_are_needed(&*open()).await;
    the_revision_can_be_raised_but_not_lowered(&*open()).await;
    events_are_kept_with_the_cursor_of_their_stream(&open).await;
}

async fn events_are_kept_with_the_cursor_of_their_stream(open: &impl Fn() -> Arc<dyn Store>) {
    let event = |host: &str, app: &str, instance: u64| {
        let text =
            json!({"app": app, "kind": "ready", "generation": 1, "version": 1, "instance": instance, "at_ms": 3});
        EventRecord { host: host.into(), event: serde_json::from_value(text).unwrap() }
    };
    let store = open();
    assert_eq!(store.cursor("edge>h8/1".into()).await.unwrap(), None);
    for (instance, cursor) in [(1, vec![0, 255]), (2, vec![7])] {
        let writes = vec![
            Write::AddEvent(event("h8", "told", instance)),
            Write::AddEvent(event("h9", "told", instance)),
            Write::SetCursor("edge>h8/1".into(), cursor),
        ];
        store.commit(commit("", writes)).await.unwrap();
    }
    drop(store);
    let store = open();
    assert_eq!(store.cursor("edge>h8/1".into()).await.unwrap(), Some(vec![7]));
    let of = EventsOf { app: Some("told".into()), limit: 3, ..EventsOf::default() };
    let found = store.events(of.clone()).await.unwrap();
    assert_eq!(
        found.iter().map(|(_, it)| (&*it.host, it.event.instance)).collect::<Vec<_>>(),
        [("h9", 2), ("h8", 2), ("h9", 1)]
    );
    assert!(found.windows(2).all(|pair| pair[0].0 > pair[1].0));
    let second = found[2].0;
    let found = store.events(EventsOf { host: Some("h8".into()), ..of.clone() }).await.unwrap();
    assert_eq!(found.iter().map(|(_, it)| it.event.instance).collect::<Vec<_>>(), [2, 1]);
    let found = store.events(EventsOf { after: Some(second), limit: 1, ..of.clone() }).await.unwrap();
    assert_eq!(found.iter().map(|(_, it)| (&*it.host, it.event.instance)).collect::<Vec<_>>(), [("h8", 2)]);
    assert!(store.events(EventsOf { after: Some(second + 2), ..of }).await.unwrap().is_empty());
}

async fn knows_which_bundles_are_needed(store: &dyn Store) {
    let mut record = app("bundled", "h", 1);
    record.digest = "a".repeat(64);
    let id = store.next_id().await.unwrap();
    let state = json!({"digest": "b".repeat(64)});
    let app = name("bundled");
    let mut flow = WorkflowRecord {
        id,
        kind: Kind::Deploy,
        app,
        step: "s".into(),
        state,
        started: 1,
        finished: None,
        error: None,
    };
    store.commit(commit("", vec![Write::PutApp(record), Write::PutWorkflow(flow.clone())])).await.unwrap();
    assert!(store.uses_bundle("a".repeat(64)).await.unwrap());
    assert!(store.uses_bundle("b".repeat(64)).await.unwrap());
    assert!(!store.uses_bundle("c".repeat(64)).await.unwrap());
    flow.finished = Some(2);
    store.commit(commit("", vec![Write::PutWorkflow(flow)])).await.unwrap();
    assert!(!store.uses_bundle("b".repeat(64)).await.unwrap());
}

async fn the_revision_can_be_raised_but_not_lowered(store: &dyn Store) {
    let raised = store.load().await.unwrap().revision + 100;
    assert_eq!(store.commit(commit("", vec![Write::RaiseRevision(raised)])).await.unwrap(), raised);
    assert_eq!(store.commit(commit("", vec![Write::RaiseRevision(1)])).await.unwrap(), raised);
}

async fn starts_empty(store: &dyn Store) {
    assert_eq!(store.load().await.unwrap(), Contents::default());
    assert_eq!(store.app(name("none")).await.unwrap(), None);
    assert_eq!(store.numbers(name("none")).await.unwrap(), Numbers::default());
    assert!(store.history(10).await.unwrap().is_empty());
    assert!(store.open_workflows().await.unwrap().is_empty());
    assert_eq!(store.meta("nothing").await.unwrap(), None);
}

async fn keeps_what_was_committed_over_a_restart(open: &impl Fn() -> Arc<dyn Store>) {
    let mut record = app("kept", "k1", 3);
    record.moving = Some(MovingTo { to: "k2".into(), generation: 4 });
    record.exclusive = true;
    let host =
        HostRecord { name: "k1".into(), addr: "1.2.3.4:5".into(), control: "1.2.3.4:6".into(), token_file: "t".into() };
    let writes = vec![
        Write::PutHost(host.clone()),
        Write::PutApp(record.clone()),
        Write::PutCustom(domain("kept.example"), name("kept")),
        Write::SetDomains(vec![domain("z.test"), domain("a.test")]),
        Write::SetMeta("kept", "yes".into()),
    ];
    let revision = open().commit(commit("kept", writes)).await.unwrap();
    let store = open();
    let contents = store.load().await.unwrap();
    assert_eq!(contents.revision, revision);
    assert!(contents.hosts.contains(&host));
    assert_eq!(store.app(name("kept")).await.unwrap(), Some(record.clone()));
    assert!(contents.apps.contains(&record));
    assert_eq!(contents.domains, [domain("z.test"), domain("a.test")], "domains keep their order");
    assert_eq!(store.customs_of(name("kept")).await.unwrap(), [domain("kept.example")]);
    assert_eq!(store.custom(domain("kept.example")).await.unwrap(), Some(name("kept")));
    assert_eq!(store.meta("kept").await.unwrap().as_deref(), Some("yes"));
    let newest = store.history(1).await.unwrap();
    assert_eq!(newest, [HistoryEntry { revision, at_ms: 7, what: "kept".into() }]);
    let writes = vec![Write::RemoveCustom(domain("kept.example")), Write::RemoveApp(name("kept"))];
    store.commit(commit("removed", writes)).await.unwrap();
    assert_eq!(store.app(name("kept")).await.unwrap(), None);
    assert!(store.customs_of(name("kept")).await.unwrap().is_empty());
    assert_eq!(store.custom(domain("kept.example")).await.unwrap(), None);
}

async fn a_failed_expectation_writes_nothing(store: &dyn Store) {
    store.commit(commit("first", vec![Write::PutApp(app("expect", "h", 5))])).await.unwrap();
    let before = store.load().await.unwrap();
    let mut second =
        commit("second", vec![Write::SetMeta("written", "1".into()), Write::PutApp(app("expect", "x", 6))]);
    second.expect = vec![Expect::Generation(name("expect"), Some(4))];
    let refused = store.commit(second.clone()).await.unwrap_err();
    assert_eq!(refused, StoreError::Conflict { app: name("expect"), expected: Some(4), found: Some(5) });
    assert_eq!(store.load().await.unwrap(), before);
    assert_eq!(store.meta("written").await.unwrap(), None);
    second.expect = vec![Expect::Generation(name("expect"), Some(5)), Expect::Generation(name("nobody"), None)];
    store.commit(second).await.unwrap();
    assert_eq!(store.app(name("expect")).await.unwrap().unwrap().generation, 6);
}

async fn numbers_only_grow_and_outlive_the_application(store: &dyn Store) {
    let app_name = name("numbers");
    let mut record = app("numbers", "h", 5);
    record.moving = Some(MovingTo { to: "x".into(), generation: 8 });
    store.commit(commit("put", vec![Write::PutApp(record)])).await.unwrap();
    assert_eq!(store.numbers(app_name.clone()).await.unwrap(), Numbers { generation: 8, version: 1 });
    let burnt = Write::Burn(app_name.clone(), Numbers { generation: 2, version: 9 });
    store.commit(commit("burn", vec![burnt])).await.unwrap();
    store.commit(commit("remove", vec![Write::RemoveApp(app_name.clone())])).await.unwrap();
    assert_eq!(store.numbers(app_name).await.unwrap(), Numbers { generation: 8, version: 9 });
}

async fn only_changes_of_the_routes_make_revisions(store: &dyn Store) {
    let first = store.commit(commit("a", vec![Write::PutApp(app("revision", "h", 1))])).await.unwrap();
    let quiet = vec![Write::SetMeta("quiet", "1".into()), Write::Burn(name("revision"), Numbers::default())];
    assert_eq!(store.commit(commit("quiet", quiet)).await.unwrap(), first);
    let second = store.commit(commit("b", vec![Write::RemoveApp(name("revision"))])).await.unwrap();
    assert_eq!(second, first + 1);
    let said: Vec<String> = store.history(2).await.unwrap().into_iter().map(|entry| entry.what).collect();
    assert_eq!(said, ["b", "a"]);
}

async fn hosts_keep_their_places(store: &dyn Store) {
    let host = |name: &str, addr: &str| HostRecord {
        name: name.into(),
        addr: addr.into(),
        control: "c".into(),
        token_file: "t".into(),
    };
    let writes = ["p1", "p2", "p3"].map(|name| Write::PutHost(host(name, "old"))).to_vec();
    store.commit(commit("hosts", writes)).await.unwrap();
    let writes = vec![Write::PutHost(host("p1", "new")), Write::RemoveHost("p2".into())];
    store.commit(commit("changed", writes)).await.unwrap();
    let hosts = store.load().await.unwrap().hosts;
    let mine: Vec<_> = hosts.iter().filter(|host| host.name.starts_with('p')).cloned().collect();
    assert_eq!(mine, [host("p1", "new"), host("p3", "old")]);
}

async fn finds_applications_by_owner_and_by_target(store: &dyn Store) {
    let mut moving = app("find-b", "f1", 1);
    moving.moving = Some(MovingTo { to: "f2".into(), generation: 2 });
    let writes =
        vec![Write::PutApp(app("find-a", "f1", 1)), Write::PutApp(moving), Write::PutApp(app("find-c", "f2", 1))];
    store.commit(commit("find", writes)).await.unwrap();
    let on = |records: Vec<AppRecord>| records.into_iter().map(|r| r.name.to_string()).collect::<Vec<_>>();
    assert_eq!(on(store.apps_on("f1".into()).await.unwrap()), ["find-a", "find-b"]);
    assert_eq!(on(store.apps_on("f2".into()).await.unwrap()), ["find-b", "find-c"]);
    let counts = store.counts().await.unwrap();
    assert_eq!((counts.get("f1"), counts.get("f2"), counts.get("f3")), (Some(&2), Some(&1), None));
}

async fn gives_back_unfinished_workflows_in_order(open: &impl Fn() -> Arc<dyn Store>) {
    let store = open();
    let mut records = Vec::new();
    for step in ["one", "two", "three"] {
        let id = store.next_id().await.unwrap();
        let state = json!({"deep": [1, {"x": null}]});
        let app = name("flow");
        let kind = Kind::Move;
        records.push(WorkflowRecord {
            id,
            kind,
            app,
            step: step.into(),
            state,
            started: 1,
            finished: None,
            error: None,
        });
    }
    assert!(records[0].id < records[1].id && records[1].id < records[2].id);
    for record in records.iter().rev() {
        store.commit(commit("", vec![Write::PutWorkflow(record.clone())])).await.unwrap();
    }
    assert_eq!(open().open_workflows().await.unwrap(), records);
    records[1].finished = Some(9);
    records[1].error = Some("why".into());
    store.commit(commit("", vec![Write::PutWorkflow(records[1].clone())])).await.unwrap();
    assert_eq!(open().open_workflows().await.unwrap(), [records[0].clone(), records[2].clone()]);
    assert_eq!(store.workflow(records[1].id).await.unwrap(), Some(records[1].clone()));
    assert!(open().next_id().await.unwrap() > records[2].id, "a number is never given twice");
}
