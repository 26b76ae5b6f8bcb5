//! The store of one machine: SQLite with a write-ahead log, synced at every commit, on a thread of its own.
//!
//! Operations queue for that thread in order (bounded), so there is one writer and no lock. Readers of the file may be
//! others (`sqlite3 store.db`): WAL lets them.

mod rows;
mod write;

use std::collections::HashMap;
use std::path::Path;
use std::thread;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use steady_table::{AppName, DomainName};
use tokio::sync::{mpsc, oneshot};

use super::{
    AppRecord, Commit, Contents, EventRecord, EventsOf, HistoryEntry, Numbers, Result, Store, StoreError,
    WorkflowRecord,
};
use crate::limits::{STORE_BUSY, STORE_QUEUE};
use rows::{APP, WORKFLOW, app, app_name, counter, domain, host, integer, number, rows, version, workflow};
use write::{count_up, write_all};

/// Each entry brings the schema one version further; entries are never changed once released.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE hosts (
        position INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, addr TEXT NOT NULL,
        control TEXT NOT NULL, token_file TEXT NOT NULL) STRICT;
    CREATE TABLE apps (
        name TEXT PRIMARY KEY, host TEXT NOT NULL, generation INTEGER NOT NULL,
        moving_to TEXT, moving_generation INTEGER, version INTEGER NOT NULL, digest TEXT NOT NULL,
        exclusive INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        CHECK ((moving_to IS NULL) = (moving_generation IS NULL))) STRICT, WITHOUT ROWID;
    CREATE INDEX apps_by_host ON apps (host);
    CREATE INDEX apps_by_digest ON apps (digest);
    CREATE INDEX apps_by_target ON apps (moving_to) WHERE moving_to IS NOT NULL;
    CREATE TABLE numbers (app TEXT PRIMARY KEY, generation INTEGER NOT NULL, version INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE domains (position INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE customs (domain TEXT PRIMARY KEY, app TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX customs_by_app ON customs (app);
    CREATE TABLE history (revision INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, what TEXT NOT NULL) STRICT;
    CREATE TABLE workflows (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, app TEXT NOT NULL, step TEXT NOT NULL, state TEXT NOT NULL,
        started INTEGER NOT NULL, finished INTEGER, error TEXT) STRICT;
    CREATE INDEX workflows_open ON workflows (id) WHERE finished IS NULL;
    INSERT INTO meta VALUES ('revision', '0'), ('workflow_id', '0');
", "
    CREATE TABLE cursors (stream TEXT PRIMARY KEY, saved BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT NOT NULL, app TEXT NOT NULL, event TEXT NOT NULL) STRICT;
    CREATE INDEX events_by_app ON events (app, id);
    CREATE INDEX events_by_host ON events (host, id);
"];

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle to the store's thread; the thread ends, and the file closes, when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    jobs: mpsc::Sender<Job>,
}

impl SqliteStore {
    /// Opens or makes the file and brings its schema up to date. Blocks for the disk.
    pub fn open(path: &Path) -> Result<SqliteStore> {
        SqliteStore::open_with_thread(path).map(|(store, _)| store)
    }

    /// Whether this program can use the file, which may not be there, without changing anything: another process has it.
    pub fn check(path: &Path) -> Result<()> {
        if !path.exists() {
            return Ok(());
        }
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(STORE_BUSY)?;
        let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let known = MIGRATIONS.len() as u32;
        if found > known { Err(StoreError::Newer { found, known }) } else { Ok(()) }
    }

    /// As [`open`](Self::open), with the store's thread: once that has ended, the file is closed.
    pub fn open_with_thread(path: &Path) -> Result<(SqliteStore, thread::JoinHandle<()>)> {
        let mut connection = Connection::open(path).map_err(|error| {
            StoreError::Failed(format!("{} cannot be opened: {error}; check its directory and owner", path.display()))
        })?;
        prepare(&mut connection)?;
        let (jobs, mut queue) = mpsc::channel::<Job>(STORE_QUEUE);
        let thread = thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|error| StoreError::Failed(format!("its thread cannot start: {error}")))?;
        Ok((SqliteStore { jobs }, thread))
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        async move {
            let (done, answer) = oneshot::channel();
            let job: Job = Box::new(move |connection| {
                // Nobody may be waiting any more: the work was done all the same.
                let _ = done.send(work(connection));
            });
            self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        }
        .boxed()
    }
}

impl Store for SqliteStore {
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<u64>> {
        self.run(move |connection| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let revision = write_all(&transaction, &commit)?;
            transaction.commit()?;
            Ok(revision)
        })
    }

    fn load(&self) -> BoxFuture<'_, Result<Contents>> {
        self.run(|connection| {
            let transaction = connection.transaction()?;
            Ok(Contents {
                revision: counter(&transaction, "revision")?,
                hosts: rows(
                    &transaction,
                    "SELECT name, addr, control, token_file FROM hosts ORDER BY position",
                    [],
                    host,
                )?,
                domains: rows(&transaction, "SELECT name FROM domains ORDER BY position", [], |row| domain(row, 0))?,
                apps: rows(&transaction, &format!("SELECT {APP} FROM apps ORDER BY name"), [], app)?,
                customs: rows(&transaction, "SELECT domain, app FROM customs ORDER BY domain", [], |row| {
                    Ok((domain(row, 0)?, app_name(row, 1)?))
                })?,
            })
        })
    }

    fn app(&self, name: AppName) -> BoxFuture<'_, Result<Option<AppRecord>>> {
        self.run(move |connection| {
            let found = rows(connection, &format!("SELECT {APP} FROM apps WHERE name = ?"), [name.as_str()], app)?;
            Ok(found.into_iter().next())
        })
    }

    fn apps_on(&self, host: String) -> BoxFuture<'_, Result<Vec<AppRecord>>> {
        self.run(move |connection| {
            let query = format!("SELECT {APP} FROM apps WHERE host = ?1 OR moving_to = ?1 ORDER BY name");
            rows(connection, &query, [host], app)
        })
    }

    fn counts(&self) -> BoxFuture<'_, Result<HashMap<String, u64>>> {
        self.run(|connection| {
            let counted = rows(connection, "SELECT host, count(*) FROM apps GROUP BY host", [], |row| {
                Ok((row.get(0)?, number(row, 1)?))
            })?;
            Ok(counted.into_iter().collect())
        })
    }

    fn customs_of(&self, app: AppName) -> BoxFuture<'_, Result<Vec<DomainName>>> {
        self.run(move |connection| {
            let query = "SELECT domain FROM customs WHERE app = ? ORDER BY domain";
            rows(connection, query, [app.as_str()], |row| domain(row, 0))
        })
    }

    fn custom(&self, domain: DomainName) -> BoxFuture<'_, Result<Option<AppName>>> {
        self.run(move |connection| {
            let query = "SELECT app FROM customs WHERE domain = ?";
            Ok(rows(connection, query, [domain.as_str()], |row| app_name(row, 0))?.into_iter().next())
        })
    }

    fn uses_bundle(&self, digest: String) -> BoxFuture<'_, Result<bool>> {
        self.run(move |connection| {
            let query = "SELECT EXISTS (SELECT 1 FROM apps WHERE digest = ?1)
                         OR EXISTS (SELECT 1 FROM workflows WHERE finished IS NULL AND instr(state, ?1) > 0)";
            Ok(connection.query_row(query, [digest], |row| row.get(0))?)
        })
    }

    fn numbers(&self, app: AppName) -> BoxFuture<'_, Result<Numbers>> {
        self.run(move |connection| {
            let query = "SELECT generation, version FROM numbers WHERE app = ?";
            let found = rows(connection, query, [app.as_str()], |row| {
                Ok(Numbers { generation: number(row, 0)?, version: version(row, 1)? })
            })?;
            Ok(found.first().copied().unwrap_or_default())
        })
    }

    fn history(&self, limit: usize) -> BoxFuture<'_, Result<Vec<HistoryEntry>>> {
        self.run(move |connection| {
            let query = "SELECT revision, at_ms, what FROM history ORDER BY revision DESC LIMIT ?";
            rows(connection, query, [integer(limit as u64)?], |row| {
                Ok(HistoryEntry { revision: number(row, 0)?, at_ms: number(row, 1)?, what: row.get(2)? })
            })
        })
    }

    fn open_workflows(&self) -> BoxFuture<'_, Result<Vec<WorkflowRecord>>> {
        self.run(|connection| {
            let query = format!("SELECT {WORKFLOW} FROM workflows WHERE finished IS NULL ORDER BY id");
            rows(connection, &query, [], workflow)
        })
    }

    fn workflow(&self, id: u64) -> BoxFuture<'_, Result<Option<WorkflowRecord>>> {
        self.run(move |connection| {
            let query = format!("SELECT {WORKFLOW} FROM workflows WHERE id = ?");
            Ok(rows(connection, &query, [integer(id)?], workflow)?.into_iter().next())
        })
    }

    fn next_id(&self) -> BoxFuture<'_, Result<u64>> {
        self.run(|connection| {
            let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let id = count_up(&transaction, "workflow_id")?;
            transaction.commit()?;
            Ok(id)
        })
    }

    fn meta(&self, key: &'static str) -> BoxFuture<'_, Result<Option<String>>> {
        self.run(move |connection| {
            let found = connection.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0));
            Ok(found.optional()?)
        })
    }

    fn cursor(&self, stream: String) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        self.run(move |connection| {
            let query = "SELECT saved FROM cursors WHERE stream = ?";
            Ok(connection.query_row(query, [stream], |row| row.get(0)).optional()?)
        })
    }

    fn events(&self, of: EventsOf) -> BoxFuture<'_, Result<Vec<(u64, EventRecord)>>> {
        self.run(move |connection| {
            let order = if of.after.is_some() { "ASC" } else { "DESC" };
            let query = format!(
                "SELECT id, host, event FROM events
                 WHERE (?1 IS NULL OR host = ?1) AND (?2 IS NULL OR app = ?2) AND id > ?3 ORDER BY id {order} LIMIT ?4"
            );
            // Numbers of events are SQLite's: there is none behind its greatest.
            let after = i64::try_from(of.after.unwrap_or(0)).unwrap_or(i64::MAX);
            let limit = integer(of.limit as u64)?;
            rows(connection, &query, params![of.host, of.app, after, limit], |row| {
                let text: String = row.get(2)?;
                let event = serde_json::from_str(&text)
                    .map_err(|error| StoreError::Corrupt { what: format!("an event: {error}") })?;
                Ok((number(row, 0)?, EventRecord { host: row.get(1)?, event }))
            })
        })
    }
}

