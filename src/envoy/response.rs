//! What Envoy gets: headers that name the verdict, or a refusal in OpenAI's shape.

use http::StatusCode;
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
use crate::domain::{BilledReason, Verdict};

/// `free` or `billed`. Routes match it.
const VERDICT_HEADER: &str = "x-tollgate-verdict";

/// The reason of a BILLED verdict, in lower case, or [`UNREADABLE`].
const REASON_HEADER: &str = "x-tollgate-billed-reason";

/// The reason where nothing was reserved: not a request that Tollgate can estimate.
pub(super) const UNREADABLE: &str = "unreadable";

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

/// The headers of a refusal: its body is JSON, and OpenAI's clients retry it only while the store is down.
pub(super) fn refusal_headers(verdict: Verdict) -> Vec<HeaderValue> {
    let (verdict_name, reason) = names(verdict);
    let mut headers = headers(verdict_name, reason.as_deref());
    headers.push(header("content-type", "application/json"));
    if !is_outage(verdict) {
        headers.push(header("x-should-retry", "false"));
    }
    headers
}

/// The body of a refusal, in OpenAI's shape.
pub(super) fn refusal_body(verdict: Verdict) -> String {
    let code = names(verdict).1.unwrap_or_default();
    let (kind, message) = match is_outage(verdict) {
        true => (
            "server_error",
            "Whether the request is free can't be decided now.".to_owned(),
        ),
        false => (
            "insufficient_quota",
            format!("The request would be billed ({code}), and is refused."),
        ),
    };
    let error = json!({ "message": message, "type": kind, "param": null, "code": code });
    json!({ "error": error }).to_string()
}

fn is_outage(verdict: Verdict) -> bool {
    verdict == Verdict::Billed(BilledReason::StoreUnavailable)
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

/// The request is refused, since it would be billed, or the store is down.
pub(super) fn refuse(verdict: Verdict) -> CheckResponse {
    let (code, http_code) = match is_outage(verdict) {
        true => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE),
        false => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS),
    };
    let reason = names(verdict).1.unwrap_or_default();
    CheckResponse {
        status: Some(status(code, &reason)),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus {
                code: http_code.as_u16().into(),
            }),
            headers: overwrite(refusal_headers(verdict)),
            body: refusal_body(verdict),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_may_be_retried_only_while_the_store_is_down() {
        for (reason, code, http_code, is_final) in [
            (
                BilledReason::AllowanceExceeded,
                Code::ResourceExhausted,
                429,
                true,
            ),
            (
                BilledReason::StoreUnavailable,
                Code::Unavailable,
                503,
                false,
            ),
        ] {
            let answer = refuse(Verdict::Billed(reason));
            assert_eq!(answer.status.expect("a status").code, i32::from(code));
            let Some(HttpResponse::DeniedResponse(denied)) = answer.http_response else {
                panic!("{reason:?} passes");
            };
            assert_eq!(denied.status.expect("a status").code, http_code);
            let headers = denied.headers.into_iter().filter_map(|it| it.header);
            let has_header = headers.map(|it| it.key).any(|it| it == "x-should-retry");
            assert_eq!(has_header, is_final, "{reason:?}");
        }
    }
}
