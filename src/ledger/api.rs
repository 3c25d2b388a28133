//! The ledger's requests and responses.

use chrono::{DateTime, Utc};

use super::{LedgerError, fullness::Fullness};
use crate::{
    domain::{
        ExternalSource, ModelName, OrgId, PoolCounters, PoolName, ProjectId, RequestFields,
        RequestId, Tokens, UsageCounters, UtcDay, Verdict,
    },
    policy::Enrollment,
    store::{Operation, Outcome, PoolBalance, Timestamped},
};

/// A request that a gateway is about to dispatch.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// The organization whose allowance it uses.
    pub org: OrgId,
    /// Project, model, tokens and workload.
    pub fields: RequestFields,
    /// Makes the request idempotent. A dry run gets the verdict of a known one; over the API it has no id.
    pub request_id: Option<RequestId>,
    /// Decide without counting.
    pub dry_run: bool,
}

/// One organization's request, as the queue holds it. It is assessed when its batch is formed.
#[derive(Debug)]
pub(super) enum Request {
    Reserve(Reserve),
    /// Any other operation, which does not depend on the policy.
    Assessed(Operation),
}

impl Request {
    /// Bytes of the names in it.
    pub(super) fn bytes(&self) -> usize {
        let (names, request_id) = match self {
            Self::Reserve(request) => {
                let RequestFields { project, model, .. } = &request.fields;
                let names = project.as_str().len() + model.as_str().len();
                (names, request.request_id.as_ref())
            }
            Self::Assessed(operation) => (0, operation.request_id()),
        };
        names + request_id.map_or(0, |id| id.as_str().len())
    }
}

/// The response to a Reserve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reserved {
    /// FREE or BILLED.
    pub verdict: Verdict,
    /// The pool, if the request was eligible.
    pub pool: Option<PoolBalance>,
    /// The request id was used before: this repeats its answer.
    pub replayed: bool,
    /// The next midnight by the store's clock.
    pub resets_at: DateTime<Utc>,
}

impl TryFrom<Timestamped<Outcome>> for Reserved {
    type Error = LedgerError;

    fn try_from(outcome: Timestamped<Outcome>) -> Result<Self, LedgerError> {
        let Outcome::Reserved {
            verdict,
            pool,
            replayed,
        } = outcome.answer
        else {
            return Err(LedgerError::unexpected(outcome.answer));
        };
        Ok(Self {
            verdict,
            pool,
            replayed,
            resets_at: UtcDay::of(outcome.now).end(),
        })
    }
}

/// What a reserved request really used.
#[derive(Debug, Clone)]
pub struct Settle {
    /// The organization that reserved.
    pub org: OrgId,
    /// The id of the Reserve.
    pub request_id: RequestId,
    /// The actual tokens.
    pub tokens: Tokens,
    /// The request ran where nothing is shared: another project, or another provider.
    pub outside_program: bool,
}

/// The response to a Settle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// FREE or BILLED, on the actual tokens.
    pub verdict: Verdict,
    /// The verdict differs from that of Reserve.
    pub verdict_changed: bool,
    /// The pool, if the request was eligible.
    pub pool: Option<PoolBalance>,
    /// The request was settled before: this repeats the answer.
    pub replayed: bool,
    /// The next midnight by the store's clock.
    pub resets_at: DateTime<Utc>,
}

impl TryFrom<Timestamped<Outcome>> for Settled {
    type Error = LedgerError;

    fn try_from(outcome: Timestamped<Outcome>) -> Result<Self, LedgerError> {
        let Outcome::Settled {
            verdict,
            reserved_as,
            pool,
            replayed,
        } = outcome.answer
        else {
            return Err(LedgerError::unexpected(outcome.answer));
        };
        Ok(Self {
            verdict,
            verdict_changed: verdict.is_free() != reserved_as.is_free(),
            pool,
            replayed,
            resets_at: UtcDay::of(outcome.now).end(),
        })
    }
}

/// The response to a Release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// The tokens that are not counted any more.
    pub tokens: Tokens,
    /// The pool, if the request was eligible.
    pub pool: Option<PoolBalance>,
    /// The request was released before: this repeats the answer.
    pub replayed: bool,
    /// The next midnight by the store's clock.
    pub resets_at: DateTime<Utc>,
}

