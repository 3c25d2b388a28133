//! Why a request has no answer.

use std::sync::Arc;

use super::breaker::Outage;
use crate::{
    domain::{CounterOverflow, Refusal, UtcDay},
    store::{Outcome, RefusalReason, StoreError},
    telemetry::metrics::StoreFailure,
};

/// Why a request has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// The id can't be used so. Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The policy doesn't know the organization, and it has no rows.
    #[error("org: the policy does not know this organization")]
    UnknownOrganization,
    /// The day is in the future, or older than the retention.
    #[error("day: {day} is not kept; there are {oldest} to {today}")]
    DayNotKept {
        /// The day that was asked for.
        day: UtcDay,
        /// The oldest day that is kept.
        oldest: UtcDay,
        /// The newest.
        today: UtcDay,
    },
    /// A counter would pass 2^53 − 1. Nothing was written.
    #[error(transparent)]
    CounterOverflow(#[from] CounterOverflow),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The circuit breaker is open: the store was not asked. This request counted nothing.
    #[error(transparent)]
    Down(#[from] Arc<Outage>),
    /// The deadline has passed. A request that was not sent is not sent; of one that was sent, the outcome
    /// is unknown to the caller.
    #[error("the store did not answer before the deadline")]
    OutOfTime,
    /// The store's clock named another day in each round.
    #[error("the store's clock does not settle on a day")]
    ClockUnstable,
    /// The queue is full. This request was not sent, and counted nothing.
    #[error("too many decisions wait for the store")]
    Overloaded,
    /// The task of the call to the store panicked, or its runtime ended.
    #[error("the task of a write died")]
    TaskPanicked,
}

impl LedgerError {
    /// Of an outcome that is no answer to the request.
    pub(super) fn unexpected(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Refused(refusal) => Self::Refused(refusal),
            Outcome::CounterOverflow(full) => Self::CounterOverflow(full),
            Outcome::Reserved { .. } | Outcome::Settled { .. } | Outcome::Released { .. } => {
                let reason = "an answer to another question".to_owned();
                Self::Store(StoreError::Corrupt { reason })
            }
        }
    }

    /// Whether a Reserve may be answered without the store (`on_store_failure`). A store that holds foreign
    /// data did answer: that error is shown.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Store(
                StoreError::Unreachable { .. }
                | StoreError::Refused { .. }
                | StoreError::OutcomeUnknown { .. }
                | StoreError::Unsuitable { .. },
            )
            | Self::Down(_)
            | Self::OutOfTime
            | Self::ClockUnstable => true,
            Self::Store(StoreError::Corrupt { .. })
            | Self::Refused(_)
            | Self::UnknownOrganization
            | Self::DayNotKept { .. }
            | Self::CounterOverflow(_)
            | Self::Overloaded
            | Self::TaskPanicked => false,
        }
    }

    /// As what `tollgate_store_failures_total` counts it; none where the store is not the cause.
    pub(super) fn failure(&self) -> Option<StoreFailure> {
        Some(match self {
            Self::Refused(_) | Self::UnknownOrganization | Self::DayNotKept { .. } => return None,
            Self::CounterOverflow(_) => StoreFailure::Full,
            Self::Down(_) => StoreFailure::Down,
            Self::OutOfTime => StoreFailure::OutOfTime,
            Self::ClockUnstable => StoreFailure::RestlessClock,
            Self::Overloaded => StoreFailure::Overloaded,
            Self::TaskPanicked => StoreFailure::TaskDied,
            Self::Store(StoreError::Unreachable { .. }) => StoreFailure::Unreachable,
            Self::Store(StoreError::OutcomeUnknown { .. }) => StoreFailure::OutcomeUnknown,
            Self::Store(StoreError::Unsuitable { .. }) => StoreFailure::Unsuitable,
            Self::Store(StoreError::Corrupt { .. }) => StoreFailure::Corrupt,
            Self::Store(StoreError::Refused { why, .. }) => match why {
                RefusalReason::Full => StoreFailure::RefusedFull,
                RefusalReason::CannotSave => StoreFailure::RefusedCannotSave,
                RefusalReason::Busy => StoreFailure::RefusedBusy,
                RefusalReason::Loading => StoreFailure::RefusedLoading,
                RefusalReason::ReadOnly => StoreFailure::RefusedReadOnly,
                RefusalReason::CutOff => StoreFailure::RefusedCutOff,
                RefusalReason::TooFewReplicas => StoreFailure::RefusedTooFewReplicas,
                RefusalReason::Incomplete => StoreFailure::RefusedIncomplete,
                RefusalReason::Moving => StoreFailure::RefusedMoving,
                RefusalReason::NoRight => StoreFailure::RefusedNoRight,
                RefusalReason::NotLoggedIn => StoreFailure::RefusedNotLoggedIn,
                RefusalReason::TooManyClients => StoreFailure::RefusedTooManyClients,
                RefusalReason::Other => StoreFailure::RefusedOther,
            },
        })
    }
}
