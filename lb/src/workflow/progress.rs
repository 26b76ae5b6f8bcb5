//! What a workflow tells while it runs: a line a step, as `docs/api.md` has them, and one last line.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Failure;
use crate::limits::PROGRESS_LINES;

/// The telling end. A reader that is slow loses lines, one that left loses all; the workflow never waits.
#[derive(Clone, Debug)]
pub struct Progress {
    lines: mpsc::Sender<Value>,
}

/// The reading end: the lines, then the last one.
#[derive(Debug)]
pub struct ProgressStream {
    lines: mpsc::Receiver<Value>,
}

impl Progress {
    pub fn new() -> (Progress, ProgressStream) {
        let (lines, stream) = mpsc::channel(PROGRESS_LINES);
        (Progress { lines }, ProgressStream { lines: stream })
    }

    /// One step, done or tried again. An empty host is left out.
    pub fn line(&self, step: &str, host: &str, detail: &str, took: Duration) {
        let mut line = json!({"step": step});
        if !host.is_empty() {
            line["host"] = host.into();
        }
        if !detail.is_empty() {
            line["detail"] = detail.into();
        }
        line["ms"] = (took.as_millis() as u64).into();
        let _ = self.lines.try_send(line);
    }
}

impl ProgressStream {
    /// The body of an answer: every line, then what `last` brings.
    pub fn into_ndjson(self, last: oneshot::Receiver<Value>) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
        futures_util::stream::unfold((self.lines, Some(last)), |(mut lines, last)| async move {
            let value = match lines.recv().await {
                Some(line) => return Some((Ok(encode(&line)), (lines, last))),
                // All senders are gone: the workflow has ended.
                None => match last?.await {
                    Ok(value) => value,
                    Err(_) => failure_line(&Failure::stop("end")),
                },
            };
            Some((Ok(encode(&value)), (lines, None)))
        })
    }
}

fn encode(line: &Value) -> Bytes {
    Bytes::from(format!("{line}\n"))
}

/// The last line of a workflow that did what it should.
pub fn done_line(app: Value, took: Duration) -> Value {
    json!({"done": true, "ms": took.as_millis() as u64, "app": app})
}

/// The last line of one that did not, or of which this process will not see the end.
pub fn failure_line(failure: &Failure) -> Value {
    let mut line = json!({"error": failure.what, "step": failure.step, "detail": failure.detail});
    if failure.stopped {
        line["continues"] = true.into();
    }
    line
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    async fn read(stream: ProgressStream, last: oneshot::Receiver<Value>) -> Vec<Value> {
        let lines: Vec<_> = stream.into_ndjson(last).collect().await;
        lines.into_iter().map(|line| serde_json::from_slice(&line.unwrap()).unwrap()).collect()
    }

    #[tokio::test]
    async fn lines_come_in_order_and_the_last_one_always_comes() {
        let (progress, stream) = Progress::new();
        let (done, last) = oneshot::channel();
        for n in 0..PROGRESS_LINES * 2 {
            progress.line("drain", "h1", &n.to_string(), Duration::from_millis(12));
        }
        done.send(done_line(json!({"name": "shop"}), Duration::from_millis(99))).unwrap();
        drop(progress);
        let lines = read(stream, last).await;
        assert_eq!(lines[0], json!({"step": "drain", "host": "h1", "detail": "0", "ms": 12}));
        assert_eq!(lines.len(), PROGRESS_LINES + 1);
        assert_eq!(*lines.last().unwrap(), json!({"done": true, "ms": 99, "app": {"name": "shop"}}));
    }

    #[tokio::test]
    async fn a_workflow_that_is_cut_off_says_so_and_that_it_goes_on() {
        let (progress, stream) = Progress::new();
        let (done, last) = oneshot::channel::<Value>();
        drop((progress, done));
        let lines = read(stream, last).await;
        assert_eq!(lines.len(), 1);
        assert!(lines[0]["error"].is_string() && lines[0]["step"].is_string() && lines[0]["detail"].is_string());
        assert_eq!(lines[0]["continues"], true);
        assert_eq!(failure_line(&Failure::new("push", "no", "such luck")).get("continues"), None);
    }
}
