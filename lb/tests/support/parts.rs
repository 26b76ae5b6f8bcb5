//! A fake data path, and the store with crash points.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use steady_lb::snapshot::{Plane, Snapshot};
use steady_lb::store::sqlite::SqliteStore;
use steady_lb::store::*;
use steady_proxy::sample::{Kind as SampleKind, Sample, Samples};
use steady_table::{AppName, DomainName};

use super::{APP, Fuse, World};

/// A data path that takes up at once whatever is published, and writes down where [`APP`] is.
#[derive(Debug)]
pub struct FakePlane {
    pub world: Arc<World>,
    published: Mutex<Vec<Arc<Snapshot>>>,
    pub drained: AtomicU64,
}

impl FakePlane {
    pub fn new(world: &Arc<World>) -> Arc<FakePlane> {
        Arc::new(FakePlane { world: Arc::clone(world), published: Mutex::default(), drained: 0.into() })
    }

    pub fn newest(&self) -> Arc<Snapshot> {
        Arc::clone(self.published.lock().unwrap().last().expect("something was published"))
    }
}

/// Where a snapshot says the application is: `h1 g1`, or `h1>h2 g1>2`.
pub fn place(snapshot: &Snapshot) -> String {
    let Some(route) = snapshot.routes.by_name(APP) else { return "nowhere".into() };
    let name = |index| snapshot.routes.host(index).unwrap().name().to_owned();
    let host = name(route.endpoints().next().unwrap().host);
    match route.moving() {
        None => format!("{host} g{} v{}", route.generation(), route.version()),
        Some(moving) => format!("{host}>{} g{}>{}", name(moving.to), route.generation(), moving.generation),
    }
}

impl Plane for FakePlane {
    fn publish(&self, snapshot: Arc<Snapshot>) -> u64 {
        let mut published = self.published.lock().unwrap();
        let now = place(&snapshot);
        if published.last().is_none_or(|before| place(before) != now) {
            self.world.note(format!("publish {now}"));
        }
        published.push(snapshot);
        published.len() as u64
    }

    fn settled(&self) -> u64 {
        self.published.lock().unwrap().len() as u64
    }

    fn drain(&self, _: Duration) {
        self.drained.fetch_add(1, Ordering::SeqCst);
    }

    fn is_drained(&self) -> bool {
        true
    }

    fn samples(&self) -> Vec<Arc<dyn Samples + Send + Sync>> {
        struct Fixed;
        impl Samples for Fixed {
            fn visit(&self, each: &mut dyn FnMut(Sample)) {
                let (help, kind) = ("Requests that ended.", SampleKind::Counter);
                each(Sample { name: "requests_total", help, kind, label: Some(("class", "2xx")), value: 7 });
                let (help, kind) = ("Connections now.", SampleKind::Gauge);
                each(Sample { name: "connections", help, kind, label: None, value: 3 });
            }
        }
        vec![Arc::new(Fixed), Arc::new(Fixed)]
    }
}

/// SQLite with crash points around each commit.
#[derive(Debug)]
pub struct FusedStore {
    pub inner: SqliteStore,
    pub fuse: Arc<Fuse>,
    pub world: Arc<World>,
}

impl Store for FusedStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<u64>> {
        Box::pin(async move {
            self.fuse.pass().await;
            let result = self.inner.commit(commit).await;
            self.fuse.pass().await;
            result
        })
    }

    fn load(&self) -> BoxFuture<'_, Result<Contents>> {
        self.inner.load()
    }
    fn app(&self, name: AppName) -> BoxFuture<'_, Result<Option<AppRecord>>> {
        self.inner.app(name)
    }
    fn apps_on(&self, host: String) -> BoxFuture<'_, Result<Vec<AppRecord>>> {
        self.inner.apps_on(host)
    }
    fn counts(&self) -> BoxFuture<'_, Result<HashMap<String, u64>>> {
        self.inner.counts()
    }
    fn customs_of(&self, app: AppName) -> BoxFuture<'_, Result<Vec<DomainName>>> {
        Box::pin(async move {
            let customs = self.inner.customs_of(app).await;
            let gate = self.world.customs_read.lock().unwrap().take();
            if let Some((read, go_on)) = gate {
                read.send(()).unwrap();
                go_on.await.unwrap();
            }
            customs
        })
    }
    fn custom(&self, domain: DomainName) -> BoxFuture<'_, Result<Option<AppName>>> {
        self.inner.custom(domain)
    }
    fn uses_bundle(&self, digest: String) -> BoxFuture<'_, Result<bool>> {
        self.inner.uses_bundle(digest)
    }
    fn numbers(&self, app: AppName) -> BoxFuture<'_, Result<Numbers>> {
        self.inner.numbers(app)
    }
    fn history(&self, limit: usize) -> BoxFuture<'_, Result<Vec<HistoryEntry>>> {
        self.inner.history(limit)
    }
    fn open_workflows(&self) -> BoxFuture<'_, Result<Vec<WorkflowRecord>>> {
        self.inner.open_workflows()
    }
    fn workflow(&self, id: u64) -> BoxFuture<'_, Result<Option<WorkflowRecord>>> {
        self.inner.workflow(id)
    }
    fn next_id(&self) -> BoxFuture<'_, Result<u64>> {
        self.inner.next_id()
    }
    fn meta(&self, key: &'static str) -> BoxFuture<'_, Result<Option<String>>> {
        self.inner.meta(key)
    }
    fn cursor(&self, stream: String) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.inner.cursor(stream)
    }
    fn events(&self, of: EventsOf) -> BoxFuture<'_, Result<Vec<(u64, EventRecord)>>> {
        self.inner.events(of)
    }
}
