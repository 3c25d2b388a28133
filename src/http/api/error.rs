//! Errors of calls: the status, and the body `{"code":…,"message":…}` of the Connect protocol.

use std::fmt::Display;

use axum::{
    Json,
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::json;
use crate::{
    grpc::CallError,
    telemetry::{log_limited, metrics::Code},
};

/// A call that fails.
pub(super) struct ApiError {
    /// None: the code's.
    status: Option<StatusCode>,
    header: Option<(HeaderName, &'static str)>,
    error: CallError,
}

impl ApiError {
    // The codes of the next three are those that clients infer from the status.

    pub(super) fn no_such_method(name: &str) -> Self {
        let why = format!("the service has no method {name:?}");
        Self {
            status: Some(StatusCode::NOT_FOUND),
            header: None,
            error: CallError::new(Code::Unimplemented, why),
        }
    }

    pub(super) fn method_not_allowed() -> Self {
        Self {
            status: Some(StatusCode::METHOD_NOT_ALLOWED),
            header: None,
            error: CallError::new(Code::Unknown, "calls are POST requests"),
        }
    }

    pub(super) fn unsupported_media_type(content_type: &str) -> Self {
        let why = match content_type {
            "" => "there is no content-type: use application/json".to_owned(),
            other => format!("content-type is {other:?}: use application/json"),
        };
        Self {
            status: Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            header: Some((HeaderName::from_static("accept-post"), json::MEDIA_TYPE)),
            error: CallError::new(Code::Unknown, why),
        }
    }

    /// An answer that can't be written.
    pub(super) fn internal(error: impl Display) -> Self {
        log_limited!(error, %error, "an answer can't be written as JSON");
        let why = "an internal error; the service's log has the details";
        CallError::new(Code::Internal, why).into()
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let header = match error.code {
            Code::Unauthenticated => Some((header::WWW_AUTHENTICATE, "Bearer")),
            Code::Unavailable | Code::ResourceExhausted => Some((header::RETRY_AFTER, "1")),
            _ => None,
        };
        Self {
            status: None,
            header,
            error,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (name, status) = wire(self.error.code);
        let status = self.status.map_or(status, |status| status.as_u16());
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let header = self.header.map(|header| [header]);
        let body = json!({"code": name, "message": self.error.message});
        (status, header, Json(body)).into_response()
    }
}

/// A code's name and HTTP status in the Connect protocol.
pub(super) const fn wire(code: Code) -> (&'static str, u16) {
    match code {
        Code::Cancelled => ("canceled", 499),
        // An error never has the code OK.
        Code::Ok | Code::Unknown => ("unknown", 500),
        Code::InvalidArgument => ("invalid_argument", 400),
        Code::DeadlineExceeded => ("deadline_exceeded", 504),
        Code::NotFound => ("not_found", 404),
        Code::AlreadyExists => ("already_exists", 409),
        Code::PermissionDenied => ("permission_denied", 403),
        Code::ResourceExhausted => ("resource_exhausted", 429),
        Code::FailedPrecondition => ("failed_precondition", 400),
        Code::Aborted => ("aborted", 409),
        Code::OutOfRange => ("out_of_range", 400),
        Code::Unimplemented => ("unimplemented", 501),
        Code::Internal => ("internal", 500),
        Code::Unavailable => ("unavailable", 503),
        Code::DataLoss => ("data_loss", 500),
        Code::Unauthenticated => ("unauthenticated", 401),
    }
}
