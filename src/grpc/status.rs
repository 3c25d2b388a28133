//! From errors to statuses (docs/CONTRACT.md, "Errors").

use tonic::{Code, Status};

use crate::{
    domain::Refusal,
    ledger::LedgerError,
    store::StoreError,
    telemetry::{log_limited, traces::trace_id},
};

/// The message of a status for a defect of ours: no details.
const INTERNAL: &str = "an internal error; the service's log has the details";

const OUTCOME_UNKNOWN: &str = "the outcome is unknown";
const COUNTED_NOTHING: &str = "this call counted nothing";

/// How to retry, in the message of a status.
#[derive(Debug, Clone, Copy)]
enum RetryAdvice {
    WithRequestId,
    AsQuery,
}

/// The status of a call that decides.
pub(crate) fn status(error: LedgerError) -> Status {
    to_status(error, RetryAdvice::WithRequestId)
}

/// The status of a call without a `request_id`: a query, or one that sets a figure.
pub(super) fn query_status(error: LedgerError) -> Status {
    to_status(error, RetryAdvice::AsQuery)
}

/// The one place where errors of the ledger become statuses.
fn to_status(error: LedgerError, advice: RetryAdvice) -> Status {
    let message = error.to_string();
    match error {
        LedgerError::Refused(
            Refusal::OtherFields { .. } | Refusal::OtherPlace { .. } | Refusal::OtherAmount { .. },
        ) => Status::already_exists(message),
        LedgerError::Refused(Refusal::Released | Refusal::Settled) => {
            Status::failed_precondition(message)
        }
        LedgerError::Refused(Refusal::UnknownRequestId)
        | LedgerError::UnknownOrganization
        | LedgerError::UnknownPool => Status::not_found(message),
        LedgerError::DayNotKept { .. } | LedgerError::CounterOverflow(_) => {
            Status::out_of_range(message)
        }
        LedgerError::RangeTooLong { .. } => Status::invalid_argument(message),
        // The outage is in the log already.
        LedgerError::Down(_) => advice.unavailable(&message, COUNTED_NOTHING),
        LedgerError::Store(
            ref error @ (StoreError::Unreachable { .. }
            | StoreError::Refused { .. }
            | StoreError::Unsuitable { .. }),
        ) => {
            log_failure(&message);
            let why = format!("the store does not serve: {}", error.public_message());
            advice.unavailable(&why, COUNTED_NOTHING)
        }
        LedgerError::ClockUnstable => {
            log_failure(&message);
            advice.unavailable(&message, COUNTED_NOTHING)
        }
        LedgerError::Store(ref error @ StoreError::OutcomeUnknown { .. }) => {
            log_failure(&message);
            let why = format!("the store did not answer: {}", error.public_message());
            advice.unavailable(&why, OUTCOME_UNKNOWN)
        }
        LedgerError::OutOfTime => {
            log_failure(&message);
            advice.unavailable("the store did not answer in time", OUTCOME_UNKNOWN)
        }
        LedgerError::Overloaded => {
            log_limited!(
                warn,
                trace_id = trace_id(),
                "calls are shed: too many wait for the store"
            );
            Status::resource_exhausted(
                "too many decisions wait for the store; this call counted nothing: try again later",
            )
        }
        LedgerError::Store(StoreError::Corrupt { .. }) | LedgerError::TaskPanicked => {
            log_limited!(
                error,
                error = message,
                trace_id = trace_id(),
                "a call failed"
            );
            Status::internal(INTERNAL)
        }
    }
}

/// The status of a call that was not over at its deadline. `counts`: it may have counted something.
pub(super) fn late(counts: bool) -> Status {
    let advice = match counts {
        true => RetryAdvice::WithRequestId,
        false => RetryAdvice::AsQuery,
    };
    let why = "the call was not over at its deadline";
    Status::deadline_exceeded(advice.message(why, OUTCOME_UNKNOWN))
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
    log_limited!(
        warn,
        error = message,
        trace_id = trace_id(),
        "calls fail for the store"
    );
}

impl RetryAdvice {
    fn unavailable(self, why: &str, outcome: &str) -> Status {
        Status::unavailable(self.message(why, outcome))
    }

    fn message(self, why: &str, outcome: &str) -> String {
        match self {
            Self::WithRequestId => format!("{why}; {outcome}: retry with the same request_id"),
            Self::AsQuery => format!("{why}: retry"),
        }
    }
}
