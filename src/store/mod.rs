//! The counters, behind one interface that decides atomically.
//!
//! [`Store::decide`] takes batches. A batch has operations of one organization, which are decided in order,
//! exactly as if they had come one by one. The caller names the day, because eligibility depends on it. If
//! the store's clock is on another day, nothing is written and the answer is [`Decision::DayChanged`]; the
//! caller then assesses again for that day.
//!
//! | store | keeps | for |
//! | --- | --- | --- |
//! | [`memory::MemoryStore`] | until the process ends | tests, trials |
//! | [`file::FileStore`] | durably, for one process | one replica |
//! | [`redis::RedisStore`] | as durably as Redis does | replicas that share the allowances |
//!
//! One test suite runs over all three.

pub mod clock;
mod codes;
mod engine;
mod error;
mod external_changes;
pub mod file;
pub mod memory;
pub mod provider;
mod records;
pub mod redis;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use self::{
    clock::{Clock, ClockStep},
    error::{RefusalReason, StoreError},
    provider::{ProviderChanges, ProviderRows},
};
use crate::domain::{
    CounterOverflow, DayComparison, Eligibility, ExternalChange, ExternalChanges, ExternalSource,
    ModelName, OrgId, PoolCounters, PoolName, ProjectId, Refusal, RequestFields, RequestId,
    ShareId, Terms, Threshold, Tokens, UsageCounters, UtcDay, Verdict,
};

/// How much of the usage history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageLimits {
    /// How many days usage rows are kept after their day.
    pub retention_days: u32,
    /// The maximum number of usage rows of an organization on a day, not counting the row `(other)`, `(other)`.
    pub max_rows: u64,
}

impl UsageLimits {
    /// How many seconds usage rows are kept after their day.
    pub(crate) fn retention_seconds(self) -> u64 {
        u64::from(self.retention_days) * 24 * 60 * 60
    }
}

impl Default for UsageLimits {
    fn default() -> Self {
        Self {
            retention_days: 35,
            max_rows: 10_000,
        }
    }
}

/// How much a store decides at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallLimits {
    /// The maximum number of concurrent calls of [`Store::decide`].
    pub calls: usize,
    /// The maximum number of batches in a call.
    pub batches: usize,
    /// The maximum number of operations in a call, over all batches.
    pub operations: usize,
    /// The maximum number of bytes of names in a call.
    pub bytes: usize,
}

impl CallLimits {
    /// The limits of a store that never awaits.
    pub const UNLIMITED: Self = Self {
        calls: usize::MAX,
        batches: usize::MAX,
        operations: usize::MAX,
        bytes: usize::MAX,
    };

    /// The maximum number of bytes of names in a call that others wait for.
    pub const MAX_BYTES: usize = 256 * 1024;
}

