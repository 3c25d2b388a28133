//! The errors of the ledger.

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
    /// The reservation does not allow it. Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The policy doesn't know the organization, and it has no rows.
    #[error("org: the policy does not know this organization")]
    UnknownOrganization,
    /// The policy doesn't have the pool.
    #[error("pool: the policy has no such pool")]
    UnknownPool,
    /// The day is in the future, or older than the retention.
    #[error("{field}: {day} is not kept; there are {oldest} to {today}")]
    DayNotKept {
        /// The field of the request.
        field: &'static str,
        /// The day in it.
        day: UtcDay,
        /// The oldest day that is kept.
        oldest: UtcDay,
        /// The newest.
        today: UtcDay,
    },
    /// A range of days is too long.
    #[error("from_day: {from} to {to} are more than {max_days} days")]
    RangeTooLong {
        /// The first day.
        from: UtcDay,
        /// The last day.
        to: UtcDay,
        /// The maximum number of days.
        max_days: u32,
    },
    /// A counter would pass 2^53 − 1. Nothing was written.
    #[error(transparent)]
    CounterOverflow(#[from] CounterOverflow),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The circuit breaker is open: the request was not sent, and counted nothing.
    #[error(transparent)]
    Down(#[from] Arc<Outage>),
    /// The deadline has passed. If the request was sent, its outcome is unknown.
    #[error("the store did not answer before the deadline")]
    OutOfTime,
    /// The store's clock changed its day in each round.
    #[error("the store's clock does not settle on a day")]
    ClockUnstable,
    /// The queue is full. This request was not sent, and counted nothing.
    #[error("too many decisions wait for the store")]
    Overloaded,
    /// The task of the call to the store panicked, or its runtime ended.
    #[error("the task of a store call panicked")]
    TaskPanicked,
}

impl LedgerError {
    /// The error for an outcome that is no answer to the request.
    pub(super) fn unexpected(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Refused(refusal) => Self::Refused(refusal),
            Outcome::CounterOverflow(overflow) => Self::CounterOverflow(overflow),
            Outcome::Reserved { .. }
            | Outcome::Settled { .. }
            | Outcome::Released { .. }
            | Outcome::ExternalUsageSet { .. }
            | Outcome::NoticeConfirmed => {
                let reason = "the outcome does not match the request".to_owned();
                Self::Store(StoreError::Corrupt { reason })
            }
        }
    }

    /// Whether a Reserve may be answered without the store (`on_store_failure`). Not if the store did answer, with
    /// foreign data.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Store(error) => !matches!(error, StoreError::Corrupt { .. }),
            Self::Down(_) | Self::OutOfTime | Self::ClockUnstable => true,
            _ => false,
        }
    }

    /// Whether something may have been written.
    pub(crate) fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::OutcomeUnknown { .. }) | Self::OutOfTime | Self::TaskPanicked
        )
    }

    /// Whether the same request may succeed later.
    pub(crate) fn is_temporary(&self) -> bool {
        self.is_outage() || matches!(self, Self::Overloaded | Self::TaskPanicked)
    }

    /// Its label in `tollgate_store_failures_total`; none if the store is not the cause.
    pub(super) fn failure(&self) -> Option<StoreFailure> {
        Some(match self {
            Self::Refused(_)
            | Self::UnknownOrganization
            | Self::UnknownPool
            | Self::DayNotKept { .. }
            | Self::RangeTooLong { .. } => return None,
            Self::CounterOverflow(_) => StoreFailure::Full,
            Self::Down(_) => StoreFailure::Down,
            Self::OutOfTime => StoreFailure::OutOfTime,
            Self::ClockUnstable => StoreFailure::ClockUnstable,
            Self::Overloaded => StoreFailure::Overloaded,
            Self::TaskPanicked => StoreFailure::TaskPanicked,
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
