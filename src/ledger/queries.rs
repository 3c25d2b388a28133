//! Read-only queries: quota and usage.

use std::ops::RangeInclusive;

use super::{
    ComparedDay, Ledger, LedgerError, Quota, Usage, UsageDays, UsagePage, UsagePosition, UsageRow,
    backend::MAX_ROUNDS,
    usage_rows::{MergedRow, MergedRows, UsageSides},
};
use crate::{
    domain::{OrgId, ShareBalance, ShareId, UtcDay},
    store::{PoolBalance, RowKey},
    telemetry::log_limited,
};

/// A row as it is read, with its day.
type DatedRow = (UtcDay, RowKey, MergedRow);

impl Ledger {
    /// What remains today of every pool of the policy.
    ///
    /// # Errors
    ///
    /// The organization is unknown, or the store failed.
    pub async fn quota(&self, org: &OrgId) -> Result<Quota, LedgerError> {
        self.answer(self.quota_now(org)).await
    }

    /// One page of what was used, by day, project and model. It reads at most [`UsageDays::MAX_DAYS`] days. What the
    /// provider counted is left out where it can't be read.
    ///
    /// # Errors
    ///
    /// The organization is unknown and has no rows, the days are not kept or too many, or the store failed.
    pub async fn usage(&self, org: &OrgId, page: UsagePage) -> Result<Usage, LedgerError> {
        self.answer(self.usage_now(org, page, UsageSides::Both))
            .await
    }

    /// As [`Ledger::usage`], but only what the ledger counted.
    ///
    /// # Errors
    ///
    /// As of [`Ledger::usage`].
    pub async fn counted_usage(&self, org: &OrgId, page: UsagePage) -> Result<Usage, LedgerError> {
        self.answer(self.usage_now(org, page, UsageSides::Ledger))
            .await
    }

    async fn quota_now(&self, org: &OrgId) -> Result<Quota, LedgerError> {
        let policy = self.policy();
        let backend = &self.backend;
        let mut day = backend.clock.today();
        for _ in 0..MAX_ROUNDS {
            let enrollment = policy
                .enrollment(org, day)
                .ok_or(LedgerError::UnknownOrganization)?;
            let terms = &enrollment.terms;
            let shares: Vec<ShareId> = terms.shares.iter().map(|(id, _)| id.clone()).collect();
            let query = backend.store.pools(org, day, &policy.pools, &shares);
            let (today, counted) = backend.read(query).await?;
            if today == day {
                let shares = terms.shares.iter().zip(counted.shares);
                let shares = shares.map(|((id, share), used)| {
                    let share = *share;
                    (id.clone(), ShareBalance { share, used })
                });
                let shares = shares.collect();
                let pools = policy
                    .pools
                    .iter()
                    .zip(counted.pools)
                    .map(|(pool, counters)| {
                        let balance =
                            PoolBalance::today(&enrollment.terms, pool.clone(), &counters);
                        (balance, counters)
                    });
                let pools = pools.collect();
                return Ok(Quota {
                    enrollment,
                    day,
                    resets_at: day.end(),
                    pools,
                    shares,
                });
            }
            day = today;
        }
        Err(LedgerError::ClockUnstable)
    }

    async fn usage_now(
        &self,
        org: &OrgId,
        page: UsagePage,
        sides: UsageSides,
    ) -> Result<Usage, LedgerError> {
        let (days, mut day, first) = self.first_rows(org, &page, sides).await?;
        let mut listed: Vec<DatedRow> = dated(day, first).collect();
        // One row more than the page: where does the next page begin?
        while listed.len() <= page.size && day < *days.end() {
            day = day.plus_days(1);
            let limit = page.size + 1 - listed.len();
            let rows = self.backend.merged_rows(org, day, sides, None, limit);
            let (_, rows) = rows.await?;
            listed.extend(dated(day, rows));
        }
        let policy = self.policy();
        if listed.is_empty() && page.start.is_none() && !policy.orgs.contains_key(org) {
            return Err(LedgerError::UnknownOrganization);
        }
        let comparisons = match (&page.start, sides) {
            (None, UsageSides::Both) => self.compared_days(org, &days).await,
            _ => Vec::new(),
        };
        let next = next_page(&listed, page.size);
        let listed = listed.into_iter().take(page.size);
        let rows = listed.map(|(day, (project, model), row)| UsageRow {
            day,
            pool: policy.history_pool(&model).cloned(),
            project,
            model,
            counters: row.counters,
            provider: row.provider,
        });
        Ok(Usage {
            rows: rows.collect(),
            days,
            next,
            comparisons,
        })
    }

    /// How these days were compared; none if that can't be read. It fails nothing.
    async fn compared_days(&self, org: &OrgId, days: &RangeInclusive<UtcDay>) -> Vec<ComparedDay> {
        let all = (0..UsageDays::MAX_DAYS).map(|later| days.start().plus_days(later));
        let days = all.take_while(|day| day <= days.end()).collect();
        let compared = self.backend.compared_days(org, days).await;
        compared.unwrap_or_else(|error| {
            log_limited!(warn, %org, %error, "usage is listed without its comparisons with the provider");
            Vec::new()
        })
    }

    /// The days of the query by the store's clock, the day on which the page begins, and its rows of that day.
    async fn first_rows(
        &self,
        org: &OrgId,
        page: &UsagePage,
        sides: UsageSides,
    ) -> Result<(RangeInclusive<UtcDay>, UtcDay, MergedRows), LedgerError> {
        let backend = &self.backend;
        let mut today = backend.clock.today();
        for _ in 0..MAX_ROUNDS {
            let oldest = today.minus_days(self.usage_retention_days);
            let days = page.days_kept(oldest, today);
            let (day, after) = match &page.start {
                Some(start) => (start.day, start.after.as_ref()),
                // Days that are refused are refused only once the store has confirmed what day it is.
                None => (days.as_ref().map_or(today, |days| *days.start()), None),
            };
            let read = backend.merged_rows(org, day, sides, after, page.size + 1);
            let (stores_today, rows) = read.await?;
            if stores_today == today {
                return Ok((days?, day, rows));
            }
            today = stores_today;
        }
        Err(LedgerError::ClockUnstable)
    }
}

fn dated(day: UtcDay, rows: MergedRows) -> impl Iterator<Item = DatedRow> {
    rows.into_iter().map(move |(key, row)| (day, key, row))
}

/// Where the page after one of this size begins. A page that ends with a day is continued on the next day with rows,
/// so that it goes on after midnight, when the day that it ended with may be past the retention.
fn next_page(listed: &[DatedRow], size: usize) -> Option<UsagePosition> {
    let (day, ..) = listed.get(size)?;
    let last = listed[..size].last();
    let last = last.filter(|(last_day, ..)| last_day == day);
    Some(UsagePosition {
        day: *day,
        after: last.map(|(_, key, _)| key.clone()),
    })
}
