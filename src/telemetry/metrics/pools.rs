//! Tokens by pool. The names come from the policy, so there are few. A pool that leaves the policy keeps its series: a
//! new one would look like a counter reset.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{labels::TokenUse, striped_counters::StripedCounters};
use crate::domain::PoolName;

/// Tokens by pool and use.
#[derive(Debug)]
pub(super) struct PoolTokens {
    pools: ArcSwap<Vec<Arc<PoolCounts>>>,
    /// Tokens of requests outside the pools of all policies so far.
    others: StripedCounters,
}

#[derive(Debug)]
struct PoolCounts {
    name: PoolName,
    counts: StripedCounters,
}

fn new_counters() -> StripedCounters {
    StripedCounters::new(TokenUse::ALL.len())
}

impl PoolTokens {
    pub(super) fn new() -> Self {
        Self {
            pools: ArcSwap::default(),
            others: new_counters(),
        }
    }

    /// Adds the new pools. No other function adds a label value.
    pub(super) fn add_names(&self, names: &[PoolName]) {
        self.pools.rcu(|known| {
            let mut pools = Vec::clone(known);
            for name in names {
                if !pools.iter().any(|pool| pool.name == *name) {
                    pools.push(Arc::new(PoolCounts {
                        name: name.clone(),
                        counts: new_counters(),
                    }));
                }
            }
            pools
        });
    }

    pub(super) fn add(&self, name: Option<&PoolName>, kind: TokenUse, tokens: u64) {
        let pools = self.pools.load();
        let pool = name.and_then(|name| pools.iter().find(|pool| pool.name == *name));
        let counts = pool.map_or(&self.others, |pool| &pool.counts);
        counts.add(kind.index(), tokens);
    }
}

impl EncodeMetric for PoolTokens {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let pools = self.pools.load();
        let named = pools.iter().map(|pool| (pool.name.as_str(), &pool.counts));
        for (name, counts) in named.chain([("", &self.others)]) {
            for kind in TokenUse::ALL {
                let labels = [("pool", name), ("kind", kind.name())];
                let count = counts.sum(kind.index());
                let mut encoder = encoder.encode_family(&labels)?;
                encoder.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
