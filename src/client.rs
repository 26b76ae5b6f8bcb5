//! The private API, as a client: which edge, which token, and answers turned into values or errors that say what to do.
//!
//! One request at a time on a single-threaded runtime. Work that takes time answers a line of JSON a step
//! (`docs/api.md`); [`Client::steps`] hands each one over as it comes.

mod http;
mod reach;

use std::path::Path;

use serde_json::Value;

use crate::cli::Reach;
use crate::error::Error;
use http::{Broken, Http};
pub use http::{Method, Request, Response, StatusCode, encoded};
use reach::FoundBy;

/// A line of an answer longer than this is not one of ours; reading on would only fill memory.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Of an error page that is not ours, as much as is worth showing.
const FOREIGN_BODY_CHARS_MAX: usize = 200;

#[derive(Debug)]
pub struct Client {
    http: Http,
    /// How the user said it, for messages.
    found_by: FoundBy,
}

/// The last line of long work.
#[derive(Clone, Debug)]
pub struct Done {
    pub ms: Option<f64>,
    /// The application afterwards, as the edge describes it; null when it is gone.
    pub app: Value,
}

impl Client {
    /// Finds the edge that `reach` means: an address wins over a directory.
    pub fn reach(reach: &Reach) -> Result<Client, Error> {
        let (http, found_by) = reach::find(reach)?;
        Ok(Client { http, found_by })
    }

    /// The edge that this very process started.
    pub fn of_own_edge(private: &str, token_file: &Path, ca: &Path, dir: &Path) -> Result<Client, Error> {
        let (http, found_by) = reach::own(private, token_file, ca, dir)?;
        Ok(Client { http, found_by })
    }

    /// A GET whose answer is one JSON document.
    pub async fn json(&self, path: &str) -> Result<Value, Error> {
        self.document(Request::new(Method::GET, path)).await
    }

    /// Sends; the answer is one JSON document.
    pub async fn document(&self, request: Request) -> Result<Value, Error> {
        self.send(request).await?.json().await.map_err(|broken| self.broken(broken))
    }

