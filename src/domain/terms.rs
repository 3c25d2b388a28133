//! What the policy grants at the moment of a decision: values that go from the policy to the store.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    day::UtcDay,
    ids::PoolName,
    pool::{Overflow, PoolTerms},
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
    /// Every pool of the policy, ordered by name.
    pub pools: Vec<(PoolName, Grant)>,
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
        }
    }
}

/// A margin as the policy states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Margin {
    /// This many tokens.
    Tokens(Tokens),
    /// Hundredths of a per cent of the allowance, at most [`Margin::WHOLE`].
    BasisPoints(u16),
}

impl Margin {
    /// The whole allowance, in hundredths of a per cent.
    pub const WHOLE: u16 = 10_000;

    /// The tokens of an allowance that no Reserve gets: a share is rounded up.
    #[must_use]
    pub fn of(self, allowance: Tokens) -> Tokens {
        match self {
            Self::Tokens(tokens) => tokens,
            Self::BasisPoints(points) => {
                let share = u128::from(allowance.get()) * u128::from(points);
                let share = share.div_ceil(u128::from(Self::WHOLE));
                let share = u64::try_from(share).ok().and_then(Tokens::new);
                share.unwrap_or(Tokens::MAX)
            }
        }
    }
}

impl fmt::Display for Margin {
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
    fn a_share_of_the_allowance_is_rounded_up_and_exact_for_the_largest() {
        let tokens = |amount| Tokens::new(amount).expect("an amount");
        for (margin, allowance, wanted) in [
            (Margin::BasisPoints(500), 1_000, 50),
            (Margin::BasisPoints(500), 1_001, 51),
            (Margin::BasisPoints(1), 1, 1),
            (Margin::BasisPoints(0), 1_000, 0),
            (Margin::BasisPoints(Margin::WHOLE), 7, 7),
            (
                Margin::BasisPoints(Margin::WHOLE),
                Tokens::MAX.get(),
                Tokens::MAX.get(),
            ),
            (Margin::Tokens(tokens(9)), 7, 9),
        ] {
            assert_eq!(margin.of(tokens(allowance)), tokens(wanted), "{margin}");
        }
        assert_eq!(Margin::BasisPoints(250).to_string(), "2.5%");
    }
}
