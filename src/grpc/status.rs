//! From errors to statuses (docs/CONTRACT.md, "Errors").

use std::time::Instant;

use tonic::{Code, Status};

use crate::{
    domain::Refusal,
    ledger::LedgerError,
    store::StoreError,
    telemetry::{LogLimit, traces::trace_id},
};

/// The message of a status for a defect of ours: no details.
const INTERNAL: &str = "an internal error; the service's log has the details";

static STORE_FAILURES: LogLimit = LogLimit::new();
static DEFECTS: LogLimit = LogLimit::new();
static SHED_CALLS: LogLimit = LogLimit::new();

/// How to retry, in the message of a status.
#[derive(Debug, Clone, Copy)]
enum RetryAdvice {
    WithRequestId,
    AsQuery,
}

/// The status of a call that decides.
pub(super) fn status(error: LedgerError) -> Status {
    to_status(error, RetryAdvice::WithRequestId)
}

/// The status of a call that only reads, which has no `request_id`.
pub(super) fn query_status(error: LedgerError) -> Status {
    to_status(error, RetryAdvice::AsQuery)
}

/// The one place where errors become statuses.
fn to_status(error: LedgerError, advice: RetryAdvice) -> Status {
    let message = error.to_string();
    match error {
        LedgerError::Refused(Refusal::OtherFields { .. } | Refusal::OtherAmount { .. }) => {
            Status::already_exists(message)
        }
        LedgerError::Refused(Refusal::Released | Refusal::Settled) => {
            Status::failed_precondition(message)
        }
        LedgerError::Refused(Refusal::UnknownRequestId) | LedgerError::UnknownOrganization => {
            Status::not_found(message)
        }
        LedgerError::DayNotKept { .. } | LedgerError::CounterOverflow(_) => {
            Status::out_of_range(message)
        }
        // The outage is in the log already.
        LedgerError::Down(_) => advice.counted_nothing(&message),
        LedgerError::Store(
            ref error @ (StoreError::Unreachable { .. }
            | StoreError::Refused { .. }
            | StoreError::Unsuitable { .. }),
        ) => {
            log_failure(&message);
            advice.counted_nothing(&format!(
                "the store does not serve: {}",
                error.public_message()
            ))
        }
        LedgerError::ClockUnstable => {
            log_failure(&message);
            advice.counted_nothing(&message)
        }
        LedgerError::Store(ref error @ StoreError::OutcomeUnknown { .. }) => {
            log_failure(&message);
            advice.outcome_unknown(&format!(
                "the store did not answer: {}",
                error.public_message()
            ))
        }
        LedgerError::OutOfTime => {
            log_failure(&message);
            advice.outcome_unknown("the store did not answer in time")
        }
        LedgerError::Overloaded => {
            if let Some(left_out) = SHED_CALLS.admit(Instant::now()) {
                tracing::warn!(
                    left_out,
                    trace_id = trace_id(),
                    "calls are shed: too many wait for the store"
                );
            }
            Status::resource_exhausted(
                "too many decisions wait for the store; this call counted nothing: try again later",
            )
        }
        LedgerError::Store(StoreError::Corrupt { .. }) | LedgerError::TaskPanicked => {
            if let Some(left_out) = DEFECTS.admit(Instant::now()) {
                tracing::error!(
                    error = message,
                    left_out,
                    trace_id = trace_id(),
                    "a call failed"
                );
            }
            Status::internal(INTERNAL)
        }
    }
}

/// Maps tonic's status for a malformed message to one that blames the caller; none for any other status. INTERNAL is
/// for our defects only, and RESOURCE_EXHAUSTED for calls that can be retried: a message that is too large once
/// decompressed stays too large.
pub(super) fn malformed(status: &Status) -> Option<Status> {
    let why = status.message();
    match status.code() {
        Code::Internal if why != INTERNAL => Some(Status::invalid_argument(format!(
            "the call is malformed: {why}"
        ))),
        Code::ResourceExhausted if why.starts_with("Error decompressing") => {
            Some(Status::out_of_range(why))
        }
        _ => None,
    }
}

fn log_failure(message: &str) {
    if let Some(left_out) = STORE_FAILURES.admit(Instant::now()) {
        tracing::warn!(
            error = message,
            left_out,
            trace_id = trace_id(),
            "calls fail for the store"
        );
    }
}

impl RetryAdvice {
    fn outcome_unknown(self, why: &str) -> Status {
        self.unavailable(why, "the outcome is unknown")
    }

    fn counted_nothing(self, why: &str) -> Status {
        self.unavailable(why, "this call counted nothing")
    }

    fn unavailable(self, why: &str, outcome: &str) -> Status {
        Status::unavailable(match self {
            Self::WithRequestId => format!("{why}; {outcome}: retry with the same request_id"),
            Self::AsQuery => format!("{why}: retry"),
        })
    }
}
