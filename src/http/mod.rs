//! The HTTP port: probes without gRPC, metrics, the [`dashboard`], and the RPCs as JSON ([`api`]).
//!
//! `/api/orgs` and `/api/quota?org=…` have figures for programs. Both need a [`Reader`].

mod api;
mod auth;
mod dashboard;
mod error;
mod state;

use axum::{
    Json, Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::Instant};

pub use self::state::{HttpState, Readiness};
use self::{
    auth::Reader,
    error::{HttpError, query_error},
};
use crate::{
    auth::Authenticator,
    domain::OrgId,
    grpc::comparison_result,
    ledger::{ComparedDay, StoreState},
    telemetry::metrics::{self, MetricsSnapshot, ReconcileState, WatchedFile},
};

/// Organizations that `/api/orgs` lists.
const MAX_LISTED: usize = 500;

/// The routes of the port.
pub fn router(mut state: HttpState) -> Router {
    let has_callers = matches!(state.authenticator, Authenticator::Callers(_));
    let api = state.api.take();
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .route("/api/orgs", get(orgs))
        .route("/api/quota", get(quota))
        .with_state(state.clone())
        .merge(dashboard::router(state));
    match api {
        Some(service) => router.merge(api::router(service, has_callers)),
        None => router.route("/tollgate.v1.QuotaService/{method}", any(api_is_off)),
    }
}

async fn api_is_off() -> (StatusCode, &'static str) {
    let hint = "RPCs are not served over HTTP: set http_api = true\n";
    (StatusCode::NOT_FOUND, hint)
}

/// Answers whether the service is ready, and lists what else is wrong.
async fn readyz(State(state): State<HttpState>) -> (StatusCode, String) {
    let (status, mut lines) = match &*state.ready.borrow() {
        Readiness::Ready => (StatusCode::OK, "ok\n".to_owned()),
        Readiness::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    let losses = state.ledger.store().losses();
    if status == StatusCode::OK && losses > 0 {
        lines += &format!("losses of the store that were restored: {losses}\n");
    }
    if status == StatusCode::OK
        && let Some(why) = state.ledger.store().partial_refusal()
    {
        lines += &format!("a part of the store refuses: {why}\n");
    }
    if let Some(step) = state.ledger.store().latest_clock_step() {
        lines += &format!("{step}: each day keeps its own counters\n");
    }
    if let Some(complaint) = state.policy.borrow().complaint() {
        lines = lines + &complaint + "\n";
    }
    for (of, at) in state.metrics.refused_files() {
        // The policy's own line says more.
        if of != WatchedFile::Policy {
            let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
            lines += &format!("{of}: a change was refused at {at}, what was before stays\n");
        }
    }
    for (key_state, what) in [
        (ReconcileState::KeyRefused, "refused by the provider"),
        (ReconcileState::KeyUnreadable, "not readable"),
    ] {
        match state.metrics.reconcile_orgs(key_state) {
            0 => {}
            orgs => {
                lines +=
                    &format!("reconcile: admin keys of organizations that are {what}: {orgs}\n")
            }
        }
    }
    (status, lines)
}

async fn scrape(State(state): State<HttpState>) -> Response {
    // A scrape reads kernel files that grow with the connections, on threads that the store needs too. So at most one
    // runs at a time, even if its caller no longer waits.
    static SCRAPES: Semaphore = Semaphore::const_new(1);
    let permit = SCRAPES.acquire().await;
    let (ledger, metrics, organizations) = (state.ledger, state.metrics, state.gauged);
    let (waiting, store_calls) = ledger.load();
    let snapshot = MetricsSnapshot {
        ready: *state.ready.borrow() == Readiness::Ready,
        store_up: *ledger.store_state().borrow() == StoreState::Up,
        store_losses: ledger.store().losses(),
        clock_steps: ledger.store().clock_steps(),
        store_calls,
        waiting,
    };
    let text = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        metrics.text(snapshot, ledger.pool_gauges(&organizations))
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn orgs(State(state): State<HttpState>, reader: Reader) -> Json<Vec<String>> {
    let policy = state.ledger.policy();
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

async fn quota(
    State(state): State<HttpState>,
    reader: Reader,
    Query(QuotaQuery { org }): Query<QuotaQuery>,
) -> Result<Json<Value>, HttpError> {
    let org =
        OrgId::parse(org).map_err(|error| HttpError(StatusCode::BAD_REQUEST, error.to_string()))?;
    reader.may_read(&org)?;
    let deadline = Instant::now() + state.call_timeout;
    let quota = state.ledger.with_deadline(deadline).quota(&org).await;
    let quota = quota.map_err(query_error)?;
    let pools = quota.pools.into_iter().map(|(figures, counters)| {
        let shares = quota
            .shares
            .iter()
            .filter(|(id, _)| id.pool == figures.pool);
        let shares = shares.map(|(id, it)| {
            json!({
                "project": id.project.to_string(),
                "share": it.share.get(),
                "used": it.used.get(),
                "remaining": it.remaining().get(),
            })
        });
        json!({
            "pool": figures.pool.to_string(),
            "allowance": figures.allowance.get(),
            "used": figures.used.get(),
            "remaining": figures.remaining().get(),
            "billed_tokens": counters.billed_tokens.get(),
            "free_requests": counters.free_requests,
            "billed_requests": counters.billed_requests,
            "held_tokens": counters.held.get(),
            "closed": figures.is_closed,
            "margin_tokens": figures.margin.get(),
            "external_tokens": figures.external.get(),
            "shares": shares.collect::<Value>(),
        })
    });
    Ok(Json(json!({
        "org": org.to_string(),
        "tier": quota.enrollment.tier,
        "enrolled": quota.enrollment.not_enrolled.is_none(),
        "day": quota.day.to_string(),
        "resets_at": quota.resets_at.to_rfc3339(),
        "pools": pools.collect::<Value>(),
        "comparisons": state.ledger.comparisons(&org).iter().map(comparison).collect::<Value>(),
    })))
}

/// How a day was compared with the provider.
fn comparison((day, comparison): &ComparedDay) -> Value {
    let drift = comparison.drift.iter();
    let drift = drift.map(|(kind, tokens)| json!({"kind": kind.name(), "tokens": tokens.get()}));
    json!({
        "day": day.to_string(),
        "compared_at": comparison.compared_at.to_rfc3339(),
        "result": comparison_result(comparison.result).as_str_name(),
        "drift": drift.collect::<Value>(),
    })
}
