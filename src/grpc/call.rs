//! The layer around each call: deadline, authorization, metrics and traces.
//!
//! A call is authorized before its message is read. Refused calls are counted too, and so are calls whose callers
//! hang up: then the future is dropped.
//!
//! A method's handler gets deadline and rights as a [`CallContext`].

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::future::Either;
use tokio::time::{Sleep, sleep_until};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::{
    Code, Extensions, Status,
    body::Body,
    codegen::{
        Service,
        http::{HeaderMap, Request, Response},
    },
    server::NamedService,
};

use super::{
    authorization::{AccessRule, Permit},
    deadline::CallDeadline,
    status::{late, malformed},
};
use crate::{
    auth::{Authenticator, Unauthenticated},
    telemetry::{
        metrics::{self, DenialReason, Metrics, Rpc},
        traces::{Span, Traces},
    },
};

/// Wraps services: authorizes their calls, and ends them at their deadlines.
#[derive(Debug, Clone)]
pub struct CallLayer {
    pub(super) authenticator: Authenticator,
    pub(super) rule: AccessRule,
    /// How long a call without a deadline may wait for the store.
    pub(super) call_timeout: Duration,
    pub(super) telemetry: Option<CallTelemetry>,
}

/// Where calls are counted and traced.
#[derive(Debug, Clone)]
pub(super) struct CallTelemetry {
    pub(super) metrics: Metrics,
    pub(super) traces: Option<Traces>,
    /// Each call holds a token of it until it is answered.
    pub(super) open_calls: TaskTracker,
}

/// A service in its layer.
#[derive(Debug, Clone)]
pub struct CallService<S> {
    pub(super) inner: S,
    pub(super) layer: CallLayer,
}

/// The deadline and the rights of a call, for its handler.
#[derive(Debug, Clone)]
pub(crate) struct CallContext {
    /// When the answer must be ready, if the caller has a deadline.
    pub(crate) answer_by: Option<tokio::time::Instant>,
    pub(crate) permit: Permit,
}

impl CallLayer {
    /// For a service that every authenticated caller may call.
    #[must_use]
    pub fn any_caller(authenticator: Authenticator, call_timeout: Duration) -> Self {
        Self {
            authenticator,
            rule: AccessRule::AnyCaller,
            call_timeout,
            telemetry: None,
        }
    }

    /// Wraps a service.
    #[must_use]
    pub fn layer<S>(self, inner: S) -> CallService<S> {
        CallService { inner, layer: self }
    }

    /// Begins a call of a service, if its caller has the right to.
    pub(super) fn begin<F>(
        &self,
        service: &'static str,
        mut request: Request<Body>,
        call: impl FnOnce(Request<Body>) -> F,
    ) -> CallFuture<F> {
        let deadline = CallDeadline::of(request.headers(), self.call_timeout);
        let telemetry = self.telemetry.as_ref();
        let record = telemetry.map(|it| CallRecord::new(it, service, &request));
        let authorized = self.rule.authorize(&self.authenticator, service, &request);
        let inner = match authorized {
            Ok(permit) => {
                let answer_by = deadline.answer_by;
                request
                    .extensions_mut()
                    .insert(CallContext { answer_by, permit });
                // tonic compresses responses for every client that accepts it. For messages as small as ours
                // that costs more than it saves, so a response is compressed only if its request was.
                if !is_compressed(request.headers()) {
                    request.headers_mut().remove("grpc-accept-encoding");
                }
                // The method may begin here already, before the first poll.
                let _current = record.as_ref().and_then(CallRecord::enter);
                Either::Left(call(request))
            }
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        };
        CallFuture {
            inner,
            record,
            ends_at: deadline.ends_at,
            timer: None,
            malformed: None,
        }
    }
}

impl CallContext {
    /// Takes the context of a call. A call that did not pass a [`CallService`] has none, and is refused.
    pub(crate) fn take(extensions: &mut Extensions) -> Result<Self, Status> {
        let context = extensions.remove();
        context.ok_or_else(|| Status::unauthenticated(Unauthenticated::NoCredentials.to_string()))
    }
}

impl<S: NamedService> NamedService for CallService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: NamedService + Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = CallFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { inner, layer } = self;
        layer.begin(S::NAME, request, |request| inner.call(request))
    }
}

fn is_compressed(headers: &HeaderMap) -> bool {
    let encoding = headers.get("grpc-encoding");
    encoding.is_some_and(|encoding| encoding != "identity")
}

