//! `ReserveStream`: each connection has one stream, which keeps a window of unanswered requests full.
//!
//! The requests are written by the connection's task and the answers read by the stream's own. The two
//! share no lock: what was sent when stands in a ring, whose places the answers free in their order.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, Stream, task::AtomicWaker};
use tokio::time::{Sleep, sleep, sleep_until, timeout_at};
use tonic::{Code, Request, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery};

use super::{
    load::Course,
    tally::Tally,
    wire::{Requests, StreamAnswer, Wire},
};
use crate::cli::connection::{Caller, RPC_TIMEOUT};

const METHOD: &str = "/tollgate.v1.QuotaService/ReserveStream";

/// How long to wait before a stream that failed is opened anew.
const PAUSE: Duration = Duration::from_millis(100);

/// One connection's stream, opened anew when it fails, until the load's time is over.
pub(super) async fn call(
    channel: Caller,
    requests: Arc<Requests>,
    course: Arc<Course>,
    callers: u32,
) -> Tally {
    let mut client = Grpc::new(channel);
    let mut tally = Tally::new();
    loop {
        let window = Arc::new(Window::new(callers));
        let opened = Instant::now();
        let codec = Wire::new(Arc::clone(&requests));
        let stream = converse(&mut client, codec, &window, &course, &mut tally);
        let patience = course.ends + RPC_TIMEOUT;
        let ended = timeout_at(patience.into(), stream)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the answers are late")));
        let now = Instant::now();
        if let Err(status) = ended {
            // A stream that could not be opened has failed too, though nothing was sent over it.
            if window.sent() == 0 {
                tally.count(opened, now, Err(status.code()));
            }
            for request in window.answered()..window.sent() {
                let due = window.due(request, &course);
                tally.count(due, now, Err(status.code()));
            }
        }
        if now + PAUSE >= course.ends {
            return tally;
        }
        sleep(PAUSE).await;
    }
}

/// Opens a stream, and counts its answers until it ends.
async fn converse(
    client: &mut Grpc<Caller>,
    codec: Wire<StreamAnswer>,
    window: &Arc<Window>,
    course: &Arc<Course>,
    tally: &mut Tally,
) -> Result<(), Status> {
    let ready = client.ready().await;
    ready.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
    let sending = Sending {
        window: Arc::clone(window),
        course: Arc::clone(course),
        claimed: None,
        now: None,
        timer: None,
        over: false,
    };
    let path = PathAndQuery::from_static(METHOD);
    let stream = client.streaming(Request::new(sending), path, codec);
    let mut answers = stream.await?.into_inner();
    loop {
        let first = answers.message().await;
        if let Some(end) = take(first, &mut answers, window, course, tally) {
            return end;
        }
    }
}

/// Takes an answer and those that are there behind it: they came together, and free their places
/// together. Tells whether, and how, the stream ends behind them.
fn take(
    first: Result<Option<StreamAnswer>, Status>,
    answers: &mut Streaming<StreamAnswer>,
    window: &Window,
    course: &Course,
    tally: &mut Tally,
) -> Option<Result<(), Status>> {
    let now = Instant::now();
    let before = window.answered();
    let mut answered = before;
    let mut next = first;
    let end = loop {
        let answer = match next {
            Ok(Some(_)) if answered == window.sent() => {
                break Some(Err(Status::internal("an answer to no request")));
            }
            Ok(Some(answer)) => answer,
            Ok(None) if answered == window.sent() => break Some(Ok(())),
            Ok(None) => break Some(Err(Status::unknown("the stream ended without an answer"))),
            Err(status) => break Some(Err(status)),
        };
        let outcome = match (answer.reserved, answer.error) {
            (Some(reserved), _) => Ok(reserved),
            (None, Some(error)) => Err(Code::from_i32(error.code)),
            (None, None) => Err(Code::Unknown),
        };
        tally.count(window.due(answered, course), now, outcome);
        answered += 1;
        match pin!(answers.message()).now_or_never() {
            Some(there) => next = there,
            None => break None,
        }
    };
    window.free_until(answered);
    course
        .answered
        .fetch_add(answered - before, Ordering::Relaxed);
    end
}

/// The requests of a stream that are sent and not answered.
struct Window {
    /// When each was due, in nanoseconds since the load's start, at the place of its number in this stream.
    due: Box<[AtomicU64]>,
    /// How many were sent. Only the sending side writes it, after the request's place.
    sent: AtomicU64,
    /// How many were answered. Only the reading side writes it, when it needs their places no more.
    answered: AtomicU64,
    /// The sending side, where it waits for a place.
    waiting: AtomicWaker,
}

impl Window {
    fn new(size: u32) -> Self {
        Self {
            due: (0..size).map(|_| AtomicU64::new(0)).collect(),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            waiting: AtomicWaker::new(),
        }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    fn place(&self, request: u64) -> &AtomicU64 {
        &self.due[(request % self.due.len() as u64) as usize]
    }

    fn due(&self, request: u64, course: &Course) -> Instant {
        let nanos = self.place(request).load(Ordering::Relaxed);
        course.started + Duration::from_nanos(nanos)
    }

    /// Becomes ready when a request may be sent.
    fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        let full = || self.sent() - self.answered() >= self.due.len() as u64;
        if !full() {
            return Poll::Ready(());
        }
        self.waiting.register(context.waker());
        // An answer that came in between has waked nobody.
        if full() {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Notes a request before it is sent.
    fn send(&self, due: Instant, course: &Course) {
        let sent = self.sent();
        let since_start = due.saturating_duration_since(course.started);
        let nanos = since_start.as_nanos() as u64;
        self.place(sent).store(nanos, Ordering::Relaxed);
        self.sent.store(sent + 1, Ordering::Release);
    }

    fn free_until(&self, answered: u64) {
        self.answered.store(answered, Ordering::Release);
        self.waiting.wake();
    }
}

/// The requests of a stream, as they become due and the window has room.
struct Sending {
    window: Arc<Window>,
    course: Arc<Course>,
    /// The number of a request that is not due yet.
    claimed: Option<u64>,
    /// The time, read once for all requests that are written together.
    now: Option<Instant>,
    /// For an open loop.
    timer: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl Sending {
    /// The next request's number; none when the load's time is over.
    fn poll_next_number(&mut self, context: &mut Context<'_>) -> Poll<Option<u64>> {
        ready!(self.window.poll_room(context));
        let course = &*self.course;
        let number = self.claimed.unwrap_or_else(|| course.claim());
        let now = *self.now.get_or_insert_with(Instant::now);
        let due = course.due(number).unwrap_or(now);
        if due > now {
            self.claimed = Some(number);
            let until = due.min(course.ends).into();
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(context));
        }
        self.claimed = None;
        if due >= course.ends {
            return Poll::Ready(None);
        }
        self.window.send(due, course);
        Poll::Ready(Some(number))
    }
}

impl Stream for Sending {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<u64>> {
        if self.over {
            return Poll::Ready(None);
        }
        let next = self.poll_next_number(context);
        match next {
            Poll::Pending => self.now = None,
            Poll::Ready(None) => self.over = true,
            Poll::Ready(Some(_)) => {}
        }
        next
    }
}
