//! Runs a workflow behind an ndjson answer. The workflow belongs to a task of its own from its first record on: a client
//! that leaves stops neither it nor anything it has begun.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use steady_table::AppName;
use tokio::sync::oneshot;

use super::Problem;
use super::apps::describe;
use crate::bundles::Received;
use crate::edge::Edge;
use crate::limits::CHANGES_WAITING_MAX;
use crate::workflow::progress::{done_line, failure_line};
use crate::workflow::{AppLock, Failure, Progress, Tracker, deploy, moves, remove};

/// What is asked for.
#[derive(Debug)]
pub enum Operation {
    Deploy { host: Option<String>, bundle: Received },
    Move { to: String, force: bool },
    Remove,
}

type Running = BoxFuture<'static, Result<(), Failure>>;

impl Operation {
    /// The bundle that nobody needs if this comes to nothing.
    fn bundle(&self) -> Option<String> {
        match self {
            Operation::Deploy { bundle, .. } => Some(bundle.digest.clone()),
            Operation::Move { .. } | Operation::Remove => None,
        }
    }

    /// Judges and records it. What comes back does the rest.
    async fn begin(self, lock: AppLock, progress: Progress) -> Result<Running, Problem> {
        Ok(match self {
            Operation::Deploy { host, bundle } => {
                let plan = deploy::plan(&lock, host.as_deref()).await?;
                let flow = deploy::begin(&lock, plan, bundle, progress).await?;
                deploy::run(lock, flow).boxed()
            }
            Operation::Move { to, force } => {
                let app = moves::plan(&lock, &to, force).await?;
                let flow = moves::begin(&lock, &app, &to, force, progress).await?;
                moves::run(lock, flow).boxed()
            }
            Operation::Remove => {
                let app = remove::plan(&lock).await?.ok_or_else(|| Problem::no_app(lock.app.as_str()))?;
                let flow = remove::begin(&lock, app, progress).await?;
                remove::run(lock, flow).boxed()
            }
        })
    }
}

/// Starts it and answers with its progress. What can be refused at once is refused with a status of its own.
pub async fn launch(edge: Arc<Edge>, app: AppName, operation: Operation) -> Result<Response, Problem> {
    let (progress, stream) = Progress::new();
    let (started, judged) = oneshot::channel();
    let (done, last) = oneshot::channel();
    tokio::spawn(async move {
        // A client that left reads neither.
        let line = drive(edge, app, operation, progress, started).await;
        let _ = done.send(line);
    });
    match judged.await {
        Ok(Ok(())) => {
            let body = Body::from_stream(stream.into_ndjson(last));
            Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
        }
        Ok(Err(problem)) => Err(problem),
        // Where it was is not known.
        Err(_) => {
            let what = "it may have begun, and is taken up again then: look when the edge is back";
            Err(Problem::new(503, "the edge is stopping", what).that_continues())
        }
    }
}

/// The whole of it; the last line.
async fn drive(
    edge: Arc<Edge>,
    app: AppName,
    operation: Operation,
    progress: Progress,
    started: oneshot::Sender<Result<(), Problem>>,
) -> Value {
    let begun = Instant::now();
    let removes = matches!(operation, Operation::Remove);
    let bundle = operation.bundle();
    let mut started = Started(Some(started));
    let let_in = let_in(&edge, &app, &operation, &progress, &mut started).await;
    let running = match let_in {
        Ok(lock) => operation.begin(lock, progress).await,
        Err(problem) => {
            drop(operation);
            Err(problem)
        }
    };
    let running = match running {
        Ok(running) => running,
        Err(problem) => {
            if let Some(digest) = bundle {
                deploy::discard(&edge, digest).await;
            }
            started.tell(Err(problem.clone()));
            return failure_line(&problem.into_failure());
        }
    };
    started.tell(Ok(()));
    match running.await {
        Ok(()) if removes => done_line(json!({"name": app.as_str()}), begun.elapsed()),
        Ok(()) => {
            let described = match edge.store().app(app.clone()).await {
                Ok(Some(record)) => describe(&edge, &record, None).await,
                Ok(None) | Err(_) => json!({"name": app.as_str()}),
            };
            done_line(described, begun.elapsed())
        }
        Err(failure) => failure_line(&failure),
    }
}

/// Who waits for the answer's head; told once.
struct Started(Option<oneshot::Sender<Result<(), Problem>>>);

impl Started {
    fn tell(&mut self, judged: Result<(), Problem>) {
        if let Some(started) = self.0.take() {
            // A client that left does not read it.
            let _ = started.send(judged);
        }
    }
}

/// The application's lock, at once or behind the changes that came before.
async fn let_in(
    edge: &Arc<Edge>,
    app: &AppName,
    operation: &Operation,
    progress: &Progress,
    started: &mut Started,
) -> Result<AppLock, Problem> {
    if let Some(lock) = Tracker::try_lock(edge, app) {
        return Ok(lock);
    }
    let forces = matches!(operation, Operation::Move { force: true, .. });
    if !forces && edge.workflows.waiting(app) >= CHANGES_WAITING_MAX {
        let what = format!("{CHANGES_WAITING_MAX} changes of {app} wait for the one that is under way: repeat later");
        return Err(Problem::new(429, "too many changes at once", what));
    }
    let _forcing = forces.then(|| Tracker::force(edge, app));
    progress.line("wait", "", "another change of this application is under way", Duration::ZERO);
    started.tell(Ok(()));
    Ok(Tracker::lock(edge, app).await)
}
