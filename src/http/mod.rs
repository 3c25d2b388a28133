//! The HTTP port: probes for whoever can't speak gRPC, and the dashboard.

mod dashboard;
mod reader;

use std::time::Duration;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::sync::watch;

use crate::{callers::Admission, ledger::Ledger};

/// Whether the service would decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It would.
    Ready,
    /// It would not, and this is why.
    NotReady(String),
}

/// What is served. `ready` follows the store and the shutdown, as gRPC health does; `call_timeout` is how
/// long the page waits for the store; `admission` says who may read the quotas that it shows. Probes are for
/// everyone.
pub fn router(
    ledger: Ledger,
    call_timeout: Duration,
    ready: watch::Receiver<Readiness>,
    admission: Admission,
) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state((ready, ledger.clone())))
        .merge(dashboard::router(ledger, call_timeout, admission))
}

async fn readyz(
    State((ready, ledger)): State<(watch::Receiver<Readiness>, Ledger)>,
) -> (StatusCode, String) {
    match (&*ready.borrow(), ledger.losses()) {
        (Readiness::Ready, 0) => (StatusCode::OK, "ok\n".to_owned()),
        (Readiness::Ready, losses) => {
            let told = format!("ok\nlosses of the store that were restored: {losses}\n");
            (StatusCode::OK, told)
        }
        (Readiness::NotReady(why), _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
