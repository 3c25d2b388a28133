//! The services of the gRPC port.

use std::sync::Arc;

use axum::Router;
use futures_util::future::Either;
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use tonic::{body::Body, server::NamedService as _, service::Routes};

use crate::{
    grpc::{CallService, QuotaMethods},
    net::PortService,
};

/// Finds the service of a call. Calls of the quota service do not pass the router, which copies the parts of the path,
/// and boxes the service, the call and both bodies each time.
#[derive(Clone)]
pub(super) struct GrpcRoutes {
    quota: Arc<CallService<QuotaMethods>>,
    others: Router,
}

impl GrpcRoutes {
    pub(super) fn new(quota: CallService<QuotaMethods>, others: Routes) -> Self {
        let others = others.prepare().into_axum_router();
        let quota = Arc::new(quota);
        Self { quota, others }
    }
}

impl PortService for GrpcRoutes {
    type Body = Body;

    fn is_long(&self, path: &str) -> bool {
        !matches!(
            method(path),
            Some("Reserve" | "Settle" | "Release" | "GetQuota")
        )
    }

    fn call(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send + use<> {
        // A tunnel would run outside the connection's turns.
        let is_tunnel = request.method() == Method::CONNECT;
        let called = match method(request.uri().path()) {
            Some(_) => Either::Left(self.quota.call_shared(request.map(Body::new))),
            None => Either::Right(PortService::call(&self.others, request)),
        };
        async move {
            let mut response = match called {
                Either::Left(quota) => {
                    let Ok(response) = quota.await;
                    response
                }
                Either::Right(other) => other.await.map(Body::new),
            };
            if is_tunnel {
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            }
            response
        }
    }
}

/// The method of the quota service that a path names.
fn method(path: &str) -> Option<&str> {
    let service = path.strip_prefix('/')?.strip_prefix(QuotaMethods::NAME)?;
    service.strip_prefix('/')
}
