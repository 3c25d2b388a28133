//! The RPC methods: convert, call the ledger, convert.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codec::CompressionEncoding::Gzip,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
};

use super::{
    authorization::{AccessRule, Permit},
    call::{CallContext, CallFuture, CallLayer, CallService, CallTelemetry},
    convert, external_changes,
    organizations::{organization_page, organizations_response},
    proto::{
        EstimateRequest, EstimateResponse, GetQuotaRequest, GetQuotaResponse,
        ListExternalChangesRequest, ListExternalChangesResponse, ListOrganizationsRequest,
        ListOrganizationsResponse, ListUsageRequest, ListUsageResponse, ReleaseRequest,
        ReleaseResponse, ReserveRequest, ReserveResponse, ReserveStreamResponse,
        SetExternalUsageRequest, SetExternalUsageResponse, SettleRequest, SettleResponse,
        quota_service_server::{QuotaService, QuotaServiceServer},
    },
    status::{query_status, status},
    stream::{StreamCall, StreamStats},
    usage,
};
use crate::{
    auth::{Authenticator, Role},
    domain::{ExternalChanges, OrgId, Verdict},
    ledger::Ledger,
    store::PoolBalance,
    telemetry::{
        metrics::{Metrics, Rpc, verdict_names},
        traces::{self, Traces},
    },
};

/// Handles the methods of `tollgate.v1.QuotaService`.
pub struct QuotaHandler(QuotaServiceConfig);

/// The parts and the limits of the service.
#[derive(Clone)]
pub struct QuotaServiceConfig {
    /// Decides and counts.
    pub ledger: Ledger,
    /// How long a call without a deadline, and a request of a stream, may wait for the store.
    pub call_timeout: Duration,
    /// The size of the largest request.
    pub message_bytes: usize,
    /// The size of the largest request of Estimate, which has a body in it.
    pub estimate_bytes: usize,
    /// Each open call holds a token of it.
    pub open_calls: TaskTracker,
    /// Ends streams when the service stops.
    pub stopping: CancellationToken,
    /// Count each call.
    pub metrics: Metrics,
    /// Trace each call; none: there are no traces.
    pub traces: Option<Traces>,
    /// Authenticates callers.
    pub authenticator: Authenticator,
}

/// The service, ready to be added to a server.
#[must_use]
pub fn service(config: QuotaServiceConfig) -> CallService<QuotaMethods> {
    let layer = config.layer(AccessRule::ByMethod);
    let (message_bytes, estimate_bytes) = (config.message_bytes, config.estimate_bytes);
    let handler = Arc::new(QuotaHandler(config));
    let of_size = |bytes| {
        QuotaServiceServer::from_arc(Arc::clone(&handler))
            .max_decoding_message_size(bytes)
            .accept_compressed(Gzip)
            .send_compressed(Gzip)
    };
    layer.layer(QuotaMethods {
        estimate: of_size(estimate_bytes),
        other: of_size(message_bytes),
    })
}

/// The methods of the service. Estimate has a bound of its own on the size of its messages, and tonic has one bound for
/// all methods of a service.
#[derive(Clone)]
pub struct QuotaMethods {
    estimate: QuotaServiceServer<QuotaHandler>,
    other: QuotaServiceServer<QuotaHandler>,
}

impl NamedService for QuotaMethods {
    const NAME: &'static str = QuotaServiceServer::<QuotaHandler>::NAME;
}

impl Service<http::Request<Body>> for QuotaMethods {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.call_shared(request)
    }
}

impl CallService<QuotaMethods> {
    /// Like [`Service::call`], of a service that all threads share: a clone for each call would count references, for
    /// which processors wait for each other.
    pub fn call_shared(
        &self,
        request: http::Request<Body>,
    ) -> CallFuture<BoxFuture<http::Response<Body>, Infallible>> {
        let call = |request| self.inner.call_shared(request);
        self.layer.begin(QuotaMethods::NAME, request, call)
    }
}

impl QuotaMethods {
    fn call_shared(
        &self,
        request: http::Request<Body>,
    ) -> BoxFuture<http::Response<Body>, Infallible> {
        let service = match request.uri().path().ends_with("/Estimate") {
            true => &self.estimate,
            false => &self.other,
        };
        service.clone().call(request)
    }
}

impl QuotaServiceConfig {
    /// The layer of another service, whose methods all need one role. Its calls are counted and traced like those of
    /// the quota service.
    #[must_use]
    pub fn layer_for(&self, role: Role) -> CallLayer {
        self.layer(AccessRule::Role(role))
    }

    /// The ledger with the call's deadline, the caller's rights, and the message.
    pub(crate) fn accept<T>(&self, mut request: Request<T>) -> Result<(Ledger, Permit, T), Status> {
        let CallContext { answer_by, permit } = CallContext::take(request.extensions_mut())?;
        let answer_by = answer_by.unwrap_or_else(|| Instant::now() + self.call_timeout);
        let ledger = self.ledger.with_deadline(answer_by);
        Ok((ledger, permit, request.into_inner()))
    }

    fn layer(&self, rule: AccessRule) -> CallLayer {
        CallLayer {
            authenticator: self.authenticator.clone(),
            rule,
            call_timeout: self.call_timeout,
            telemetry: Some(CallTelemetry {
                metrics: self.metrics.clone(),
                traces: self.traces.clone(),
                open_calls: self.open_calls.clone(),
            }),
        }
    }
}

