//! How hosts come in: join tokens (for operators), and the two calls that hosts make without one of our own tokens.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use steady_cluster::join::{Answer, Join, Renew};
use steady_cluster::listen::Peer;

use super::{Api, Problem, Running, timestamp};
use crate::cluster::JoinRefused;
use crate::cluster::tokens::{Entry, Wanted};
use crate::limits::JOIN_BODY;

const TTL_S: u64 = 3600;

/// What `POST /v1/join-tokens` may say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    ttl_s: Option<u64>,
    uses: Option<u32>,
    host: Option<String>,
}

pub async fn make(State(api): State<Arc<Api>>, Running(edge): Running, body: Bytes) -> Result<Response, Problem> {
    // Whatever its content type: what is asked for must not be passed over.
    let asked = if body.is_empty() { Ok(Asked::default()) } else { serde_json::from_slice(&body) };
    let asked: Asked = asked.map_err(|error| {
        let what = format!("{error}; send {{\"ttl_s\": 3600, \"uses\": 1, \"host\": null}}, each optional");
        Problem::new(400, "the body is wrong", what)
    })?;
    let wanted = Wanted {
        ttl_ms: asked.ttl_s.unwrap_or(TTL_S).saturating_mul(1000),
        uses: asked.uses.unwrap_or(1),
        host: asked.host,
    };
    let (token, entry) = api.cluster.make_token(&edge, wanted).await?;
    let mut shown = render(&entry);
    shown["token"] = token.to_string().into();
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

pub async fn list(State(api): State<Arc<Api>>, Running(edge): Running) -> Result<Json<Value>, Problem> {
    let tokens = api.cluster.tokens(&edge).await?;
    Ok(Json(json!({"tokens": tokens.iter().map(render).collect::<Vec<_>>()})))
}

pub async fn revoke(
    State(api): State<Arc<Api>>,
    Running(edge): Running,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    if api.cluster.revoke_token(&edge, &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::new(404, format!("there is no join token {id}"), "GET /v1/join-tokens lists them"))
    }
}

fn render(entry: &Entry) -> Value {
    json!({
        "id": entry.id(),
        "host": entry.host,
        "until": timestamp(entry.until),
        "uses": entry.uses,
        "uses_left": entry.uses_left(),
    })
}

/// A JSON body that comes within [`JOIN_BODY`], of one who need not have shown who it is.
pub struct Prompt<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Prompt<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Prompt<T>, Response> {
        within(JOIN_BODY, Json::from_request(request, state)).await
    }
}

async fn within<T>(
    time: Duration,
    body: impl Future<Output = Result<Json<T>, JsonRejection>>,
) -> Result<Prompt<T>, Response> {
    match tokio::time::timeout(time, body).await {
        Ok(body) => body.map(|Json(body)| Prompt(body)).map_err(IntoResponse::into_response),
        Err(_) => Err(Problem::new(408, "the body has not come", format!("send it within {time:?}")).into_response()),
    }
}

/// A host buys its certificate. The token's secret must not cross a network in the clear: the port takes plain HTTP from
/// this machine only.
pub async fn join(
    State(api): State<Arc<Api>>,
    Running(edge): Running,
    Prompt(asked): Prompt<Join>,
) -> Result<Json<Answer>, Problem> {
    let answered = api.cluster.join(&edge, &asked.secret, &asked.name, &asked.request).await;
    api.metrics.joined(answered.is_ok());
    answered.map(Json).map_err(|refused| {
        tracing::warn!(host = asked.name, why = %refused, "a host is not let in");
        refused.into()
    })
}

/// A host's next certificate; its present one says who it is.
pub async fn renew(
    State(api): State<Arc<Api>>,
    Running(edge): Running,
    ConnectInfo(peer): ConnectInfo<Peer>,
    Prompt(asked): Prompt<Renew>,
) -> Result<Json<Answer>, Problem> {
    let member = peer.member.ok_or_else(|| {
        Problem::from(JoinRefused::NotMember("show the host's present certificate in the TLS handshake".into()))
    })?;
    let answered = api.cluster.renew_host(&edge, &member, &asked.request);
    api.metrics.renewed(answered.is_ok());
    Ok(Json(answered?))
}

impl From<JoinRefused> for Problem {
    fn from(refused: JoinRefused) -> Problem {
        match refused {
            JoinRefused::Token(why) => Problem::new(403, "this host is not let in", why),
            JoinRefused::NotMember(why) => Problem::new(403, "no certificate without a certificate", why),
            JoinRefused::Name(why) => Problem::new(422, "the name is not one", why),
            JoinRefused::Request(why) => Problem::new(422, "there is no certificate for this", why),
            JoinRefused::Wanted(why) => Problem::new(422, "there is no such join token", why),
            JoinRefused::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[tokio::test]
    async fn a_body_that_stalls_is_not_waited_for() {
        let stalls = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let request = Request::post("/v1/join").header("content-type", "application/json").body(stalls).unwrap();
        let body = within(Duration::from_millis(1), Json::<Join>::from_request(request, &()));
        let refused = tokio::time::timeout(Duration::from_secs(60), body).await.expect("it is waited for");
        let Err(refused) = refused else { panic!("there is no body") };
        assert_eq!(refused.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
