//! The RPC methods: convert, call the ledger, convert.

use std::{pin::Pin, time::Duration};

use futures_util::Stream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status, Streaming, codec::CompressionEncoding::Gzip, metadata::MetadataMap,
};

use super::{
    authorization::{Authorized, Granted},
    compression::ResponseCompression,
    convert,
    deadline::answer_by,
    observed::{Observed, Tally, answered},
    proto::{
        GetQuotaRequest, GetQuotaResponse, ListUsageRequest, ListUsageResponse, ReleaseRequest,
        ReleaseResponse, ReserveRequest, ReserveResponse, ReserveStreamResponse, SettleRequest,
        SettleResponse,
        quota_service_server::{QuotaService, QuotaServiceServer},
    },
    status,
    stream::Call,
};
use crate::{
    auth::Admission,
    ledger::Ledger,
    telemetry::{
        metrics::{Metrics, Rpc},
        traces::Traces,
    },
};

/// `tollgate.v1.QuotaService`.
pub struct QuotaHandler {
    ledger: Ledger,
    call_timeout: Duration,
    open_calls: TaskTracker,
    stopping: CancellationToken,
    metrics: Metrics,
    admission: Admission,
}

/// What the service works with.
pub struct QuotaServiceConfig {
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
    pub admission: Admission,
}

/// The service, ready to be added to a server.
#[must_use]
pub fn service(
    wiring: QuotaServiceConfig,
) -> Observed<Authorized<ResponseCompression<QuotaServiceServer<QuotaHandler>>>> {
    let QuotaServiceConfig {
        ledger,
        call_timeout,
        message_bytes,
        open_calls,
        stopping,
        metrics,
        traces,
        admission,
    } = wiring;
    let quota = QuotaHandler {
        ledger,
        call_timeout,
        open_calls: open_calls.clone(),
        stopping,
        metrics: metrics.clone(),
        admission: admission.clone(),
    };
    let service = QuotaServiceServer::new(quota)
        .max_decoding_message_size(message_bytes)
        .accept_compressed(Gzip)
        .send_compressed(Gzip);
    let authorized = Authorized::by_method(ResponseCompression(service), admission);
    // What is refused is counted too.
    Observed::new(authorized, metrics, traces, open_calls)
}

impl QuotaHandler {
    /// The ledger, for a call that has just come.
    fn in_time(&self, metadata: &MetadataMap) -> Ledger {
        self.ledger
            .with_deadline(answer_by(metadata, self.call_timeout))
    }

    /// What its caller may.
    fn granted<T>(&self, request: &Request<T>) -> Result<Granted, Status> {
        Granted::of(&self.admission, request.extensions())
    }
}

#[tonic::async_trait]
impl QuotaService for QuotaHandler {
    async fn reserve(
        &self,
        request: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        let ledger = self.in_time(request.metadata());
        let granted = self.granted(&request)?;
        let call = convert::reserve_call(request.into_inner(), &granted)?;
        let reserved = ledger.reserve(call).await.map_err(status::status)?;
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
            granted: self.granted(&request)?,
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
        let granted = self.granted(&request)?;
        let (org, request_id, tokens) = convert::settle_call(request.into_inner(), &granted)?;
        let settled = ledger.settle(org, request_id, tokens).await;
        let settled = settled.map_err(status::status)?;
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
        let granted = self.granted(&request)?;
        let (org, request_id) = convert::release_call(request.into_inner(), &granted)?;
        let released = ledger
            .release(org, request_id)
            .await
            .map_err(status::status)?;
        Ok(Response::new(convert::release_response(released)))
    }

    async fn get_quota(
        &self,
        request: Request<GetQuotaRequest>,
    ) -> Result<Response<GetQuotaResponse>, Status> {
        let ledger = self.in_time(request.metadata());
        let granted = self.granted(&request)?;
        let org = convert::org(request.into_inner().org, &granted)?;
        let quota = ledger.quota(&org).await.map_err(status::status)?;
        Ok(Response::new(convert::quota_response(&org, quota)))
    }

    async fn list_usage(
        &self,
        request: Request<ListUsageRequest>,
    ) -> Result<Response<ListUsageResponse>, Status> {
        let ledger = self.in_time(request.metadata());
        let granted = self.granted(&request)?;
        let (org, page) = convert::usage_page(request.into_inner(), &granted)?;
        let usage = ledger.usage(&org, page).await.map_err(status::status)?;
        Ok(Response::new(convert::usage_response(&org, usage)))
    }
}
