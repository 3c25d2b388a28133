//! The external usage that the provider's report shows (docs/CONTRACT.md, "Background reconcile").
//!
//! `P` is what the provider reports for a pool today. Everything in it has ended, and the ledger counts a request
//! before it begins. So the excess of `P` over `used` is **proven**: the ledger never had it. It is never lowered. The
//! excess of `P` over what `used` was `settle_lag` ago is only **likely**: a request that ended since is in `P`, and
//! may not have been in that `used`.

use std::collections::BTreeMap;

use super::{Scope, UsageReport};
use crate::domain::{PoolName, Tokens, UtcDay};

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
    /// The figures that this replica may have left in the store: the last one, or the one before if the last write
    /// failed.
    own: [u64; 2],
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
            own: [stored; 2],
        });
        if !figure.own.contains(&stored) {
            figure.proven = figure.proven.max(stored);
        }
        figure.proven = figure.proven.max(provider.saturating_sub(facts.used));
        let likely = facts.used_settled.map(|used| provider.saturating_sub(used));
        let external = likely.unwrap_or_default().max(figure.proven);
        let external = external.min(Tokens::MAX_EXTERNAL.get());
        figure.own = [external, stored];
        external
    }

    /// The proven figures of a day, for the pools whose last figure is above it.
    pub fn only_proven(&self, day: UtcDay) -> impl Iterator<Item = (&PoolName, u64)> {
        let pools = self.pools.iter().filter(move |_| self.day == Some(day));
        let above = pools.filter(|(_, figure)| figure.own[0] > figure.proven);
        above.map(|(pool, figure)| (pool, figure.proven))
    }
}

/// Each pool's tokens on a day: of all its models and service tiers, in every project that may share. A project that is
/// not mapped may.
pub fn provider_tokens(
    scope: &Scope<'_>,
    day: UtcDay,
    report: &UsageReport,
) -> BTreeMap<PoolName, u64> {
    let mut tokens = BTreeMap::new();
    for row in report.rows.iter().filter(|row| row.bucket.day() == day) {
        let project = row.project.as_deref().unwrap_or_default();
        let is_foreign = scope
            .projects
            .get(project)
            .is_some_and(|name| !scope.is_sharing(name));
        if let Some(pool) = scope.policy.compared_model(&row.model).pool
            && !is_foreign
        {
            *tokens.entry(pool).or_default() += row.tokens;
        }
    }
    tokens
}
