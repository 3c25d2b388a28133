//! What the ledger is asked, and what it answers.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::outage::Down;

use crate::{
    domain::{
        CounterOverflow, ModelName, OrgId, PoolCounters, PoolName, ProjectId, Refusal,
        RequestFields, RequestId, Tokens, UsageCounters, UtcDay, Verdict,
    },
    policy::Enrollment,
    store::{PoolBalance, StoreError},
};

/// A request that a gateway is about to dispatch.
#[derive(Debug, Clone)]
pub struct ReserveCall {
    /// Whose allowance.
    pub org: OrgId,
    /// What is asked.
    pub fields: RequestFields,
    /// Makes the call idempotent.
    pub request_id: Option<RequestId>,
    /// Answer, and write nothing.
    pub dry_run: bool,
}

/// The answer to a Reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// FREE or BILLED.
    pub verdict: Verdict,
    /// The pool, where the request was eligible.
    pub pool: Option<PoolBalance>,
    /// The first answer again.
    pub replayed: bool,
    /// The next midnight by the store's clock.
    pub resets_at: DateTime<Utc>,
}

/// The answer to a Settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// FREE or BILLED, on the actual tokens.
    pub verdict: Verdict,
    /// Another verdict than at Reserve.
    pub verdict_changed: bool,
    /// The pool, where the request was eligible.
    pub pool: Option<PoolBalance>,
    /// Settled so before.
    pub replayed: bool,
    /// The next midnight by the store's clock.
    pub resets_at: DateTime<Utc>,
}

/// The answer to a Release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// What was taken back.
    pub tokens: Tokens,
    /// The pool, where the request was eligible.
    pub pool: Option<PoolBalance>,
    /// Released before.
    pub replayed: bool,
    /// The next midnight by the store's clock.
    pub resets_at: DateTime<Utc>,
}

/// What an organization has today.
#[derive(Debug, Clone)]
pub struct Quota {
    /// Where it stands.
    pub enrollment: Enrollment,
    /// Today.
    pub day: UtcDay,
    /// The next midnight by the store's clock.
    pub resets_at: DateTime<Utc>,
    /// Every pool of the policy, by name.
    pub pools: Vec<(PoolBalance, PoolCounters)>,
}

/// What an organization used on a day.
#[derive(Debug, Clone)]
pub struct Usage {
    /// The day.
    pub day: UtcDay,
    /// The rows, ordered by project, then by model.
    pub rows: Vec<UsageRow>,
    /// Whether rows come after these.
    pub more: bool,
}

/// What one project used of one model.
#[derive(Debug, Clone)]
pub struct UsageRow {
    /// The project.
    pub project: ProjectId,
    /// The model.
    pub model: ModelName,
    /// The pool that lists the model.
    pub pool: Option<PoolName>,
    /// What it used.
    pub counters: UsageCounters,
}

/// Which part of a day's usage.
#[derive(Debug, Clone)]
pub struct UsagePage {
    /// The day; none: today.
    pub day: Option<UtcDay>,
    /// Only rows after this one.
    pub after: Option<(ProjectId, ModelName)>,
    /// How many rows at most.
    pub size: usize,
}

/// Why a call has no answer.
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
    Full(#[from] CounterOverflow),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is known to be down, and was not asked. This call counted nothing.
    #[error(transparent)]
    Down(Arc<Down>),
    /// The time to answer is over. What was not sent is not sent; the rest is unknown to the caller.
    #[error("the store did not answer before the deadline")]
    OutOfTime,
    /// The store's clock named another day again and again.
    #[error("the store's clock does not settle on a day")]
    RestlessClock,
    /// As many decisions wait for the store as may. This one was not sent, and counted nothing.
    #[error("too many decisions wait for the store")]
    Overloaded,
    /// The task that carried the write died.
    #[error("the task of a write died")]
    TaskDied,
}

impl LedgerError {
    /// Whether the store could not be asked. One that holds what is not ours was asked: that is to be
    /// seen, not answered over.
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
            | Self::RestlessClock => true,
            Self::Store(StoreError::Corrupt { .. })
            | Self::Refused(_)
            | Self::UnknownOrganization
            | Self::DayNotKept { .. }
            | Self::Full(_)
            | Self::Overloaded
            | Self::TaskDied => false,
        }
    }
}
