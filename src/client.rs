//! The private API, as a client: which edge, which token, and answers turned into values or errors that say what to do.
//!
//! One request at a time on a single-threaded runtime. Work that takes time answers a line of JSON a step
//! (`docs/api.md`); [`Client::steps`] hands each one over as it comes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::cli::Reach;
use crate::error::Error;

/// An edge on the same network either takes the connection within this, or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A line of an answer longer than this is not one of ours; reading on would only fill memory.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Of an error page that is not ours, as much as is worth showing.
const FOREIGN_BODY_CHARS_MAX: usize = 200;

#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
    /// How the user said it, for messages.
    found_by: FoundBy,
}

#[derive(Clone, Debug)]
enum FoundBy {
    Dir(PathBuf),
    Address,
}

/// What `up.json` says to a client.
#[derive(Debug, Deserialize)]
struct UpFile {
    private: String,
    token_file: PathBuf,
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
        match &reach.address {
            Some(address) => Client::new(address, token_for_address(reach)?, FoundBy::Address),
            None => {
                let up = read_up_file(&reach.dir)?;
                let token = read_token(&up.token_file)?;
                Client::new(&up.private, token, FoundBy::Dir(reach.dir.clone()))
            }
        }
    }

    /// The edge that this very process started.
    pub fn of_own_edge(private: &str, token_file: &Path, dir: &Path) -> Result<Client, Error> {
        Client::new(private, read_token(token_file)?, FoundBy::Dir(dir.to_owned()))
    }

    fn new(address: &str, token: String, found_by: FoundBy) -> Result<Client, Error> {
        let base = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|error| Error::Failed(format!("cannot make an HTTP client: {error}")))?;
        Ok(Client { http, base: base.trim_end_matches('/').to_owned(), token, found_by })
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// A GET whose answer is one JSON document.
    pub async fn json(&self, path: &str) -> Result<Value, Error> {
        let response = self.send(self.request(Method::GET, path)).await?;
        response.json().await.map_err(|error| self.broken(&error))
    }

    /// Sends, and turns every answer that is not a success into an error.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| self.broken(&error))?;
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
        request: RequestBuilder,
        mut each: impl FnMut(&Value) -> Result<(), Error>,
    ) -> Result<Done, Error> {
        let mut lines = Lines::of(self.send(request).await?);
        while let Some(line) = lines.next(self).await? {
            let value: Value = serde_json::from_str(&line)
                .map_err(|_| Error::Failed(format!("the edge answered a line that is not JSON: {line}")))?;
            each(&value)?;
            if value.get("done").and_then(Value::as_bool) == Some(true) {
                let app = value.get("app").cloned().unwrap_or(Value::Null);
                return Ok(Done { ms: value.get("ms").and_then(Value::as_f64), app });
            }
            if let Some(error) = value.get("error") {
                return Err(Error::Failed(undone(error, &value)));
            }
        }
        Err(Error::Failed(
            "the edge ended its answer before it said how the work went; `steady apps` shows how things stand"
                .to_owned(),
        ))
    }

    fn refused(&self, status: StatusCode, body: &str) -> Error {
        let message = problem(body).unwrap_or_else(|| {
            let text: String = body.trim().chars().take(FOREIGN_BODY_CHARS_MAX).collect();
            format!("the edge at {} answered {status}: {text}", self.base)
        });
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Unreachable(format!(
                "the edge at {} refuses the token; {}",
                self.base,
                match &self.found_by {
                    FoundBy::Dir(dir) => format!("is another system than the one of {} running there?", dir.display()),
                    FoundBy::Address => "give the right one with --token or --token-file".to_owned(),
                }
            )),
            StatusCode::NOT_FOUND => Error::NotFound(message),
            StatusCode::CONFLICT => Error::Conflict(message),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => Error::Usage(message),
            _ => Error::Failed(message),
        }
    }

    /// An exchange that did not come to an answer.
    fn broken(&self, error: &reqwest::Error) -> Error {
        if !error.is_connect() && !error.is_timeout() {
            return Error::Failed(format!("the answer of {} broke off: {}", self.base, causes(error)));
        }
        Error::Unreachable(match &self.found_by {
            FoundBy::Dir(dir) => format!(
                "nothing answers at {} although {} names it: was `steady up` killed? Start it again: steady up --dir {}",
                self.base,
                dir.join("up.json").display(),
                dir.display()
            ),
            FoundBy::Address => format!(
                "nothing answers at {}: {}. Does the edge run, and is this the addr of its [private]?",
                self.base,
                causes(error)
            ),
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
            match self.response.chunk().await.map_err(|error| client.broken(&error))? {
                Some(chunk) => self.pending.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
    }
}

fn read_up_file(dir: &Path) -> Result<UpFile, Error> {
    let path = dir.join("up.json");
    let text = fs::read_to_string(&path).map_err(|_| {
        Error::Unreachable(format!(
            "no `steady up` is running for {} (there is no {}).\n  Start one:             steady up --dir {}\n  Or \
             name another edge:  --dir DIR, or --address IP:PORT with --token-file FILE",
            dir.display(),
            path.display(),
            dir.display()
        ))
    })?;
    serde_json::from_str(&text).map_err(|error| Error::Failed(format!("{} is damaged: {error}", path.display())))
}

fn read_token(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| Error::Unreachable(format!("cannot read the token in {}: {error}", path.display())))
}

fn token_for_address(reach: &Reach) -> Result<String, Error> {
    match (&reach.token, &reach.token_file) {
        (Some(token), _) => Ok(token.clone()),
        (None, Some(path)) => read_token(path),
        (None, None) => Err(Error::Usage(
            "--address needs a token: --token-file FILE (the edge's [private] token_file), --token, or STEADY_TOKEN"
                .to_owned(),
        )),
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

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}
