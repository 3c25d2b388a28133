//! Requests that fail, and the status of each.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::{ledger::LedgerError, store::StoreError, telemetry::log_limited};

/// A request that fails, and why.
pub(super) struct HttpError(pub(super) StatusCode, pub(super) String);

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let Self(status, why) = self;
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"tollgate\"")];
        let challenge = (status == StatusCode::UNAUTHORIZED).then_some(challenge);
        (status, challenge, why).into_response()
    }
}

/// The status of a ledger's error.
pub(super) fn query_error(error: LedgerError) -> HttpError {
    match error {
        LedgerError::UnknownOrganization | LedgerError::UnknownPool => {
            return HttpError(StatusCode::NOT_FOUND, error.to_string());
        }
        LedgerError::DayNotKept { .. } => {
            return HttpError(StatusCode::BAD_REQUEST, error.to_string());
        }
        _ => {}
    }
    log_limited!(warn, %error, "the dashboard has no answer");
    match &error {
        LedgerError::Store(StoreError::Corrupt { .. }) | LedgerError::TaskPanicked => HttpError(
            StatusCode::INTERNAL_SERVER_ERROR,
            "an internal error; the service's log has the details".to_owned(),
        ),
        LedgerError::Store(error) => HttpError(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the store has no answer: {}", error.public_message()),
        ),
        _ => HttpError(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
