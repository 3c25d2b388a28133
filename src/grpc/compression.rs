//! Compression: gzip is taken, and an answer is compressed only where its request was.

use std::task::{Context, Poll};

use tonic::{
    codegen::{
        Service,
        http::{HeaderMap, Request},
    },
    server::NamedService,
};

/// A service that answers uncompressed requests uncompressed. tonic compresses for every client that accepts it,
/// which costs more than it saves on messages as small as ours.
#[derive(Debug, Clone)]
pub struct CompressedAlike<S>(pub(super) S);

const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

impl<S, B> Service<Request<B>> for CompressedAlike<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if !is_compressed(request.headers()) {
            request.headers_mut().remove(ACCEPT_ENCODING);
        }
        self.0.call(request)
    }
}

impl<S: NamedService> NamedService for CompressedAlike<S> {
    const NAME: &'static str = S::NAME;
}

fn is_compressed(headers: &HeaderMap) -> bool {
    let encoding = headers.get(ENCODING);
    encoding.is_some_and(|encoding| encoding != "identity")
}
