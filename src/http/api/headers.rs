//! The headers of a call.

use std::time::Duration;

use axum::http::HeaderMap;

use super::{error::ApiError, json};
use crate::{grpc::CallError, telemetry::metrics::Code};

/// `connect-timeout-ms` has at most ten digits.
pub(super) const MAX_TIMEOUT_DIGITS: usize = 10;

/// What the headers of a call say of its body and its deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallHeaders {
    pub(super) timeout: Option<Duration>,
    pub(super) is_gzip: bool,
    /// Whether the answer may be in gzip.
    pub(super) takes_gzip: bool,
}

impl CallHeaders {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, ApiError> {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let content_type = text("content-type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case(json::MEDIA_TYPE) {
            return Err(ApiError::unsupported_media_type(content_type));
        }
        let invalid = |why: String| CallError::new(Code::InvalidArgument, why);
        let version = text("connect-protocol-version");
        if let Some(version) = version.filter(|version| *version != "1") {
            return Err(invalid(format!("connect-protocol-version is {version:?}, not 1")).into());
        }
        let timeout = text("connect-timeout-ms").map(|text| {
            let digits = 1..=MAX_TIMEOUT_DIGITS;
            let is_number = text.bytes().all(|b| b.is_ascii_digit());
            let number = text.parse().ok();
            let number = number.filter(|_| is_number && digits.contains(&text.len()));
            number.map(Duration::from_millis).ok_or_else(|| {
                invalid(format!(
                    "connect-timeout-ms is {text:?}, not 1 to 10 digits"
                ))
            })
        });
        let encoding = text("content-encoding").unwrap_or("identity");
        let is_gzip = encoding.eq_ignore_ascii_case("gzip");
        if !is_gzip && !encoding.eq_ignore_ascii_case("identity") {
            let why = format!("content-encoding is {encoding:?}: use gzip or identity");
            return Err(CallError::new(Code::Unimplemented, why).into());
        }
        let mut accepted = text("accept-encoding").unwrap_or(encoding).split(',');
        Ok(Self {
            timeout: timeout.transpose()?,
            is_gzip,
            takes_gzip: is_gzip && accepted.any(|it| it.trim().eq_ignore_ascii_case("gzip")),
        })
    }
}
