//! `ReserveStream`: many requests, each answered in its place.
//!
//! What has come in by the time the last answers are written is decided together. Nothing more is read
//! until these have their answers and the caller has taken them: HTTP/2's windows, not our memory, hold
//! back a caller who sends faster than it reads.

use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use tonic::{Code, Status};

use super::{
    access::Permit,
    convert, errors,
    heard::Heard,
    observed::Tally,
    proto::{
        ItemError, ReserveRequest, ReserveStreamResponse, reserve_stream_response::Answer as Wire,
    },
};
use crate::ledger::{Ledger, ReserveCall};

/// How many requests are read before the first of them is answered, at most.
const MOST_AT_ONCE: usize = 256;

/// A call of `ReserveStream`, between two rounds of reading and answering.
pub(super) struct Call<S> {
    pub(super) requests: S,
    pub(super) ledger: Ledger,
    /// What the caller may.
    pub(super) permit: Permit,
    /// How long a request that was read waits for the store.
    pub(super) item_timeout: Duration,
    /// Set when the service stops: what was read is answered, and no more is read.
    pub(super) stopping: CancellationToken,
    /// Counts the answers.
    pub(super) tally: Tally,
    /// Whether the caller hung up: that looks like an end of the requests.
    pub(super) heard: Option<Heard>,
    /// Held while the call is open.
    pub(super) _open: TaskTrackerToken,
}

/// What one round of reading found.
struct Round {
    /// The requests, or what is wrong with them.
    calls: Vec<Result<ReserveCall, Status>>,
    /// Whether, and how, the stream ends behind them.
    end: Option<Result<(), Status>>,
}

impl<S> Call<S>
where
    S: Stream<Item = Result<ReserveRequest, Status>> + Unpin,
{
    /// The answers, in the order of the requests.
    pub(super) fn answers(self) -> impl Stream<Item = Result<ReserveStreamResponse, Status>> {
        let rounds = stream::unfold(Some(self), |call| async {
            let mut call = call?;
            let Round { calls, end } = call.read().await;
            let answers = call.decide(calls).await.into_iter().map(Ok);
            let (call, failed) = match end {
                None => (Some(call), None),
                Some(end) => {
                    if !call.hung_up() {
                        let code = end.as_ref().err().map_or(Code::Ok, Status::code);
                        call.tally.ended(code);
                    }
                    (None, end.err())
                }
            };
            Some((stream::iter(answers.chain(failed.map(Err))), call))
        });
        rounds.flatten()
    }

    fn hung_up(&self) -> bool {
        self.heard.as_ref().is_some_and(Heard::hung_up)
    }

    /// Waits for a request, and takes those that are there behind it.
    async fn read(&mut self) -> Round {
        let mut calls = Vec::new();
        let mut read = tokio::select! {
            biased;
            read = self.requests.next() => read,
            () = self.stopping.cancelled() => return Round { calls, end: Some(Err(stopped())) },
        };
        if let Some(Ok(_)) = read
            && let Err(status) = self.permit.refresh()
        {
            let end = Some(Err(status));
            return Round { calls, end };
        }
        loop {
            match read {
                None => {
                    return Round {
                        calls,
                        end: Some(Ok(())),
                    };
                }
                Some(Err(status)) => {
                    let status = errors::bad_message(&status).unwrap_or(status);
                    if is_of_a_message(&status) && !self.hung_up() {
                        self.tally.answered(Err(status.code()));
                    }
                    let end = Some(Err(status));
                    return Round { calls, end };
                }
                Some(Ok(request)) => calls.push(convert::reserve_call(request, &self.permit)),
            }
            if calls.len() == MOST_AT_ONCE {
                break;
            }
            let Some(ready) = self.requests.next().now_or_never() else {
                break;
            };
            read = ready;
        }
        let end = self.stopping.is_cancelled().then(|| Err(stopped()));
        Round { calls, end }
    }

    /// Decides those that are faultless, together; each answer is in the place of its request.
    async fn decide(
        &mut self,
        calls: Vec<Result<ReserveCall, Status>>,
    ) -> Vec<ReserveStreamResponse> {
        let (since, requests) = (Instant::now(), calls.len());
        let mut faults = Vec::with_capacity(requests);
        let mut faultless = Vec::with_capacity(calls.len());
        for call in calls {
            match call {
                Ok(call) => {
                    faultless.push(call);
                    faults.push(None);
                }
                Err(fault) => faults.push(Some(fault)),
            }
        }
        let ledger = self.ledger.by(since + self.item_timeout);
        let mut decided = ledger.reserve_all(faultless).await.into_iter();
        let in_its_place = |fault| match fault {
            Some(fault) => Err(fault),
            None => {
                let decided = decided.next().expect("each call has a result");
                decided.map_err(errors::status)
            }
        };
        let tally = &mut self.tally;
        let answers = faults.into_iter().map(in_its_place).map(|answer| {
            let told = answer.as_ref().map(|reserved| reserved.verdict);
            tally.answered(told.map_err(Status::code));
            let answer = match answer {
                Ok(reserved) => Wire::Reserved(convert::reserve_response(reserved)),
                Err(status) => Wire::Error(ItemError {
                    code: status.code().into(),
                    message: status.message().to_owned(),
                }),
            };
            ReserveStreamResponse {
                answer: Some(answer),
            }
        });
        let answers = answers.collect();
        self.tally.took(since.into_std(), requests);
        answers
    }
}

/// Whether a stream ends for a message that can't be taken: that one was a request, too.
fn is_of_a_message(status: &Status) -> bool {
    matches!(status.code(), Code::InvalidArgument | Code::OutOfRange)
}

fn stopped() -> Status {
    Status::unavailable("the service is stopping; what has no answer was not counted: ask another")
}
