//! The floor: the same gRPC service without any store. Nothing over gRPC can be faster.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use prost_types::Timestamp;
use tollgate::grpc::proto::{
    EstimateRequest, EstimateResponse, GetQuotaRequest, GetQuotaResponse,
    ListExternalChangesRequest, ListExternalChangesResponse, ListOrganizationsRequest,
    ListOrganizationsResponse, ListUsageRequest, ListUsageResponse, ReleaseRequest,
    ReleaseResponse, ReserveRequest, ReserveResponse, ReserveStreamResponse,
    SetExternalUsageRequest, SetExternalUsageResponse, SettleRequest, SettleResponse, Verdict,
    quota_service_server::{QuotaService, QuotaServiceServer},
    reserve_stream_response,
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

struct Floor;

/// Serves until the process is killed, with the server settings of the real program.
pub(crate) async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let incoming = TcpIncoming::bind(address).with_context(|| format!("can't bind {address}"))?;
    let server = Server::builder()
        .max_concurrent_streams(Some(1024))
        .http2_max_local_error_reset_streams(Some(1024))
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(QuotaServiceServer::new(Floor))
        .serve_with_incoming(incoming.with_nodelay(Some(true)));
    server.await.context("the floor failed")
}

/// An answer of typical size.
fn answer(request: &ReserveRequest) -> ReserveResponse {
    let allowance = 9_000_000_000_000_000;
    ReserveResponse {
        verdict: Verdict::Free.into(),
        pool: "large".to_owned(),
        allowance,
        used: request.tokens,
        remaining: allowance - request.tokens,
        resets_at: Some(Timestamp {
            seconds: 1_800_000_000,
            nanos: 0,
        }),
        ..ReserveResponse::default()
    }
}

fn stream_answers(
    requests: Streaming<ReserveRequest>,
) -> impl Stream<Item = Result<ReserveStreamResponse, Status>> {
    requests.map(|request| {
        let reserved = reserve_stream_response::Answer::Reserved(answer(&request?));
        Ok(ReserveStreamResponse {
            answer: Some(reserved),
        })
    })
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the floor only reserves"))
}

#[tonic::async_trait]
impl QuotaService for Floor {
    type ReserveStreamStream = BoxStream<'static, Result<ReserveStreamResponse, Status>>;

    async fn reserve(
        &self,
        request: Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        Ok(Response::new(answer(request.get_ref())))
    }

    async fn reserve_stream(
        &self,
        request: Request<Streaming<ReserveRequest>>,
    ) -> Result<Response<Self::ReserveStreamStream>, Status> {
        let answers = stream_answers(request.into_inner());
        Ok(Response::new(answers.boxed()))
    }

    async fn settle(
        &self,
        _request: Request<SettleRequest>,
    ) -> Result<Response<SettleResponse>, Status> {
        not_here()
    }

    async fn release(
        &self,
        _request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseResponse>, Status> {
        not_here()
    }

    async fn get_quota(
        &self,
        _request: Request<GetQuotaRequest>,
    ) -> Result<Response<GetQuotaResponse>, Status> {
        not_here()
    }

    async fn estimate(
        &self,
        _request: Request<EstimateRequest>,
    ) -> Result<Response<EstimateResponse>, Status> {
        not_here()
    }

    async fn list_usage(
        &self,
        _request: Request<ListUsageRequest>,
    ) -> Result<Response<ListUsageResponse>, Status> {
        not_here()
    }

    async fn set_external_usage(
        &self,
        _request: Request<SetExternalUsageRequest>,
    ) -> Result<Response<SetExternalUsageResponse>, Status> {
        not_here()
    }

    async fn list_external_changes(
        &self,
        _request: Request<ListExternalChangesRequest>,
    ) -> Result<Response<ListExternalChangesResponse>, Status> {
        not_here()
    }

    async fn list_organizations(
        &self,
        _request: Request<ListOrganizationsRequest>,
    ) -> Result<Response<ListOrganizationsResponse>, Status> {
        not_here()
    }
}