fn prepare(connection: &mut Connection) -> Result<()> {
    connection.busy_timeout(STORE_BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let known = MIGRATIONS.len() as u32;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for step in &MIGRATIONS[found as usize..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        let next = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "another program has the store open and writes to it: end that"
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "put store.db in state_dir back from a copy",
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                "look at the owner and the mode of state_dir and of store.db in it"
            }
            _ => "is the disk of state_dir full?",
        };
        StoreError::Failed(format!("{error}; {next}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[tokio::test]
    async fn sqlite_passes_the_conformance_suite() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        conformance::all(|| std::sync::Arc::new(SqliteStore::open(&path).unwrap())).await;
    }

    #[test]
    fn a_store_of_a_newer_program_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        drop(SqliteStore::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let refused = SqliteStore::open(&path).unwrap_err();
        assert_eq!(refused, StoreError::Newer { found: 99, known: MIGRATIONS.len() as u32 });
        assert_eq!(SqliteStore::check(&path).unwrap_err(), refused);
    }

    #[test]
    fn a_store_is_looked_at_beside_the_process_that_has_it_and_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        SqliteStore::check(&path).unwrap();
        assert!(!path.exists());
        let (store, thread) = SqliteStore::open_with_thread(&path).unwrap();
        SqliteStore::check(&path).unwrap();
        drop(store);
        thread.join().unwrap();
        assert!(!path.with_extension("db-wal").exists(), "its thread's end closes the file");
    }

    #[test]
    fn what_fails_says_what_to_do_about_it() {
        use rusqlite::ffi;
        for (code, next) in [
            (ffi::SQLITE_BUSY, "another program"),
            (ffi::SQLITE_CORRUPT, "from a copy"),
            (ffi::SQLITE_READONLY, "owner and the mode"),
            (ffi::SQLITE_FULL, "full?"),
        ] {
            let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            let said = StoreError::from(error).to_string();
            assert!(said.contains(next), "{said}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("store.db"), "this is no database at all, and long enough".repeat(100)).unwrap();
        let said = SqliteStore::open(&dir.path().join("store.db")).unwrap_err().to_string();
        assert!(said.contains("put store.db in state_dir back from a copy") && !said.contains("full"), "{said}");
    }

    #[test]
    fn commits_are_synced_and_logged_ahead() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = Connection::open(dir.path().join("store.db")).unwrap();
        prepare(&mut connection).unwrap();
        let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        let synchronous: u32 = connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }
}
