//! The access log: ends the reservations of requests that have ended.
//!
//! Envoy sends entries once, and waits for no answer. Entries that are on the wire when the service dies are lost, and
//! their reservations stay counted.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use super::{
    front::EnvoyFront,
    metadata::{self, PublishedReservation},
    outcome::{EndedRequest, StreamEnd},
    proto::envoy::{
        data::accesslog::v3::{AccessLogCommon, AccessLogType, HttpAccessLogEntry, ResponseFlags},
        service::accesslog::v3::{
            StreamAccessLogsMessage, StreamAccessLogsResponse,
            access_log_service_server::AccessLogService,
        },
    },
};
use crate::{
    domain::Tokens,
    grpc::{CallContext, Permit, invalid, org},
    telemetry::log_limited,
};

/// The size of the largest message. Envoy sends its buffer, 16 KiB by default, with whole entries.
pub(super) const MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// How many reservations a stream ends at a time. While the store is slow, no more entries are read.
const MAX_CONCURRENT: usize = 256;

/// The detail of a response that the upstream gave.
const VIA_UPSTREAM: &str = "via_upstream";

/// Handles `envoy.service.accesslog.v3.AccessLogService`.
pub(super) struct AccessLogHandler(pub(super) EnvoyFront);

#[tonic::async_trait]
impl AccessLogService for AccessLogHandler {
    type StreamAccessLogsStream =
        Pin<Box<dyn Stream<Item = Result<StreamAccessLogsResponse, Status>> + Send>>;

    async fn stream_access_logs(
        &self,
        mut request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<Self::StreamAccessLogsStream>, Status> {
        let CallContext { permit, .. } = CallContext::take(request.extensions_mut())?;
        let log = AccessLog {
            front: self.0.clone(),
            permit,
            free: Arc::new(Semaphore::new(MAX_CONCURRENT)),
        };
        // A task of its own: entries that have arrived are dealt with, even if Envoy goes away.
        let read = self
            .0
            .service
            .open_calls
            .spawn(log.read(request.into_inner()));
        let end = stream::once(async move {
            let ended = read
                .await
                .unwrap_or_else(|_| Err(Status::internal("the access log's task ended")));
            ended.map(|()| StreamAccessLogsResponse {})
        });
        Ok(Response::new(Box::pin(end)))
    }
}

/// An open stream of entries.
struct AccessLog {
    front: EnvoyFront,
    permit: Permit,
    free: Arc<Semaphore>,
}

impl AccessLog {
    async fn read(
        mut self,
        mut messages: Streaming<StreamAccessLogsMessage>,
    ) -> Result<(), Status> {
        loop {
            let message = tokio::select! {
                biased;
                message = messages.message() => message?,
                () = self.front.service.stopping.cancelled() => return Ok(()),
            };
            let Some(message) = message else {
                return Ok(());
            };
            self.permit.renew()?;
            for entry in message.http_logs.unwrap_or_default().log_entry {
                let permit = Arc::clone(&self.free).acquire_owned().await;
                let permit = permit.map_err(|_| Status::internal("the semaphore is closed"))?;
                self.end(entry, permit);
            }
        }
    }

    /// Ends the reservation of an entry, in a task of its own.
    fn end(&self, entry: HttpAccessLogEntry, permit: OwnedSemaphorePermit) {
        let common = entry.common_properties.unwrap_or_default();
        let metadata = common.metadata.as_ref();
        let Some(published) = metadata.and_then(PublishedReservation::of) else {
            return;
        };
        if common.access_log_type() != AccessLogType::DownstreamEnd {
            return;
        }
        let response = entry.response.unwrap_or_default();
        let status = response.response_code.unwrap_or_default();
        let from_upstream = response.response_code_details == VIA_UPSTREAM;
        let is_free = published.is_free;
        let reservation = published.parse().map_err(invalid);
        let reservation =
            reservation.and_then(|(name, id, tokens)| Ok((org(name, &self.permit)?, id, tokens)));
        let (org, id, reserved) = match reservation {
            Ok(reservation) => reservation,
            Err(why) => {
                log_limited!(
                    warn,
                    why = why.message(),
                    "entries of the access log are ignored"
                );
                return;
            }
        };
        let ended = self.ended(&common, reserved, status, from_upstream);
        if is_free && ended.attempts > 0 && !ended.in_program {
            log_limited!(
                warn,
                cluster = common.upstream_cluster,
                "FREE requests run in a cluster that envoy.program_clusters does not name: they are settled as run \
                 outside the programme"
            );
        }
        let settlement = self.front.settlement.clone();
        self.front.service.open_calls.spawn(async move {
            settlement.end(org, id, ended.outcome()).await;
            drop(permit);
        });
    }

    fn ended(
        &self,
        common: &AccessLogCommon,
        reserved: Tokens,
        status: u32,
        from_upstream: bool,
    ) -> EndedRequest {
        let settings = &self.front.settings;
        let clusters = &settings.program_clusters;
        let end = stream_end(common.response_flags.as_ref());
        let metadata = common.metadata.clone().unwrap_or_default();
        EndedRequest {
            reserved,
            attempts: common.upstream_request_attempt_count,
            in_program: clusters.is_empty() || clusters.contains(&common.upstream_cluster),
            status,
            from_upstream,
            usage: metadata::usage(&settings.usage, &metadata, end),
            end,
        }
    }
}

fn stream_end(flags: Option<&ResponseFlags>) -> StreamEnd {
    let Some(flags) = flags else {
        return StreamEnd::Clean;
    };
    let upstream_failed = flags.upstream_request_timeout
        || flags.local_reset
        || flags.upstream_remote_reset
        || flags.upstream_protocol_error
        || flags.upstream_connection_termination
        || flags.stream_idle_timeout
        || flags.upstream_max_stream_duration_reached
        || flags.duration_timeout;
    let not_connected =
        flags.upstream_connection_failure || flags.no_healthy_upstream || flags.upstream_overflow;
    if flags.downstream_connection_termination || flags.downstream_remote_reset {
        StreamEnd::ClientLeft
    } else if upstream_failed {
        StreamEnd::UpstreamFailed
    } else if not_connected {
        StreamEnd::NotConnected
    } else {
        StreamEnd::Clean
    }
}
