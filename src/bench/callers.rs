//! The callers of a load: unary calls, or a stream a connection with a fixed number of requests in flight.

use std::{
    marker::PhantomData,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt as _,
    stream::{self, Stream, StreamExt as _},
};
use tokio::{
    sync::mpsc,
    task::unconstrained,
    time::{sleep, timeout_at},
};
use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery};

use super::{
    report::Measurements,
    requests::{PartialResponse, PartialStreamResponse, RequestCodec, Requests},
    schedule::Schedule,
};
use crate::client::connection::{AuthorizedChannel, RPC_TIMEOUT};

/// Wait before a failed stream is opened again.
const REOPEN_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of responses that are counted together.
const MAX_CHUNK: usize = 256;

/// Runs one caller of unary `Reserve` until the load ends.
pub(super) async fn call(
    channel: AuthorizedChannel,
    requests: Arc<Requests>,
    schedule: Arc<Schedule>,
) -> Measurements {
    let mut client = Grpc::new(channel);
    let mut measurements = Measurements::new();
    while let Some((number, due)) = schedule.next().await {
        let answer = reserve(&mut client, Arc::clone(&requests), number).await;
        let outcome = answer.map_err(|status| status.code());
        measurements.count(due, Instant::now(), outcome);
        schedule.answered.fetch_add(1, Ordering::Relaxed);
    }
    measurements
}

async fn reserve(
    client: &mut Grpc<AuthorizedChannel>,
    requests: Arc<Requests>,
    number: u64,
) -> Result<PartialResponse, Status> {
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/tollgate.v1.QuotaService/Reserve");
    let codec = RequestCodec {
        requests,
        answers: PhantomData,
    };
    let answer = client.unary(Request::new(number), path, codec).await?;
    Ok(answer.into_inner())
}

/// Runs one connection's `ReserveStream` until the load ends. Reopens it when it fails.
pub(super) async fn stream(
    channel: AuthorizedChannel,
    requests: Arc<Requests>,
    schedule: Arc<Schedule>,
    callers: u32,
) -> Measurements {
    let mut client = Grpc::new(channel);
    let mut measurements = Measurements::new();
    loop {
        let (in_flight, mut dues) = mpsc::channel(callers as usize);
        let opened = Instant::now();
        let counted = measurements.latencies.len();
        let numbers = due_numbers(Arc::clone(&schedule), in_flight);
        let codec = RequestCodec {
            requests: Arc::clone(&requests),
            answers: PhantomData,
        };
        let streaming = run_stream(
            &mut client,
            codec,
            numbers,
            &mut dues,
            &schedule,
            &mut measurements,
        );
        let deadline = schedule.ends + RPC_TIMEOUT;
        let ended = timeout_at(deadline.into(), streaming)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the answers are late")));
        let now = Instant::now();
        if let Err(status) = ended {
            dues.close();
            while let Ok(due) = dues.try_recv() {
                measurements.count(due, now, Err(status.code()));
            }
            // A stream that could not be opened counts as a failure too.
            if measurements.latencies.len() == counted {
                measurements.count(opened, now, Err(status.code()));
            }
        }
        if now + REOPEN_INTERVAL >= schedule.ends {
            return measurements;
        }
        sleep(REOPEN_INTERVAL).await;
    }
}

/// The numbers of a stream's requests, as they become due. `in_flight` takes the due time of each, and has a place for
/// each caller.
fn due_numbers(
    schedule: Arc<Schedule>,
    in_flight: mpsc::Sender<Instant>,
) -> impl Stream<Item = u64> + Send + 'static {
    stream::unfold((schedule, in_flight), |state| async move {
        let (schedule, in_flight) = &state;
        let place = in_flight.reserve().await.ok()?;
        let (number, due) = schedule.next().await?;
        place.send(due);
        Some((number, state))
    })
}

/// Opens a stream and counts its responses, which have the order of the requests, until it ends.
async fn run_stream(
    client: &mut Grpc<AuthorizedChannel>,
    codec: RequestCodec<PartialStreamResponse>,
    numbers: impl Stream<Item = u64> + Send + 'static,
    dues: &mut mpsc::Receiver<Instant>,
    schedule: &Schedule,
    measurements: &mut Measurements,
) -> Result<(), Status> {
    let ready = client.ready().await;
    ready.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static("/tollgate.v1.QuotaService/ReserveStream");
    let opened = client.streaming(Request::new(numbers), path, codec).await;
    let mut responses = opened?.into_inner().ready_chunks(MAX_CHUNK);
    while let Some(responses) = responses.next().await {
        let now = Instant::now();
        let answered = responses.iter().filter(|it| it.is_ok()).count();
        let mut due = Vec::with_capacity(answered);
        // Frees their places together, so that the next requests share a write.
        unconstrained(dues.recv_many(&mut due, answered)).now_or_never();
        schedule
            .answered
            .fetch_add(answered as u64, Ordering::Relaxed);
        let mut due = due.into_iter();
        for response in responses {
            let response = response?;
            let due = due.next();
            let due = due.ok_or_else(|| Status::internal("an answer to no request"))?;
            let outcome = match (response.reserved, response.error) {
                (Some(reserved), _) => Ok(reserved),
                (None, Some(error)) => Err(Code::from_i32(error.code)),
                (None, None) => Err(Code::Unknown),
            };
            measurements.count(due, now, outcome);
        }
    }
    match dues.is_empty() {
        true => Ok(()),
        false => Err(Status::unknown("the stream ended without an answer")),
    }
}
