//! Sets readiness by the state of the store, over gRPC health and over HTTP.

use std::{future::ready, pin::Pin};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, HealthCheckResponse, health_check_response, health_server::Health},
    server::{HealthReporter, HealthService},
};

use crate::{
    http::Readiness,
    ledger::{Outage, StoreState},
    store::StoreError,
};

/// The gRPC health service that is SERVING while the process runs.
pub(super) const LIVENESS: &str = "liveness";

/// The gRPC health services that are SERVING while the store would decide.
pub(super) const READINESS: [&str; 3] = ["readiness", "", "tollgate.v1.QuotaService"];

/// A reporter of a live process that is not ready yet.
pub(super) async fn live_reporter() -> HealthReporter {
    let reporter = HealthReporter::new();
    report(&reporter, false).await;
    reporter
        .set_service_status(LIVENESS, ServingStatus::Serving)
        .await;
    reporter
}

/// Sets readiness by the state of the store, and logs each change.
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
                log_down(&down);
                ready.send_replace(Readiness::NotReady(down.to_string()));
                report(&reporter, false).await;
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

fn log_down(down: &Outage) {
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

/// tonic-health with a `Watch` as the protocol defines it: for an unknown service it answers SERVICE_UNKNOWN and stays
/// open, where tonic-health ends it with NOT_FOUND.
///
/// All services are registered before the first call, so an unknown one stays unknown.
pub(super) struct WatchableHealth {
    pub(super) inner: HealthService,
    /// Ends open watches.
    pub(super) stopping: CancellationToken,
}

type Statuses = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Health for WatchableHealth {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.inner.check(request).await
    }

    type WatchStream = Statuses;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Statuses>, Status> {
        match self.inner.watch(request).await {
            Ok(known) => Ok(known.map(|statuses| Box::pin(statuses) as Statuses)),
            Err(status) if status.code() == Code::NotFound => Ok(Response::new(self.unknown())),
            Err(status) => Err(status),
        }
    }
}

impl WatchableHealth {
    fn unknown(&self) -> Statuses {
        let unknown = HealthCheckResponse {
            status: health_check_response::ServingStatus::ServiceUnknown.into(),
        };
        let stopped = self.stopping.clone().cancelled_owned();
        let until_stopped = stream::pending().take_until(stopped);
        Box::pin(stream::once(ready(Ok(unknown))).chain(until_stopped))
    }
}
