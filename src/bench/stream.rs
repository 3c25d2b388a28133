//! `ReserveStream`: one stream a connection, with a fixed number of requests in flight.
//!
//! The connection's task writes the requests and the stream's task reads the responses. They share a lock-free ring of
//! due times, whose slots are freed in the order of the responses.

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
    codec::{PartialStreamResponse, RequestCodec, Requests},
    measurements::Measurements,
    schedule::Schedule,
};
use crate::client::connection::{AuthorizedChannel, RPC_TIMEOUT};

const METHOD: &str = "/tollgate.v1.QuotaService/ReserveStream";

/// Wait before a failed stream is opened again.
const REOPEN_INTERVAL: Duration = Duration::from_millis(100);

/// Runs one connection's stream until the load ends. Reopens it when it fails.
pub(super) async fn call(
    channel: AuthorizedChannel,
    requests: Arc<Requests>,
    schedule: Arc<Schedule>,
    callers: u32,
) -> Measurements {
    let mut client = Grpc::new(channel);
    let mut measurements = Measurements::new();
    loop {
        let in_flight = Arc::new(InFlight::new(callers));
        let opened = Instant::now();
        let codec = RequestCodec::new(Arc::clone(&requests));
        let stream = run_stream(&mut client, codec, &in_flight, &schedule, &mut measurements);
        let deadline = schedule.ends + RPC_TIMEOUT;
        let ended = timeout_at(deadline.into(), stream)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the answers are late")));
        let now = Instant::now();
        if let Err(status) = ended {
            // A stream that could not be opened counts as a failure too.
            if in_flight.sent() == 0 {
                measurements.count(opened, now, Err(status.code()));
            }
            for request in in_flight.answered()..in_flight.sent() {
                let due = in_flight.due(request, &schedule);
                measurements.count(due, now, Err(status.code()));
            }
        }
        if now + REOPEN_INTERVAL >= schedule.ends {
            return measurements;
        }
        sleep(REOPEN_INTERVAL).await;
    }
}

/// Opens a stream and counts its responses until it ends.
async fn run_stream(
    client: &mut Grpc<AuthorizedChannel>,
    codec: RequestCodec<PartialStreamResponse>,
    in_flight: &Arc<InFlight>,
    schedule: &Arc<Schedule>,
    measurements: &mut Measurements,
) -> Result<(), Status> {
    let ready = client.ready().await;
    ready.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
    let requests = RequestStream {
        in_flight: Arc::clone(in_flight),
        schedule: Arc::clone(schedule),
        claimed: None,
        now: None,
        timer: None,
        is_over: false,
    };
    let path = PathAndQuery::from_static(METHOD);
    let stream = client.streaming(Request::new(requests), path, codec);
    let mut responses = stream.await?.into_inner();
    loop {
        let first = responses.message().await;
        if let Some(end) = count_ready(first, &mut responses, in_flight, schedule, measurements) {
            return end;
        }
    }
}

/// Counts a response and all others that have arrived, then frees their slots together. Returns how the stream ended,
/// if it did.
fn count_ready(
    first: Result<Option<PartialStreamResponse>, Status>,
    responses: &mut Streaming<PartialStreamResponse>,
    in_flight: &InFlight,
    schedule: &Schedule,
    measurements: &mut Measurements,
) -> Option<Result<(), Status>> {
    let now = Instant::now();
    let before = in_flight.answered();
    let mut answered = before;
    let mut next = first;
    let end = loop {
        let response = match next {
            Ok(Some(_)) if answered == in_flight.sent() => {
                break Some(Err(Status::internal("an answer to no request")));
            }
            Ok(Some(response)) => response,
            Ok(None) if answered == in_flight.sent() => break Some(Ok(())),
            Ok(None) => break Some(Err(Status::unknown("the stream ended without an answer"))),
            Err(status) => break Some(Err(status)),
        };
        let outcome = match (response.reserved, response.error) {
            (Some(reserved), _) => Ok(reserved),
            (None, Some(error)) => Err(Code::from_i32(error.code)),
            (None, None) => Err(Code::Unknown),
        };
        measurements.count(in_flight.due(answered, schedule), now, outcome);
        answered += 1;
        match pin!(responses.message()).now_or_never() {
            Some(message) => next = message,
            None => break None,
        }
    };
    in_flight.free_until(answered);
    schedule
        .answered
        .fetch_add(answered - before, Ordering::Relaxed);
    end
}

/// The unanswered requests of a stream: a ring of due times.
struct InFlight {
    /// When each was due, in nanoseconds since the load's start, by its number in this stream.
    due: Box<[AtomicU64]>,
    /// Written by the sending side, after the slot.
    sent: AtomicU64,
    /// Written by the reading side, after it has read the slots.
    answered: AtomicU64,
    /// Wakes the sending side when a slot is free.
    sender: AtomicWaker,
}

impl InFlight {
    fn new(size: u32) -> Self {
        Self {
            due: (0..size).map(|_| AtomicU64::new(0)).collect(),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            sender: AtomicWaker::new(),
        }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }

    fn slot(&self, request: u64) -> &AtomicU64 {
        &self.due[(request % self.due.len() as u64) as usize]
    }

    fn due(&self, request: u64, schedule: &Schedule) -> Instant {
        let nanos = self.slot(request).load(Ordering::Relaxed);
        schedule.started + Duration::from_nanos(nanos)
    }

    /// Ready when there is a free slot.
    fn poll_slot(&self, context: &Context<'_>) -> Poll<()> {
        let full = || self.sent() - self.answered() >= self.due.len() as u64;
        if !full() {
            return Poll::Ready(());
        }
        self.sender.register(context.waker());
        // A slot that was freed before the registration caused no wake-up.
        if full() {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Records a request before it is sent.
    fn record(&self, due: Instant, schedule: &Schedule) {
        let sent = self.sent();
        let since_start = due.saturating_duration_since(schedule.started);
        let nanos = since_start.as_nanos() as u64;
        self.slot(sent).store(nanos, Ordering::Relaxed);
        self.sent.store(sent + 1, Ordering::Release);
    }

    fn free_until(&self, answered: u64) {
        self.answered.store(answered, Ordering::Release);
        self.sender.wake();
    }
}

/// The requests of a stream, as they become due and a slot is free.
struct RequestStream {
    in_flight: Arc<InFlight>,
    schedule: Arc<Schedule>,
    /// A request that is not due yet.
    claimed: Option<u64>,
    /// Read once for all requests of one write.
    now: Option<Instant>,
    /// Open loop only.
    timer: Option<Pin<Box<Sleep>>>,
    is_over: bool,
}

impl RequestStream {
    /// The next request's number; none when the load has ended.
    fn poll_next_number(&mut self, context: &mut Context<'_>) -> Poll<Option<u64>> {
        ready!(self.in_flight.poll_slot(context));
        let schedule = &*self.schedule;
        let number = self.claimed.unwrap_or_else(|| schedule.claim());
        let now = *self.now.get_or_insert_with(Instant::now);
        let due = schedule.due(number).unwrap_or(now);
        if due > now {
            self.claimed = Some(number);
            let until = due.min(schedule.ends).into();
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(context));
        }
        self.claimed = None;
        if due >= schedule.ends {
            return Poll::Ready(None);
        }
        self.in_flight.record(due, schedule);
        Poll::Ready(Some(number))
    }
}

impl Stream for RequestStream {
    type Item = u64;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<u64>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = self.poll_next_number(context);
        match next {
            Poll::Pending => self.now = None,
            Poll::Ready(None) => self.is_over = true,
            Poll::Ready(Some(_)) => {}
        }
        next
    }
}
