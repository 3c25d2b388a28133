//! What is read and counts nothing: quota and usage.

use super::{Ledger, LedgerError, MAX_ROUNDS, Quota, Usage, UsagePage, UsageRow, outage::Purpose};
use crate::{
    domain::OrgId,
    store::{PoolBalance, StoreError},
};

impl Ledger {
    /// What remains today of every pool of the policy.
    ///
    /// # Errors
    ///
    /// The organization is unknown, or the store failed.
    pub async fn quota(&self, org: &OrgId) -> Result<Quota, LedgerError> {
        self.in_time(1, self.quota_now(org)).await
    }

    /// What was used on a day, by project and model.
    ///
    /// # Errors
    ///
    /// The organization is unknown and has no rows, the day is not kept, or the store failed.
    pub async fn usage(&self, org: &OrgId, page: UsagePage) -> Result<Usage, LedgerError> {
        self.in_time(1, self.usage_now(org, page)).await
    }

    async fn quota_now(&self, org: &OrgId) -> Result<Quota, LedgerError> {
        let policy = self.policy();
        let mut day = self.inner.clock.today();
        for _ in 0..MAX_ROUNDS {
            let enrollment = policy
                .enrollment(org, day)
                .ok_or(LedgerError::UnknownOrganization)?;
            let store = &self.inner.store;
            let counted = self.read(store.pools(org, day, policy.pools())).await?;
            let today = self.inner.clock.learn(counted.now);
            if today == day {
                let pools = policy
                    .pools()
                    .iter()
                    .zip(counted.answer)
                    .map(|(pool, counters)| {
                        let figures =
                            PoolBalance::today(&enrollment.terms, pool.clone(), &counters);
                        (figures, counters)
                    });
                let pools = pools.collect();
                return Ok(Quota {
                    enrollment,
                    day,
                    resets_at: day.end(),
                    pools,
                });
            }
            day = today;
        }
        Err(LedgerError::RestlessClock)
    }

    async fn usage_now(&self, org: &OrgId, page: UsagePage) -> Result<Usage, LedgerError> {
        let UsagePage { day, after, size } = page;
        let asked = day;
        let mut day = asked.unwrap_or_else(|| self.inner.clock.today());
        for _ in 0..MAX_ROUNDS {
            // One row more than the page, which tells whether there is a next one.
            let store = &self.inner.store;
            let read = store.usage(org, day, after.as_ref(), size + 1);
            let read = self.read(read).await?;
            let today = self.inner.clock.learn(read.now);
            if asked.is_none() && today != day {
                day = today;
                continue;
            }
            let oldest = today.minus_days(self.inner.usage_retention_days);
            if day > today || day < oldest {
                return Err(LedgerError::DayNotKept { day, oldest, today });
            }
            let policy = self.policy();
            let rows = read.answer;
            if rows.is_empty() && after.is_none() && !policy.orgs().contains_key(org) {
                return Err(LedgerError::UnknownOrganization);
            }
            let more = rows.len() > size;
            let listed = rows.into_iter().take(size);
            let listed = listed.map(|((project, model), counters)| UsageRow {
                pool: policy.pool_of(&model).cloned(),
                project,
                model,
                counters,
            });
            let rows = listed.collect();
            return Ok(Usage { day, rows, more });
        }
        Err(LedgerError::RestlessClock)
    }

    /// Reads from the store, where it is not known to be down.
    async fn read<T>(
        &self,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, LedgerError> {
        self.inner.outage.enter(Purpose::Read).await?;
        let answer = answer.await.map_err(LedgerError::Store);
        self.inner.note(&answer);
        answer
    }
}
