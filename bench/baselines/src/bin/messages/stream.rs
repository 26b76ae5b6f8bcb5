//! Steady's side: two links over loopback, and what the receiver does in memory or in a file.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use steady_stream::io::{Lane, Link, Names};
use steady_stream::{App, FileInbox, Inbox, MemoryInbox, Mode, Outcome, Sync};
use tokio::net::{TcpListener, TcpStream};

use crate::{Failure, Job, Took, Watch};

const MODE: Mode = Mode(0);

pub async fn round(job: &Job, sync: Sync, durable: bool) -> Result<Took, Failure> {
    let (agent, _agent_events) = open(job, "agent", "edge", sync, MemoryInbox::new(|_, _| Bytes::new())).await?;
    let opened = if durable {
        let inbox = FileInbox::open(job.directory.join("inbox"), |_, _| Bytes::new())?;
        open(job, "edge", "agent", sync, inbox).await?
    } else {
        open(job, "edge", "agent", sync, MemoryInbox::new(|_, _| Bytes::new())).await?
    };
    let (edge, _edge_events) = opened;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (one, other) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (one, other) = (one?, other?.0);
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    let (left, right) = (agent.clone(), edge.clone());
    let attached = tokio::spawn(async move { tokio::join!(left.attach(one), right.attach(other)) });
    send(&agent, job.outstanding, job).await?;
    let watch = Watch::start(&[]);
    send(&agent, job.messages, job).await?;
    let took = watch.took(job);
    agent.close().await;
    edge.close().await;
    attached.await?;
    Ok(took)
}

async fn open(
    job: &Job,
    local: &str,
    peer: &str,
    sync: Sync,
    inbox: impl Inbox,
) -> Result<(Link, steady_stream::io::Events), Failure> {
    let mut lane = Lane::new(MODE, inbox);
    lane.log.sync = sync;
    let names = Names { local: local.into(), peer: peer.into() };
    Ok(Link::open(names, job.directory.join(local), vec![lane]).await?)
}

async fn send(from: &Link, messages: usize, job: &Job) -> Result<(), Failure> {
    let (sender, body) = (from.sender(MODE), Bytes::from(vec![7; job.octets]));
    let mut waiting = FuturesUnordered::new();
    for _ in 0..messages {
        if waiting.len() >= job.outstanding {
            answered(waiting.next().await.flatten())?;
        }
        let (sender, body) = (sender.clone(), body.clone());
        waiting.push(async move { sender.send(App(1), body).await.ok()?.await });
    }
    while let Some(outcome) = waiting.next().await {
        answered(outcome)?;
    }
    Ok(())
}

fn answered(outcome: Option<Outcome>) -> Result<(), Failure> {
    match outcome {
        Some(Outcome::Answered(_)) => Ok(()),
        other => Err(format!("a message was not answered: {other:?}").into()),
    }
}
