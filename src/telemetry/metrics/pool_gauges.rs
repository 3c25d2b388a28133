//! Gauges of pools, by the figures that the replica read last.

use std::fmt;

use enum_map::EnumMap;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};

use super::labels::PoolTokenKind;
use crate::domain::{OrgId, PoolName, Threshold, Tokens};

/// Gauges of pools at the moment of a scrape.
#[derive(Debug, Clone, Default)]
pub struct PoolGauges {
    /// Every pool with every threshold.
    pub above: Vec<PoolsAbove>,
    /// The pools of the organizations that have gauges.
    pub tokens: Vec<PoolTokens>,
}

/// How many organizations have reached a threshold of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolsAbove {
    /// The pool.
    pub pool: PoolName,
    /// The part of the allowance.
    pub threshold: Threshold,
    /// The number of organizations.
    pub organizations: u64,
}

/// What an organization has in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTokens {
    /// The organization.
    pub org: OrgId,
    /// The pool.
    pub pool: PoolName,
    /// Today's figures.
    pub figures: EnumMap<PoolTokenKind, Tokens>,
}

impl Collector for PoolGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut above = encoder.encode_descriptor(
            "tollgate_pools_above",
            "Organizations whose used and external tokens have reached this share of the allowance of the pool, in per cent.",
            None,
            MetricType::Gauge,
        )?;
        for it in &self.above {
            let threshold = it.threshold.to_string();
            let labels = [
                ("pool", it.pool.as_str()),
                ("threshold", threshold.as_str()),
            ];
            above
                .encode_family(&labels)?
                .encode_gauge(&it.organizations)?;
        }
        if self.tokens.is_empty() {
            return Ok(());
        }
        let mut tokens = encoder.encode_descriptor(
            "tollgate_pool_tokens",
            "Tokens of today in a pool of an organization.",
            None,
            MetricType::Gauge,
        )?;
        for it in &self.tokens {
            for (figure, amount) in it.figures {
                let labels = [
                    ("org", it.org.as_str()),
                    ("pool", it.pool.as_str()),
                    ("kind", figure.into()),
                ];
                tokens.encode_family(&labels)?.encode_gauge(&amount.get())?;
            }
        }
        Ok(())
    }
}
