//! `ReserveStream`: many requests, answered in their order.
//!
//! The requests that have arrived when the last answers are written are decided together. No more are read until the
//! caller has received the answers: a caller that sends faster than it reads is slowed down by HTTP/2's windows, and
//! uses no more memory here.

use std::time::Duration;

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::{task::yield_now, time::Instant};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use tonic::{Code, Status};

use super::{
    authorization::Permit,
    call::{code_label, is_fault},
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

/// The most requests that are read before the first of them is answered.
const MAX_READ_AHEAD: usize = 256;

/// An open call of `ReserveStream`.
pub(super) struct StreamCall<S> {
    pub(super) requests: S,
    pub(super) ledger: Ledger,
    pub(super) permit: Permit,
    /// How long a request may wait for the store.
    pub(super) item_timeout: Duration,
    /// Cancelled when the service stops: requests that were read are answered, and no more are read.
    pub(super) stopping: CancellationToken,
    pub(super) stats: StreamStats,
    pub(super) _open: TaskTrackerToken,
}

/// The requests that were read together.
struct Round {
    /// The requests, or what is wrong with them.
    requests: Vec<Result<Reserve, Status>>,
    /// How the stream ends after them, if it does.
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
                    call.stats.end = code;
                    (None, end.err())
                }
            };
            Some((stream::iter(answers.chain(failed.map(Err))), call))
        });
        rounds.flatten()
    }

    /// Waits for a request, and reads those that have arrived after it.
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
        // For tonic, a stream that its caller cancelled ends without an error. Then this future is dropped here.
        yield_now().await;
        let end = next.transpose().map(|_| ()).map_err(|status| {
            let status = malformed(&status).unwrap_or(status);
            // An invalid message counts as a request.
            if matches!(status.code(), Code::InvalidArgument | Code::OutOfRange) {
                self.stats.answered(Err(status.code()));
            }
            status
        });
        let end = Some(end);
        Round { requests, end }
    }

    /// Decides the valid requests together. The answers are in the order of all requests.
    async fn decide(
        &mut self,
        requests: Vec<Result<Reserve, Status>>,
    ) -> Vec<ReserveStreamResponse> {
        let (since, count) = (Instant::now(), requests.len());
        let mut valid = Vec::with_capacity(count);
        let faults: Vec<_> = requests
            .into_iter()
            .map(|request| request.map(|it| valid.push(it)).err())
            .collect();
        let ledger = self.ledger.with_deadline(since + self.item_timeout);
        let mut decided = ledger.reserve_all(valid).await.into_iter();
        let result_of = |fault| match fault {
            Some(fault) => Err(fault),
            None => {
                let decided = decided.next().expect("each request has a result");
                decided.map_err(status::status)
            }
        };
        let stats = &mut self.stats;
        let answers = faults.into_iter().map(result_of).map(|result| {
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
        let metrics = &self.stats.metrics;
        metrics.took(Rpc::ReserveStream, since.elapsed(), count as u64);
        answers
    }
}

fn stopped() -> Status {
    Status::unavailable(
        "the service is stopping; a request without an answer was not counted: retry it",
    )
}

/// Counts the answers of an open stream. Its span has no children: a stream may be open for days, and nobody could
/// read such a trace.
pub(super) struct StreamStats {
    metrics: Metrics,
    span: Option<Span>,
    free: i64,
    billed: i64,
    failed: i64,
    /// How the stream ended: CANCELLED unless it is set.
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

    pub(super) fn answered(&mut self, answer: Result<Verdict, Code>) {
        match answer {
            Ok(verdict) => self.metrics.answered(Rpc::ReserveStream, verdict),
            Err(code) => self.metrics.ended(Rpc::ReserveStream, code_label(code)),
        }
        let answers = match answer {
            Ok(Verdict::Free) => &mut self.free,
            Ok(Verdict::Billed(_)) => &mut self.billed,
            Err(_) => &mut self.failed,
        };
        *answers += 1;
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
