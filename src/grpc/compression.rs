//! Response compression: a response is compressed only if its request was.

use std::task::{Context, Poll};

use tonic::{
    codegen::{
        Service,
        http::{HeaderMap, Request},
    },
    server::NamedService,
};

/// Hides from tonic that a client accepts compression, unless the client's request is compressed. By itself tonic
/// compresses for every client that accepts it, which costs more than it saves on messages as small as ours.
#[derive(Debug, Clone)]
pub struct ResponseCompression<S>(pub(super) S);

const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

impl<S, B> Service<Request<B>> for ResponseCompression<S>
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

impl<S: NamedService> NamedService for ResponseCompression<S> {
    const NAME: &'static str = S::NAME;
}

fn is_compressed(headers: &HeaderMap) -> bool {
    let encoding = headers.get(ENCODING);
    encoding.is_some_and(|encoding| encoding != "identity")
}
