//! `POST /v1/channel`: a host registers, and its connection becomes its channel (`docs/decisions/channel.md`).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::body::to_bytes;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use steady_cluster::channel::accept::accept;
use steady_cluster::channel::{REGISTRATION_OCTETS_MAX, Registration, UPGRADE, VERSION};
use steady_cluster::listen::Peer;
use steady_cluster::{Member, Role};
use steady_table::Host;

use super::{Api, Problem, Running, to_its_end};
use crate::control::ControlError;
use crate::edge::Edge;
use crate::run::watch_new;
use crate::store::{Commit, HostRecord, Write};

const REFUSED: &str = "this host is not taken";

pub async fn open(
    State(api): State<Arc<Api>>,
    Running(edge): Running,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
) -> Result<Response, Problem> {
    let answered = admit(&edge, &peer, request).await;
    api.metrics.registered(answered.is_ok());
    if let Err(refused) = &answered {
        tracing::warn!(peer = %peer.addr, why = refused.detail, "a host is not taken");
    }
    answered
}

async fn admit(edge: &Arc<Edge>, peer: &Peer, mut request: Request) -> Result<Response, Problem> {
    let member = peer.member.as_ref().filter(|member| member.role() == Role::Host);
    let member = member.ok_or_else(|| Problem::new(403, REFUSED, "show a host's certificate in the TLS handshake"))?;
    let wanted = request.headers().get(header::UPGRADE).is_some_and(|value| value.as_bytes() == UPGRADE.as_bytes());
    let on = request.extensions_mut().remove::<OnUpgrade>().filter(|_| wanted);
    let on = on.ok_or_else(|| Problem::new(426, REFUSED, format!("ask to upgrade to {UPGRADE}, over HTTP/1.1")))?;
    let body = to_bytes(request.into_body(), REGISTRATION_OCTETS_MAX).await;
    let body = body.map_err(|error| Problem::new(413, REFUSED, format!("its registration: {error}")))?;
    let registration = serde_json::from_slice(&body);
    let registration: Registration =
        registration.map_err(|error| Problem::new(422, REFUSED, format!("this is no registration: {error}")))?;
    let record = check(edge, peer, member, &registration)?;
    let kept = Arc::clone(edge);
    to_its_end(async move { put(&kept, record).await }).await?;
    tokio::spawn(carry(Arc::clone(edge), on, peer.addr, registration));
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, UPGRADE)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Whether this host can be taken now, and what is to be known of it.
fn check(edge: &Edge, peer: &Peer, member: &Member, wants: &Registration) -> Result<HostRecord, Problem> {
    let name = member.name();
    if wants.channel != VERSION {
        let what =
            format!("it speaks version {} of the channel, this edge {VERSION}: run the same program", wants.channel);
        return Err(Problem::new(422, REFUSED, what));
    }
    if wants.name != name {
        let what =
            format!("it calls itself {:?}, its certificate {name:?}: mend the name in its configuration", wants.name);
        return Err(Problem::new(422, REFUSED, what));
    }
    unnamed(edge, name)?;
    let config = edge.config.load();
    let slot = edge.hosts.slot(name);
    let heard = slot.heard().is_some_and(|heard| heard.elapsed() <= config.health.suspect_after);
    if let Some(open) = slot.open().filter(|open| heard && open.registration.start != wants.start) {
        let what = format!("another agent with the name {name} is connected, from {}: each needs its own", open.peer);
        return Err(Problem::new(409, REFUSED, what));
    }
    let addr = data_addr(&wants.data, peer.addr.ip());
    Host::new(name, &addr).map_err(|error| Problem::new(422, REFUSED, error))?;
    Ok(HostRecord { name: name.to_owned(), addr, control: String::new(), token_file: String::new() })
}

/// Whether the configuration leaves it to the host to register.
fn unnamed(edge: &Edge, name: &str) -> Result<(), Problem> {
    if !edge.config.load().hosts.iter().any(|host| host.name == name) {
        return Ok(());
    }
    let what = format!("this edge's configuration names {name} as [[host]] and reaches it so: take it out there");
    Err(Problem::new(409, REFUSED, what))
}

