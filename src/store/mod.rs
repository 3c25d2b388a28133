//! What makes a decision atomic: the counters, behind one interface.
//!
//! [`Store::decide`] takes batches, each of one organization, and decides each in its order, exactly as
//! if the decisions had come one by one; one decision is a batch of one. The caller names the day whose
//! counters it means, because eligibility depends on it; where the store's clock says another day,
//! nothing is written and the answer is [`Decision::DayChanged`], so that the caller can assess anew
//! and ask again.
//!
//! Three implementations: [`file::FileStore`], which is durable and of one process;
//! [`redis::RedisStore`] for replicas that share one allowance; [`memory::MemoryStore`] for tests and
//! trials. One test suite runs over all.

mod book;
pub mod clock;
mod codes;
pub mod file;
pub mod memory;
pub mod redis;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

pub use self::clock::{Clock, ClockStep};
use crate::domain::{
    CounterOverflow, Eligibility, ModelName, OrgId, PoolCounters, PoolName, ProjectId, Refusal,
    RequestFields, RequestId, Terms, Tokens, UsageCounters, UtcDay, Verdict,
};

/// How much of the usage history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageLimits {
    /// How many days usage rows are kept after their day.
    pub retention_days: u32,
    /// How many usage rows an organization has on a day at most, besides the row `(other)`, `(other)`.
    pub max_rows: u64,
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
    /// Calls of [`Store::decide`] under way.
    pub calls: usize,
    /// Batches in a call.
    pub batches: usize,
    /// Operations in a call, of all its batches.
    pub operations: usize,
    /// Bytes of names in a call.
    pub bytes: usize,
}

impl CallLimits {
    /// Of a store that decides without awaiting anything: nothing has to wait for it.
    pub const UNLIMITED: Self = Self {
        calls: usize::MAX,
        batches: usize::MAX,
        operations: usize::MAX,
        bytes: usize::MAX,
    };

    /// Bytes of names in a call, so that it is soon over.
    pub const MAX_BYTES: usize = 256 * 1024;
}

/// Keeps the counters and the reservations, and decides on them atomically.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Decides batches, each operation on what the ones before it left, and gives a result for each
    /// batch, in their order. An error tells whether something of the batch may have been written.
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timestamped<Decision>, StoreError>>;

    /// How much [`Store::decide`] takes. What exceeds it waits, and goes in the next call.
    fn call_limits(&self) -> CallLimits;

    /// The counters of these pools on a day, in their order. Only today's are kept: where the clock in
    /// the answer says another day, the counters mean nothing.
    ///
    /// # Errors
    ///
    /// The store failed. Nothing is ever written.
    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
    ) -> Result<Timestamped<Vec<PoolCounters>>, StoreError>;

    /// The first `limit` usage rows of a day that come after `after`, ordered by project, then by
    /// model; none where nothing is kept. No more than these are held in memory.
    ///
    /// # Errors
    ///
    /// The store failed. Nothing is ever written.
    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError>;

    /// How often it was found to have lost writes of today that it had acknowledged, and what is
    /// remembered of them was restored.
    fn losses(&self) -> u64 {
        0
    }

    /// How often the wall clock was found to have stepped. Stores with a clock of their own don't look.
    fn clock_steps(&self) -> u64 {
        0
    }

    /// The wall clock's latest step, for an hour after it.
    fn latest_clock_step(&self) -> Option<ClockStep> {
        None
    }

    /// Asks the store for its clock, and so whether it would decide now; and whether it may be trusted to
    /// keep what it counts.
    ///
    /// # Errors
    ///
    /// The store failed, or is [`StoreError::Unsuitable`].
    async fn probe(&self) -> Result<Timestamped<()>, StoreError>;
}

/// An answer, and the store's clock at its moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamped<T> {
    /// The store's clock.
    pub now: DateTime<Utc>,
    /// The answer.
    pub answer: T,
}

/// Which usage row of an organization's day.
pub type RowKey = (ProjectId, ModelName);

/// Usage rows of one organization on one day.
pub type UsageRows = BTreeMap<RowKey, UsageCounters>;

