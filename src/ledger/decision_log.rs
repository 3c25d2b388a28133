//! The decision log: records decisions in metrics and logs, once their answers are known.
//!
//! The log line of a decision (target `tollgate::calls`, level debug) is off by default, and its fields are kept
//! only if it is on. It never has a request id.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Level;

use super::{Released, Reserve, Reserved, Settled, backend::Backend};
use crate::{
    domain::{BilledReason, OrgId, RequestFields, Tokens, Verdict},
    store::PoolBalance,
    telemetry::{
        metrics::{TokenUse, Transition, verdict_names},
        traces,
    },
};

/// The fields of a Reserve that are recorded with its answer.
pub(super) struct ReserveRecord {
    org: OrgId,
    tokens: Tokens,
    dry_run: bool,
    has_id: bool,
    /// Its start and its fields, if the log line is on.
    logged: Option<Box<(Instant, RequestFields)>>,
}

impl ReserveRecord {
    pub(super) fn of(request: &Reserve) -> Self {
        let is_logged = tracing::enabled!(target: "tollgate::calls", Level::DEBUG);
        Self {
            org: request.org.clone(),
            tokens: request.fields.tokens,
            dry_run: request.dry_run,
            has_id: request.request_id.is_some(),
            logged: is_logged.then(|| Box::new((Instant::now(), request.fields.clone()))),
        }
    }
}

impl Backend {
    /// Records a Reserve. Replays and dry runs change no metric.
    pub(super) fn record_reserved(&self, record: ReserveRecord, reserved: &Reserved) {
        let verdict = reserved.verdict;
        let pool = reserved.pool.as_ref().map(|balance| &balance.pool);
        if !record.dry_run && !reserved.replayed {
            let kind = match verdict {
                Verdict::Free => TokenUse::Free,
                Verdict::Billed(_) => TokenUse::Billed,
            };
            let metrics = &self.metrics;
            metrics.tokens(pool, kind, record.tokens.get());
            if record.has_id && self.is_kept(&record.org, verdict) {
                metrics.reservation(Transition::Held);
            }
        }
        let Some((began, fields)) = record.logged.as_deref() else {
            return;
        };
        let (verdict, reason) = verdict_names(verdict);
        tracing::debug!(
            target: "tollgate::calls",
            operation = "reserve",
            org = record.org.as_str(),
            project = fields.project.as_str(),
            model = fields.model.as_str(),
            pool = pool.map(|pool| pool.as_str()),
            verdict,
            reason,
            tokens = fields.tokens.get(),
            replayed = reserved.replayed,
            dry_run = record.dry_run,
            duration_ms = millis(began.elapsed()),
            trace_id = traces::trace_id(),
            "decided"
        );
    }

    pub(super) fn record_settled(
        &self,
        began: Instant,
        org: &OrgId,
        tokens: Tokens,
        settled: &Settled,
    ) {
        let kind = match settled.verdict {
            Verdict::Free => TokenUse::SettledFree,
            Verdict::Billed(_) => TokenUse::SettledBilled,
        };
        let pool = settled.pool.as_ref();
        if !settled.replayed {
            let pool = pool.map(|figures| &figures.pool);
            self.metrics.tokens(pool, kind, tokens.get());
            self.metrics.reservation(Transition::Settled);
        }
        let (verdict, reason) = verdict_names(settled.verdict);
        tracing::debug!(
            target: "tollgate::calls",
            operation = "settle",
            org = org.as_str(),
            pool = pool_name(pool),
            verdict,
            reason,
            verdict_changed = settled.verdict_changed,
            tokens = tokens.get(),
            replayed = settled.replayed,
            duration_ms = millis(began.elapsed()),
            trace_id = traces::trace_id(),
            "decided"
        );
    }

    pub(super) fn record_released(&self, began: Instant, org: &OrgId, released: &Released) {
        let pool = released.pool.as_ref();
        let tokens = released.tokens.get();
        if !released.replayed {
            let pool = pool.map(|figures| &figures.pool);
            self.metrics.tokens(pool, TokenUse::Released, tokens);
            self.metrics.reservation(Transition::Released);
        }
        tracing::debug!(
            target: "tollgate::calls",
            operation = "release",
            org = org.as_str(),
            pool = pool_name(pool),
            tokens,
            replayed = released.replayed,
            duration_ms = millis(began.elapsed()),
            trace_id = traces::trace_id(),
            "decided"
        );
    }

    /// Whether the store keeps a reservation for a Reserve with an id and this verdict. For an unknown
    /// organization it keeps none. Without the store's answer it counts as none.
    fn is_kept(&self, org: &OrgId, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Billed(BilledReason::StoreUnavailable) => false,
            Verdict::Billed(BilledReason::OrganizationNotEnrolled) => {
                self.policy.load().orgs.contains_key(org)
            }
            _ => true,
        }
    }
}

fn pool_name(balance: Option<&PoolBalance>) -> Option<&str> {
    balance.map(|balance| balance.pool.as_str())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}
