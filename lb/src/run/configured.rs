//! Hosts and domains as the configuration says, into the store.

use std::sync::Arc;

use steady_table::DomainName;
use tokio::sync::MutexGuard;

use super::serving::put_host;
use crate::agents::HostHandle;
use crate::config::{Config, HostConfig};
use crate::control::ControlError;
use crate::edge::Edge;
use crate::store::{AppRecord, Commit, Contents, HostRecord, StoreError, Write};

/// What was last read from `domains` of the configuration, so that a change of the file is told from a change by the API.
const CONFIGURED_DOMAINS: &str = "configured_domains";

/// What became of the configuration's hosts and domains.
#[must_use]
pub(super) struct Applied {
    /// The handles of hosts that are new, and want watching.
    pub new: Vec<Arc<HostHandle>>,
    /// Something could not be stored, for a reason that may pass: it is worth another try.
    pub again: bool,
}

/// Brings hosts and domains to what the configuration says, of what the store has. `_registering`: of the edge, held since before
/// `contents` were read. What the store has of a host and what this process knows of it change together, and a host that
/// registered since the store was read would be taken for one that the configuration named.
pub(super) async fn apply(
    edge: &Edge,
    config: &Config,
    contents: &Contents,
    _registering: &MutexGuard<'_, ()>,
) -> Applied {
    let hosts = apply_hosts(edge, &config.hosts, contents).await;
    let domains = apply_domains(edge, &config.domains, contents).await;
    let again = [hosts.as_ref().err(), domains.as_ref().err()].into_iter().flatten().any(may_pass);
    for (what, error) in [("hosts", hosts.as_ref().err()), ("domains", domains.err().as_ref())] {
        if let Some(error) = error {
            let next = if again { "it is tried again" } else { "mend that, and have the configuration read again" };
            tracing::error!(%error, next, "the {what} of the configuration are not in force");
        }
    }
    Applied { new: hosts.unwrap_or_default(), again }
}

/// Whether the same change may be taken later without anybody changing it.
fn may_pass(error: &ControlError) -> bool {
    matches!(error, ControlError::Behind(_) | ControlError::Store(StoreError::Failed(_)))
}

/// One that still has applications stays, with a warning. The handles that are new.
async fn apply_hosts(
    edge: &Edge,
    wanted: &[HostConfig],
    contents: &Contents,
) -> Result<Vec<Arc<HostHandle>>, ControlError> {
    let wanted: Vec<HostRecord> = wanted.iter().map(record).collect();
    let mut writes: Vec<Write> = Vec::new();
    let mut removed = Vec::new();
    for known in &contents.hosts {
        let host = &known.name;
        if known.is_registered() || wanted.iter().any(|wanted| wanted.name == *host) {
            continue;
        }
        if contents.apps.iter().any(|app| uses(app, host)) {
            tracing::warn!(
                host,
                "it is not in the configuration any more, but has applications: it stays until they moved"
            );
        } else {
            removed.push(host.clone());
            writes.push(Write::RemoveHost(host.clone()));
        }
    }
    writes.extend(wanted.iter().filter(|host| !contents.hosts.contains(host)).cloned().map(Write::PutHost));
    if !writes.is_empty() {
        let what = format!("hosts: {}", wanted.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", "));
        commit(edge, what, writes).await?;
    }
    removed.iter().for_each(|name| edge.hosts.remove(name));
    Ok(wanted.into_iter().filter_map(|record| put_host(edge, record)).collect())
}

fn record(host: &HostConfig) -> HostRecord {
    HostRecord {
        name: host.name.clone(),
        addr: host.addr.clone(),
        control: host.control.to_string(),
        token_file: host.token_file.as_deref().map_or_else(String::new, |file| file.to_string_lossy().into_owned()),
    }
}

fn uses(app: &AppRecord, host: &str) -> bool {
    app.host == host || app.moving.as_ref().is_some_and(|moving| moving.to == host)
}

/// If they changed since they were last applied: until then what the API was told holds.
async fn apply_domains(edge: &Edge, wanted: &[DomainName], contents: &Contents) -> Result<(), ControlError> {
    let text = wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if edge.store().meta(CONFIGURED_DOMAINS).await?.is_some_and(|known| known == text) {
        return Ok(());
    }
    let mut writes = vec![Write::SetMeta(CONFIGURED_DOMAINS, text.clone())];
    if contents.domains != wanted {
        writes.push(Write::SetDomains(wanted.to_vec()));
    }
    commit(edge, format!("domains: {text}"), writes).await
}

/// On success it is stored: in force, or by itself as soon as the table can be written.
async fn commit(edge: &Edge, what: String, writes: Vec<Write>) -> Result<(), ControlError> {
    match edge.control.commit(Commit { at_ms: edge.now(), what, expect: Vec::new(), writes }).await {
        Ok(_) => Ok(()),
        Err(error @ ControlError::Table(_)) => {
            tracing::error!(%error, "of the configuration");
            Ok(())
        }
        Err(error) => Err(error),
    }
}
