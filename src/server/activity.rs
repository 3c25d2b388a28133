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
use tokio::{sync::Notify, time::Instant};

use crate::{
    callers::Peer,
    grpc::heard::{Heard, HeardBody},
};

/// One connection's.
pub(super) struct Activity {
    begun: Instant,
    open: AtomicUsize,
    /// When the last call ended, in milliseconds since `begun`.
    idle_since: AtomicU64,
    /// Whether the caller has said as much as a connection begins with.
    has_spoken: AtomicBool,
    /// How many calls ended before their answers did.
    cancelled: AtomicU64,
    /// Whether it was asked to close.
    is_to_close: AtomicBool,
    makes_room: Notify,
    cancels_too_much: Notify,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            open: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            has_spoken: AtomicBool::new(false),
            cancelled: AtomicU64::new(0),
            is_to_close: AtomicBool::new(false),
            makes_room: Notify::new(),
            cancels_too_much: Notify::new(),
        }
    }

    /// Since when no call is open; none while one is, or where it was asked to close.
    pub(super) fn spare_since(&self) -> Option<Instant> {
        self.idle_since().filter(|_| !self.is_to_close())
    }

    pub(super) fn is_to_close(&self) -> bool {
        self.is_to_close.load(Ordering::Relaxed)
    }

    /// Since when no call is open; none while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let idle = self.open.load(Ordering::Relaxed) == 0;
        idle.then(|| self.begun + Duration::from_millis(self.idle_since.load(Ordering::Relaxed)))
    }

    pub(super) fn has_spoken(&self) -> bool {
        self.has_spoken.load(Ordering::Relaxed)
    }

    pub(super) fn spoke(&self) {
        self.has_spoken.store(true, Ordering::Relaxed);
    }

    /// Asks the connection to close, since others need its place.
    pub(super) fn make_room(&self) {
        self.is_to_close.store(true, Ordering::Relaxed);
        self.makes_room.notify_one();
    }

    /// Waits for that.
    pub(super) async fn room_is_wanted(&self) {
        self.makes_room.notified().await;
    }

    /// How many calls ended before their answers did: mostly since their caller wanted none any more.
    pub(super) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Asks the connection to close, since these are too many.
    pub(super) fn cancels_too_much(&self) {
        self.cancels_too_much.notify_one();
    }

    /// Waits for that.
    pub(super) async fn too_much_is_cancelled(&self) {
        self.cancels_too_much.notified().await;
    }
}

/// A call that is open, until it is dropped.
pub(super) struct Open {
    activity: Arc<Activity>,
    /// Whether all of its answer was given.
    pub(super) is_answered: bool,
}

impl Open {
    pub(super) fn of(activity: &Arc<Activity>) -> Self {
        activity.open.fetch_add(1, Ordering::Relaxed);
        Self {
            activity: Arc::clone(activity),
            is_answered: false,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Self {
            activity,
            is_answered,
        } = self;
        if !*is_answered {
            activity.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        if activity.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            let since = activity.begun.elapsed().as_millis();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            activity.idle_since.store(since, Ordering::Relaxed);
        }
    }
}

/// A service, each of whose calls is counted as open until its answer is sent.
pub(super) struct Counted<S> {
    pub(super) service: S,
    pub(super) activity: Arc<Activity>,
    /// Who is at the other end, which each request says.
    pub(super) peer: Arc<Peer>,
}

impl<S, B> Service<Request<Incoming>> for Counted<S>
where
    S: tower_service::Service<Request<HeardBody<Incoming>>, Response = Response<B>> + Clone,
    B: Body,
{
    type Response = Response<CountedBody<B>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    /// The services are always ready: what has to wait, waits within a call.
    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let heard = Heard::default();
        let extensions = request.extensions_mut();
        extensions.insert(Arc::clone(&self.peer));
        extensions.insert(heard.clone());
        let open = Some(Open::of(&self.activity));
        let request = request.map(|body| heard.body(body));
        let answer = self.service.clone().call(request);
        Answering {
            answer,
            open,
            heard,
        }
    }
}

pin_project! {
    /// A call without an answer yet.
    pub(super) struct Answering<F> {
        #[pin]
        answer: F,
        open: Option<Open>,
        heard: Heard,
    }
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<CountedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(cx))?;
        let mut open = this.open.take();
        if let Some(open) = &mut open {
            open.is_answered = answer.body().is_end_stream() && !this.heard.hung_up();
        }
        Poll::Ready(Ok(answer.map(|body| CountedBody { body, open })))
    }
}

pin_project! {
    /// An answer that is being sent.
    pub(super) struct CountedBody<B> {
        #[pin]
        body: B,
        open: Option<Open>,
    }
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let is_last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || this.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if let Some(open) = this.open.as_mut().filter(|_| is_last) {
            open.is_answered = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
