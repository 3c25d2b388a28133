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

use crate::{auth::Peer, telemetry::metrics::Closing};

/// One connection's.
pub(crate) struct Activity {
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
    leaves: SetOnce<Closing>,
}

impl Activity {
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
    pub(crate) fn ask_to_leave(&self, why: Closing) -> bool {
        self.leaves.set(why).is_ok()
    }

    pub(crate) fn makes_room(&self) -> bool {
        self.leaves.get() == Some(&Closing::MadeRoom)
    }

    /// Waits until it is asked to leave, and tells why.
    pub(crate) async fn is_to_leave(&self) -> Closing {
        *self.leaves.wait().await
    }
}

/// A call that is open, until it is dropped.
struct Open(Arc<Activity>);

impl Open {
    fn of(activity: &Arc<Activity>) -> Self {
        activity.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Self(activity) = self;
        if activity.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            let since = activity.begun.elapsed().as_millis();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            activity.idle_since.store(since, Ordering::Relaxed);
        }
    }
}

/// A service, each of whose calls is counted as open until its answer is sent.
pub(crate) struct Counted<S> {
    pub(crate) service: S,
    pub(crate) activity: Arc<Activity>,
    /// Who is at the other end, which each request says.
    pub(crate) peer: Arc<Peer>,
}

impl<S, B> Service<Request<Incoming>> for Counted<S>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    /// The services are always ready: what has to wait, waits within a call.
    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.activity.has_called.store(true, Ordering::Relaxed);
        let peer = Arc::clone(&self.peer);
        request.extensions_mut().insert(peer);
        let open = Some(Open::of(&self.activity));
        let answer = self.service.clone().call(request);
        Answering { answer, open }
    }
}

pin_project! {
    /// A call without an answer yet.
    pub(crate) struct Answering<F> {
        #[pin]
        answer: F,
        open: Option<Open>,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx))?;
        let open = this.open.take();
        Poll::Ready(Ok(answer.map(|body| CountedBody { body, _open: open })))
    }
}

pin_project! {
    /// An answer that is being sent.
    pub(crate) struct CountedBody<B> {
        #[pin]
        body: B,
        _open: Option<Open>,
    }
}

impl<B: Body> Body for CountedBody<B> {
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