/// Where its data path is: what it says, with the address that it comes from where it says none.
fn data_addr(said: &str, from: IpAddr) -> String {
    match said.parse::<SocketAddr>() {
        Ok(addr) if addr.ip().is_unspecified() => SocketAddr::new(from.to_canonical(), addr.port()).to_string(),
        _ => said.to_owned(),
    }
}

/// Writes it down where it is new or elsewhere than before.
async fn put(edge: &Arc<Edge>, record: HostRecord) -> Result<(), Problem> {
    let _one_at_a_time = edge.registering.lock().await;
    // The configuration may have been read again since.
    unnamed(edge, &record.name)?;
    if edge.hosts.find(&record.name).is_some_and(|known| known.record == record) {
        return Ok(());
    }
    let what = format!("host {} registered", record.name);
    let writes = vec![Write::PutHost(record.clone())];
    let commit = Commit { at_ms: edge.now(), what, expect: Vec::new(), writes };
    match edge.control.commit(commit).await {
        Ok(_) => {}
        // It is stored; the table follows. What was not stored for want of a table is an error, and the host comes again.
        Err(ControlError::Table(_)) => {}
        Err(error) => return Err(error.into()),
    }
    tracing::info!(host = record.name, addr = record.addr, "a host has registered");
    let made = edge.hosts.put(record).map_err(|error| Problem::new(422, REFUSED, error))?;
    if let Some(handle) = made {
        watch_new(edge, handle);
    }
    Ok(())
}

/// Keeps the channel until it ends or another takes its place.
async fn carry(edge: Arc<Edge>, on: OnUpgrade, peer: SocketAddr, registration: Registration) {
    let host = registration.name.clone();
    let accepted = match on.await {
        Ok(upgraded) => accept(upgraded).await,
        Err(error) => Err(error),
    };
    let (calls, grip, connection) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => return tracing::info!(host, %error, "its channel did not come about"),
    };
    // One that was forgotten meanwhile comes again, and is written down then.
    let Some(slot) = edge.hosts.find(&host).and_then(|handle| handle.slot.clone()) else {
        return tracing::info!(host, "it was forgotten as it came; it comes again");
    };
    drop(edge);
    let Some(number) = slot.attach(calls.clone(), peer, registration) else {
        return tracing::info!(host, "it was forgotten as it came; it comes again");
    };
    let stream = tokio::spawn({
        let (slot, host) = (Arc::clone(&slot), host.clone());
        async move {
            match slot.orders.attach(calls).await {
                Ok(ended) => tracing::debug!(host, ended, "a connection of its message stream has ended"),
                Err(error) => tracing::error!(host, error, "its message stream cannot be used"),
            }
            // Without it the host takes no orders: it shall try again.
            slot.detach(number);
        }
    });
    let begun = Instant::now();
    tracing::info!(host, %peer, "its channel is open");
    let why = tokio::select! {
        ended = connection => ended.map_or_else(|error| error.to_string(), |()| "the host closed it".to_owned()),
        () = slot.replaced(number) => "another took its place".to_owned(),
    };
    stream.abort();
    drop(grip);
    slot.detach(number);
    tracing::info!(host, why, after = ?begun.elapsed(), "its channel has ended");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_says_any_is_the_one_that_the_host_comes_from() {
        let from = "10.0.0.7".parse().unwrap();
        assert_eq!(data_addr("0.0.0.0:9911", from), "10.0.0.7:9911");
        assert_eq!(data_addr("[::]:9911", "::ffff:10.0.0.7".parse().unwrap()), "10.0.0.7:9911");
        assert_eq!(data_addr("192.0.2.1:9911", from), "192.0.2.1:9911");
        assert_eq!(data_addr("unix:/run/h1", from), "unix:/run/h1");
    }
}
