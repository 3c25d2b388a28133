//! Notices: pools that have reached a threshold of their allowance (docs/CONTRACT.md, "Notices").
//!
//! The replica that decides finds a crossing in the store's answer. What was not confirmed, since that replica ended or
//! its receiver failed, every replica finds in the counters that the overview reads.

use chrono::{DateTime, Utc};

use super::{
    Ledger, LedgerError,
    api::{Notice, NoticeOrigin, Request},
    backend::Backend,
};
use crate::{
    domain::{OrgId, PoolCounters, Tokens, UtcDay},
    policy::Policy,
    store::{Batch, Operation, Outcome, ThresholdCrossing, Timestamped},
};

/// The store has recorded that a notice was delivered.
pub(super) struct NoticeConfirmation;

impl TryFrom<Timestamped<Outcome>> for NoticeConfirmation {
    type Error = LedgerError;

    fn try_from(outcome: Timestamped<Outcome>) -> Result<Self, LedgerError> {
        match outcome.answer {
            Outcome::NoticeConfirmed => Ok(Self),
            outcome => Err(LedgerError::unexpected(outcome)),
        }
    }
}

impl Ledger {
    /// Records that a notice was delivered. Nothing is recorded once its day is over.
    ///
    /// # Errors
    ///
    /// The store failed. The notice will be found again.
    pub async fn confirm_notice(&self, notice: &Notice) -> Result<(), LedgerError> {
        let operation = Operation::ConfirmNotice {
            pool: notice.pool.clone(),
            day: notice.day,
            threshold: notice.threshold,
        };
        let NoticeConfirmation = self
            .decide(notice.org.clone(), Request::Assessed(operation))
            .await?;
        Ok(())
    }

    /// Whether any replica has recorded that a notice was delivered.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn is_confirmed(&self, notice: &Notice) -> Result<bool, LedgerError> {
        let pools = [notice.pool.clone()];
        let query = (self.backend.store).pools(&notice.org, notice.day, &pools, &[]);
        let (_, counted) = self.answer(self.backend.read(query)).await?;
        let counters = counted.pools.first();
        Ok(counters.is_some_and(|it| it.notified.contains(notice.threshold)))
    }
}

impl Backend {
    /// Passes on the thresholds that a batch has crossed.
    pub(super) fn notice_crossings(
        &self,
        batch: &Batch,
        now: DateTime<Utc>,
        crossings: Vec<ThresholdCrossing>,
    ) {
        for crossing in crossings {
            let ThresholdCrossing {
                pool,
                before,
                used,
                external,
            } = crossing;
            let terms = batch.terms.of_pool(&pool);
            let peak = used.plus(external).unwrap_or(Tokens::MAX);
            let reached = terms.thresholds.reached(terms.allowance, peak);
            for threshold in reached.filter(|it| it.tokens(terms.allowance) > before) {
                let notice = Notice {
                    org: batch.org.clone(),
                    pool: pool.clone(),
                    day: batch.day,
                    threshold,
                    used,
                    external,
                    allowance: terms.allowance,
                    noticed_at: now,
                };
                self.notice(notice, NoticeOrigin::Decided);
            }
        }
    }

    /// Passes on the notices of an organization that were not confirmed. `pools` are the policy's counters, in order.
    pub(super) fn notice_unconfirmed(
        &self,
        policy: &Policy,
        org: &OrgId,
        pools: &Timestamped<Vec<PoolCounters>>,
    ) {
        let (now, day) = (pools.now, UtcDay::of(pools.now));
        let Some(enrollment) = policy.enrollment(org, day) else {
            return;
        };
        for (pool, counters) in policy.pools.iter().zip(&pools.answer) {
            let terms = enrollment.terms.of_pool(pool);
            for threshold in counters.unconfirmed(terms) {
                let notice = Notice {
                    org: org.clone(),
                    pool: pool.clone(),
                    day,
                    threshold,
                    used: counters.used,
                    external: counters.external.tokens(),
                    allowance: terms.allowance,
                    noticed_at: now,
                };
                self.notice(notice, NoticeOrigin::Found);
            }
        }
    }

    fn notice(&self, notice: Notice, origin: NoticeOrigin) {
        if let Some(sink) = &self.notices {
            sink(notice, origin);
        }
    }
}
