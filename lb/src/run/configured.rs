//! Hosts and domains as the configuration says, into the store.

use std::sync::Arc;

use steady_table::DomainName;

use super::serving::put_host;
use crate::agents::HostHandle;
use crate::config::HostConfig;
use crate::control::ControlError;
use crate::edge::Edge;
use crate::store::{Commit, Contents, HostRecord, Write};

/// What was last read from `domains` of the configuration, so that a change of the file is told from a change by the API.
const CONFIGURED_DOMAINS: &str = "configured_domains";

/// Brings the hosts to what the configuration says. One that still has applications stays, with a warning.
/// The handles that are new.
pub(super) async fn apply_hosts(edge: &Edge, wanted: &[HostConfig], contents: &Contents) -> Vec<Arc<HostHandle>> {
    let wanted: Vec<HostRecord> = wanted
        .iter()
        .map(|host| HostRecord {
            name: host.name.clone(),
            addr: host.addr.clone(),
            control: host.control.to_string(),
            token_file: host.token_file.as_deref().map_or_else(String::new, |file| file.to_string_lossy().into_owned()),
        })
        .collect();
    let mut writes: Vec<Write> = Vec::new();
    let mut removed = Vec::new();
    for known in &contents.hosts {
        if known.is_registered() || wanted.iter().any(|host| host.name == known.name) {
            continue;
        }
        let uses = |app: &crate::store::AppRecord| {
            app.host == known.name || app.moving.as_ref().is_some_and(|moving| moving.to == known.name)
        };
        if contents.apps.iter().any(uses) {
            let host = &known.name;
            tracing::warn!(
                host,
                "it is not in the configuration any more, but has applications: it stays until they moved"
            );
        } else {
            removed.push(known.name.clone());
            writes.push(Write::RemoveHost(known.name.clone()));
        }
    }
    writes.extend(wanted.iter().filter(|host| !contents.hosts.contains(host)).cloned().map(Write::PutHost));
    if !writes.is_empty() {
        let what = format!("hosts: {}", wanted.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", "));
        if let Err(error) = commit(edge, what, writes).await {
            tracing::error!(%error, "the hosts of the configuration are not in force");
            return Vec::new();
        }
    }
    removed.iter().for_each(|name| edge.hosts.remove(name));
    wanted.into_iter().filter_map(|record| put_host(edge, record)).collect()
}

/// Brings the domains to what the configuration says, if that changed since it was last applied: until then what the API
/// was told holds.
pub(super) async fn apply_domains(edge: &Edge, wanted: &[DomainName], contents: &Contents) {
    let text = wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    if matches!(edge.store().meta(CONFIGURED_DOMAINS).await, Ok(Some(known)) if known == text) {
        return;
    }
    let mut writes = vec![Write::SetMeta(CONFIGURED_DOMAINS, text.clone())];
    if contents.domains != wanted {
        writes.push(Write::SetDomains(wanted.to_vec()));
    }
    if let Err(error) = commit(edge, format!("domains: {text}"), writes).await {
        tracing::error!(%error, "the domains of the configuration are not in force");
    }
}

async fn commit(edge: &Edge, what: String, writes: Vec<Write>) -> Result<u64, ControlError> {
    edge.control.commit(Commit { at_ms: edge.now(), what, expect: Vec::new(), writes }).await
}
