//! What goes on over a connection: which calls are open, and since when there is none.

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

use crate::{
    auth::Peer,
    grpc::heard::{Heard, HeardBody},
    telemetry::metrics::CloseReason,
};

/// One connection's.
pub(crate) struct ConnectionState {
    begun: Instant,
    open: AtomicUsize,
    /// When the last call ended, in milliseconds since `begun`.
    idle_since: AtomicU64,
    /// Whether the caller has said as much as a connection begins with.
    has_spoken: AtomicBool,
    /// Whether it had a call.
    has_called: AtomicBool,
    /// How many times its task ran.
    turns: AtomicU64,
    /// Why it was asked to leave, by the first who did.
    leaves: SetOnce<CloseReason>,
}

impl ConnectionState {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            open: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            has_spoken: AtomicBool::new(false),
            has_called: AtomicBool::new(false),
            turns: AtomicU64::new(0),
            leaves: SetOnce::new(),
        }
    }

    /// Since when no call is open; none while one is, or where it was asked to leave.
    pub(crate) fn spare_since(&self) -> Option<Instant> {
        let stays = self.leaves.get().is_none();
        stays.then(|| self.idle_since()).flatten()
    }

    /// Since when no call is open; none while one is.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let idle = self.open.load(Ordering::Relaxed) == 0;
        idle.then(|| self.begun + Duration::from_millis(self.idle_since.load(Ordering::Relaxed)))
    }

    pub(crate) fn has_spoken(&self) -> bool {
        self.has_spoken.load(Ordering::Relaxed)
    }

    pub(crate) fn spoke(&self) {
        self.has_spoken.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_called(&self) -> bool {
        self.has_called.load(Ordering::Relaxed)
    }

    /// Its task runs again.
    pub(crate) fn has_a_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// How many times its task ran.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Asks the connection to leave. False where that was asked before.
    pub(crate) fn ask_to_leave(&self, why: CloseReason) -> bool {
        self.leaves.set(why).is_ok()
    }

    pub(crate) fn makes_room(&self) -> bool {
        self.leaves.get() == Some(&CloseReason::MadeRoom)
    }

    /// Waits until it is asked to leave, and tells why.
    pub(crate) async fn is_to_leave(&self) -> CloseReason {
        *self.leaves.wait().await
    }
}

/// A call that is open, until it is dropped.
struct OpenCall(Arc<ConnectionState>);

impl OpenCall {
    fn of(state: &Arc<ConnectionState>) -> Self {
        state.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let Self(state) = self;
        if state.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            let since = state.begun.elapsed().as_millis();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            state.idle_since.store(since, Ordering::Relaxed);
        }
    }
}

/// A service, each of whose calls is counted as open until its answer is sent.
pub(crate) struct TrackedService<S> {
    pub(crate) service: S,
    pub(crate) state: Arc<ConnectionState>,
    /// Who is at the other end, which each request says.
    pub(crate) peer: Arc<Peer>,
}

impl<S, B> Service<Request<Incoming>> for TrackedService<S>
where
    S: tower_service::Service<Request<HeardBody<Incoming>>, Response = Response<B>> + Clone,
{
    type Response = Response<TrackedBody<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    /// The services are always ready: what has to wait, waits within a call.
    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.state.has_called.store(true, Ordering::Relaxed);
        let heard = Heard::default();
        let extensions = request.extensions_mut();
        extensions.insert(Arc::clone(&self.peer));
        extensions.insert(heard.clone());
        let open = Some(OpenCall::of(&self.state));
        let request = request.map(|body| heard.body(body));
        let answer = self.service.clone().call(request);
        ResponseFuture { answer, open }
    }
}

pin_project! {
    /// A call without an answer yet.
    pub(crate) struct ResponseFuture<F> {
        #[pin]
        answer: F,
        open: Option<OpenCall>,
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<TrackedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx))?;
        let open = this.open.take();
        Poll::Ready(Ok(answer.map(|body| TrackedBody { body, _open: open })))
    }
}

pin_project! {
    /// An answer that is being sent.
    pub(crate) struct TrackedBody<B> {
        #[pin]
        body: B,
        _open: Option<OpenCall>,
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
