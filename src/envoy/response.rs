//! What Envoy gets: headers that name the verdict, or a refusal in OpenAI's shape.

use prost_types::Struct;
use serde_json::json;
use tonic::Code;

use super::proto::{
    envoy::{
        config::core::v3::{
            HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
        },
        service::auth::v3::{
            CheckResponse, DeniedHttpResponse, OkHttpResponse, check_response::HttpResponse,
        },
        r#type::v3::HttpStatus,
    },
    google,
};
use crate::domain::Verdict;

/// `free` or `billed`. Routes match it.
const VERDICT_HEADER: &str = "x-tollgate-verdict";

/// The reason of a BILLED verdict, in lower case, or [`UNREADABLE`].
const REASON_HEADER: &str = "x-tollgate-billed-reason";

/// The reason where nothing was reserved: not a request that Tollgate can estimate.
pub(super) const UNREADABLE: &str = "unreadable";

const TOO_MANY_REQUESTS: i32 = 429;

/// A verdict's two headers.
pub(super) fn names(verdict: Verdict) -> (&'static str, Option<String>) {
    match verdict {
        Verdict::Free => ("free", None),
        Verdict::Billed(reason) => {
            let reason: &str = reason.into();
            ("billed", Some(reason.to_lowercase()))
        }
    }
}

/// Headers that name a verdict.
pub(super) fn headers(verdict: &str, reason: Option<&str>) -> Vec<HeaderValue> {
    let reason = reason.map(|reason| header(REASON_HEADER, reason));
    std::iter::once(header(VERDICT_HEADER, verdict))
        .chain(reason)
        .collect()
}

/// The headers of a refusal: its body is JSON, and OpenAI's clients don't retry it.
pub(super) fn refusal_headers(reason: &str) -> Vec<HeaderValue> {
    let mut headers = headers("billed", Some(reason));
    headers.push(header("content-type", "application/json"));
    headers.push(header("x-should-retry", "false"));
    headers
}

/// The body of a refusal, in OpenAI's shape.
pub(super) fn refusal_body(reason: &str) -> String {
    let message =
        format!("The request would be billed ({reason}), and is refused. It counted nothing.");
    let error = json!({
        "message": message,
        "type": "insufficient_quota",
        "param": null,
        "code": reason,
    });
    json!({ "error": error }).to_string()
}

/// The request passes, with its verdict.
pub(super) fn pass(verdict: &str, reason: Option<&str>, metadata: Option<Struct>) -> CheckResponse {
    let to_remove = reason.is_none().then(|| REASON_HEADER.to_owned());
    CheckResponse {
        status: Some(status(Code::Ok, "")),
        http_response: Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: overwrite(headers(verdict, reason)),
            headers_to_remove: to_remove.into_iter().collect(),
        })),
        dynamic_metadata: metadata,
    }
}

/// The request is refused, since it would be billed.
pub(super) fn refuse(reason: &str) -> CheckResponse {
    CheckResponse {
        status: Some(status(Code::ResourceExhausted, reason)),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: TOO_MANY_REQUESTS,
            }),
            headers: overwrite(refusal_headers(reason)),
            body: refusal_body(reason),
        })),
        dynamic_metadata: None,
    }
}

fn status(code: Code, message: &str) -> google::rpc::Status {
    google::rpc::Status {
        code: code.into(),
        message: message.to_owned(),
    }
}

fn header(key: &str, value: &str) -> HeaderValue {
    HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        ..HeaderValue::default()
    }
}

/// A value that a client sent is replaced.
fn overwrite(headers: Vec<HeaderValue>) -> Vec<HeaderValueOption> {
    let option = |header| HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    };
    headers.into_iter().map(option).collect()
}
