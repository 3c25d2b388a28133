//! Counts and traces each call around everything else that is done for it: what is refused before a method
//! is reached is seen too, and so is a caller who hangs up.
//!
//! A good answer's verdict is known only within: methods say it with [`answered`]. The requests of a stream
//! are counted there, too, one by one ([`Tally`]); here only a stream that never began.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
};

use super::{errors, heard::Heard};
use crate::{
    domain::{PoolName, Verdict},
    telemetry::{
        metrics::{Code, DenialReason, Metrics, OpenStream, Rpc, verdict_names},
        traces::{self, Span, Traces},
    },
};

/// The service's name, as the proto has it.
const SERVICE: &str = "tollgate.v1.QuotaService";

/// A service whose calls are counted, and traced where that is wanted.
#[derive(Debug, Clone)]
pub struct Observed<S> {
    inner: S,
    metrics: Metrics,
    traces: Option<Traces>,
    open_calls: TaskTracker,
}

/// A call of it.
#[derive(Debug)]
pub struct Observing<F> {
    /// Boxed by the service itself, so that it may be moved.
    inner: F,
    call: Call,
}

/// What is known of a call.
#[derive(Debug)]
struct Call {
    /// None where the service has no such method.
    rpc: Option<Rpc>,
    began: Instant,
    /// None where nobody listened.
    heard: Option<Heard>,
    metrics: Metrics,
    span: Option<Span>,
    ended: bool,
    /// Until it is answered, or its answers have begun.
    _open: TaskTrackerToken,
}

impl<S> Observed<S> {
    pub(super) fn new(
        inner: S,
        metrics: Metrics,
        traces: Option<Traces>,
        open_calls: TaskTracker,
    ) -> Self {
        Self {
            inner,
            metrics,
            traces,
            open_calls,
        }
    }
}

impl<S: NamedService> NamedService for Observed<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Observed<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let began = Instant::now();
        let method = request.uri().path().rsplit('/').next();
        let rpc = method.and_then(Rpc::by_name);
        let span = self.traces.as_ref().zip(rpc).map(|(traces, rpc)| {
            let headers = request.headers();
            traces.call(SERVICE, rpc.name(), |name| headers.get(name)?.to_str().ok())
        });
        let call = Call {
            rpc,
            began,
            heard: request.extensions().get().cloned(),
            metrics: self.metrics.clone(),
            span,
            ended: false,
            _open: self.open_calls.token(),
        };
        // A method's first steps may be taken here already.
        let _current = call.span.as_ref().map(Span::enter);
        let inner = self.inner.call(request);
        drop(_current);
        Observing { inner, call }
    }
}

impl<F> Future for Observing<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { inner, call } = &mut *self;
        let current = call.span.as_ref().map(Span::enter);
        let polled = Pin::new(inner).poll(cx);
        drop(current);
        let Ok(mut response) = ready!(polled);
        // An error has its status in the head. What is good has it behind its message.
        let failed = Status::from_header_map(response.headers());
        let mut code = failed.as_ref().map_or(tonic::Code::Ok, Status::code);
        if let Some(failed) = &failed {
            if call.heard.as_ref().is_some_and(Heard::hung_up) {
                code = tonic::Code::Cancelled;
            } else if let Some(other) = errors::bad_message(failed) {
                code = other.code();
                response = other.into_http();
            }
        }
        call.end(code);
        Poll::Ready(Ok(response))
    }
}

impl Call {
    fn end(&mut self, code: tonic::Code) {
        self.ended = true;
        match code {
            tonic::Code::Unauthenticated => self.metrics.call_denied(DenialReason::Unauthenticated),
            tonic::Code::PermissionDenied => {
                self.metrics.call_denied(DenialReason::PermissionDenied)
            }
            _ => {}
        }
        let Some(rpc) = self.rpc else {
            return;
        };
        let good = code == tonic::Code::Ok;
        if good && rpc == Rpc::ReserveStream {
            return;
        }
        self.metrics.took(rpc, self.began.elapsed(), 1);
        if !good || !matches!(rpc, Rpc::Reserve | Rpc::Settle) {
            self.metrics.ended(rpc, counted(code));
        }
        if let Some(span) = &self.span {
            span.answered(code.into(), is_fault(code));
            span.end();
        }
    }
}

impl Drop for Call {
    /// Without an answer: the caller hung up, or its deadline passed.
    fn drop(&mut self) {
        if !self.ended {
            let late = self.heard.as_ref().is_some_and(Heard::was_late);
            self.end(match late {
                true => tonic::Code::DeadlineExceeded,
                false => tonic::Code::Cancelled,
            });
        }
    }
}

/// As what a status' code is counted.
pub(super) fn counted(code: tonic::Code) -> Code {
    Code::by_number(code.into())
}

/// Whether the service is to blame, as OpenTelemetry has it.
fn is_fault(code: tonic::Code) -> bool {
    use tonic::Code as It;
    matches!(
        code,
        It::Unknown
            | It::DeadlineExceeded
            | It::Unimplemented
            | It::Internal
            | It::Unavailable
            | It::DataLoss
    )
}

/// A call is answered with a verdict.
pub(super) fn answered(
    metrics: &Metrics,
    rpc: Rpc,
    verdict: Verdict,
    pool: Option<&PoolName>,
    replayed: bool,
) {
    metrics.answered(rpc, verdict);
    if let Some(span) = traces::current() {
        let (verdict, reason) = verdict_names(verdict);
        span.set("tollgate.verdict", verdict);
        span.set("tollgate.reason", reason);
        span.set("tollgate.replayed", replayed);
        if let Some(pool) = pool {
            span.set("tollgate.pool", pool.to_string());
        }
    }
}

/// What a stream's requests were answered, while it is open. Its span has no children: a stream may live for
/// days, and would make a trace that nobody can read.
pub(super) struct Tally {
    metrics: Metrics,
    span: Option<Span>,
    free: i64,
    billed: i64,
    failed: i64,
    /// How the stream ended; CANCELLED unless that was told.
    end: tonic::Code,
    _open: OpenStream,
}

impl Tally {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            metrics: metrics.clone(),
            span: traces::current(),
            free: 0,
            billed: 0,
            failed: 0,
            end: tonic::Code::Cancelled,
            _open: metrics.stream_opened(),
        }
    }

    /// A request was answered so.
    pub(super) fn answered(&mut self, answer: Result<Verdict, tonic::Code>) {
        match answer {
            Ok(verdict) => {
                self.metrics.answered(Rpc::ReserveStream, verdict);
                *(if verdict.is_free() {
                    &mut self.free
                } else {
                    &mut self.billed
                }) += 1;
            }
            Err(code) => {
                self.metrics.ended(Rpc::ReserveStream, counted(code));
                self.failed += 1;
            }
        }
    }

    /// The stream ended so.
    pub(super) fn ended(&mut self, end: tonic::Code) {
        self.end = end;
    }

    /// So many requests, which came together, were answered together.
    pub(super) fn took(&self, since: Instant, requests: usize) {
        let requests = requests as u64;
        self.metrics
            .took(Rpc::ReserveStream, since.elapsed(), requests);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Some(span) = &self.span {
            span.set("tollgate.answers.free", self.free);
            span.set("tollgate.answers.billed", self.billed);
            span.set("tollgate.answers.failed", self.failed);
            span.answered(self.end.into(), is_fault(self.end));
            span.end();
        }
    }
}