/// A call, until it is answered or its response stream begins.
#[derive(Debug)]
pub struct CallFuture<F> {
    inner: Either<F, Ready<Result<Response<Body>, Infallible>>>,
    record: Option<CallRecord>,
    ends_at: tokio::time::Instant,
    /// Made at the first wait: most calls are answered before.
    timer: Option<Pin<Box<Sleep>>>,
    malformed: Option<Status>,
}

impl<F> Future for CallFuture<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Some(status) = this.malformed.take() {
            return this.end(status.code(), status.into_http());
        }
        let current = this.record.as_ref().and_then(CallRecord::enter);
        let polled = Pin::new(&mut this.inner).poll(cx);
        drop(current);
        let response = match polled {
            Poll::Ready(Ok(response)) => response,
            Poll::Pending => return this.poll_deadline(cx),
        };
        // An error has its status in the headers, a success in the trailers.
        let failed = Status::from_header_map(response.headers());
        let code = failed.as_ref().map_or(Code::Ok, Status::code);
        // The quota service alone promises OUT_OF_RANGE for a message that is too large once decompressed.
        let is_promised = |it: &Status| this.record.is_some() || it.code() == Code::InvalidArgument;
        let malformed = failed.and_then(|it| malformed(&it)).filter(is_promised);
        let Some(status) = malformed else {
            return this.end(code, response);
        };
        // For tonic, a request that its caller cancelled is one without a message. If it was cancelled, this future
        // is dropped before the next poll.
        this.malformed = Some(status);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<F> CallFuture<F> {
    fn end<E>(&mut self, code: Code, response: Response<Body>) -> Poll<Result<Response<Body>, E>> {
        if let Some(record) = &mut self.record {
            record.end(code);
        }
        Poll::Ready(Ok(response))
    }

    /// Ends the call at its deadline.
    fn poll_deadline<E>(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<Body>, E>> {
        let ends_at = self.ends_at;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(ends_at)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let rpc = self.record.as_ref().and_then(|record| record.rpc);
        let late = late(rpc.is_some_and(Rpc::counts));
        self.end(late.code(), late.into_http())
    }
}

/// Counts and traces a call.
#[derive(Debug)]
struct CallRecord {
    /// None if the service has no such method.
    rpc: Option<Rpc>,
    began: Instant,
    metrics: Metrics,
    span: Option<Span>,
    ended: bool,
    _open: TaskTrackerToken,
}

impl CallRecord {
    fn new(telemetry: &CallTelemetry, service: &'static str, request: &Request<Body>) -> Self {
        let began = Instant::now();
        let method = request.uri().path().rsplit('/').next();
        let rpc = method.and_then(|method| method.parse::<Rpc>().ok());
        let span = telemetry
            .traces
            .as_ref()
            .zip(rpc)
            .map(|(traces, rpc)| traces.call(service, rpc.into(), request.headers()));
        Self {
            rpc,
            began,
            metrics: telemetry.metrics.clone(),
            span,
            ended: false,
            _open: telemetry.open_calls.token(),
        }
    }

    fn enter(&self) -> Option<impl Sized + use<>> {
        self.span.as_ref().map(Span::enter)
    }

    fn end(&mut self, code: Code) {
        self.ended = true;
        match code {
            Code::Unauthenticated => self.metrics.call_denied(DenialReason::Unauthenticated),
            Code::PermissionDenied => self.metrics.call_denied(DenialReason::PermissionDenied),
            _ => {}
        }
        let Some(rpc) = self.rpc else {
            return;
        };
        let good = code == Code::Ok;
        // A stream that was accepted counts its requests one by one, and ends its span itself.
        if good && rpc == Rpc::ReserveStream {
            return;
        }
        self.metrics.took(rpc, self.began.elapsed(), 1);
        // A verdict is counted by its handler.
        if !good || !matches!(rpc, Rpc::Reserve | Rpc::Settle) {
            self.metrics.ended(rpc, code_label(code));
        }
        if let Some(span) = &self.span {
            span.answered(code.into(), is_fault(code));
            span.end();
        }
    }
}

impl Drop for CallRecord {
    /// A call without an answer is CANCELLED: its caller hung up.
    fn drop(&mut self) {
        if !self.ended {
            self.end(Code::Cancelled);
        }
    }
}

pub(super) fn code_label(code: Code) -> metrics::Code {
    metrics::Code::from_repr(code.into()).unwrap_or(metrics::Code::Unknown)
}

/// Whether OpenTelemetry counts it as an error of the server.
pub(super) fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_did_not_pass_the_layer_is_refused() {
        let context = CallContext::take(&mut Extensions::new());
        let code = context.map(|_| ()).map_err(|status| status.code());
        assert_eq!(code, Err(Code::Unauthenticated));
    }
}