/// Keeps the counters and the reservations, and decides on them atomically.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Decides batches within [`Store::call_limits`]. The results are in the order of the batches. An error says
    /// whether something of its batch may have been written.
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timestamped<Decision>, StoreError>>;

    /// How much a call of [`Store::decide`] takes. Further operations wait, and share the next call.
    fn call_limits(&self) -> CallLimits;

    /// The counters of pools and shares on a day. Valid only if the returned clock is on that day.
    ///
    /// # Errors
    ///
    /// The store failed. Reading writes nothing.
    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
        shares: &[ShareId],
    ) -> Result<Timestamped<DayCounters>, StoreError>;

    /// The first `limit` usage rows of a day after `after`, ordered by project, then by model. Never holds more
    /// rows in memory.
    ///
    /// # Errors
    ///
    /// The store failed. Reading writes nothing.
    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError>;

    /// Keeps a change of external usage on its day, as long as usage rows; no more of a day than
    /// [`ExternalChanges::MAX`].
    ///
    /// # Errors
    ///
    /// The store failed. Whether the change is kept may be unknown.
    async fn keep_external_change(
        &self,
        org: &OrgId,
        change: &ExternalChange,
    ) -> Result<(), StoreError>;

    /// The changes of external usage on a day.
    ///
    /// # Errors
    ///
    /// The store failed. Reading writes nothing.
    async fn external_changes(
        &self,
        org: &OrgId,
        day: UtcDay,
    ) -> Result<Timestamped<ExternalChanges>, StoreError>;

    /// Records how a day was compared with the provider, and what it counted. Changes at most
    /// [`provider::MAX_PROVIDER_CHANGES`] rows. They are kept as long as the day's usage rows.
    ///
    /// # Errors
    ///
    /// The store failed. Something may have been written; the same call again is safe.
    async fn record_comparison(
        &self,
        org: &OrgId,
        day: UtcDay,
        changes: &ProviderChanges,
        comparison: Option<&DayComparison>,
    ) -> Result<(), StoreError>;

    /// The first `limit` rows of a day that the provider counted, after `after` and in the order of [`Store::usage`].
    /// Rows that can't be read are left out.
    ///
    /// # Errors
    ///
    /// The store failed. Reading writes nothing.
    async fn provider_usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<ProviderRows, StoreError>;

    /// How each of these days was compared with the provider last, in their order; none also if that can't be read.
    ///
    /// # Errors
    ///
    /// The store failed. Reading writes nothing.
    async fn comparisons(
        &self,
        org: &OrgId,
        days: &[UtcDay],
    ) -> Result<Vec<Option<DayComparison>>, StoreError>;

    /// Takes the lease of the background reconcile, or renews it, for this time: one replica at a time has it
    /// (docs/CONTRACT.md, "Background reconcile"). `false`: another one has it. A store of one process has no other.
    ///
    /// # Errors
    ///
    /// The store failed. This replica may have the lease all the same.
    async fn take_lease(&self, _duration: Duration) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// How often the store was found to have lost acknowledged writes of today, which were then restored.
    fn losses(&self) -> u64 {
        0
    }

    /// Why some of its servers refuse while others decide, without their names; none where all that answer decide.
    fn partial_refusal(&self) -> Option<String> {
        None
    }

    /// How often a step of the wall clock was detected. Only the embedded stores detect steps.
    fn clock_steps(&self) -> u64 {
        0
    }

    /// The latest step of the wall clock, if it was within the last hour.
    fn latest_clock_step(&self) -> Option<ClockStep> {
        None
    }

    /// Checks that the store would decide now and can be trusted to keep its counters; gives its clock.
    ///
    /// # Errors
    ///
    /// The store failed, or is [`StoreError::Unsuitable`].
    async fn probe(&self) -> Result<Timestamped<()>, StoreError>;
}

/// An answer, with the store's clock at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Timestamped<T> {
    pub now: DateTime<Utc>,
    pub answer: T,
}

/// What pools and shares counted on a day, each in the order in which it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DayCounters {
    /// Of each pool.
    pub pools: Vec<PoolCounters>,
    /// The FREE tokens of each share.
    pub shares: Vec<Tokens>,
}

/// The key of a usage row within an organization's day.
pub type RowKey = (ProjectId, ModelName);

/// Usage rows of one organization on one day.
pub type UsageRows = BTreeMap<RowKey, UsageCounters>;

/// Operations of one organization that are decided together.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Batch {
    pub org: OrgId,
    /// The day of the counters.
    pub day: UtcDay,
    /// The organization's current terms.
    pub terms: Arc<Terms>,
    pub operations: Vec<Operation>,
}

impl Batch {
    /// The maximum number of operations in a batch.
    pub const MAX_OPERATIONS: usize = 512;
}

/// The result of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It was decided.
    Outcomes {
        /// One for each operation, in order.
        outcomes: Vec<Outcome>,
        /// The pools that reached a further threshold, perhaps more than one of it. Each is reported by one decision.
        crossings: Vec<ThresholdCrossing>,
    },
    /// The store's clock is on another day. Nothing was written.
    DayChanged,
}

/// A pool reached a further threshold of its allowance: its peak was raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThresholdCrossing {
    /// The pool.
    pub pool: PoolName,
    /// The peak before.
    pub before: Tokens,
    /// The free tokens at the peak.
    pub used: Tokens,
    /// The external usage at the peak.
    pub external: Tokens,
}

/// An operation to be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    /// Decides whether a request is free, and counts it.
    Reserve {
        /// Makes the operation idempotent and keeps a reservation.
        request_id: Option<RequestId>,
        fields: RequestFields,
        /// Whether the policy allows it to be free.
        eligibility: Eligibility,
        /// Whether a pool of the policy lists the model.
        is_listed: bool,
        /// Whether to write. The id is looked up in any case.
        recording: Recording,
        /// Whether it ran already: the share of its project is neither judged nor counted.
        has_run: bool,
    },
    /// Records what a reserved request really used.
    Settle {
        request_id: RequestId,
        tokens: Tokens,
        /// Whether the request ran where nothing is shared: it is billed then, and counts in no pool.
        outside_program: bool,
    },
    /// Takes back a reservation whose request never ran.
    Release { request_id: RequestId },
    /// Replaces today's figure of what the provider counted in a pool, and the store did not.
    SetExternalUsage {
        pool: PoolName,
        source: ExternalSource,
        tokens: Tokens,
    },
    /// Records that the notice of a threshold was delivered. On another day it changes nothing.
    ConfirmNotice {
        pool: PoolName,
        day: UtcDay,
        threshold: Threshold,
    },
}

