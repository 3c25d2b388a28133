//! Gauges of pools, by the figures of the [`Overview`](super::overview::Overview) (docs/CONTRACT.md, "Notifications").

use std::sync::Arc;

use enum_map::EnumMap;

use super::{Ledger, OrganizationFigures};
use crate::{
    domain::{OrgId, PoolName, PoolTerms, Threshold, UtcDay},
    policy::Policy,
    telemetry::metrics::{PoolGauges, PoolTokenKind, PoolTokens, PoolsAbove},
};

/// The organizations that have gauges of their own (docs/CONTRACT.md, "Notifications").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GaugedOrganizations {
    /// None.
    Off,
    /// Those of them that the policy has; at most [`GaugedOrganizations::MAX`].
    Named(Vec<OrgId>),
    /// The first [`GaugedOrganizations::MAX`] of the policy, by name.
    All,
}

impl GaugedOrganizations {
    /// The most organizations that have gauges. Each has ten series with two pools.
    pub const MAX: usize = 1_000;

    /// The places in the policy.
    fn places(&self, policy: &Policy) -> Vec<usize> {
        match self {
            Self::Off => Vec::new(),
            Self::Named(orgs) => {
                let places = orgs.iter().filter_map(|org| policy.orgs.get_index_of(org));
                places.collect()
            }
            Self::All => (0..policy.orgs.len().min(Self::MAX)).collect(),
        }
    }

    /// What an operator should know: organizations without gauges, if there should be some.
    #[must_use]
    pub fn warning(&self, policy: &Policy) -> Option<String> {
        match self {
            Self::All if policy.orgs.len() > Self::MAX => Some(format!(
                "metrics.organizations is \"all\", and the policy has {} organizations: only the first {} by name have \
                 gauges",
                policy.orgs.len(),
                Self::MAX
            )),
            Self::Named(orgs) => {
                let mut unknown = orgs.iter().filter(|org| !policy.orgs.contains_key(*org));
                let first = unknown.next()?;
                let more = match unknown.count() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                Some(format!(
                    "metrics.organizations names organizations that the policy does not have: {first}{more}"
                ))
            }
            Self::Off | Self::All => None,
        }
    }
}

impl Ledger {
    /// Today's gauges of pools, as this replica last read the figures. Does not ask the store. It visits every organization
    /// that has counted something, so it belongs on a thread that may block.
    #[must_use]
    pub fn pool_gauges(&self, organizations: &GaugedOrganizations) -> PoolGauges {
        let (backend, policy) = (&self.backend, self.policy());
        let today = backend.clock.today();
        let places = organizations.places(&policy).into_iter();
        let figures = places.filter_map(|it| backend.organization_figures(&policy, it, today));
        PoolGauges {
            above: self.pools_above(&policy, today),
            tokens: figures.flat_map(pool_tokens).collect(),
        }
    }

    /// For each pool and threshold, how many organizations have reached it.
    fn pools_above(&self, policy: &Arc<Policy>, today: UtcDay) -> Vec<PoolsAbove> {
        let thresholds: Vec<Threshold> = policy.thresholds.iter().collect();
        let mut above = vec![vec![0; thresholds.len()]; policy.pools.len()];
        self.backend.overview.visit(today, |org, figures| {
            let Some(enrollment) = policy.enrollment(org, today) else {
                return;
            };
            for (pool, counters) in figures {
                let place = policy.pools.iter().position(|it| it == pool);
                let Some(above) = place.map(|place| &mut above[place]) else {
                    continue;
                };
                let PoolTerms { allowance, .. } = enrollment.terms.of_pool(pool);
                let reached = policy.thresholds.reached(allowance, counters.counted());
                // They are the first ones.
                for (organizations, _) in above.iter_mut().zip(reached) {
                    *organizations += 1;
                }
            }
        });
        let pools = policy.pools.iter().zip(above);
        let above = pools.flat_map(|(pool, above)| {
            let series = |(threshold, organizations)| PoolsAbove {
                pool: PoolName::clone(pool),
                threshold,
                organizations,
            };
            thresholds.iter().copied().zip(above).map(series)
        });
        above.collect()
    }
}

fn pool_tokens(organization: OrganizationFigures) -> impl Iterator<Item = PoolTokens> {
    let OrganizationFigures { org, pools, .. } = organization;
    pools
        .into_iter()
        .map(move |(balance, counters)| PoolTokens {
            org: org.clone(),
            figures: EnumMap::from_fn(|figure| match figure {
                PoolTokenKind::Allowance => balance.allowance,
                PoolTokenKind::Used => balance.used,
                PoolTokenKind::Held => counters.held,
                PoolTokenKind::External => balance.external,
                PoolTokenKind::Billed => counters.billed_tokens,
            }),
            pool: balance.pool,
        })
}
