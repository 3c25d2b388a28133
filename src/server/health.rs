//! gRPC health, with `Watch` as its protocol has it: tonic's ends with NOT_FOUND for a name that it does not know.

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

/// Health whose `Watch` of an unknown name says SERVICE_UNKNOWN, and stays open until the service stops.
///
/// The names are all known before the first call, so none becomes known while it is watched.
pub(super) struct WatchableHealth {
    pub(super) inner: HealthService,
    /// Set when open watches are to end.
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
