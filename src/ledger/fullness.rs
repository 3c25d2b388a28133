//! How near organizations are to the end of their allowances (docs/CONTRACT.md, "ListOrganizations").

use crate::{
    domain::{PoolCounters, PoolName, PoolTerms},
    policy::Enrollment,
};

/// How near an organization's fullest pool is to its end; the largest is the nearest. The least: it is not enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fullness(u64);

impl Fullness {
    /// The least.
    pub(super) const NOT_ENROLLED: Self = Self(0);

    /// Its number, in a page token.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The fullness of this number.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// That of a share of what Reserves get, 0 to infinity.
    fn of_share(share: f64) -> Self {
        // The bits of numbers that are not negative are in their order.
        Self(share.to_bits() + 1)
    }

    /// That of an organization with these figures of today.
    pub(super) fn of(enrollment: &Enrollment, figures: &[(PoolName, PoolCounters)]) -> Self {
        if enrollment.not_enrolled.is_some() {
            return Self::NOT_ENROLLED;
        }
        let pools = enrollment.terms.pools.iter();
        let shares = pools.map(|(pool, _)| {
            let terms = enrollment.terms.of_pool(pool);
            share(terms, &counters_of(figures, pool))
        });
        Self::of_share(shares.fold(0.0, f64::max))
    }
}

/// The share that is counted of what Reserves get in a pool; infinite if no Reserve can get anything.
fn share(terms: PoolTerms, counters: &PoolCounters) -> f64 {
    let reservable = terms.reservable().get();
    if reservable == 0 || counters.is_closed(terms) {
        return f64::INFINITY;
    }
    let counted = counters.used.get() + counters.external.tokens().get();
    counted as f64 / reservable as f64
}

/// The counters of a pool, which are zero if it has counted nothing.
pub(super) fn counters_of(figures: &[(PoolName, PoolCounters)], pool: &PoolName) -> PoolCounters {
    let found = figures.iter().find(|(name, _)| name == pool);
    found.map_or_else(PoolCounters::default, |(_, counters)| *counters)
}