impl Operation {
    /// Its request id.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Reserve { request_id, .. } => request_id.as_ref(),
            Self::Settle { request_id, .. } | Self::Release { request_id } => Some(request_id),
            Self::SetExternalUsage { .. } | Self::ConfirmNotice { .. } => None,
        }
    }

    /// Whether sending it twice counts once. True except for a recorded Reserve without an id. If the first
    /// answer was lost, the second says `replayed`.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        match self {
            Self::Reserve {
                request_id,
                recording,
                ..
            } => request_id.is_some() || !recording.writes(),
            Self::Settle { .. }
            | Self::Release { .. }
            | Self::SetExternalUsage { .. }
            | Self::ConfirmNotice { .. } => true,
        }
    }
}

/// Whether a Reserve writes what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// Counts the request, and keeps a reservation if it has an id.
    Record,
    /// Writes nothing: the policy does not know the organization, and invented names must not fill the store.
    Stranger,
    /// Writes nothing: a dry run.
    DryRun,
}

impl Recording {
    /// Whether anything is written.
    #[must_use]
    pub fn writes(self) -> bool {
        self == Self::Record
    }
}

/// The outcome of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Of a Reserve.
    Reserved {
        /// The verdict; of a replay, the first one.
        verdict: Verdict,
        /// The pool after the decision, if the request was eligible.
        pool: Option<PoolBalance>,
        /// Whether the id was known. Nothing was counted then.
        replayed: bool,
    },
    /// Of a Settle.
    Settled {
        /// The final verdict.
        verdict: Verdict,
        /// The verdict at Reserve.
        reserved_as: Verdict,
        /// The pool after the operation, if the request was eligible.
        pool: Option<PoolBalance>,
        /// Whether it was settled with the same fields before. Nothing was counted then.
        replayed: bool,
    },
    /// Of a Release.
    Released {
        /// The tokens that were taken back.
        tokens: Tokens,
        /// The pool after the operation, if the request was eligible.
        pool: Option<PoolBalance>,
        /// Whether it was released before. Nothing was taken back then.
        replayed: bool,
    },
    /// Of a SetExternalUsage.
    ExternalUsageSet {
        /// The figure that was replaced.
        before: Tokens,
        /// The pool after the operation.
        pool: PoolBalance,
    },
    /// Of a ConfirmNotice.
    NoticeConfirmed,
    /// The id does not allow the operation. Nothing was written.
    Refused(Refusal),
    /// A counter would pass 2^53 − 1. Nothing was written.
    CounterOverflow(CounterOverflow),
}

/// The balance of a pool, as answers report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolBalance {
    /// The pool.
    pub pool: PoolName,
    /// Free tokens a day.
    pub allowance: Tokens,
    /// The part of the allowance that no Reserve gets.
    pub margin: Tokens,
    /// Free tokens counted.
    pub used: Tokens,
    /// What the provider counted besides.
    pub external: Tokens,
    /// Whether every further Reserve of today is BILLED `POOL_CLOSED`.
    pub is_closed: bool,
}

impl PoolBalance {
    /// Today's balance.
    #[must_use]
    pub fn today(terms: &Terms, pool: PoolName, counters: &PoolCounters) -> Self {
        let terms = terms.of_pool(&pool);
        Self {
            pool,
            allowance: terms.allowance,
            margin: terms.margin,
            used: counters.used,
            external: counters.external.tokens(),
            is_closed: counters.is_closed(terms),
        }
    }

    /// The pool of a reservation of another day: named, without figures.
    #[must_use]
    pub fn of_another_day(pool: PoolName) -> Self {
        Self {
            pool,
            allowance: Tokens::ZERO,
            margin: Tokens::ZERO,
            used: Tokens::ZERO,
            external: Tokens::ZERO,
            is_closed: false,
        }
    }

    /// The tokens that can still be free: max(0, allowance − margin − used − external); 0 in a closed pool.
    #[must_use]
    pub fn remaining(&self) -> Tokens {
        if self.is_closed {
            Tokens::ZERO
        } else {
            self.allowance
                .less(self.margin)
                .less(self.used)
                .less(self.external)
        }
    }
}
