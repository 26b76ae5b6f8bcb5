//! JetStream's side: a server of its own for each round, a publisher whose messages carry an id (so that none is stored twice) and
//! a consumer that waits for the answer to its acknowledgement (so that none is delivered twice): what its documentation calls
//! exactly once.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::{self, Context, stream::StorageType};
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, TryStreamExt};

use crate::{Failure, Job, Took, Watch};

const SUBJECT: &str = "bench";

/// Ends with the round.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub async fn round(job: &Job, synced: bool) -> Result<Took, Failure> {
    if synced {
        let done = Command::new("chattr").arg("+S").arg(&job.directory).status()?;
        if !done.success() {
            return Err("chattr +S: files cannot be made synchronous here".into());
        }
    }
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let server = start(&job.directory, port)?;
    let client = connect(port).await?;
    let jetstream = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: SUBJECT.into(),
        subjects: vec![SUBJECT.into()],
        storage: StorageType::File,
        ..Default::default()
    };
    let stream = jetstream.create_stream(config).await?;
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("edge".into()),
            max_ack_pending: job.outstanding as i64,
            ..Default::default()
        })
        .await?;
    carry(&jetstream, &consumer, job, 0, job.outstanding).await?;
    let watch = Watch::start(&[server.0.id()]);
    carry(&jetstream, &consumer, job, job.outstanding, job.messages).await?;
    Ok(watch.took(job))
}

fn start(directory: &Path, port: u16) -> Result<Server, Failure> {
    let mut command = Command::new("nats-server");
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(directory);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    child.map(Server).map_err(|error| format!("nats-server (apt-get install nats-server): {error}").into())
}

async fn connect(port: u16) -> Result<async_nats::Client, Failure> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match async_nats::connect(format!("127.0.0.1:{port}")).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            // It says nowhere else that it is ready.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Publishes so many messages, beginning with this number, and has them received.
async fn carry(
    jetstream: &Context,
    consumer: &PullConsumer,
    job: &Job,
    first: usize,
    count: usize,
) -> Result<(), Failure> {
    let receive = async {
        let messages = consumer.stream().max_messages_per_batch(job.outstanding).messages().await?;
        let messages = messages.take(count).map_err(Failure::from);
        messages.try_for_each_concurrent(job.outstanding, |message| async move { message.double_ack().await }).await
    };
    let body = Bytes::from(vec![7; job.octets]);
    let publish = async {
        let mut waiting = FuturesUnordered::new();
        for number in first..first + count {
            if waiting.len() >= job.outstanding {
                waiting.next().await.transpose()?;
            }
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", number.to_string());
            let kept = jetstream.publish_with_headers(SUBJECT, headers, body.clone()).await?;
            waiting.push(kept.into_future());
        }
        while let Some(kept) = waiting.next().await {
            kept?;
        }
        Ok::<_, Failure>(())
    };
    tokio::try_join!(receive, publish)?;
    Ok(())
}
