//! The rows of a day as the ledger and the provider have them, merged in the order of both.

use std::collections::BTreeMap;

use tokio::join;

use super::{LedgerError, backend::Backend};
use crate::{
    domain::{OrgId, ProviderUsage, UsageCounters, UtcDay},
    store::{ProviderRows, RowKey, Timestamped},
    telemetry::log_limited,
};

/// A row as both sides have it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MergedRow {
    /// Zeros if only the provider has the row.
    pub(super) counters: UsageCounters,
    /// None if the row was not compared, or what the provider counted was not read.
    pub(super) provider: Option<ProviderUsage>,
}

impl MergedRow {
    fn is_empty(&self) -> bool {
        let provider = self.provider.unwrap_or_default();
        self.counters.is_empty() && provider == ProviderUsage::default()
    }
}

/// Whose rows are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UsageSides {
    /// Those that the ledger or the provider counted.
    Both,
    /// Those that the ledger counted.
    Ledger,
}

pub(super) type MergedRows = BTreeMap<RowKey, MergedRow>;

impl Backend {
    /// The first `limit` rows of a day after `after` that one of these sides has, and the store's day. At most twice as
    /// many are in memory.
    pub(super) async fn merged_rows(
        &self,
        org: &OrgId,
        day: UtcDay,
        sides: UsageSides,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<(UtcDay, MergedRows), LedgerError> {
        let mut rows = MergedRows::new();
        let mut after = after.cloned();
        loop {
            let read = self.merged_page(org, day, sides, after.as_ref(), limit);
            let (today, page, has_more) = read.await?;
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
        sides: UsageSides,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<(UtcDay, MergedRows, bool), LedgerError> {
        let query = async {
            let own = self.store.usage(org, day, after, limit);
            let reported = async {
                match sides {
                    UsageSides::Both => self.provider_rows(org, day, after, limit).await,
                    UsageSides::Ledger => ProviderRows::new(),
                }
            };
            let (own, reported) = join!(own, reported);
            let Timestamped { now, answer: own } = own?;
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

    /// Rows of the provider; none if they can't be read. They fail nothing: the page has the ledger's rows then.
    async fn provider_rows(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> ProviderRows {
        let rows = self.store.provider_usage(org, day, after, limit).await;
        rows.unwrap_or_else(|error| {
            log_limited!(warn, %org, %day, %error, "usage is listed without what the provider counted");
            ProviderRows::new()
        })
    }
}
