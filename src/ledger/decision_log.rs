//! The decision log: records decisions in metrics and logs, once their answers are known.
//!
//! The log line of a decision (target `tollgate::calls`, level debug) is off by default, and its fields are kept
//! only if it is on. It never has a request id. What an administrator changes is in the audit log (target `audit`, level
//! info).

use tokio::time::Instant;
use tracing::Level;

use super::{Released, Reserve, Reserved, SetExternalUsage, Settled, backend::Backend};
use crate::{
    domain::{BilledReason, OrgId, RequestFields, Tokens, Verdict},
    telemetry::{
        metrics::{TokenUse, Transition, verdict_names},
        traces,
    },
};

/// Logs a decision: the fields that each operation has, then those of one.
macro_rules! log_decision {
    ($operation:literal, $org:expr, $began:expr, $answer:expr, $tokens:expr, $($own:tt)*) => {
        tracing::debug!(
            target: "tollgate::calls",
            operation = $operation,
            org = $org.as_str(),
            pool = $answer.pool.as_ref().map(|balance| balance.pool.as_str()),
            tokens = $tokens.get(),
            replayed = $answer.replayed,
            $($own)*
            duration_ms = $began.elapsed().as_secs_f64() * 1_000.0,
            trace_id = traces::trace_id(),
            "decided"
        )
    };
}

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

/// Logs a change of external usage; without the figure before, one that may have happened.
pub(super) fn audit_external_usage(request: &SetExternalUsage, before: Option<Tokens>) {
    tracing::info!(
        target: "audit",
        operation = "set_external_usage",
        caller = request.caller.as_deref(),
        org = request.org.as_str(),
        pool = request.pool.as_str(),
        source = <&str>::from(request.source),
        before = before.map(Tokens::get),
        after = request.tokens.get(),
        note = request.note,
        outcome_known = before.is_some(),
        trace_id = traces::trace_id(),
        "the external usage of a pool was set"
    );
}

impl Backend {
    /// Records a Reserve. Replays and dry runs change no metric.
    pub(super) fn record_reserved(&self, record: ReserveRecord, reserved: &Reserved) {
        let verdict = reserved.verdict;
        if !record.dry_run && !reserved.replayed {
            let kind = match verdict {
                Verdict::Free => TokenUse::Free,
                Verdict::Billed(_) => TokenUse::Billed,
            };
            let pool = reserved.pool.as_ref().map(|balance| &balance.pool);
            self.metrics.tokens(pool, kind, record.tokens.get());
            if record.has_id && self.is_kept(&record.org, verdict) {
                self.metrics.reservation(Transition::Held);
            }
        }
        let Some((began, fields)) = record.logged.as_deref() else {
            return;
        };
        let (verdict, reason) = verdict_names(verdict);
        log_decision!(
            "reserve",
            record.org,
            began,
            reserved,
            record.tokens,
            project = fields.project.as_str(),
            model = fields.model.as_str(),
            verdict,
            reason,
            dry_run = record.dry_run,
        );
    }

    pub(super) fn record_settled(
        &self,
        began: Instant,
        org: &OrgId,
        tokens: Tokens,
        settled: &Settled,
    ) {
        if !settled.replayed {
            let kind = match settled.verdict {
                Verdict::Free => TokenUse::SettledFree,
                Verdict::Billed(_) => TokenUse::SettledBilled,
            };
            // What ran outside the programme counts in no pool, though its pool is in the answer.
            let counted = settled.verdict != Verdict::RAN_OUTSIDE_PROGRAM;
            let pool = settled.pool.as_ref().filter(|_| counted);
            let pool = pool.map(|balance| &balance.pool);
            self.metrics.tokens(pool, kind, tokens.get());
            self.metrics.reservation(Transition::Settled);
        }
        let (verdict, reason) = verdict_names(settled.verdict);
        log_decision!(
            "settle",
            org,
            began,
            settled,
            tokens,
            verdict,
            reason,
            verdict_changed = settled.verdict_changed,
        );
    }

    pub(super) fn record_released(&self, began: Instant, org: &OrgId, released: &Released) {
        let tokens = released.tokens;
        if !released.replayed {
            let pool = released.pool.as_ref().map(|balance| &balance.pool);
            self.metrics.tokens(pool, TokenUse::Released, tokens.get());
            self.metrics.reservation(Transition::Released);
        }
        log_decision!("release", org, began, released, tokens,);
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