impl QuotaHandler {
    /// Counts the verdict of a call, and records it in the call's span.
    fn record(&self, rpc: Rpc, verdict: Verdict, pool: Option<&PoolBalance>, replayed: bool) {
        self.0.metrics.answered(rpc, verdict);
        if let Some(span) = traces::current() {
            let (verdict, reason) = verdict_names(verdict);
            span.set("tollgate.verdict", verdict);
            span.set("tollgate.reason", reason);
            span.set("tollgate.replayed", replayed);
            if let Some(balance) = pool {
                span.set("tollgate.pool", balance.pool.to_string());
            }
        }
    }
}

#[tonic::async_trait]
impl QuotaService for QuotaHandler {
    async fn reserve(
        &self,
        request: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        let (ledger, permit, message) = self.0.accept(request)?;
        let request = convert::reserve(message, &permit)?;
        let reserved = ledger.reserve(request).await.map_err(status)?;
        let (verdict, pool) = (reserved.verdict, reserved.pool.as_ref());
        self.record(Rpc::Reserve, verdict, pool, reserved.replayed);
        Ok(Response::new(convert::reserve_response(reserved)))
    }

    type ReserveStreamStream =
        Pin<Box<dyn Stream<Item = Result<ReserveStreamResponse, Status>> + Send>>;

    async fn reserve_stream(
        &self,
        request: Request<Streaming<ReserveRequest>>,
    ) -> Result<Response<Self::ReserveStreamStream>, Status> {
        let (_, permit, requests) = self.0.accept(request)?;
        let call = StreamCall {
            requests,
            ledger: self.0.ledger.clone(),
            permit,
            item_timeout: self.0.call_timeout,
            stopping: self.0.stopping.clone(),
            stats: StreamStats::new(&self.0.metrics),
            _open: self.0.open_calls.token(),
        };
        Ok(Response::new(Box::pin(call.answers())))
    }

    async fn settle(
        &self,
        request: Request<SettleRequest>,
    ) -> Result<Response<SettleResponse>, Status> {
        let (ledger, permit, message) = self.0.accept(request)?;
        let request = convert::settle(message, &permit)?;
        let settled = ledger.settle(request).await.map_err(status)?;
        let (verdict, pool) = (settled.verdict, settled.pool.as_ref());
        self.record(Rpc::Settle, verdict, pool, settled.replayed);
        Ok(Response::new(convert::settle_response(settled)))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        let (ledger, permit, message) = self.0.accept(request)?;
        let (org, request_id) = convert::release(message, &permit)?;
        let released = ledger.release(org, request_id).await.map_err(status)?;
        Ok(Response::new(convert::release_response(released)))
    }

    async fn get_quota(
        &self,
        request: Request<GetQuotaRequest>,
    ) -> Result<Response<GetQuotaResponse>, Status> {
        let (ledger, permit, message) = self.0.accept(request)?;
        let org = convert::org(message.org, &permit)?;
        let quota = ledger.quota(&org).await.map_err(query_status)?;
        let comparisons = ledger.comparisons(&org);
        let response = convert::quota_response(&org, quota, &comparisons);
        Ok(Response::new(response))
    }

    async fn list_usage(
        &self,
        request: Request<ListUsageRequest>,
    ) -> Result<Response<ListUsageResponse>, Status> {
        let (ledger, permit, message) = self.0.accept(request)?;
        let query = usage::query(message, &permit)?;
        let usage = ledger.usage(&query.org, query.page.clone()).await;
        let usage = usage.map_err(query_status)?;
        Ok(Response::new(usage::response(&query, usage)))
    }

    async fn set_external_usage(
        &self,
        request: Request<SetExternalUsageRequest>,
    ) -> Result<Response<SetExternalUsageResponse>, Status> {
        let (ledger, permit, message) = self.0.accept(request)?;
        let request = convert::set_external_usage(message, &permit)?;
        let set = ledger.set_external_usage(request).await;
        let set = set.map_err(query_status)?;
        Ok(Response::new(convert::external_usage_response(set)))
    }

    async fn list_external_changes(
        &self,
        request: Request<ListExternalChangesRequest>,
    ) -> Result<Response<ListExternalChangesResponse>, Status> {
        let (ledger, permit, message) = self.0.accept(request)?;
        let (org, days) = external_changes::query(message, &permit)?;
        let list = ledger.external_changes(&org, days, ExternalChanges::MAX);
        let list = list.await.map_err(query_status)?;
        Ok(Response::new(external_changes::response(list)))
    }

    async fn list_organizations(
        &self,
        request: Request<ListOrganizationsRequest>,
    ) -> Result<Response<ListOrganizationsResponse>, Status> {
        let (ledger, permit, message) = self.0.accept(request)?;
        let page = organization_page(message, &permit)?;
        let (query, order) = (page.query.clone(), page.order);
        let list = ledger.organizations(page).await.map_err(query_status)?;
        let comparisons = |org: &OrgId| ledger.comparisons(org);
        let response = organizations_response(list, &query, order, comparisons);
        Ok(Response::new(response))
    }

    /// Runs on the worker that serves the call: an estimate of a large body takes some milliseconds, and as many run at
    /// once as there are workers, which bounds their memory.
    async fn estimate(
        &self,
        request: Request<EstimateRequest>,
    ) -> Result<Response<EstimateResponse>, Status> {
        let (ledger, _, message) = self.0.accept(request)?;
        let policy = ledger.policy();
        let estimate = convert::estimate(
            &message,
            |model| policy.capacity(model),
            |workload| policy.covers(workload),
        )?;
        Ok(Response::new(estimate))
    }
}
