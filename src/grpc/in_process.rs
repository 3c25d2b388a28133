//! Calls of the service from within the process, for a surface that speaks another protocol.
//!
//! Such a call passes the same [`CallLayer`](super::CallLayer) as one that arrives over gRPC: deadline, authorization,
//! metrics, traces and the texts of errors are the same.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use tonic::{
    Code, Status,
    body::Body,
    codegen::{
        Bytes, Service as _,
        http::{HeaderMap, HeaderName, HeaderValue, Request, header},
    },
};

use super::{
    call::{CallService, code_label},
    service::{QuotaMethods, QuotaServiceConfig, service},
};
use crate::{auth::Peer, telemetry::metrics};

/// The service, without a connection. Cheap to clone.
#[derive(Clone)]
pub struct InProcessService {
    service: CallService<QuotaMethods>,
    message_bytes: usize,
    estimate_bytes: usize,
}

/// A unary call.
pub(crate) struct UnaryCall<'c, M> {
    /// `/tollgate.v1.QuotaService/Reserve`.
    pub(crate) path: &'c str,
    /// The caller's headers. Credentials and the trace are taken, everything else is ignored.
    pub(crate) headers: &'c HeaderMap,
    /// The other end of the caller's connection; none if it is unknown.
    pub(crate) peer: Option<Arc<Peer>>,
    /// How long the caller waits for the answer, if it says so.
    pub(crate) timeout: Option<Duration>,
    /// The encoded request. It is polled once the caller is authorized, and dropped at the deadline.
    pub(crate) message: M,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallError {
    pub(crate) code: metrics::Code,
    pub(crate) message: String,
}

/// The headers of a call that matter to the service.
const HEADERS: [HeaderName; 3] = [
    header::AUTHORIZATION,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Before each message: the flag of compression, and the length.
const FRAME_HEAD: usize = 5;

/// `grpc-timeout` has at most eight digits.
const MAX_TIMEOUT_MILLIS: u128 = 99_999_999;

impl CallError {
    pub(crate) fn new(code: metrics::Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl InProcessService {
    /// The service, with the same parts as the one of the gRPC port.
    #[must_use]
    pub fn new(config: QuotaServiceConfig) -> Self {
        Self {
            message_bytes: config.message_bytes,
            estimate_bytes: config.estimate_bytes,
            service: service(config),
        }
    }

    /// The size of the largest request of a method.
    pub(crate) fn message_bytes(&self, method: &str) -> usize {
        match method {
            "Estimate" => self.estimate_bytes,
            _ => self.message_bytes,
        }
    }

    /// Makes a call, and returns the encoded response.
    pub(crate) async fn unary<M>(&self, call: UnaryCall<'_, M>) -> Result<Bytes, CallError>
    where
        M: Future<Output = Result<Vec<u8>, CallError>> + Send + 'static,
    {
        let mut request = Request::new(message_body(call.message));
        let no_such_method = |_| error(&Status::unimplemented("the service has no such method"));
        *request.uri_mut() = call.path.parse().map_err(no_such_method)?;
        for name in HEADERS {
            for value in call.headers.get_all(&name) {
                request.headers_mut().append(&name, value.clone());
            }
        }
        let timeout = call.timeout.map(grpc_timeout);
        if let Some(timeout) = timeout.and_then(|it| HeaderValue::try_from(it).ok()) {
            request.headers_mut().insert("grpc-timeout", timeout);
        }
        if let Some(peer) = call.peer {
            request.extensions_mut().insert(peer);
        }
        let Ok(response) = self.service.clone().call(request).await;
        let (head, body) = response.into_parts();
        check(Status::from_header_map(&head.headers))?;
        let body = body.collect().await.map_err(|status| error(&status))?;
        check(body.trailers().and_then(Status::from_header_map))?;
        let mut response = body.to_bytes();
        Ok(response.split_off(FRAME_HEAD.min(response.len())))
    }
}

/// The body of a call that has one message. An error of the message becomes the call's.
fn message_body<M>(message: M) -> Body
where
    M: Future<Output = Result<Vec<u8>, CallError>> + Send + 'static,
{
    let frame = async {
        let message = message.await;
        let message = message.map_err(|it| Status::new((it.code as i32).into(), it.message))?;
        let length = u32::try_from(message.len())
            .map_err(|_| Status::out_of_range("the message is larger than 4 GiB"))?;
        let frame = [&[0][..], &length.to_be_bytes(), &message].concat();
        Ok::<_, Status>(hyper::body::Frame::data(Bytes::from(frame)))
    };
    Body::new(StreamBody::new(stream::once(frame)))
}

fn grpc_timeout(timeout: Duration) -> String {
    match timeout.as_millis() {
        millis if millis <= MAX_TIMEOUT_MILLIS => format!("{millis}m"),
        millis => format!("{}S", (millis / 1000).min(MAX_TIMEOUT_MILLIS)),
    }
}

fn check(status: Option<Status>) -> Result<(), CallError> {
    match status {
        Some(status) if status.code() != Code::Ok => Err(error(&status)),
        _ => Ok(()),
    }
}

fn error(status: &Status) -> CallError {
    CallError::new(code_label(status.code()), status.message())
}
