//! The state of a connection: its open calls, its idle time, and whether it must close.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use hyper::{Request, Response, body::Incoming, service::Service};
use pin_project_lite::pin_project;
use tokio::{sync::SetOnce, time::Instant};

use crate::{auth::Peer, telemetry::metrics::CloseReason};

/// The state of one connection, shared by its task, its calls and the limiter.
pub(crate) struct ConnectionState {
    started: Instant,
    open_calls: AtomicUsize,
    /// When the last call ended, in milliseconds since `started`.
    idle_since: AtomicU64,
    /// Whether the first frame has arrived, or the protocol has its own timeout.
    has_begun: AtomicBool,
    has_called: AtomicBool,
    /// How often the connection's task was polled.
    polls: AtomicU64,
    /// Why it must close; the first reason stays.
    close_reason: SetOnce<CloseReason>,
}

impl ConnectionState {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            open_calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
            has_called: AtomicBool::new(false),
            polls: AtomicU64::new(0),
            close_reason: SetOnce::new(),
        }
    }

    /// Like [`Self::idle_since`], but none once it must close.
    pub(crate) fn evictable_since(&self) -> Option<Instant> {
        match self.close_reason.get() {
            None => self.idle_since(),
            Some(_) => None,
        }
    }

    /// When the last call ended; none while a call is open.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let idle = self.open_calls.load(Ordering::Relaxed) == 0;
        idle.then(|| self.started + Duration::from_millis(self.idle_since.load(Ordering::Relaxed)))
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    pub(crate) fn set_begun(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_called(&self) -> bool {
        self.has_called.load(Ordering::Relaxed)
    }

    pub(crate) fn count_poll(&self) {
        self.polls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// Requests that the connection closes. False if that was requested before.
    pub(crate) fn request_close(&self, why: CloseReason) -> bool {
        self.close_reason.set(why).is_ok()
    }

    pub(crate) fn is_making_room(&self) -> bool {
        self.close_reason.get() == Some(&CloseReason::MadeRoom)
    }

    /// Waits until a close is requested, and returns the reason.
    pub(crate) async fn close_requested(&self) -> CloseReason {
        *self.close_reason.wait().await
    }
}

/// Counts a call as open until dropped.
struct OpenCall(Arc<ConnectionState>);

impl OpenCall {
    fn new(state: &Arc<ConnectionState>) -> Self {
        state.open_calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let Self(state) = self;
        if state.open_calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            let since = state.started.elapsed().as_millis();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            state.idle_since.store(since, Ordering::Relaxed);
        }
    }
}

/// Counts each call of a service as open until its response is sent.
pub(crate) struct TrackedService<S> {
    pub(crate) service: S,
    pub(crate) state: Arc<ConnectionState>,
    /// The caller, which is added to each request's extensions.
    pub(crate) peer: Arc<Peer>,
}

impl<S, B> Service<Request<Incoming>> for TrackedService<S>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<TrackedBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    /// Does not poll for readiness: tonic's and axum's services are always ready.
    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.state.has_called.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(Arc::clone(&self.peer));
        let open_call = Some(OpenCall::new(&self.state));
        let response = self.service.clone().call(request);
        ResponseFuture {
            response,
            open_call,
        }
    }
}

pin_project! {
    /// A call that has no response yet.
    pub(crate) struct ResponseFuture<F> {
        #[pin]
        response: F,
        open_call: Option<OpenCall>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<TrackedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.response.poll(cx))?;
        let _open_call = this.open_call.take();
        Poll::Ready(Ok(response.map(|body| TrackedBody { body, _open_call })))
    }
}

pin_project! {
    /// A response that is being sent.
    pub(crate) struct TrackedBody<B> {
        #[pin]
        body: B,
        _open_call: Option<OpenCall>,
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
