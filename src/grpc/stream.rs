//! `ReserveStream`: many requests, each answered in its place.
//!
//! What has come in by the time the last answers are written is decided together. Nothing more is read
//! until these have their answers and the caller has taken them: HTTP/2's windows, not our memory, hold
//! back a caller who sends faster than it reads.

use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::{task::yield_now, time::Instant};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use tonic::{Code, Status};

use super::{
    authorization::Permit,
    call::{counted, is_fault},
    convert,
    proto::{
        ItemError, ReserveRequest, ReserveStreamResponse, reserve_stream_response::Answer as Wire,
    },
    status::{self, malformed},
};
use crate::{
    domain::Verdict,
    ledger::{Ledger, Reserve},
    telemetry::{
        metrics::{Metrics, OpenStream, Rpc},
        traces::{self, Span},
    },
};

/// How many requests are read before the first of them is answered, at most.
const MAX_READ_AHEAD: usize = 256;

/// A call of `ReserveStream`, between two rounds of reading and answering.
pub(super) struct StreamCall<S> {
    pub(super) requests: S,
    pub(super) ledger: Ledger,
    /// What the caller may.
    pub(super) permit: Permit,
    /// How long a request that was read waits for the store.
    pub(super) item_timeout: Duration,
    /// Set when the service stops: what was read is answered, and no more is read.
    pub(super) stopping: CancellationToken,
    pub(super) stats: StreamStats,
    /// Held while the call is open.
    pub(super) _open: TaskTrackerToken,
}

/// What one round of reading found.
struct Round {
    /// The requests, or what is wrong with them.
    requests: Vec<Result<Reserve, Status>>,
    /// Whether, and how, the stream ends behind them.
    end: Option<Result<(), Status>>,
}

impl<S> StreamCall<S>
where
    S: Stream<Item = Result<ReserveRequest, Status>> + Unpin,
{
    /// The answers, in the order of the requests.
    pub(super) fn answers(self) -> impl Stream<Item = Result<ReserveStreamResponse, Status>> {
        let rounds = stream::unfold(Some(self), |call| async {
            let mut call = call?;
            let Round { requests, end } = call.read().await;
            let answers = call.decide(requests).await.into_iter().map(Ok);
            let (call, failed) = match end {
                None => (Some(call), None),
                Some(end) => {
                    let code = end.as_ref().err().map_or(Code::Ok, Status::code);
                    call.stats.ended(code);
                    (None, end.err())
                }
            };
            Some((stream::iter(answers.chain(failed.map(Err))), call))
        });
        rounds.flatten()
    }

    /// Waits for a request, and takes those that are there behind it.
    async fn read(&mut self) -> Round {
        let mut requests = Vec::new();
        let mut next = tokio::select! {
            biased;
            next = self.requests.next() => next,
            () = self.stopping.cancelled() => return Round { requests, end: Some(Err(stopped())) },
        };
        if let Some(Ok(_)) = next
            && let Err(status) = self.permit.renew()
        {
            let end = Some(Err(status));
            return Round { requests, end };
        }
        while let Some(Ok(request)) = next {
            requests.push(convert::reserve(request, &self.permit));
            let ready = match requests.len() {
                MAX_READ_AHEAD => None,
                _ => self.requests.next().now_or_never(),
            };
            let Some(ready) = ready else {
                let end = self.stopping.is_cancelled().then(|| Err(stopped()));
                return Round { requests, end };
            };
            next = ready;
        }
        // A stream that its caller cancelled looks as if it were over. Then it is dropped here.
        yield_now().await;
        let end = next.transpose().map(|_| ()).map_err(|status| {
            let status = malformed(&status).unwrap_or(status);
            if is_of_a_message(&status) {
                self.stats.answered(Err(status.code()));
            }
            status
        });
        let end = Some(end);
        Round { requests, end }
    }

    /// Decides those that are faultless, together; each answer is in the place of its request.
    async fn decide(
        &mut self,
        requests: Vec<Result<Reserve, Status>>,
    ) -> Vec<ReserveStreamResponse> {
        let (since, count) = (Instant::now(), requests.len());
        let mut faults = Vec::with_capacity(count);
        let mut faultless = Vec::with_capacity(count);
        for request in requests {
            match request {
                Ok(request) => {
                    faultless.push(request);
                    faults.push(None);
                }
                Err(fault) => faults.push(Some(fault)),
            }
        }
        let ledger = self.ledger.with_deadline(since + self.item_timeout);
        let mut decided = ledger.reserve_all(faultless).await.into_iter();
        let in_its_place = |fault| match fault {
            Some(fault) => Err(fault),
            None => {
                let decided = decided.next().expect("each request has a result");
                decided.map_err(status::status)
            }
        };
        let stats = &mut self.stats;
        let answers = faults.into_iter().map(in_its_place).map(|result| {
            let verdict = result.as_ref().map(|reserved| reserved.verdict);
            stats.answered(verdict.map_err(Status::code));
            let answer = match result {
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
        self.stats.took(since.into_std(), count);
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

/// What a stream's requests were answered, while it is open. Its span has no children: a stream may live for
/// days, and would make a trace that nobody can read.
pub(super) struct StreamStats {
    metrics: Metrics,
    span: Option<Span>,
    free: i64,
    billed: i64,
    failed: i64,
    /// How the stream ended: CANCELLED unless [`StreamStats::ended`] is called.
    end: Code,
    _open: OpenStream,
}

impl StreamStats {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            metrics: metrics.clone(),
            span: traces::current(),
            free: 0,
            billed: 0,
            failed: 0,
            end: Code::Cancelled,
            _open: metrics.stream_opened(),
        }
    }

    /// A request was answered so.
    pub(super) fn answered(&mut self, answer: Result<Verdict, Code>) {
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
    pub(super) fn ended(&mut self, end: Code) {
        self.end = end;
    }

    /// So many requests, which came together, were answered together.
    pub(super) fn took(&self, since: std::time::Instant, requests: usize) {
        let requests = requests as u64;
        self.metrics
            .took(Rpc::ReserveStream, since.elapsed(), requests);
    }
}

impl Drop for StreamStats {
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
