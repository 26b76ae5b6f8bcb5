//! Errors as programs read them (RFC 9457), with what to do next as their detail.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::agents::client::AgentError;
use crate::bundles::BundleError;
use crate::control::ControlError;
use crate::store::StoreError;
use crate::workflow::Failure;
use crate::workflow::deploy::CannotDeploy;
use crate::workflow::moves::CannotMove;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub title: String,
    pub detail: String,
    /// Every reason, where there may be several.
    pub reasons: Vec<String>,
    /// What was asked for may be stored, and done without being asked for again.
    pub continues: bool,
}

impl Problem {
    pub fn new(status: u16, title: impl Into<String>, detail: impl ToString) -> Problem {
        Problem { status, title: title.into(), detail: detail.to_string(), reasons: Vec::new(), continues: false }
    }

    /// A change that is refused whole.
    pub fn refused(reasons: Vec<String>) -> Problem {
        let refused = Problem::new(422, "the change is refused, nothing was changed", reasons.join("; "));
        Problem { reasons, ..refused }
    }

    /// A change that is under way all the same.
    pub fn that_continues(self) -> Problem {
        Problem { continues: true, ..self }
    }

    pub fn no_app(name: &str) -> Problem {
        Problem::new(404, format!("there is no application {name}"), "steady apps (GET /v1/apps) lists them")
    }

    pub fn no_host(name: &str) -> Problem {
        Problem::new(404, format!("there is no host {name}"), "steady hosts (GET /v1/hosts) lists them")
    }

    /// As the last line of a workflow that was let in before it could be judged.
    pub fn into_failure(self) -> Failure {
        Failure { stopped: self.continues, ..Failure::new("record", self.title, self.detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut body =
            json!({"type": "about:blank", "title": self.title, "status": status.as_u16(), "detail": self.detail});
        if !self.reasons.is_empty() {
            body["reasons"] = self.reasons.into();
        }
        if self.continues {
            body["continues"] = true.into();
        }
        let mut response = (status, format!("{body}\n")).into_response();
        let content_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::Conflict { .. } => Problem::new(409, "someone else changed it", error),
            _ => Problem::new(503, "the store failed", error),
        }
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Problem {
        match error {
            ControlError::Refused(reasons) => Problem::refused(reasons),
            ControlError::Store(error) => error.into(),
            ControlError::Behind(_) => Problem::new(503, "nothing was changed", error),
            ControlError::Table(_) => {
                Problem::new(503, "the change is stored, and not in force yet", error).that_continues()
            }
            _ => Problem::new(503, "the change is not in force yet", error).that_continues(),
        }
    }
}

impl From<AgentError> for Problem {
    fn from(error: AgentError) -> Problem {
        let status = match error {
            AgentError::NoAnswer { .. } => 504,
            _ => 502,
        };
        Problem::new(status, "the host's agent did not answer", error)
    }
}

impl From<BundleError> for Problem {
    fn from(error: BundleError) -> Problem {
        Problem::new(error.status(), "the bundle is refused", error)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Problem {
        Problem { continues: failure.stopped, ..Problem::new(503, failure.what, failure.detail) }
    }
}

impl From<CannotDeploy> for Problem {
    fn from(error: CannotDeploy) -> Problem {
        let status = match error {
            CannotDeploy::NoHost(name) => return Problem::no_host(&name),
            CannotDeploy::Reserved(_) => 422,
            CannotDeploy::Elsewhere { .. } | CannotDeploy::Older(_) => 409,
            _ => 503,
        };
        Problem::new(status, "it cannot be deployed", error)
    }
}

impl From<CannotMove> for Problem {
    fn from(error: CannotMove) -> Problem {
        let status = match error {
            CannotMove::NoApp(name) => return Problem::no_app(name.as_str()),
            CannotMove::NoHost(name) => return Problem::no_host(&name),
            CannotMove::Store(error) => return error.into(),
            _ => 409,
        };
        Problem::new(status, "it cannot be moved", error)
    }
}
