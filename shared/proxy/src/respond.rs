//! Answers from here: short pages for people, problem+json (RFC 9457) for programs, the request's id in both.

use std::io::Write;

use steady_http::{Head, Name, decimal};

use crate::refusal::{Explanation, Refusal};

/// Fills the head and the body of a refusal.
pub(crate) fn refuse(refusal: Refusal, request: &Head, head: &mut Head, body: &mut Vec<u8>) {
    let explanation = refusal.explain();
    head.reset_to_status(explanation.status);
    body.clear();
    let id = request.get(Name::XRequestId).unwrap_or_default();
    if wants_page(request) {
        head.push_known(Name::ContentType, b"text/html; charset=utf-8");
        page(&explanation, id, body);
    } else {
        head.push_known(Name::ContentType, b"application/problem+json");
        problem(&explanation, id, body);
    }
    head.push_known(Name::CacheControl, b"no-store");
    if let Some(after) = explanation.retry_after {
        let mut digits = [0; 20];
        head.push_known(Name::RetryAfter, decimal(after.as_secs(), &mut digits));
    }
    if explanation.status == 405 {
        head.push_known(Name::Allow, b"GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");
    }
    head.content_length = Some(body.len() as u64);
}

/// A browser says that it takes HTML; programs mostly do not.
fn wants_page(request: &Head) -> bool {
    request.get(Name::Accept).is_some_and(|accept| accept.windows(9).any(|part| part == b"text/html"))
}

fn page(explanation: &Explanation, id: &[u8], body: &mut Vec<u8>) {
    let Explanation { status, title, detail, .. } = explanation;
    let _ = write!(
        body,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{status} {title}</title><style>body{{font:16px/1.5 system-ui,sans-serif;\
         max-width:34em;margin:12vh auto;padding:0 1em;color:#222}}small{{color:#777}}</style><h1>{title}</h1>\
         <p>{detail}</p><p><small>{status}"
    );
    if is_plain(id) && !id.is_empty() {
        body.extend_from_slice(b" &middot; request ");
        body.extend_from_slice(id);
    }
    body.extend_from_slice(b"</small></p></html>\n");
}

fn problem(explanation: &Explanation, id: &[u8], body: &mut Vec<u8>) {
    let Explanation { status, name, title, detail, .. } = explanation;
    let _ = write!(
        body,
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"reason\":\"{name}\",\"detail\":\"{detail}\""
    );
    if is_plain(id) && !id.is_empty() {
        body.extend_from_slice(b",\"request_id\":\"");
        body.extend_from_slice(id);
        body.push(b'"');
    }
    body.extend_from_slice(b"}\n");
}

/// Whether it can be shown as it is, in HTML and in JSON.
fn is_plain(id: &[u8]) -> bool {
    id.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}
