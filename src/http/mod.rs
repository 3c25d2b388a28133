//! The HTTP port: probes for whoever can't speak gRPC, metrics, and the dashboard.

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

/// Whether the service would decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It would.
    Ready,
    /// It would not, and this is why.
    NotReady(String),
}

/// What `/readyz` reads from.
#[derive(Clone)]
struct ReadinessSources {
    ready: watch::Receiver<Readiness>,
    ledger: Ledger,
    policy: watch::Receiver<PolicyStatus>,
    /// They know which other files are refused.
    metrics: Metrics,
}

/// What is served. `ready` follows the store and the shutdown, as gRPC health does; `call_timeout` is how
/// long the page waits for the store; `authenticator` says who may read the quotas that it shows. Probes and
/// metrics are for everyone.
pub fn router(
    ledger: Ledger,
    call_timeout: Duration,
    ready: watch::Receiver<Readiness>,
    policy: watch::Receiver<PolicyStatus>,
    metrics: Metrics,
    authenticator: Authenticator,
) -> Router {
    let to_be_scraped = (ready.clone(), ledger.clone(), metrics.clone());
    let sources = ReadinessSources {
        ready,
        ledger: ledger.clone(),
        policy,
        metrics,
    };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(sources))
        .route("/metrics", get(scrape).with_state(to_be_scraped))
        .merge(dashboard::router(ledger, call_timeout, authenticator))
}

/// Whether it is ready, and what besides is not as it should be.
async fn readyz(State(sources): State<ReadinessSources>) -> (StatusCode, String) {
    let (status, mut told) = match &*sources.ready.borrow() {
        Readiness::Ready => (StatusCode::OK, "ok\n".to_owned()),
        Readiness::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    let losses = sources.ledger.losses();
    if status == StatusCode::OK && losses > 0 {
        told += &format!("losses of the store that were restored: {losses}\n");
    }
    if status == StatusCode::OK
        && let Some(why) = sources.ledger.partial_refusal()
    {
        told += &format!("a part of the store refuses: {why}\n");
    }
    if let Some(step) = sources.ledger.latest_clock_step() {
        told += &format!("{step}: each day keeps its own counters\n");
    }
    if let Some(complaint) = sources.policy.borrow().complaint() {
        told = told + &complaint + "\n";
    }
    for (of, at) in sources.metrics.refused_files() {
        // Of the policy more is told already.
        if of != WatchedFile::Policy {
            let (of, at) = (of.name(), at.to_rfc3339_opts(SecondsFormat::Secs, true));
            told += &format!("{of}: a change was refused at {at}, what was before stays\n");
        }
    }
    (status, told)
}

async fn scrape(
    State((ready, ledger, metrics)): State<(watch::Receiver<Readiness>, Ledger, Metrics)>,
) -> Response {
    // It reads files of the kernel, some of which grow with the connections, on threads that the store needs, too:
    // one at a time, however many ask, and whether or not they wait for it.
    static ONE: Semaphore = Semaphore::const_new(1);
    let one = ONE.acquire().await;
    let (waiting, store_calls) = ledger.load();
    let snapshot = MetricsSnapshot {
        ready: *ready.borrow() == Readiness::Ready,
        store_up: *ledger.store_state().borrow() == StoreState::Up,
        store_losses: ledger.losses(),
        clock_steps: ledger.clock_steps(),
        store_calls,
        waiting,
    };
    let told = tokio::task::spawn_blocking(move || {
        let _one = one;
        metrics.text(snapshot)
    });
    match told.await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
