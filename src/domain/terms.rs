//! What the policy grants at the moment of a decision: values that go from the policy to the store.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    day::UtcDay,
    ids::{PoolName, ProjectId},
    pool::{Overflow, PoolTerms},
    thresholds::Thresholds,
    tokens::Tokens,
    verdict::BilledReason,
};

/// What an organization is granted, pool by pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Terms {
    /// What an overflow does.
    pub overflow: Overflow,
    /// How long before midnight FREE reservations are carried into the pools of the next day.
    pub midnight_guard: TimeDelta,
    /// At which parts of a pool's allowance notices are due.
    pub thresholds: Thresholds,
    /// Every pool of the policy, ordered by name.
    pub pools: Vec<(PoolName, Grant)>,
    /// The most that projects may use of a pool in a day, ordered by [`ShareId`].
    pub shares: Vec<(ShareId, Tokens)>,
}

/// Which share: what one project may use of one pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct ShareId {
    pub pool: PoolName,
    pub project: ProjectId,
}

/// What an organization is granted in one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grant {
    /// The free tokens of a day.
    pub allowance: Tokens,
    /// The part of the allowance that no Reserve gets.
    pub margin: Tokens,
}

impl Terms {
    /// From when on a day's FREE reservations are carried; none: never.
    pub fn carries_from(&self, day: UtcDay) -> Option<DateTime<Utc>> {
        let guard = Some(self.midnight_guard).filter(|it| *it > TimeDelta::zero());
        guard.map(|guard| day.end() - guard)
    }

    /// Whether a FREE reservation that is made at a moment is carried.
    pub fn carries(&self, moment: DateTime<Utc>) -> bool {
        self.carries_from(UtcDay::of(moment))
            .is_some_and(|from| moment >= from)
    }

    /// The terms of one pool. A pool that left the policy has an allowance of 0.
    pub fn of_pool(&self, pool: &PoolName) -> PoolTerms {
        let grant = self
            .pools
            .binary_search_by(|(name, _)| name.cmp(pool))
            .map_or_else(|_| Grant::default(), |at| self.pools[at].1);
        PoolTerms {
            allowance: grant.allowance,
            margin: grant.margin,
            overflow: self.overflow,
            thresholds: self.thresholds,
        }
    }

    /// The most that a project may use of a pool in a day, with its name; none: as much as the pool has.
    pub fn share(&self, pool: &PoolName, project: &ProjectId) -> Option<(&ShareId, Tokens)> {
        let order = |(id, _): &(ShareId, Tokens)| (&id.pool, &id.project).cmp(&(pool, project));
        let at = self.shares.binary_search_by(order).ok()?;
        let (id, tokens) = &self.shares[at];
        Some((id, *tokens))
    }
}

/// A part of an allowance, as the policy states it: a margin, or the share of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Portion {
    /// This many tokens.
    Tokens(Tokens),
    /// Hundredths of a per cent of the allowance, at most [`Portion::WHOLE`].
    BasisPoints(u16),
}

impl Portion {
    /// The whole allowance, in hundredths of a per cent.
    pub const WHOLE: u16 = 10_000;

    /// In tokens of an allowance; per cent are rounded up.
    #[must_use]
    pub fn rounded_up(self, allowance: Tokens) -> Tokens {
        self.tokens_of(allowance, u128::div_ceil)
    }

    /// In tokens of an allowance; per cent are rounded down.
    #[must_use]
    pub fn rounded_down(self, allowance: Tokens) -> Tokens {
        self.tokens_of(allowance, |a, b| a / b)
    }

    fn tokens_of(self, allowance: Tokens, divide: fn(u128, u128) -> u128) -> Tokens {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::BasisPoints(points) => {
                let product = u128::from(allowance.get()) * u128::from(points);
                let portion = divide(product, u128::from(Self::WHOLE));
                let portion = u64::try_from(portion).ok().and_then(Tokens::new);
                portion.unwrap_or(Tokens::MAX)
            }
        }
    }
}

impl fmt::Display for Portion {
    /// As in the policy file: `5000`, `5%`, `2.5%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(tokens) => tokens.fmt(f),
            Self::BasisPoints(points) => write!(f, "{}%", f64::from(*points) / 100.0),
        }
    }
}

/// Whether a request can be free at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eligibility {
    /// It can, if it fits in this pool.
    Eligible(PoolName),
    /// It is billed for this reason.
    Ineligible(BilledReason),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_of_an_allowance_is_rounded_as_asked_and_exact_for_the_largest() {
        let tokens = |amount| Tokens::new(amount).expect("an amount");
        let (max, whole) = (Tokens::MAX.get(), Portion::BasisPoints(Portion::WHOLE));
        for (portion, allowance, up, down) in [
            (Portion::BasisPoints(500), 1_000, 50, 50),
            (Portion::BasisPoints(500), 1_001, 51, 50),
            (Portion::BasisPoints(1), 1, 1, 0),
            (Portion::BasisPoints(0), 1_000, 0, 0),
            (whole, 7, 7, 7),
            (whole, max, max, max),
            (Portion::Tokens(tokens(9)), 7, 9, 9),
        ] {
            let allowance = tokens(allowance);
            assert_eq!(portion.rounded_up(allowance), tokens(up), "{portion}");
            assert_eq!(portion.rounded_down(allowance), tokens(down), "{portion}");
        }
        assert_eq!(Portion::BasisPoints(250).to_string(), "2.5%");
    }
}
