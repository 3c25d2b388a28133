//! What the policy grants at the moment of a decision: values that go from the policy to the store.

use super::{
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
    /// Free tokens a day of every pool of the policy, ordered by name.
    pub allowances: Vec<(PoolName, Tokens)>,
}

impl Terms {
    /// The terms of one pool. A pool that left the policy has an allowance of 0.
    pub fn of_pool(&self, pool: &PoolName) -> PoolTerms {
        let allowance = self
            .allowances
            .binary_search_by(|(name, _)| name.cmp(pool))
            .map_or(Tokens::ZERO, |at| self.allowances[at].1);
        PoolTerms {
            allowance,
            overflow: self.overflow,
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
