//! The HTTP port: probes for whoever can't speak gRPC, and the dashboard.

mod dashboard;

use std::time::Duration;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::sync::watch;

use crate::{ledger::Ledger, policy::PolicyStatus};

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
struct Standing {
    ready: watch::Receiver<Readiness>,
    ledger: Ledger,
    policy: watch::Receiver<PolicyStatus>,
}

/// What is served. `ready` follows the store and the shutdown, as gRPC health does; `call_timeout` is how
/// long the page waits for the store.
pub fn router(
    ledger: Ledger,
    call_timeout: Duration,
    ready: watch::Receiver<Readiness>,
    policy: watch::Receiver<PolicyStatus>,
) -> Router {
    let standing = Standing {
        ready,
        ledger: ledger.clone(),
        policy,
    };
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(standing))
        .merge(dashboard::router(ledger, call_timeout))
}

/// Whether it is ready, and what besides is not as it should be.
async fn readyz(State(standing): State<Standing>) -> (StatusCode, String) {
    let (status, mut told) = match &*standing.ready.borrow() {
        Readiness::Ready => (StatusCode::OK, "ok\n".to_owned()),
        Readiness::NotReady(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    let losses = standing.ledger.losses();
    if status == StatusCode::OK && losses > 0 {
        told += &format!("losses of the store that were restored: {losses}\n");
    }
    if let Some(complaint) = standing.policy.borrow().complaint() {
        told = told + &complaint + "\n";
    }
    (status, told)
}
