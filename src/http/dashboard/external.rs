//! `POST /api/external`: sets the external usage of a pool from the page (docs/CONTRACT.md, "The dashboard").
//!
//! A browser sends the caller's credentials along with whatever any page asks for. So the request must be JSON, which no
//! form can send, and come from a page of this very service.

use axum::{
    extract::FromRequest,
    http::{HeaderMap, StatusCode, Uri, header},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::state::Dashboard;
use crate::{
    domain::{ExternalSource, InvalidField, OrgId, PoolName, Tokens, ids::check_note},
    http::{
        auth::Administrator,
        error::{HttpError, query_error},
    },
    ledger::SetExternalUsage,
};

/// The largest body: a note of 512 bytes and two names of 256, each byte escaped.
pub(super) const MAX_BYTES: usize = 8 * 1024;

/// A request of our own page.
pub(super) struct SameOrigin;

/// The body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExternalUsageForm {
    org: String,
    pool: String,
    tokens: u64,
    #[serde(default)]
    note: String,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ForeignRequest {
    #[error("the content type must be application/json")]
    ContentType,
    #[error("the request must come from a page of this service: Origin and Host must be the same")]
    Origin,
    #[error(
        "the request must come from a page of this service: Sec-Fetch-Site says that it does not"
    )]
    Site,
    #[error(
        "without a callers file this is answered under localhost or an address only: any name may be made to \
         stand for this machine"
    )]
    Name,
}

impl SameOrigin {
    /// Checks where the request is from.
    pub(super) fn check(headers: &HeaderMap) -> Result<Self, ForeignRequest> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let content_type = text("content-type").unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Err(ForeignRequest::ContentType);
        }
        let is_single = |name: &str| headers.get_all(name).iter().count() == 1;
        let origin = text("origin").and_then(authority_of_origin);
        let host = text("host");
        let is_same = match (origin, host) {
            (Some(origin), Some(host)) => origin.eq_ignore_ascii_case(host),
            _ => false,
        };
        if !is_same || !is_single("origin") || !is_single("host") {
            return Err(ForeignRequest::Origin);
        }
        match headers.get("sec-fetch-site") {
            Some(site) if site != "same-origin" => Err(ForeignRequest::Site),
            _ => Ok(Self),
        }
    }
}

/// Host and port of an origin. `null`, and anything with a path, is none.
fn authority_of_origin(origin: &str) -> Option<&str> {
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"))?;
    let is_authority = !authority.is_empty() && !authority.contains(['/', '@', '?', '#']);
    is_authority.then_some(authority)
}

/// Whether nobody else can make the name stand for this machine (DNS rebinding).
fn is_address(host: &str) -> bool {
    let uri: Option<Uri> = format!("http://{host}/").parse().ok();
    let name = uri.as_ref().and_then(|uri| uri.host()).unwrap_or_default();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

/// Sets the figure. Everything else is checked before the body is read.
pub(super) async fn set(
    dashboard: &Dashboard,
    administrator: Result<Administrator, HttpError>,
    request: axum::extract::Request,
) -> Result<Value, HttpError> {
    let headers = request.headers();
    let foreign = |why: ForeignRequest| HttpError(StatusCode::FORBIDDEN, why.to_string());
    SameOrigin::check(headers).map_err(foreign)?;
    let administrator = administrator?;
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if administrator.name().is_none() && !host.is_some_and(is_address) {
        return Err(foreign(ForeignRequest::Name));
    }
    let bad = |why: String| HttpError(StatusCode::BAD_REQUEST, why);
    let body = axum::Json::<ExternalUsageForm>::from_request(request, &());
    let late = |_| {
        HttpError(
            StatusCode::REQUEST_TIMEOUT,
            "the body has not arrived".to_owned(),
        )
    };
    let body = timeout(dashboard.http.call_timeout, body)
        .await
        .map_err(late)?;
    let axum::Json(form) = body.map_err(|rejection| bad(rejection.body_text()))?;
    let invalid = |fault: InvalidField| bad(fault.to_string());
    let org = OrgId::parse(form.org).map_err(invalid)?;
    administrator.may_administrate(&org)?;
    check_note(&form.note).map_err(invalid)?;
    let request = SetExternalUsage {
        org,
        pool: PoolName::parse(form.pool).map_err(invalid)?,
        source: ExternalSource::Manual,
        tokens: Tokens::of_external_usage(form.tokens).map_err(invalid)?,
        note: form.note,
        caller: administrator.name().map(str::to_owned),
    };
    let set = dashboard.ledger().set_external_usage(request).await;
    let set = set.map_err(query_error)?;
    Ok(json!({
        "previous_tokens": set.before.get(),
        "external_tokens": set.pool.external.get(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)]) -> Result<(), ForeignRequest> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, header::HeaderValue::from_static(value));
        }
        SameOrigin::check(&map).map(|_| ())
    }

    const JSON: (&str, &str) = ("content-type", "application/json");
    const HOST: (&str, &str) = ("host", "gate.example:9464");
    const ORIGIN: (&str, &str) = ("origin", "https://gate.example:9464");

    #[test]
    fn only_json_of_a_page_of_the_same_origin_is_accepted() {
        let site = |value| ("sec-fetch-site", value);
        assert_eq!(check(&[JSON, HOST, ORIGIN]), Ok(()));
        assert_eq!(check(&[JSON, HOST, ORIGIN, site("same-origin")]), Ok(()));
        for other in ["cross-site", "same-site", "none", ""] {
            let foreign = check(&[JSON, HOST, ORIGIN, site(other)]);
            assert_eq!(foreign, Err(ForeignRequest::Site), "{other}");
        }
        for origin in [
            "null",
            "",
            "https://gate.example",
            "https://gate.example:9464/",
            "https://evil.example",
            "https://gate.example:9464.evil.example",
            "https://user@gate.example:9464",
            "file://gate.example:9464",
        ] {
            let foreign = check(&[JSON, HOST, ("origin", origin)]);
            assert_eq!(foreign, Err(ForeignRequest::Origin), "{origin}");
        }
        assert_eq!(check(&[JSON, HOST]), Err(ForeignRequest::Origin));
        assert_eq!(check(&[JSON, ORIGIN]), Err(ForeignRequest::Origin));
        let two = check(&[JSON, HOST, ORIGIN, ORIGIN]);
        assert_eq!(two, Err(ForeignRequest::Origin));
        for content_type in [
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonp",
        ] {
            let foreign = check(&[("content-type", content_type), HOST, ORIGIN]);
            assert_eq!(foreign, Err(ForeignRequest::ContentType), "{content_type}");
        }
    }

    #[test]
    fn a_name_that_dns_resolves_is_no_address() {
        for host in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1:9464",
            "[::1]:9464",
            "10.0.0.1",
        ] {
            assert!(is_address(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:1",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert!(!is_address(host), "{host}");
        }
    }
}
