//! The gRPC health service. tonic-health ends a `Watch` of an unknown service with NOT_FOUND; the health protocol
//! wants SERVICE_UNKNOWN and an open stream.

use std::{future::ready, pin::Pin};

use futures_util::{Stream, StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tonic_health::{
    pb::{
        HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
        health_server::Health,
    },
    server::HealthService,
};

/// tonic-health with the protocol's `Watch`.
///
/// All names are registered before the first call, so an unknown one stays unknown until the service stops.
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
            status: ServingStatus::ServiceUnknown.into(),
        };
        let stopped = self.stopping.clone().cancelled_owned();
        let until_stopped = stream::pending().take_until(stopped);
        Box::pin(stream::once(ready(Ok(unknown))).chain(until_stopped))
    }
}
