//! The HTTP port: probes for whoever can't speak gRPC, and the dashboard.

mod dashboard;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::sync::watch;

use crate::ledger::Ledger;

/// What is served. `ready` follows the store and the shutdown, as gRPC health does.
pub fn router(ledger: Ledger, ready: watch::Receiver<bool>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(ready))
        .merge(dashboard::router(ledger))
}

async fn readyz(State(ready): State<watch::Receiver<bool>>) -> (StatusCode, &'static str) {
    if *ready.borrow() {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the store does not answer, or the service is stopping\n",
        )
    }
}
