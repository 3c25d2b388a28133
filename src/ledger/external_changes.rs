//! External usage is set, and its changes are listed (docs/CONTRACT.md, "External usage").

use std::{ops::RangeInclusive, sync::Arc};

use chrono::{DateTime, Utc};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    ExternalChangeList, ExternalUsageSet, Ledger, LedgerError, SetExternalUsage, UsageDays,
    api::Request, backend::MAX_ROUNDS, decision_log,
};
use crate::{
    domain::{ExternalChange, ExternalChanges, OrgId, Tokens, UtcDay},
    store::Operation,
    telemetry::{log_limited, traces},
};

impl Ledger {
    /// Replaces today's figure of what the provider counted in a pool, and Tollgate did not. Each change is an event in
    /// the audit log, and is kept in the store for [`Ledger::external_changes`].
    ///
    /// # Errors
    ///
    /// The policy does not know the organization or the pool, or the store failed.
    pub async fn set_external_usage(
        &self,
        request: SetExternalUsage,
    ) -> Result<ExternalUsageSet, LedgerError> {
        let policy = self.policy();
        if !policy.orgs.contains_key(&request.org) {
            return Err(LedgerError::UnknownOrganization);
        } else if !policy.pools.contains(&request.pool) {
            return Err(LedgerError::UnknownPool);
        }
        let operation = Operation::SetExternalUsage {
            pool: request.pool.clone(),
            source: request.source,
            tokens: request.tokens,
        };
        let decided = self.decide(request.org.clone(), Request::Assessed(operation));
        let mut pending = PendingChange::new(self, request);
        let set: Result<ExternalUsageSet, LedgerError> = decided.await;
        let outcome = match &set {
            Ok(set) => Some((set.at, Some(set.before))),
            Err(error) if error.is_outcome_unknown() => Some((self.now(), None)),
            Err(_) => None,
        };
        if let (Some(request), Some((at, before))) = (pending.request.take(), outcome) {
            let kept = self.record_change(request, at, before);
            // After the deadline it is completed all the same.
            let kept = async { kept.await.map_err(|_| LedgerError::TaskPanicked) };
            let _ = self.within_deadline(kept).await;
        }
        set
    }

    /// Logs a change, and keeps it in a task of its own. The log is the record: a failure to keep it is only logged.
    fn record_change(
        &self,
        request: SetExternalUsage,
        at: DateTime<Utc>,
        before: Option<Tokens>,
    ) -> JoinHandle<()> {
        decision_log::audit_external_usage(&request, before);
        let (backend, trace_id) = (Arc::clone(&self.backend), traces::trace_id());
        tokio::spawn(async move {
            let change = ExternalChange {
                at,
                pool: request.pool,
                source: request.source,
                before,
                after: request.tokens,
                caller: request.caller,
                note: request.note,
            };
            let kept = backend.store.keep_external_change(&request.org, &change);
            if let Err(error) = kept.await {
                log_limited!(
                    warn,
                    %error,
                    trace_id,
                    "a change of external usage may be missing in the list of changes; the audit log has it"
                );
            }
        })
    }

    /// The changes of external usage, the newest first: whole days, until there are `enough` changes.
    ///
    /// # Errors
    ///
    /// The organization is unknown and has no changes, the days are not kept or too many, or the store failed.
    pub async fn external_changes(
        &self,
        org: &OrgId,
        days: UsageDays,
        enough: usize,
    ) -> Result<ExternalChangeList, LedgerError> {
        self.answer(self.changes_now(org, days, enough)).await
    }

    async fn changes_now(
        &self,
        org: &OrgId,
        days: UsageDays,
        enough: usize,
    ) -> Result<ExternalChangeList, LedgerError> {
        let (days, newest) = self.newest_changes(org, days).await?;
        let (oldest, to_day) = days.into_inner();
        let mut list = ExternalChangeList {
            from_day: to_day,
            to_day,
            changes: Vec::new(),
            truncated_days: Vec::new(),
            next_to_day: None,
        };
        list.add(to_day, newest);
        while list.from_day > oldest && list.changes.len() < enough {
            let day = list.from_day.yesterday();
            let query = self.backend.store.external_changes(org, day);
            let (_, changes) = self.backend.read(query).await?;
            list.add(day, changes);
        }
        if list.changes.is_empty() && !self.policy().orgs.contains_key(org) {
            return Err(LedgerError::UnknownOrganization);
        }
        let rest = list.from_day > oldest;
        list.next_to_day = rest.then(|| list.from_day.yesterday());
        Ok(list)
    }

    /// The days of the query that are kept by the store's clock, and the changes of the newest one.
    async fn newest_changes(
        &self,
        org: &OrgId,
        days: UsageDays,
    ) -> Result<(RangeInclusive<UtcDay>, ExternalChanges), LedgerError> {
        let backend = &self.backend;
        let mut today = backend.clock.today();
        for _ in 0..MAX_ROUNDS {
            let kept = days.kept(today.minus_days(self.usage_retention_days), today);
            // Days that are refused are refused only once the store has confirmed what day it is.
            let newest = kept.as_ref().map_or(today, |days| *days.end());
            let query = backend.store.external_changes(org, newest);
            let (stores_today, changes) = backend.read(query).await?;
            if stores_today == today {
                return Ok((kept?, changes));
            }
            today = stores_today;
        }
        Err(LedgerError::ClockUnstable)
    }
}

/// A change that has no answer yet. If its caller goes away before that, its outcome is unknown.
struct PendingChange<'l> {
    ledger: &'l Ledger,
    request: Option<SetExternalUsage>,
}

impl<'l> PendingChange<'l> {
    fn new(ledger: &'l Ledger, request: SetExternalUsage) -> Self {
        let request = Some(request);
        Self { ledger, request }
    }
}

impl Drop for PendingChange<'_> {
    fn drop(&mut self) {
        let request = self.request.take();
        // At the end of the process there is no runtime.
        if let Some(request) = request.filter(|_| Handle::try_current().is_ok()) {
            self.ledger.record_change(request, self.ledger.now(), None);
        }
    }
}

impl ExternalChangeList {
    /// Adds the day before the first one.
    fn add(&mut self, day: UtcDay, changes: ExternalChanges) {
        self.from_day = day;
        let mut kept = changes.kept;
        // Replicas may have kept them in another order.
        kept.sort_by_key(|change| change.at);
        self.changes.extend(kept.into_iter().rev());
        if changes.is_truncated {
            self.truncated_days.push(day);
        }
    }
}
