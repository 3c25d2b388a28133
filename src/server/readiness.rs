//! Readiness: SERVING while the store would decide, by gRPC health and over HTTP.

use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    http::Readiness,
    ledger::{Outage, StoreState},
    store::StoreError,
};

/// The health name that is SERVING while the process runs.
pub(super) const LIVENESS: &str = "liveness";

/// The health names that are SERVING while the store would decide.
pub(super) const READINESS: [&str; 3] = ["readiness", "", "tollgate.v1.QuotaService"];

/// Keeps readiness true to whether the store would decide, and tells the log of each change.
pub(super) async fn follow_store(
    mut state: watch::Receiver<StoreState>,
    reporter: HealthReporter,
    ready: watch::Sender<Readiness>,
) {
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            StoreState::Unknown => {}
            StoreState::Up => {
                tracing::info!("the store answers: SERVING");
                ready.send_replace(Readiness::Ready);
                report(&reporter, true).await;
            }
            StoreState::Down(down) => {
                tell(&down);
                ready.send_replace(Readiness::NotReady(down.to_string()));
                report(&reporter, false).await;
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

fn tell(down: &Outage) {
    let (since, error) = (down.since, &down.error);
    match error {
        StoreError::Refused { .. } => {
            tracing::warn!(%since, %error, "the store refuses: NOT_SERVING");
        }
        StoreError::Unsuitable { .. } => {
            tracing::error!(%since, %error, "the store is unfit: NOT_SERVING");
        }
        _ => tracing::warn!(%since, %error, "the store does not answer: NOT_SERVING"),
    }
}

pub(super) async fn report(reporter: &HealthReporter, ready: bool) {
    let status = if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for name in READINESS {
        reporter.set_service_status(name, status).await;
    }
}