    /// Sends, and turns every answer that is not a success into an error.
    pub async fn send(&self, request: Request) -> Result<Response, Error> {
        let changes = request.changes();
        let response = self.http.send(request).await.map_err(|broken| match broken {
            Broken::Answer(_) if changes => Error::Unsettled(with_advice(&self.broken(broken).to_string())),
            broken => self.broken(broken),
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        Err(self.refused(status, &body))
    }

    /// Sends long work; `each` gets every line, the last one too.
    pub async fn steps(
        &self,
        request: Request,
        mut each: impl FnMut(&Value) -> Result<(), Error>,
    ) -> Result<Done, Error> {
        let mut lines = Lines::of(self.send(request).await?);
        while let Some(line) =
            lines.next(self).await.map_err(|error| Error::Unsettled(with_advice(&error.to_string())))?
        {
            let value: Value = serde_json::from_str(&line)
                .map_err(|_| Error::Failed(format!("the edge answered a line that is not JSON: {line}")))?;
            each(&value)?;
            if value.get("done").and_then(Value::as_bool) == Some(true) {
                let app = value.get("app").cloned().unwrap_or(Value::Null);
                return Ok(Done { ms: value.get("ms").and_then(Value::as_f64), app });
            }
            if let Some(error) = value.get("error") {
                let text = undone(error, &value);
                return Err(if continues(&value) { Error::Unsettled(with_advice(&text)) } else { Error::Failed(text) });
            }
        }
        Err(Error::Unsettled(with_advice("the edge ended its answer before it said how the work went")))
    }

    fn refused(&self, status: StatusCode, body: &str) -> Error {
        let message = problem(body).unwrap_or_else(|| {
            let text: String = body.trim().chars().take(FOREIGN_BODY_CHARS_MAX).collect();
            format!("the edge at {} answered {status}: {text}", self.http.base())
        });
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Unreachable(format!(
                "the edge at {} refuses the token; {}",
                self.http.base(),
                match &self.found_by {
                    FoundBy::Up(dir) | FoundBy::Edge(dir) =>
                        format!("is another system than the one of {} running there?", dir.display()),
                    FoundBy::Address => "give the right one with --token or --token-file".to_owned(),
                }
            )),
            StatusCode::NOT_FOUND => Error::NotFound(message),
            StatusCode::CONFLICT => Error::Conflict(message),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Error::Usage(message),
            _ if serde_json::from_str(body).is_ok_and(|value| continues(&value)) => {
                Error::Unsettled(with_advice(&message))
            }
            _ => Error::Failed(message),
        }
    }

    /// An exchange that did not come to an answer, or not to the end of it.
    pub fn broken(&self, broken: Broken) -> Error {
        let base = self.http.base();
        let why = match broken {
            Broken::Answer(why) => return Error::Failed(format!("the answer of {base} broke off: {why}")),
            Broken::Certificate(why) => {
                let which = match &self.found_by {
                    FoundBy::Address => "is --ca the cluster/ca.pem of that edge, as it is now?",
                    FoundBy::Up(_) | FoundBy::Edge(_) => "does another program listen there?",
                };
                return Error::Unreachable(format!(
                    "whoever is at {base} is not an edge of this cluster ({why}); {which}"
                ));
            }
            Broken::Connect(why) => why,
        };
        Error::Unreachable(match &self.found_by {
            FoundBy::Up(dir) => format!(
                "nothing answers at {base} although {} names it: was `steady up` killed? Start it again: steady up --dir {}",
                dir.join("up.json").display(),
                dir.display()
            ),
            FoundBy::Edge(dir) => format!(
                "nothing answers at {base} although {} names it ({why}): was the edge killed? Start it again",
                dir.join("ready.json").display()
            ),
            FoundBy::Address => {
                format!("nothing answers at {base}: {why}. Does the edge run, and is this the addr of its [private]?")
            }
        })
    }
}

/// A streamed answer, a line at a time.
#[derive(Debug)]
pub struct Lines {
    response: Response,
    pending: Vec<u8>,
    ended: bool,
}

impl Lines {
    pub fn of(response: Response) -> Lines {
        Lines { response, pending: Vec::new(), ended: false }
    }

    /// The next line without its end; the last one may lack it. Empty lines are skipped.
    pub async fn next(&mut self, client: &Client) -> Result<Option<String>, Error> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.ended {
                let rest = std::mem::take(&mut self.pending);
                let rest = String::from_utf8_lossy(&rest).trim().to_owned();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(Error::Failed(format!("the edge sent a line of more than {LINE_BYTES_MAX} octets")));
            }
            match self.response.chunk().await.map_err(|broken| client.broken(broken))? {
                Some(chunk) => self.pending.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
    }
}

/// The words of an `application/problem+json` body.
fn problem(body: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    let title = value.get("title").and_then(Value::as_str);
    let detail = value.get("detail").and_then(Value::as_str).filter(|detail| !detail.is_empty());
    match (title, detail) {
        (Some(title), Some(detail)) => Some(format!("{title}: {detail}")),
        (one, other) => one.or(other).map(str::to_owned),
    }
}

/// Whether what failed goes on all the same (`docs/api.md`).
fn continues(value: &Value) -> bool {
    value.get("continues").and_then(Value::as_bool) == Some(true)
}

/// What to do where nobody knows how a change ended.
fn with_advice(what: &str) -> String {
    format!("{what}; `steady apps` shows how things stand")
}

/// The words of a last line that says that the work failed.
fn undone(error: &Value, line: &Value) -> String {
    let error = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
    let step = line.get("step").and_then(Value::as_str);
    let detail = line.get("detail").and_then(Value::as_str).filter(|detail| !detail.is_empty());
    let mut text = match step {
        Some(step) => format!("{error} (at step {step})"),
        None => error,
    };
    if let Some(detail) = detail {
        text.push_str(": ");
        text.push_str(detail);
    }
    text
}
