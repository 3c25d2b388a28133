//! The external usage that the provider's report shows (docs/CONTRACT.md, "Background reconcile").
//!
//! `P` is what the provider reports for a pool today. Everything in it has ended, and the ledger counts a request
//! before it begins. So the excess of `P` over `used` is **proven**: the ledger never had it. It is never lowered. The
//! excess of `P` over what `used` was `settle_lag` ago is only **likely**: a request that ended since is in `P`, and
//! may not have been in that `used`.

use std::collections::{BTreeMap, BTreeSet};

use super::{LedgerRow, Scope, UsageReport, report::ReportRow};
use crate::domain::{ModelName, PoolName, Tokens, UtcDay};

/// The figures of an organization's pools on one day.
#[derive(Debug, Default)]
pub struct ExternalFigures {
    day: Option<UtcDay>,
    pools: BTreeMap<PoolName, PoolFigure>,
}

#[derive(Debug, Clone, Copy)]
struct PoolFigure {
    /// The most that was proven today.
    proven: u64,
    /// The figures that this replica may have left in the store: the last one, and the one that stays if that was not
    /// written.
    written: [u64; 2],
}

/// What is known of a pool today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolFacts {
    /// All tokens that the provider reports.
    pub provider: u64,
    /// What the ledger counts in the pool, read after the report.
    pub used: u64,
    /// The same, `settle_lag` ago; none: it is not known.
    pub used_settled: Option<u64>,
    /// The figure in the store.
    pub stored: u64,
}

impl ExternalFigures {
    /// The external usage of a pool, at most [`Tokens::MAX_EXTERNAL`].
    ///
    /// A figure in the store that is not this replica's counts as proven: it does not say what of it was only likely.
    pub fn update(&mut self, day: UtcDay, pool: &PoolName, facts: PoolFacts) -> u64 {
        if self.day != Some(day) {
            self.day = Some(day);
            self.pools.clear();
        }
        let PoolFacts {
            provider, stored, ..
        } = facts;
        let figure = self.pools.entry(pool.clone()).or_insert(PoolFigure {
            proven: stored,
            written: [stored; 2],
        });
        if !figure.written.contains(&stored) {
            figure.proven = figure.proven.max(stored);
        }
        figure.proven = figure.proven.max(provider.saturating_sub(facts.used));
        let likely = facts.used_settled.map(|used| provider.saturating_sub(used));
        let external = likely.unwrap_or_default().max(figure.proven);
        let external = external.min(Tokens::MAX_EXTERNAL.get());
        figure.written = [external, stored];
        external
    }

    /// Records that the store has a pool's last figure.
    pub fn confirm(&mut self, pool: &PoolName) {
        if let Some(figure) = self.pools.get_mut(pool) {
            figure.written[1] = figure.written[0];
        }
    }

    /// The pools of which the store may have a figure of a day above what is proven, with what is proven.
    pub fn unproven(&self, day: UtcDay) -> impl Iterator<Item = (&PoolName, u64)> {
        let pools = self.pools.iter().filter(move |_| self.day == Some(day));
        let is_above = |figure: &PoolFigure| figure.written.iter().any(|it| *it > figure.proven);
        let above = pools.filter(move |(_, figure)| is_above(figure));
        above.map(|(pool, figure)| (pool, figure.proven))
    }
}

/// What the provider reports for each pool on a day. A row counts whole, whatever its service tier, if its project may
/// have shared and its model was in the pool:
///
/// * A project that is not mapped may share. One that had FREE requests did, though the policy may have it as not sharing
///   by now; and a retired model that had some was in its pool. They are in `used`.
/// * A row that is free by its tier counts in any case: the provider took it from the allowance.
pub fn provider_tokens(
    scope: &Scope<'_>,
    day: UtcDay,
    ledger: &[LedgerRow],
    report: &UsageReport,
) -> BTreeMap<PoolName, u64> {
    let policy = scope.policy;
    let free = ledger
        .iter()
        .filter(|row| row.day == day && row.free_tokens > 0);
    let has_shared: BTreeSet<&str> = free.clone().map(|row| &*row.project).collect();
    let unlisted = free.filter(|row| policy.compared_model(&row.model).pool.is_none());
    // The provider names the snapshot, and the ledger what was asked for.
    let was_listed: BTreeSet<&str> = unlisted
        .map(|row| policy.undated_model(&row.model))
        .collect();
    let may_share = |row: &ReportRow| {
        let name = row.project.as_ref().and_then(|id| scope.projects.get(id));
        name.is_none_or(|name| scope.is_sharing(name) || has_shared.contains(&**name))
    };
    let pool_of = |row: &ReportRow| {
        let listing = policy.compared_model(&row.model).pool;
        listing.or_else(|| {
            let was_free = was_listed.contains(policy.undated_model(&row.model));
            let model = ModelName::parse(row.model.as_str()).ok()?;
            let pool = policy.history_pool(&model);
            pool.filter(|_| was_free || scope.is_free(row)).cloned()
        })
    };
    let mut tokens = BTreeMap::new();
    for row in report.rows.iter().filter(|row| row.bucket.day() == day) {
        let is_counted = scope.is_free(row) || may_share(row);
        if let Some(pool) = pool_of(row).filter(|_| is_counted) {
            *tokens.entry(pool).or_default() += row.tokens;
        }
    }
    tokens
}
