//! Services of other crates, whose codec answers INTERNAL to a request that can't be decoded.

use std::task::{Context, Poll};

use futures_util::{TryFutureExt as _, future::MapOk};
use http::{Request, Response};
use tonic::{Code, Status, body::Body, server::NamedService};
use tower_service::Service;

use super::errors;

/// Answers INVALID_ARGUMENT to a malformed request.
#[derive(Debug, Clone)]
pub struct MalformedIsInvalid<S>(pub S);

impl<S: NamedService> NamedService for MalformedIsInvalid<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<Request<B>> for MalformedIsInvalid<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = MapOk<S::Future, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(request).map_ok(|response| {
            let status = Status::from_header_map(response.headers());
            match status.as_ref().and_then(errors::bad_message) {
                Some(status) if status.code() == Code::InvalidArgument => status.into_http(),
                _ => response,
            }
        })
    }
}