/// What is decided together: operations of one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Whose counters and ids.
    pub org: OrgId,
    /// Which day's counters are meant.
    pub day: UtcDay,
    /// What the organization is granted now.
    pub terms: Arc<Terms>,
    /// What is to be decided, in this order.
    pub operations: Vec<Operation>,
}

impl Batch {
    /// How many operations a batch has at most.
    pub const MAX_OPERATIONS: usize = 512;
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// An outcome for each operation, in their order.
    Outcomes(Vec<Outcome>),
    /// It is another day by the store's clock. Nothing was written.
    DayChanged,
}

/// What is to be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Is this request free? Counts it.
    Reserve {
        /// Makes it idempotent, and remembers the reservation.
        request_id: Option<RequestId>,
        /// What is asked.
        fields: RequestFields,
        /// What the policy says.
        eligibility: Eligibility,
        /// Whether a pool of the policy lists the model.
        is_listed: bool,
        /// Whether to write. Without it, an id is still looked up.
        recording: Recording,
    },
    /// A reserved request ran and used this much.
    Settle {
        /// The reservation.
        request_id: RequestId,
        /// The actual tokens.
        tokens: Tokens,
    },
    /// A reserved request did not run.
    Release {
        /// The reservation.
        request_id: RequestId,
    },
}

impl Operation {
    /// The id that it is about.
    #[must_use]
    pub fn request_id(&self) -> Option<&RequestId> {
        match self {
            Self::Reserve { request_id, .. } => request_id.as_ref(),
            Self::Settle { request_id, .. } | Self::Release { request_id } => Some(request_id),
        }
    }

    /// Whether it counts once, however often it is asked: all but a Reserve that is recorded without
    /// an id. Where the first answer was lost, the second says `replayed`.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        match self {
            Self::Reserve {
                request_id,
                recording,
                ..
            } => request_id.is_some() || !recording.writes(),
            Self::Settle { .. } | Self::Release { .. } => true,
        }
    }
}

/// Whether a Reserve writes what it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// Counts the request and remembers its id.
    Record,
    /// The policy doesn't know the organization: a stranger's names must not fill the store.
    Stranger,
    /// A dry run.
    DryRun,
}

impl Recording {
    /// Whether anything is written.
    #[must_use]
    pub fn writes(self) -> bool {
        self == Self::Record
    }
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A Reserve's.
    Reserved {
        /// The verdict, or the first one again.
        verdict: Verdict,
        /// The pool right after the decision, where the request was eligible.
        pool: Option<PoolBalance>,
        /// The id was known: nothing was counted.
        replayed: bool,
    },
    /// A Settle's.
    Settled {
        /// What the request finally is.
        verdict: Verdict,
        /// What it was at Reserve.
        reserved_as: Verdict,
        /// The pool after it, where the request was eligible.
        pool: Option<PoolBalance>,
        /// It was settled so before: nothing was counted.
        replayed: bool,
    },
    /// A Release's.
    Released {
        /// What the reservation counted, and counts no more.
        tokens: Tokens,
        /// The pool after it, where the request was eligible.
        pool: Option<PoolBalance>,
        /// It was released before: nothing was taken back.
        replayed: bool,
    },
    /// The id can't be used so. Nothing was written.
    Refused(Refusal),
    /// A counter would pass 2^53 − 1. Nothing was written.
    Full(CounterOverflow),
}

/// What an answer tells of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolBalance {
    /// The pool.
    pub pool: PoolName,
    /// Free tokens a day.
    pub allowance: Tokens,
    /// Free tokens counted.
    pub used: Tokens,
    /// Whether every further Reserve of today is BILLED `POOL_CLOSED`.
    pub is_closed: bool,
}

impl PoolBalance {
    /// The figures of today.
    #[must_use]
    pub fn today(terms: &Terms, pool: PoolName, counters: &PoolCounters) -> Self {
        let terms = terms.of_pool(&pool);
        Self {
            pool,
            allowance: terms.allowance,
            used: counters.used,
            is_closed: counters.is_closed(terms),
        }
    }

