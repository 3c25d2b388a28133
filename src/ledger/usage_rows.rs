//! The rows of a day as the ledger and the provider have them, merged in the order of both.

use std::collections::BTreeMap;

use tokio::try_join;

use super::{LedgerError, backend::Backend};
use crate::{
    domain::{OrgId, ProviderUsage, UsageCounters, UtcDay},
    store::{RowKey, Timestamped},
};

/// A row as both sides have it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MergedRow {
    /// Zeros if only the provider has the row.
    pub(super) counters: UsageCounters,
    /// None if the row was not compared.
    pub(super) provider: Option<ProviderUsage>,
}

impl MergedRow {
    fn is_empty(&self) -> bool {
        let provider = self.provider.unwrap_or_default();
        self.counters.is_empty() && provider == ProviderUsage::default()
    }
}

pub(super) type MergedRows = BTreeMap<RowKey, MergedRow>;

impl Backend {
    /// The first `limit` rows of a day after `after` that one of both sides has, and the store's day. At most twice as
    /// many are in memory.
    pub(super) async fn merged_rows(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<(UtcDay, MergedRows), LedgerError> {
        let mut rows = MergedRows::new();
        let mut after = after.cloned();
        loop {
            let (today, page, has_more) = self.merged_page(org, day, after.as_ref(), limit).await?;
            after = page.last_key_value().map(|(key, _)| key.clone());
            // A row is empty between a Release and the next comparison.
            rows.extend(page.into_iter().filter(|(_, row)| !row.is_empty()));
            while rows.len() > limit {
                rows.pop_last();
            }
            if !has_more || rows.len() == limit {
                return Ok((today, rows));
            }
        }
    }

    /// The rows up to the last one before which neither side can have another; and whether more may follow.
    async fn merged_page(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<(UtcDay, MergedRows, bool), LedgerError> {
        let query = async {
            let own = self.store.usage(org, day, after, limit);
            let reported = self.store.provider_usage(org, day, after, limit);
            let (Timestamped { now, answer: own }, reported) = try_join!(own, reported)?;
            let answer = (own, reported);
            Ok(Timestamped { now, answer })
        };
        let (today, (own, reported)) = self.read(query).await?;
        let end_of_own = own.keys().nth(limit - 1);
        let end_of_reported = reported.keys().nth(limit - 1);
        let end = end_of_own.into_iter().chain(end_of_reported).min().cloned();
        let is_before_end = |key: &RowKey| end.as_ref().is_none_or(|end| key <= end);
        let mut rows = MergedRows::new();
        for (key, counters) in own.into_iter().filter(|(key, _)| is_before_end(key)) {
            let provider = None;
            rows.insert(key, MergedRow { counters, provider });
        }
        for (key, usage) in reported.into_iter().filter(|(key, _)| is_before_end(key)) {
            rows.entry(key).or_default().provider = Some(usage);
        }
        Ok((today, rows, end.is_some()))
    }
}
