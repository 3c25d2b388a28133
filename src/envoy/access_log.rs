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
    outcome::{EndedRequest, ReportedUsage, StreamEnd},
    proto::envoy::{
        data::accesslog::v3::{
            AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpResponseProperties,
            ResponseFlags,
        },
        service::accesslog::v3::{
            StreamAccessLogsMessage, StreamAccessLogsResponse,
            access_log_service_server::AccessLogService,
        },
    },
    settlement::EarlierAttempts,
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
            slots: Arc::new(Semaphore::new(MAX_CONCURRENT)),
        };
        // In a task of its own: entries that have arrived are handled even if Envoy disconnects.
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
    /// A slot for each reservation that is being ended.
    slots: Arc<Semaphore>,
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
                let Some(published) = published(&entry) else {
                    continue;
                };
                let slot = Arc::clone(&self.slots).acquire_owned().await;
                let slot = slot.map_err(|_| Status::internal("the semaphore is closed"))?;
                if let Err(why) = self.end(entry, published, slot) {
                    log_limited!(
                        warn,
                        why = why.message(),
                        "entries of the access log are ignored"
                    );
                }
            }
        }
    }

    /// Ends the reservation of an entry, in a task of its own.
    ///
    /// # Errors
    ///
    /// What is published is out of bounds, or the caller may not speak for the organization.
    fn end(
        &self,
        entry: HttpAccessLogEntry,
        published: PublishedReservation,
        slot: OwnedSemaphorePermit,
    ) -> Result<(), Status> {
        let is_free = published.is_free;
        let org = org(published.org.clone(), &self.permit)?;
        let (id, fields) = published.parse().map_err(invalid)?;
        let common = entry.common_properties.unwrap_or_default();
        let response = entry.response.unwrap_or_default();
        let ended = self.ended(&common, &response, fields.tokens, is_free);
        if is_free && ended.attempts > 0 && !ended.in_program {
            log_limited!(
                warn,
                cluster = common.upstream_cluster,
                "FREE requests run in a cluster that envoy.program_clusters does not name: they are settled as run \
                 outside the programme"
            );
        }
        let earlier = ended.earlier_reservation();
        let earlier = earlier.map(|tokens| EarlierAttempts::new(&org, &id, &fields, tokens));
        let earlier = earlier.transpose().map_err(invalid)?;
        let settlement = self.front.settlement.clone();
        self.front.service.open_calls.spawn(async move {
            settlement.end(org, id, earlier, ended.outcome()).await;
            drop(slot);
        });
        Ok(())
    }

    fn ended(
        &self,
        common: &AccessLogCommon,
        response: &HttpResponseProperties,
        reserved: Tokens,
        is_free: bool,
    ) -> EndedRequest {
        let settings = &self.front.settings;
        let clusters = &settings.program_clusters;
        let end = stream_end(common.response_flags.as_ref());
        let usage = common
            .metadata
            .as_ref()
            .map_or(ReportedUsage::Missing, |metadata| {
                metadata::usage(&settings.usage, metadata, end)
            });
        EndedRequest {
            is_free,
            reserved,
            attempts: common.upstream_request_attempt_count,
            in_program: clusters.is_empty() || clusters.contains(&common.upstream_cluster),
            status: response.response_code.unwrap_or_default(),
            from_upstream: response.response_code_details == VIA_UPSTREAM,
            usage,
            end,
        }
    }
}

/// The reservation of an entry that says how a request has ended.
fn published(entry: &HttpAccessLogEntry) -> Option<PublishedReservation> {
    let common = entry.common_properties.as_ref()?;
    let is_end = common.access_log_type() == AccessLogType::DownstreamEnd;
    let metadata = common.metadata.as_ref().filter(|_| is_end)?;
    PublishedReservation::of(metadata)
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
