//! One call to an agent: how it gets there, what lets us in, and what its failure says.

use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use http_body_util::{BodyExt, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Access, AgentClient, AgentError, Way, refused};
use crate::limits::{AGENT_ANSWER, AGENT_ANSWER_BYTES, AGENT_CONNECT};

impl AgentClient {
    pub(super) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        deadline: Duration,
    ) -> Result<T, AgentError> {
        let content = body.is_some().then_some(("application/json", None));
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let read = async {
            let answer = self.send(method, path, body, content, deadline).await?;
            if !answer.status().is_success() {
                return Err(self.refusal(answer).await);
            }
            let bytes = Limited::new(answer.into_body(), AGENT_ANSWER_BYTES).collect().await;
            let bytes = bytes.map_err(|error| self.no_answer(error.to_string()))?.to_bytes();
            let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            serde_json::from_slice(bytes).map_err(|error| self.no_answer(format!("it said something else: {error}")))
        };
        self.within(deadline, read).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        content: Option<(&'static str, Option<u64>)>,
        deadline: Duration,
    ) -> Result<Response<hyper::body::Incoming>, AgentError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(path)?;
        self.authorize(&mut request).await?;
        if let Some((content_type, length)) = content {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            if let Some(length) = length {
                request.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
        }
        let answer = self.exchange(request, deadline).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            self.inner.token.lock().expect("no holder panics").take();
            return Err(match &self.inner.access {
                Access::Token(file) => {
                    let why = "it answered 401; copy the agent's token there".to_owned();
                    AgentError::Token { file: file.clone(), why }
                }
                Access::Certificate => self.refusal(answer).await,
            });
        }
        Ok(answer)
    }

    pub(super) async fn exchange(
        &self,
        request: Request<Body>,
        deadline: Duration,
    ) -> Result<Response<hyper::body::Incoming>, AgentError> {
        let call = async {
            match &self.inner.way {
                Way::Dial(http) => http.request(request).await.map_err(|error| {
                    let why = root_cause(&error);
                    if error.is_connect() { self.unreachable(why) } else { self.no_answer(why) }
                }),
                Way::Channel(slot) => {
                    let calls = slot.calls(AGENT_CONNECT).await;
                    let mut calls = calls.ok_or_else(|| self.unreachable("the host is not connected".into()))?;
                    calls.try_send_request(request).await.map_err(|mut error| {
                        let unsent = error.take_message().is_some();
                        let why = root_cause(error.error());
                        if unsent { self.unreachable(why) } else { self.no_answer(why) }
                    })
                }
            }
        };
        self.within(deadline, call).await
    }

    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, AgentError> {
        match tokio::time::timeout(deadline, call).await {
            Ok(answer) => answer,
            Err(_) => Err(self.no_answer(format!("nothing within {}", steady_sys::text::format_duration(deadline)))),
        }
    }

    pub(crate) fn no_answer(&self, why: String) -> AgentError {
        AgentError::NoAnswer { at: self.inner.at.clone(), why }
    }

    pub(super) fn unreachable(&self, why: String) -> AgentError {
        AgentError::Unreachable { at: self.inner.at.clone(), why }
    }

    pub(super) fn uri(&self, path: &str) -> Result<Uri, AgentError> {
        let text = format!("http://{}{path}", self.inner.authority);
        text.parse()
            .map_err(|error| AgentError::Rejected { status: 400, detail: format!("{path:?} is no path: {error}") })
    }

    /// Adds what lets us in, where the connection itself does not.
    pub(super) async fn authorize(&self, request: &mut Request<Body>) -> Result<(), AgentError> {
        if let Access::Token(file) = &self.inner.access {
            let token = self.token(file).await?;
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        Ok(())
    }

    async fn token(&self, file: &Path) -> Result<HeaderValue, AgentError> {
        if let Some(token) = self.inner.token.lock().expect("no holder panics").clone() {
            return Ok(token);
        }
        let bad = |why: String| AgentError::Token { file: file.to_owned(), why };
        let text = tokio::fs::read_to_string(file).await.map_err(|error| bad(error.to_string()))?;
        let mut value = HeaderValue::try_from(format!("Bearer {}", text.trim()))
            .map_err(|_| bad("it holds something other than a token".into()))?;
        value.set_sensitive(true);
        *self.inner.token.lock().expect("no holder panics") = Some(value.clone());
        Ok(value)
    }

    /// Turns an answer that is no success into its error.
    pub(super) async fn refusal(&self, answer: Response<hyper::body::Incoming>) -> AgentError {
        let status = answer.status();
        let body = tokio::time::timeout(AGENT_ANSWER, Limited::new(answer.into_body(), 64 << 10).collect()).await;
        let text = match body {
            Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
            _ => String::new(),
        };
        let detail = problem_detail(&text).unwrap_or_else(|| format!("its agent answered {status}"));
        let said: Value = serde_json::from_str(&text).unwrap_or_default();
        refused(status.as_u16(), said["generation"].as_u64(), detail)
    }
}

fn problem_detail(text: &str) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    let part = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let said = part("detail").or_else(|| part("title"))?;
    match part("output") {
        Some(output) => Some(format!("{said}\n{output}")),
        None => Some(said.to_owned()),
    }
}

/// The innermost reason: hyper's own words ("client error (Connect)") tell nobody anything.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
