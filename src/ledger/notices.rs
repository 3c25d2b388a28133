//! Notices: pools that have reached a threshold of their allowance (docs/CONTRACT.md, "Notices").
//!
//! The replica that decides finds a crossing in the store's answer. What was not confirmed, since that replica ended or
//! its receiver failed, every replica finds in the counters that the overview reads.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::{Ledger, LedgerError, api::Request, backend::Backend};
use crate::{
    domain::{OrgId, PoolCounters, PoolName, Threshold, Tokens, UtcDay},
    policy::Policy,
    store::{Batch, Crossing, Operation, Outcome, Timestamped},
};

/// A pool of an organization has reached a threshold on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The organization.
    pub org: OrgId,
    /// The pool.
    pub pool: PoolName,
    /// The day whose allowance it is.
    pub day: UtcDay,
    /// The threshold, in per cent of the allowance.
    pub threshold: Threshold,
    /// The free tokens that were counted then.
    pub used: Tokens,
    /// What the provider counted besides then.
    pub external: Tokens,
    /// The allowance then.
    pub allowance: Tokens,
    /// When it was reached, or found to be reached, by the store's clock.
    pub noticed_at: DateTime<Utc>,
}

/// Where a notice is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeOrigin {
    /// A decision of this replica. Nobody else has delivered it yet.
    Decided,
    /// The store: it was not confirmed there, which may have changed since.
    Found,
}

/// Takes notices for delivery. It must not wait: it is called between a decision and its answer.
pub type NoticeSink = Arc<dyn Fn(Notice, NoticeOrigin) + Send + Sync>;

/// The store has recorded that a notice was delivered.
pub(super) struct NoticeConfirmed;

impl TryFrom<Timestamped<Outcome>> for NoticeConfirmed {
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
        let NoticeConfirmed = self
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
        crossings: Vec<Crossing>,
    ) {
        for crossing in crossings {
            let Crossing {
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
