//! The writes of a commit, each as its statements.

use rusqlite::{Connection, Transaction, params};
use steady_table::AppName;

use super::rows::{counter, integer, number, rows};
use crate::limits::{EVENT_ROWS, HISTORY_ROWS, WORKFLOW_ROWS};
use crate::store::{AppRecord, Commit, EventRecord, Expect, Numbers, Result, StoreError, WorkflowRecord, Write};

/// Writes all of a commit, if what it expects is so. The revision afterwards.
pub(super) fn write_all(transaction: &Transaction<'_>, commit: &Commit) -> Result<u64> {
    for expect in &commit.expect {
        let Expect::Generation(name, expected) = expect;
        let query = "SELECT generation FROM apps WHERE name = ?";
        let found = rows(transaction, query, [name.as_str()], |row| number(row, 0))?.first().copied();
        if found != *expected {
            return Err(StoreError::Conflict { app: name.clone(), expected: *expected, found });
        }
    }
    for write in &commit.writes {
        write_one(transaction, write)?;
    }
    if !commit.changes_routes() {
        return counter(transaction, "revision");
    }
    let revision = count_up(transaction, "revision")?;
    let row = params![integer(revision)?, integer(commit.at_ms)?, commit.what];
    transaction.execute("INSERT INTO history VALUES (?, ?, ?)", row)?;
    transaction
        .execute("DELETE FROM history WHERE revision <= ?", [integer(revision.saturating_sub(HISTORY_ROWS))?])?;
    Ok(revision)
}

fn write_one(transaction: &Transaction<'_>, write: &Write) -> Result<()> {
    match write {
        Write::PutHost(host) => {
            let sql = "INSERT INTO hosts (name, addr, control, token_file) VALUES (?, ?, ?, ?)
                       ON CONFLICT (name) DO UPDATE SET
                       addr = excluded.addr, control = excluded.control, token_file = excluded.token_file";
            transaction.execute(sql, params![host.name, host.addr, host.control, host.token_file])?;
        }
        Write::RemoveHost(name) => {
            transaction.execute("DELETE FROM hosts WHERE name = ?", [name])?;
        }
        Write::PutApp(record) => put_app(transaction, record)?,
        Write::RemoveApp(name) => {
            transaction.execute("DELETE FROM apps WHERE name = ?", [name.as_str()])?;
        }
        Write::Burn(name, numbers) => burn(transaction, name, *numbers)?,
        Write::PutCustom(domain, app) => {
            let sql = "INSERT OR REPLACE INTO customs VALUES (?, ?)";
            transaction.execute(sql, [domain.as_str(), app.as_str()])?;
        }
        Write::RemoveCustom(domain) => {
            transaction.execute("DELETE FROM customs WHERE domain = ?", [domain.as_str()])?;
        }
        Write::SetDomains(domains) => {
            transaction.execute("DELETE FROM domains", [])?;
            for domain in domains {
                transaction.execute("INSERT INTO domains (name) VALUES (?)", [domain.as_str()])?;
            }
        }
        Write::PutWorkflow(record) => put_workflow(transaction, record)?,
        Write::RaiseRevision(least) => {
            let revision = counter(transaction, "revision")?.max(*least);
            transaction.execute("UPDATE meta SET value = ? WHERE key = 'revision'", [revision.to_string()])?;
        }
        Write::SetMeta(key, value) => {
            transaction.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [*key, value])?;
        }
        Write::AddEvent(record) => add_event(transaction, record)?,
        Write::SetCursor(stream, saved) => {
            transaction.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", params![stream, saved])?;
        }
    }
    Ok(())
}

fn put_app(transaction: &Transaction<'_>, record: &AppRecord) -> Result<()> {
    let moving_generation = record.moving.as_ref().map(|moving| integer(moving.generation)).transpose()?;
    transaction.execute(
        "INSERT OR REPLACE INTO apps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            record.name.as_str(),
            record.host,
            integer(record.generation)?,
            record.moving.as_ref().map(|moving| &moving.to),
            moving_generation,
            record.version,
            record.digest,
            record.exclusive,
            integer(record.created_at)?,
            integer(record.updated_at)?,
        ],
    )?;
    let generation = record.moving.as_ref().map_or(0, |moving| moving.generation).max(record.generation);
    burn(transaction, &record.name, Numbers { generation, version: record.version })
}

fn burn(transaction: &Transaction<'_>, app: &AppName, numbers: Numbers) -> Result<()> {
    let sql = "INSERT INTO numbers VALUES (?, ?, ?) ON CONFLICT (app) DO UPDATE SET
               generation = max(generation, excluded.generation), version = max(version, excluded.version)";
    transaction.execute(sql, params![app.as_str(), integer(numbers.generation)?, numbers.version])?;
    Ok(())
}

fn add_event(transaction: &Transaction<'_>, record: &EventRecord) -> Result<()> {
    let text = serde_json::to_string(&record.event).map_err(|error| StoreError::Failed(error.to_string()))?;
    let sql = "INSERT INTO events (host, app, event) VALUES (?, ?, ?)";
    transaction.execute(sql, params![record.host, record.event.app, text])?;
    let gone = transaction.last_insert_rowid().saturating_sub(integer(EVENT_ROWS)?);
    transaction.execute("DELETE FROM events WHERE id <= ?", [gone])?;
    Ok(())
}

fn put_workflow(transaction: &Transaction<'_>, record: &WorkflowRecord) -> Result<()> {
    let finished = record.finished.map(integer).transpose()?;
    transaction.execute(
        "INSERT OR REPLACE INTO workflows VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            integer(record.id)?,
            record.kind.as_str(),
            record.app.as_str(),
            record.step,
            record.state.to_string(),
            integer(record.started)?,
            finished,
            record.error,
        ],
    )?;
    if finished.is_some() {
        let sql = "DELETE FROM workflows WHERE finished IS NOT NULL AND id <= ?";
        transaction.execute(sql, [integer(record.id.saturating_sub(WORKFLOW_ROWS))?])?;
    }
    Ok(())
}

pub(super) fn count_up(connection: &Connection, key: &str) -> Result<u64> {
    let next = counter(connection, key)? + 1;
    connection.execute("UPDATE meta SET value = ? WHERE key = ?", params![next.to_string(), key])?;
    Ok(next)
}