    /// A settled or released reservation of another day has a pool, and no figures.
    #[must_use]
    pub fn of_another_day(pool: PoolName) -> Self {
        Self {
            pool,
            allowance: Tokens::ZERO,
            used: Tokens::ZERO,
            is_closed: false,
        }
    }

    /// What a Reserve could still get: max(0, allowance − used), and 0 in a closed pool.
    #[must_use]
    pub fn remaining(&self) -> Tokens {
        if self.is_closed {
            Tokens::ZERO
        } else {
            self.allowance.less(self.used)
        }
    }
}

/// The store failed. Says nothing of transports: `grpc` maps it. A reason is one line without secrets, and names hosts
/// and keys in square brackets: these are for the log alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store can't be reached. Nothing was written.
    #[error("the store can't be reached: {reason}")]
    Unreachable {
        /// What the connection said.
        reason: String,
    },
    /// No answer came. Whether something was written is unknown; with a request id a retry tells.
    #[error("the store did not answer, the outcome is unknown: {reason}")]
    OutcomeUnknown {
        /// What the connection said.
        reason: String,
    },
    /// The store answered that it can't serve now. Nothing was written.
    #[error("the store refused, {why}: {reason}")]
    Refused {
        /// What hinders it.
        why: RefusalReason,
        /// What it answered.
        reason: String,
    },
    /// The store answers, and may lose what it counted, or is no store for Tollgate: what it says now may
    /// be wrong later. Nothing was written.
    #[error("the store is unfit: {reason}")]
    Unsuitable {
        /// What is wrong, and what would put it right. Says nothing that is secret.
        reason: String,
    },
    /// What the store holds, or said, can't be understood: it was not written by Tollgate.
    #[error("the store holds something that is not Tollgate's: {reason}")]
    Corrupt {
        /// Where, and what.
        reason: String,
    },
}

impl StoreError {
    /// What is wrong, without what stands in square brackets: hosts and keys are for the log.
    #[must_use]
    pub fn public_message(&self) -> String {
        let words = match self {
            Self::Unreachable { reason } => format!("it can't be reached: {reason}"),
            Self::OutcomeUnknown { reason } => format!("it does not answer: {reason}"),
            Self::Refused {
                why: RefusalReason::Other,
                reason,
            } => format!("it refuses: {reason}"),
            Self::Refused { why, reason } => format!("{why}: {reason}"),
            Self::Unsuitable { reason } => reason.clone(),
            Self::Corrupt { .. } => "it holds something that is not Tollgate's".to_owned(),
        };
        let mut short = String::new();
        let mut depth = 0_u32;
        for c in words.chars() {
            match c {
                '[' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                ' ' if depth == 0 && short.ends_with(' ') => {}
                c if depth == 0 => short.push(c),
                _ => {}
            }
        }
        short.trim_end().to_owned()
    }
}

/// What hinders a store that answers from serving now. Each can pass without a restart of anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// No memory, or no room on its disk, is left for what it would have to write.
    #[error("it is full")]
    Full,
    /// It can't save to its disk what it holds, and takes no more.
    #[error("it can't save what it holds")]
    CannotSave,
    /// Something that runs for long keeps it from everything else.
    #[error("it is busy")]
    Busy,
    /// It has started, and still reads what it saved.
    #[error("it is loading")]
    Loading,
    /// It may only be read.
    #[error("it is read-only")]
    ReadOnly,
    /// It has lost the one that it copies.
    #[error("it is cut off from its master")]
    CutOff,
    /// Fewer copies of it follow than it must have.
    #[error("too few replicas follow it")]
    TooFewReplicas,
    /// It is spread over several servers, and not all of them are there.
    #[error("a part of it is missing")]
    Incomplete,
    /// What is asked for is just being moved from one server to another.
    #[error("it is being moved")]
    Moving,
    /// The user may not do what has to be done.
    #[error("its user lacks a right")]
    NoRight,
    /// It wants another user or password.
    #[error("it does not accept the user or password")]
    NotLoggedIn,
    /// It has as many connections as it takes.
    #[error("it takes no more connections")]
    TooManyClients,
    /// Anything else, which it says itself.
    #[error("in its own words")]
    Other,
}
