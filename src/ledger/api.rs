//! The ledger's requests and responses.

use std::{ops::RangeInclusive, sync::Arc};

use chrono::{DateTime, Utc};

use super::{ComparedDay, LedgerError, fullness::Fullness};
use crate::{
    domain::{
        ExternalChange, ExternalSource, ModelName, OrgId, PoolCounters, PoolName, ProjectId,
        ProviderUsage, RequestFields, RequestId, ShareBalance, ShareId, Threshold, Tokens,
        UsageCounters, UtcDay, Verdict,
    },
    policy::Enrollment,
    store::{Operation, Outcome, PoolBalance, RowKey, Timestamped},
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
    /// Whether it ran already, as attempts that a proxy reports afterwards: the share of its project is not judged.
    pub has_run: bool,
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
    /// When it was set, by the store's clock.
    pub at: DateTime<Utc>,
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
            at: outcome.now,
            resets_at: UtcDay::of(outcome.now).end(),
        })
    }
}

/// Changes of external usage.
#[derive(Debug, Clone)]
pub struct ExternalChangeList {
    /// The first day that is listed.
    pub from_day: UtcDay,
    /// The last one.
    pub to_day: UtcDay,
    /// The newest first.
    pub changes: Vec<ExternalChange>,
    /// The days, the newest first, with changes that only the log has.
    pub truncated_days: Vec<UtcDay>,
    /// The last day of the query that lists the earlier days; none: all days are listed.
    pub next_to_day: Option<UtcDay>,
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
    /// The shares of projects, by pool and project.
    pub shares: Vec<(ShareId, ShareBalance)>,
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

/// One page of what an organization used.
#[derive(Debug, Clone)]
pub struct Usage {
    /// The days that the pages have rows of. None is past the retention on the first page.
    pub days: RangeInclusive<UtcDay>,
    /// The rows, ordered by day, then by project, then by model.
    pub rows: Vec<UsageRow>,
    /// Where the next page begins; none: no row follows.
    pub next: Option<UsagePosition>,
    /// Those of the days that were compared with the provider; only on the first page, and none if that can't be read.
    pub comparisons: Vec<ComparedDay>,
}

/// What one project used of one model on a day.
#[derive(Debug, Clone)]
pub struct UsageRow {
    /// The day.
    pub day: UtcDay,
    /// The project.
    pub project: ProjectId,
    /// The model.
    pub model: ModelName,
    /// The pool that lists the model.
    pub pool: Option<PoolName>,
    /// The tokens and the requests; zeros if only the provider has the row.
    pub counters: UsageCounters,
    /// What the provider counted; none: the row was not compared, or it was not read.
    pub provider: Option<ProviderUsage>,
}

/// The days of a usage query (docs/CONTRACT.md, "GetQuota and ListUsage").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageDays {
    /// Today by the store's clock.
    Today,
    /// One day.
    Day(UtcDay),
    /// At most [`UsageDays::MAX_DAYS`] days.
    Range {
        /// The first day.
        from: UtcDay,
        /// The last day, not before `from`; none: today.
        to: Option<UtcDay>,
    },
}

/// Where a page of usage begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsagePosition {
    /// The day of its first row.
    pub day: UtcDay,
    /// The row of that day after which it begins; none: it begins with the day's first row.
    pub after: Option<RowKey>,
}

/// A query for one page of usage.
#[derive(Debug, Clone)]
pub struct UsagePage {
    /// The days; of a page that continues another one, the days that it answered.
    pub days: UsageDays,
    /// Where it begins; none: it is the first page.
    pub start: Option<UsagePosition>,
    /// How many rows at most.
    pub size: usize,
}

impl UsagePage {
    /// The days that the pages have rows of, as long as today is this day.
    ///
    /// # Errors
    ///
    /// As of [`UsageDays::kept`]; or this page begins on a day that is past the retention by now.
    pub(super) fn days_kept(
        &self,
        oldest: UtcDay,
        today: UtcDay,
    ) -> Result<RangeInclusive<UtcDay>, LedgerError> {
        let days = self.days.kept(oldest, today)?;
        match (&self.start, self.days) {
            (Some(start), UsageDays::Range { .. }) if start.day < oldest => {
                Err(LedgerError::DayNotKept {
                    field: "page_token",
                    day: start.day,
                    oldest,
                    today,
                })
            }
            // What was kept for the first page.
            (Some(_), UsageDays::Range { from, .. }) => Ok(from..=*days.end()),
            _ => Ok(days),
        }
    }
}

impl UsageDays {
    /// The maximum number of days of a range, and so of the reads of a page.
    pub const MAX_DAYS: u32 = 62;

    /// The days that are kept of these, as long as today is this day.
    ///
    /// # Errors
    ///
    /// None of them is kept, the last one is in the future, or a range is too long.
    pub(super) fn kept(
        self,
        oldest: UtcDay,
        today: UtcDay,
    ) -> Result<RangeInclusive<UtcDay>, LedgerError> {
        let not_kept = |field, day| LedgerError::DayNotKept {
            field,
            day,
            oldest,
            today,
        };
        let is_kept = |day: &UtcDay| (oldest..=today).contains(day);
        match self {
            Self::Today => Ok(today..=today),
            Self::Day(day) if is_kept(&day) => Ok(day..=day),
            Self::Day(day) => Err(not_kept("day", day)),
            Self::Range { from, to } => {
                let last = to.unwrap_or(today);
                if !is_kept(&last) {
                    Err(not_kept("to_day", last))
                } else if from > last {
                    Err(not_kept("from_day", from))
                } else if from < last.minus_days(Self::MAX_DAYS - 1) {
                    Err(LedgerError::RangeTooLong {
                        from,
                        to: last,
                        max_days: Self::MAX_DAYS,
                    })
                } else {
                    Ok(from.max(oldest)..=last)
                }
            }
        }
    }
}

/// A pool of an organization has reached a threshold on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The organization.
    pub org: OrgId,
    /// The pool.
    pub pool: PoolName,
    /// The day whose allowance it is.
    pub day: UtcDay,
    /// The threshold, in per cent of the allowance.
    pub threshold: Threshold,
    /// The free tokens that were counted then.
    pub used: Tokens,
    /// What the provider counted besides then.
    pub external: Tokens,
    /// The allowance then.
    pub allowance: Tokens,
    /// When it was reached, or found to be reached, by the store's clock.
    pub noticed_at: DateTime<Utc>,
}

/// Where a notice is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeOrigin {
    /// A decision of this replica. Nobody else has delivered it yet.
    Decided,
    /// The store: it was not confirmed there, which may have changed since.
    Found,
}

/// Takes notices for delivery. It must not wait: it is called between a decision and its answer.
pub type NoticeSink = Arc<dyn Fn(Notice, NoticeOrigin) + Send + Sync>;
