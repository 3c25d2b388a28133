//! What is counted and logged of a decision, once its answer is known.
//!
//! The log line of a call (target `tollgate::calls`, level debug) is off unless an operator asks for it, and
//! then nothing is kept for it. It never has a request id.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Level;

use super::{Inner, LedgerError, Released, ReserveCall, Reserved, Settled};
use crate::{
    domain::{BilledReason, OrgId, Tokens, Verdict},
    store::{PoolBalance, RefusalReason, StoreError},
    telemetry::{
        metrics::{StoreFailure, TokenUse, Transition, verdict_names},
        traces,
    },
};

/// What a Reserve is remembered by while it is decided.
#[derive(Default)]
pub(super) struct Ask {
    tokens: u64,
    dry_run: bool,
    has_id: bool,
    line: Option<Box<Line>>,
}

/// What only its log line tells.
struct Line {
    began: Instant,
    project: String,
    model: String,
}

impl Ask {
    pub(super) fn of(call: &ReserveCall) -> Self {
        let logged = tracing::enabled!(target: "tollgate::calls", Level::DEBUG);
        let line = logged.then(|| {
            Box::new(Line {
                began: Instant::now(),
                project: call.fields.project.to_string(),
                model: call.fields.model.to_string(),
            })
        });
        Self {
            tokens: call.fields.tokens.get(),
            dry_run: call.dry_run,
            has_id: call.request_id.is_some(),
            line,
        }
    }
}

impl Inner {
    /// A Reserve was answered. A replay and a dry run count nothing.
    pub(super) fn tell_reserved(
        &self,
        ask: Ask,
        org: &OrgId,
        reserved: &Result<Reserved, LedgerError>,
    ) {
        let Ok(reserved) = reserved else {
            return;
        };
        let verdict = reserved.verdict;
        let pool = reserved.pool.as_ref().map(|figures| &figures.pool);
        if !ask.dry_run && !reserved.replayed {
            let kind = match verdict {
                Verdict::Free => TokenUse::Free,
                Verdict::Billed(_) => TokenUse::Billed,
            };
            self.metrics.tokens(pool, kind, ask.tokens);
            if ask.has_id && self.is_kept(org, verdict) {
                self.metrics.reservation(Transition::Held);
            }
        }
        let Some(line) = ask.line else {
            return;
        };
        let (verdict, reason) = verdict_names(verdict);
        tracing::debug!(
            target: "tollgate::calls",
            operation = "reserve",
            org = org.as_str(),
            project = line.project,
            model = line.model,
            pool = pool.map(|pool| pool.as_str()),
            verdict,
            reason,
            tokens = ask.tokens,
            replayed = reserved.replayed,
            dry_run = ask.dry_run,
            duration_ms = millis(line.began.elapsed()),
            trace_id = traces::trace_id(),
            "decided"
        );
    }

    /// A Settle was answered.
    pub(super) fn tell_settled(
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

    /// A Release was answered.
    pub(super) fn tell_released(&self, began: Instant, org: &OrgId, released: &Released) {
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

    /// Whether a Reserve with an id, answered so, is remembered. One of a stranger is not, and of one that
    /// the store did not answer nobody knows.
    fn is_kept(&self, org: &OrgId, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Billed(BilledReason::StoreUnavailable) => false,
            Verdict::Billed(BilledReason::OrganizationNotEnrolled) => {
                self.policy.load().orgs().contains_key(org)
            }
            _ => true,
        }
    }
}

fn pool_name(figures: Option<&PoolBalance>) -> Option<&str> {
    figures.map(|figures| figures.pool.as_str())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// As what a failure is counted; none where the store is not to blame.
pub(super) fn failure(error: &LedgerError) -> Option<StoreFailure> {
    Some(match error {
        LedgerError::Refused(_)
        | LedgerError::UnknownOrganization
        | LedgerError::DayNotKept { .. } => return None,
        LedgerError::Full(_) => StoreFailure::Full,
        LedgerError::Down(_) => StoreFailure::Down,
        LedgerError::OutOfTime => StoreFailure::OutOfTime,
        LedgerError::RestlessClock => StoreFailure::RestlessClock,
        LedgerError::Overloaded => StoreFailure::Overloaded,
        LedgerError::TaskDied => StoreFailure::TaskDied,
        LedgerError::Store(StoreError::Unreachable { .. }) => StoreFailure::Unreachable,
        LedgerError::Store(StoreError::OutcomeUnknown { .. }) => StoreFailure::OutcomeUnknown,
        LedgerError::Store(StoreError::Unsuitable { .. }) => StoreFailure::Unsuitable,
        LedgerError::Store(StoreError::Corrupt { .. }) => StoreFailure::Corrupt,
        LedgerError::Store(StoreError::Refused { why, .. }) => match why {
            RefusalReason::Full => StoreFailure::RefusedFull,
            RefusalReason::CannotSave => StoreFailure::RefusedCannotSave,
            RefusalReason::Busy => StoreFailure::RefusedBusy,
            RefusalReason::Loading => StoreFailure::RefusedLoading,
            RefusalReason::ReadOnly => StoreFailure::RefusedReadOnly,
            RefusalReason::CutOff => StoreFailure::RefusedCutOff,
            RefusalReason::TooFewReplicas => StoreFailure::RefusedTooFewReplicas,
            RefusalReason::Incomplete => StoreFailure::RefusedIncomplete,
            RefusalReason::Moving => StoreFailure::RefusedMoving,
            RefusalReason::NoRight => StoreFailure::RefusedNoRight,
            RefusalReason::NotLoggedIn => StoreFailure::RefusedNotLoggedIn,
            RefusalReason::TooManyClients => StoreFailure::RefusedTooManyClients,
            RefusalReason::Other => StoreFailure::RefusedOther,
        },
    })
}
