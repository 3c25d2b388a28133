//! The HTTP port: probes without gRPC, metrics, and the dashboard.

mod auth;
mod dashboard;

use std::time::Duration;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use chrono::SecondsFormat;
use tokio::sync::{Semaphore, watch};

use crate::{
    auth::Authenticator,
    ledger::{Ledger, StoreState},
    policy::PolicyStatus,
    telemetry::metrics::{self, Metrics, MetricsSnapshot, WatchedFile},
};

/// Whether the service can decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The service decides.
    Ready,
    /// The reason why it does not.
    NotReady(String),
}

/// The sources of `/readyz`.
#[derive(Clone)]
struct ReadinessSources {
    ready: watch::Receiver<Readiness>,
    ledger: Ledger,
    policy: watch::Receiver<PolicyStatus>,
    /// For the refused files.
    metrics: Metrics,
}

/// The routes of the port. `ready` is the state that gRPC health reports too; `call_timeout` is how long the dashboard
/// waits for the store; `authenticator` decides who may read quotas. Probes and metrics need no authentication.
pub fn router(
    ledger: Ledger,
    call_timeout: Duration,
    ready: watch::Receiver<Readiness>,
    policy: watch::Receiver<PolicyStatus>,
    metrics: Metrics,
    authenticator: Authenticator,
) -> Router {
    let scrape_sources = (ready.clone(), ledger.clone(), metrics.clone());
    let sources = ReadinessSources {
        ready,
        ledger: ledger.clone(),
        policy,
        metrics,
    };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(sources))
        .route("/metrics", get(scrape).with_state(scrape_sources))
        .merge(dashboard::router(ledger, call_timeout, authenticator))
}

/// Answers whether the service is ready, and lists what else is wrong.
async fn readyz(State(sources): State<ReadinessSources>) -> (StatusCode, String) {
    let (status, mut lines) = match &*sources.ready.borrow() {
        Readiness::Ready => (StatusCode::OK, "ok\n".to_owned()),
        Readiness::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    let losses = sources.ledger.store().losses();
    if status == StatusCode::OK && losses > 0 {
        lines += &format!("losses of the store that were restored: {losses}\n");
    }
    if status == StatusCode::OK
        && let Some(why) = sources.ledger.store().partial_refusal()
    {
        lines += &format!("a part of the store refuses: {why}\n");
    }
    if let Some(step) = sources.ledger.store().latest_clock_step() {
        lines += &format!("{step}: each day keeps its own counters\n");
    }
    if let Some(complaint) = sources.policy.borrow().complaint() {
        lines = lines + &complaint + "\n";
    }
    for (of, at) in sources.metrics.refused_files() {
        // The policy's own line says more.
        if of != WatchedFile::Policy {
            let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
            lines += &format!("{of}: a change was refused at {at}, what was before stays\n");
        }
    }
    (status, lines)
}

async fn scrape(
    State((ready, ledger, metrics)): State<(watch::Receiver<Readiness>, Ledger, Metrics)>,
) -> Response {
    // A scrape reads kernel files that grow with the connections, on threads that the store needs too. So at most one
    // runs at a time, even if its caller no longer waits.
    static SCRAPES: Semaphore = Semaphore::const_new(1);
    let permit = SCRAPES.acquire().await;
    let (waiting, store_calls) = ledger.load();
    let snapshot = MetricsSnapshot {
        ready: *ready.borrow() == Readiness::Ready,
        store_up: *ledger.store_state().borrow() == StoreState::Up,
        store_losses: ledger.store().losses(),
        clock_steps: ledger.store().clock_steps(),
        store_calls,
        waiting,
    };
    let text = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        metrics.text(snapshot)
    });
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
