//! The RPC methods: convert, call the ledger, convert.

use std::{pin::Pin, time::Duration};

use futures_util::Stream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status, Streaming, codec::CompressionEncoding::Gzip, metadata::MetadataMap,
};

use super::{
    access::{Authorized, Permit},
    compression::ResponseCompression,
    convert,
    deadline::answer_by,
    errors,
    observed::{Observed, Tally, answered},
    proto::{
        GetQuotaRequest, GetQuotaResponse, ListUsageRequest, ListUsageResponse, ReleaseRequest,
        ReleaseResponse, ReserveRequest, ReserveResponse, ReserveStreamResponse, SettleRequest,
        SettleResponse,
        quota_service_server::{QuotaService, QuotaServiceServer},
    },
    stream::Call,
};
use crate::{
    auth::Authenticator,
    ledger::Ledger,
    telemetry::{
        metrics::{Metrics, Rpc},
        traces::Traces,
    },
};

/// `tollgate.v1.QuotaService`.
pub struct Quota {
    ledger: Ledger,
    call_timeout: Duration,
    open_calls: TaskTracker,
    stopping: CancellationToken,
    metrics: Metrics,
    authenticator: Authenticator,
}

/// What the service works with.
pub struct Wiring {
    /// What decides and counts.
    pub ledger: Ledger,
    /// How long a call whose caller has no deadline, and a request of a stream, waits for the store.
    pub call_timeout: Duration,
    /// A larger request is refused.
    pub message_bytes: usize,
    /// Told of each call while it is open.
    pub open_calls: TaskTracker,
    /// Ends the calls that have no end of their own.
    pub stopping: CancellationToken,
    /// Where each call is counted.
    pub metrics: Metrics,
    /// Where each call has a span; none: nowhere.
    pub traces: Option<Traces>,
    /// Who may call.
    pub authenticator: Authenticator,
}

/// The service, ready to be added to a server.
#[must_use]
pub fn service(
    wiring: Wiring,
) -> Observed<Authorized<ResponseCompression<QuotaServiceServer<Quota>>>> {
    let Wiring {
        ledger,
        call_timeout,
        message_bytes,
        open_calls,
        stopping,
        metrics,
        traces,
        authenticator,
    } = wiring;
    let quota = Quota {
        ledger,
        call_timeout,
        open_calls: open_calls.clone(),
        stopping,
        metrics: metrics.clone(),
        authenticator: authenticator.clone(),
    };
    let service = QuotaServiceServer::new(quota)
        .max_decoding_message_size(message_bytes)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let authorized = Authorized::by_method(ResponseCompression(service), authenticator);
    // What is refused is counted too.
    Observed::new(authorized, metrics, traces, open_calls)
}

impl Quota {
    /// The ledger, for a call that has just come.
    fn in_time(&self, metadata: &MetadataMap) -> Ledger {
        self.ledger.by(answer_by(metadata, self.call_timeout))
    }

    /// What its caller may.
    fn permit<T>(&self, request: &Request<T>) -> Result<Permit, Status> {
        Permit::of(&self.authenticator, request.extensions())
    }
}

#[tonic::async_trait]
impl QuotaService for Quota {
    async fn reserve(
        &self,
        request: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        let ledger = self.in_time(request.metadata());
        let permit = self.permit(&request)?;
        let call = convert::reserve_call(request.into_inner(), &permit)?;
        let reserved = ledger.reserve(call).await.map_err(errors::status)?;
        let pool = reserved.pool.as_ref().map(|figures| &figures.pool);
        let (verdict, replayed) = (reserved.verdict, reserved.replayed);
        answered(&self.metrics, Rpc::Reserve, verdict, pool, replayed);
        Ok(Response::new(convert::reserve_response(reserved)))
    }

    type ReserveStreamStream =
        Pin<Box<dyn Stream<Item = Result<ReserveStreamResponse, Status>> + Send>>;

    async fn reserve_stream(
        &self,
        request: Request<Streaming<ReserveRequest>>,
    ) -> Result<Response<Self::ReserveStreamStream>, Status> {
        let call = Call {
            permit: self.permit(&request)?,
            heard: request.extensions().get().cloned(),
            requests: request.into_inner(),
            ledger: self.ledger.clone(),
            item_timeout: self.call_timeout,
            stopping: self.stopping.clone(),
            tally: Tally::new(&self.metrics),
            _open: self.open_calls.token(),
        };
        Ok(Response::new(Box::pin(call.answers())))
    }

    async fn settle(
        &self,
        request: Request<SettleRequest>,
    ) -> Result<Response<SettleResponse>, Status> {
        let ledger = self.in_time(request.metadata());
        let permit = self.permit(&request)?;
        let (org, request_id, tokens) = convert::settle_call(request.into_inner(), &permit)?;
        let settled = ledger.settle(org, request_id, tokens).await;
        let settled = settled.map_err(errors::status)?;
        let pool = settled.pool.as_ref().map(|figures| &figures.pool);
        let (verdict, replayed) = (settled.verdict, settled.replayed);
        answered(&self.metrics, Rpc::Settle, verdict, pool, replayed);
        Ok(Response::new(convert::settle_response(settled)))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        let ledger = self.in_time(request.metadata());
        let permit = self.permit(&request)?;
        let (org, request_id) = convert::release_call(request.into_inner(), &permit)?;
        let released = ledger
            .release(org, request_id)
            .await
            .map_err(errors::status)?;
        Ok(Response::new(convert::release_response(released)))
    }

    async fn get_quota(
        &self,
        request: Request<GetQuotaRequest>,
    ) -> Result<Response<GetQuotaResponse>, Status> {
        let ledger = self.in_time(request.metadata());
        let permit = self.permit(&request)?;
        let org = convert::org(request.into_inner().org, &permit)?;
        let quota = ledger.quota(&org).await.map_err(errors::query_status)?;
        Ok(Response::new(convert::quota_response(&org, quota)))
    }

    async fn list_usage(
        &self,
        request: Request<ListUsageRequest>,
    ) -> Result<Response<ListUsageResponse>, Status> {
        let ledger = self.in_time(request.metadata());
        let permit = self.permit(&request)?;
        let (org, page) = convert::usage_page(request.into_inner(), &permit)?;
        let usage = ledger
            .usage(&org, page)
            .await
            .map_err(errors::query_status)?;
        Ok(Response::new(convert::usage_response(&org, usage)))
    }
}
