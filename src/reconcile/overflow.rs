//! Which overflow rule the provider applied, read off the order of minutes.
//!
//! In the first minute whose billed tokens do not fit beside the free ones, a request has overflowed the pool. Free
//! tokens in a later minute mean `keep_open`; a later minute whose billed tokens would all have fit means
//! `close_until_reset`.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    comparison::Scope,
    report::{ReportRow, UsageReport},
};
use crate::domain::{Overflow, PoolName, UtcDay};

/// The provider shows usage late, and in lumps: younger minutes may still change.
pub const SETTLED_AFTER: TimeDelta = TimeDelta::minutes(20);

/// What the minutes of a pool on a day show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverflowEvidence {
    /// Nothing overflowed.
    NoOverflow,
    /// This rule.
    Applied(Overflow),
    /// A request overflowed, and none that would have fit came later.
    Undecided,
}

/// Free and billed tokens of a minute.
type Minutes = BTreeMap<DateTime<Utc>, (u64, u64)>;

impl OverflowEvidence {
    /// The name in outputs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoOverflow => "no overflow",
            Self::Applied(rule) => rule.name(),
            Self::Undecided => "unknown",
        }
    }

    fn of(minutes: &Minutes, allowance: u64) -> Self {
        let (mut used, mut has_overflowed, mut would_fit) = (0_u64, false, false);
        for (free, billed) in minutes.values() {
            if has_overflowed && *free > 0 {
                return Self::Applied(Overflow::KeepOpen);
            }
            used = used.saturating_add(*free);
            let fits = used.saturating_add(*billed) <= allowance;
            would_fit |= has_overflowed && *billed > 0 && fits;
            has_overflowed |= *billed > 0 && !fits;
        }
        match (has_overflowed, would_fit) {
            (false, _) => Self::NoOverflow,
            (true, true) => Self::Applied(Overflow::CloseUntilReset),
            (true, false) => Self::Undecided,
        }
    }
}

/// The evidence for each day and pool of a report by minutes. Only what could have been free counts: models of the
/// pool, in projects that share, without batches, flex and priority.
pub fn overflow(
    scope: &Scope<'_>,
    report: &UsageReport,
) -> BTreeMap<(UtcDay, PoolName), OverflowEvidence> {
    let mut pools: BTreeMap<(UtcDay, PoolName), Minutes> = BTreeMap::new();
    for row in &report.rows {
        let Some(pool) = scope.policy.compared_model(&row.model).pool else {
            continue;
        };
        if row.bucket.start > scope.now - SETTLED_AFTER {
            continue;
        }
        if !scope.is_free(row) && !could_be_free(scope, row) {
            continue;
        }
        let minutes = pools.entry((row.bucket.day(), pool)).or_default();
        let (free, billed) = minutes.entry(row.bucket.start).or_default();
        match scope.is_free(row) {
            true => *free += row.tokens,
            false => *billed += row.tokens,
        }
    }
    let evidence = pools.into_iter().map(|(at, minutes)| {
        let allowance = scope.allowances.get(&at.1).copied().unwrap_or_default();
        let evidence = OverflowEvidence::of(&minutes, allowance);
        (at, evidence)
    });
    evidence.collect()
}

fn could_be_free(scope: &Scope<'_>, row: &ReportRow) -> bool {
    let is_plain = !row.batch && !matches!(row.tier.as_deref(), Some("flex" | "priority"));
    is_plain && scope.is_sharing(scope.project(row.project.as_deref().unwrap_or_default()))
}
