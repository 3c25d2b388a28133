//! The dashboard: what remains today, by organization and pool.
//!
//! `/` is the page. It reads `/api/orgs` and `/api/quota?org=…`, which need a [`Reader`].

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{HeaderName, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::auth::{AccessError, Reader};
use crate::{
    auth::Authenticator,
    domain::OrgId,
    ledger::{Ledger, LedgerError, Quota},
    store::StoreError,
    telemetry::LogLimit,
};

/// Organizations that the page lists; others can be typed in.
const MAX_LISTED: usize = 500;

/// The sources of the page.
#[derive(Clone)]
struct DashboardState {
    ledger: Ledger,
    call_timeout: Duration,
    authenticator: Authenticator,
}

impl AsRef<Authenticator> for DashboardState {
    fn as_ref(&self) -> &Authenticator {
        &self.authenticator
    }
}

pub(super) fn router(
    ledger: Ledger,
    call_timeout: Duration,
    authenticator: Authenticator,
) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/api/orgs", get(orgs))
        .route("/api/quota", get(quota))
        .with_state(DashboardState {
            ledger,
            call_timeout,
            authenticator,
        })
}

/// The page loads nothing from other hosts and may not be framed.
const PAGE_POLICY: (HeaderName, &str) = (
    header::CONTENT_SECURITY_POLICY,
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     connect-src 'self'; frame-ancestors 'none'",
);

async fn page() -> impl IntoResponse {
    ([PAGE_POLICY], Html(include_str!("dashboard.html")))
}

async fn orgs(State(source): State<DashboardState>, reader: Reader) -> Json<Vec<String>> {
    let policy = source.ledger.policy();
    let names = policy.orgs.keys();
    let names = names.filter(|org| reader.may_read(org).is_ok());
    let mut names: Vec<String> = names.take(MAX_LISTED).map(OrgId::to_string).collect();
    names.sort();
    Json(names)
}

#[derive(Deserialize)]
struct QuotaQuery {
    org: String,
}

#[derive(Serialize)]
struct QuotaBody {
    org: String,
    tier: u8,
    enrolled: bool,
    day: String,
    resets_at: String,
    pools: Vec<PoolBody>,
}

#[derive(Serialize)]
struct PoolBody {
    pool: String,
    allowance: u64,
    used: u64,
    remaining: u64,
    billed_tokens: u64,
    free_requests: u64,
    billed_requests: u64,
    held_tokens: u64,
    closed: bool,
}

/// Why a quota has no figures.
enum QuotaError {
    Access(AccessError),
    Failed(StatusCode, String),
}

impl IntoResponse for QuotaError {
    fn into_response(self) -> Response {
        match self {
            Self::Access(why) => why.into_response(),
            Self::Failed(status, why) => (status, why).into_response(),
        }
    }
}

async fn quota(
    State(source): State<DashboardState>,
    reader: Reader,
    Query(QuotaQuery { org }): Query<QuotaQuery>,
) -> Result<Json<QuotaBody>, QuotaError> {
    let org = OrgId::parse(org)
        .map_err(|error| QuotaError::Failed(StatusCode::BAD_REQUEST, error.to_string()))?;
    reader.may_read(&org).map_err(QuotaError::Access)?;
    let ledger = source
        .ledger
        .with_deadline(Instant::now() + source.call_timeout);
    let Quota {
        enrollment,
        day,
        resets_at,
        pools,
    } = ledger.quota(&org).await.map_err(quota_error)?;
    let pools = pools.into_iter().map(|(figures, counters)| PoolBody {
        pool: figures.pool.to_string(),
        allowance: figures.allowance.get(),
        used: figures.used.get(),
        remaining: figures.remaining().get(),
        billed_tokens: counters.billed_tokens.get(),
        free_requests: counters.free_requests,
        billed_requests: counters.billed_requests,
        held_tokens: counters.held.get(),
        closed: figures.is_closed,
    });
    Ok(Json(QuotaBody {
        org: org.to_string(),
        tier: enrollment.tier,
        enrolled: enrollment.not_enrolled.is_none(),
        day: day.to_string(),
        resets_at: resets_at.to_rfc3339(),
        pools: pools.collect(),
    }))
}

static FAILURES: LogLimit = LogLimit::new();

fn quota_error(error: LedgerError) -> QuotaError {
    if let LedgerError::UnknownOrganization = error {
        return QuotaError::Failed(StatusCode::NOT_FOUND, error.to_string());
    }
    if let Some(left_out) = FAILURES.admit(Instant::now().into_std()) {
        tracing::warn!(%error, left_out, "the dashboard has no answer");
    }
    let (status, message) = match &error {
        LedgerError::Store(StoreError::Corrupt { .. }) | LedgerError::TaskPanicked => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "an internal error; the service's log has the details".to_owned(),
        ),
        LedgerError::Store(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the store has no answer: {}", error.public_message()),
        ),
        _ => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };
    QuotaError::Failed(status, message)
}