impl TryFrom<Timestamped<Outcome>> for Released {
    type Error = LedgerError;

    fn try_from(outcome: Timestamped<Outcome>) -> Result<Self, LedgerError> {
        let Outcome::Released {
            tokens,
            pool,
            replayed,
        } = outcome.answer
        else {
            return Err(LedgerError::unexpected(outcome.answer));
        };
        Ok(Self {
            tokens,
            pool,
            replayed,
            resets_at: UtcDay::of(outcome.now).end(),
        })
    }
}

/// A new figure of what the provider counted today in a pool, and Tollgate did not.
#[derive(Debug, Clone)]
pub struct SetExternalUsage {
    /// The organization.
    pub org: OrgId,
    /// The pool.
    pub pool: PoolName,
    /// Which of the two figures.
    pub source: ExternalSource,
    /// The tokens. They replace the figure before.
    pub tokens: Tokens,
    /// Why, for the audit log.
    pub note: String,
    /// Who sets it, for the audit log; none if nobody is known, without a callers file.
    pub caller: Option<String>,
}

/// The response to a SetExternalUsage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalUsageSet {
    /// The figure that was replaced.
    pub before: Tokens,
    /// The pool.
    pub pool: PoolBalance,
    /// The next midnight by the store's clock, when the figure ends.
    pub resets_at: DateTime<Utc>,
}

impl TryFrom<Timestamped<Outcome>> for ExternalUsageSet {
    type Error = LedgerError;

    fn try_from(outcome: Timestamped<Outcome>) -> Result<Self, LedgerError> {
        let Outcome::ExternalUsageSet { before, pool } = outcome.answer else {
            return Err(LedgerError::unexpected(outcome.answer));
        };
        Ok(Self {
            before,
            pool,
            resets_at: UtcDay::of(outcome.now).end(),
        })
    }
}

/// An organization's enrollment and pools today.
#[derive(Debug, Clone)]
pub struct Quota {
    /// Its enrollment.
    pub enrollment: Enrollment,
    /// Today.
    pub day: UtcDay,
    /// The next midnight by the store's clock.
    pub resets_at: DateTime<Utc>,
    /// Every pool of the policy, by name.
    pub pools: Vec<(PoolBalance, PoolCounters)>,
}

/// Which organizations to list.
#[derive(Debug, Clone)]
pub struct OrganizationPage {
    /// Only organizations with this text in their names, upper and lower case alike.
    pub query: String,
    /// The organizations that the caller may read; none: all.
    pub readable: Option<Vec<OrgId>>,
    /// The order.
    pub order: OrganizationOrder,
    /// Only organizations after this one.
    pub after: Option<PagePosition>,
    /// How many at most.
    pub size: usize,
}

/// The order of organizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrganizationOrder {
    /// By name, byte by byte.
    Name,
    /// The fullest first, then by name.
    NearestToEnd,
}

/// The last organization of a page. It may have left the policy since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagePosition {
    /// How full it was; only with [`OrganizationOrder::NearestToEnd`].
    pub fullness: Fullness,
    /// Its name.
    pub name: String,
}

/// One page of organizations.
#[derive(Debug, Clone)]
pub struct OrganizationList {
    /// In the order of the page.
    pub organizations: Vec<OrganizationFigures>,
    /// After which organization the next page begins; none: this is the last one.
    pub next: Option<PagePosition>,
    /// How many organizations match, on all pages.
    pub total: usize,
}

/// What an organization had today when this replica read it.
#[derive(Debug, Clone)]
pub struct OrganizationFigures {
    /// The organization.
    pub org: OrgId,
    /// Its enrollment.
    pub enrollment: Enrollment,
    /// Every pool of the policy, by name.
    pub pools: Vec<(PoolBalance, PoolCounters)>,
    /// When the counters were read, by the store's clock; none: they were not.
    pub as_of: Option<DateTime<Utc>>,
}

/// What an organization used on a day.
#[derive(Debug, Clone)]
pub struct Usage {
    /// The day.
    pub day: UtcDay,
    /// The rows, ordered by project, then by model.
    pub rows: Vec<UsageRow>,
    /// Whether more rows follow.
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
    /// The tokens and the requests.
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
