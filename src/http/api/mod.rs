//! HTTP and JSON (docs/CONTRACT.md, "HTTP and JSON"): the unary RPCs of the service by the Connect protocol, and their
//! description.
//!
//! A call is converted to protobuf and made [within the process](InProcessService), so it is decided, authorized,
//! counted and traced as over gRPC.

mod error;
mod gzip;
mod headers;
mod json;
mod openapi;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    http::header::{CONTENT_ENCODING, CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor, MethodDescriptor, ServiceDescriptor};

use self::{error::ApiError, headers::CallHeaders};
use crate::{
    auth::Peer,
    grpc::{CallError, InProcessService, UnaryCall, proto::DESCRIPTORS},
    telemetry::metrics::Code,
};

const SERVICE: &str = "tollgate.v1.QuotaService";

/// What the routes need.
struct Api {
    service: InProcessService,
    descriptor: ServiceDescriptor,
}

/// The routes. `has_callers`: only known callers are answered.
pub(super) fn router(service: InProcessService, has_callers: bool) -> Router {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("compiled with the program");
    let descriptor = pool.get_service_by_name(SERVICE);
    let descriptor = descriptor.expect("the compiled proto has it");
    let description = openapi::document(&descriptor, has_callers).to_string();
    let description = move || async { ([(CONTENT_TYPE, json::MEDIA_TYPE)], description) };
    let call = post(call).fallback(|| async { ApiError::method_not_allowed() });
    Router::new()
        .route(&format!("/{SERVICE}/{{method}}"), call)
        .route("/openapi.json", get(description))
        .with_state(Arc::new(Api {
            service,
            descriptor,
        }))
}

async fn call(
    State(api): State<Arc<Api>>,
    Path(method): Path<String>,
    request: Request,
) -> Response {
    let answer = api.answer(&method, request).await;
    answer.unwrap_or_else(ApiError::into_response)
}

impl Api {
    async fn answer(&self, method: &str, request: Request) -> Result<Response, ApiError> {
        let method = self.method(method)?;
        let (head, body) = request.into_parts();
        let headers = CallHeaders::parse(&head.headers)?;
        let limit = self.service.message_bytes(method.name());
        let call = UnaryCall {
            path: &format!("/{SERVICE}/{}", method.name()),
            headers: &head.headers,
            peer: head.extensions.get::<Arc<Peer>>().cloned(),
            timeout: headers.timeout,
            message: message(body, headers.is_gzip, limit, method.input()),
        };
        let answer = self.service.unary(call).await?;
        let text = json::text(&method.output(), &answer).map_err(ApiError::internal)?;
        Ok(if headers.takes_gzip {
            let head = [(CONTENT_TYPE, json::MEDIA_TYPE), (CONTENT_ENCODING, "gzip")];
            (head, gzip::compress(&text).map_err(ApiError::internal)?).into_response()
        } else {
            ([(CONTENT_TYPE, json::MEDIA_TYPE)], text).into_response()
        })
    }

    fn method(&self, name: &str) -> Result<MethodDescriptor, ApiError> {
        let method = self.descriptor.methods().find(|it| it.name() == name);
        let method = method.ok_or_else(|| ApiError::no_such_method(name))?;
        if method.is_client_streaming() || method.is_server_streaming() {
            let why = format!("{name} is a stream, which is served over gRPC only");
            return Err(CallError::new(Code::Unimplemented, why).into());
        }
        Ok(method)
    }
}

/// Reads the body of a call, and converts it to protobuf.
async fn message(
    body: Body,
    is_gzip: bool,
    limit: usize,
    descriptor: MessageDescriptor,
) -> Result<Vec<u8>, CallError> {
    let body = Limited::new(body, limit).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => too_large(limit),
        false => CallError::new(Code::Cancelled, "the body has not arrived completely"),
    })?;
    let mut text = body.to_bytes();
    // The protocol forbids to decompress an empty body.
    if is_gzip && !text.is_empty() {
        let unpacked = gzip::decompress(&text, limit).map_err(|error| {
            CallError::new(
                Code::InvalidArgument,
                format!("the body is not in gzip: {error}"),
            )
        })?;
        text = unpacked.ok_or_else(|| too_large(limit))?.into();
    }
    let message = json::parse(&descriptor, &text);
    let message = message.map_err(|why| CallError::new(Code::InvalidArgument, why))?;
    Ok(message.encode_to_vec())
}

fn too_large(limit: usize) -> CallError {
    let why = format!("the body is larger than {limit} bytes, or becomes so when decompressed");
    CallError::new(Code::OutOfRange, why)
}
