//! Read-only queries: quota and usage.

use super::{
    Ledger, LedgerError, Quota, Usage, UsagePage, UsageRow, backend::MAX_ROUNDS, breaker::Access,
};
use crate::{
    domain::{OrgId, UtcDay},
    store::PoolBalance,
};

impl Ledger {
    /// What remains today of every pool of the policy.
    ///
    /// # Errors
    ///
    /// The organization is unknown, or the store failed.
    pub async fn quota(&self, org: &OrgId) -> Result<Quota, LedgerError> {
        self.answer(self.quota_now(org)).await
    }

    /// What was used on a day, by project and model.
    ///
    /// # Errors
    ///
    /// The organization is unknown and has no rows, the day is not kept, or the store failed.
    pub async fn usage(&self, org: &OrgId, page: UsagePage) -> Result<Usage, LedgerError> {
        self.answer(self.usage_now(org, page)).await
    }

    async fn quota_now(&self, org: &OrgId) -> Result<Quota, LedgerError> {
        let policy = self.policy();
        let known = policy.orgs.get(org);
        let known = known.ok_or(LedgerError::UnknownOrganization)?;
        let backend = &self.backend;
        backend.breaker.admit(Access::Read).await?;
        let read = backend.pools_today(org, &policy.pools).await;
        let failure = read.as_ref().err().and_then(LedgerError::store_error);
        backend.breaker.record(failure);
        let read = read?;
        let day = UtcDay::of(read.now);
        let enrollment = policy.enrollment_of(known, day);
        let pools = policy.pools.iter().zip(read.answer);
        let pools = pools.map(|(pool, counters)| {
            let balance = PoolBalance::today(&enrollment.terms, pool.clone(), &counters);
            (balance, counters)
        });
        let pools = pools.collect();
        Ok(Quota {
            enrollment,
            day,
            resets_at: day.end(),
            pools,
        })
    }

    async fn usage_now(&self, org: &OrgId, page: UsagePage) -> Result<Usage, LedgerError> {
        let UsagePage { after, size, .. } = page;
        let backend = &self.backend;
        let mut day = page.day.unwrap_or_else(|| backend.clock.today());
        for _ in 0..MAX_ROUNDS {
            // One row more than the page: is there a next page?
            let query = backend.store.usage(org, day, after.as_ref(), size + 1);
            let (today, rows) = backend.read(query).await?;
            if page.day.is_none() && today != day {
                day = today;
                continue;
            }
            let oldest = today.minus_days(self.usage_retention_days);
            if day > today || day < oldest {
                return Err(LedgerError::DayNotKept { day, oldest, today });
            }
            let policy = self.policy();
            if rows.is_empty() && after.is_none() && !policy.orgs.contains_key(org) {
                return Err(LedgerError::UnknownOrganization);
            }
            let more = rows.len() > size;
            let listed = rows.into_iter().take(size);
            let listed = listed.map(|((project, model), counters)| UsageRow {
                pool: policy.history_pool(&model).cloned(),
                project,
                model,
                counters,
            });
            let rows = listed.collect();
            return Ok(Usage { day, rows, more });
        }
        Err(LedgerError::ClockUnstable)
    }
}
