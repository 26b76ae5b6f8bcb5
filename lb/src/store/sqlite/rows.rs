//! Rows of the store as values, and what no program of ours wrote as [`StoreError::Corrupt`].

use rusqlite::{Connection, Row};
use steady_table::{AppName, DomainName};

use crate::store::{AppRecord, HostRecord, Kind, MovingTo, Result, StoreError, WorkflowRecord};

pub(super) const APP: &str =
    "name, host, generation, moving_to, moving_generation, version, digest, exclusive, created_at, updated_at";
pub(super) const WORKFLOW: &str = "id, kind, app, step, state, started, finished, error";

pub(super) fn rows<T>(
    connection: &Connection,
    query: &str,
    values: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare_cached(query)?;
    let mut found = statement.query(values)?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        all.push(read(row)?);
    }
    Ok(all)
}

pub(super) fn host(row: &Row<'_>) -> Result<HostRecord> {
    Ok(HostRecord { name: row.get(0)?, addr: row.get(1)?, control: row.get(2)?, token_file: row.get(3)? })
}

pub(super) fn app(row: &Row<'_>) -> Result<AppRecord> {
    let moving = match row.get::<_, Option<String>>(3)? {
        Some(to) => Some(MovingTo { to, generation: number(row, 4)? }),
        None => None,
    };
    Ok(AppRecord {
        name: app_name(row, 0)?,
        host: row.get(1)?,
        generation: number(row, 2)?,
        moving,
        version: version(row, 5)?,
        digest: row.get(6)?,
        exclusive: row.get(7)?,
        created_at: number(row, 8)?,
        updated_at: number(row, 9)?,
    })
}

pub(super) fn workflow(row: &Row<'_>) -> Result<WorkflowRecord> {
    let kind: String = row.get(1)?;
    let state: String = row.get(4)?;
    Ok(WorkflowRecord {
        id: number(row, 0)?,
        kind: Kind::parse(&kind).ok_or_else(|| StoreError::Corrupt { what: format!("a workflow of kind {kind:?}") })?,
        app: app_name(row, 2)?,
        step: row.get(3)?,
        state: serde_json::from_str(&state)
            .map_err(|error| StoreError::Corrupt { what: format!("a workflow's state: {error}") })?,
        started: number(row, 5)?,
        finished: row.get::<_, Option<i64>>(6)?.map(unsigned).transpose()?,
        error: row.get(7)?,
    })
}

pub(super) fn app_name(row: &Row<'_>, column: usize) -> Result<AppName> {
    let text: String = row.get(column)?;
    AppName::new(&text).map_err(|error| StoreError::Corrupt { what: error.to_string() })
}

pub(super) fn domain(row: &Row<'_>, column: usize) -> Result<DomainName> {
    let text: String = row.get(column)?;
    DomainName::new(&text).map_err(|error| StoreError::Corrupt { what: error.to_string() })
}

pub(super) fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    unsigned(row.get(column)?)
}

fn unsigned(value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt { what: format!("the number {value}") })
}

pub(super) fn version(row: &Row<'_>, column: usize) -> Result<u32> {
    let value = number(row, column)?;
    u32::try_from(value).map_err(|_| StoreError::Corrupt { what: format!("the version {value}") })
}

/// SQLite's integers are signed.
pub(super) fn integer(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| StoreError::Failed(format!("{value} is more than it can hold")))
}

pub(super) fn counter(connection: &Connection, key: &str) -> Result<u64> {
    let text: String = connection.query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0))?;
    text.parse().map_err(|_| StoreError::Corrupt { what: format!("{key} = {text:?}") })
}
