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
    store::{Hindrance, PoolFigures, StoreError},
    telemetry::{
        metrics::{Failure, Tokens as Kind, Transition, verdict_names},
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
                Verdict::Free => Kind::Free,
                Verdict::Billed(_) => Kind::Billed,
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
            Verdict::Free => Kind::SettledFree,
            Verdict::Billed(_) => Kind::SettledBilled,
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
            self.metrics.tokens(pool, Kind::Released, tokens);
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

fn pool_name(figures: Option<&PoolFigures>) -> Option<&str> {
    figures.map(|figures| figures.pool.as_str())
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// As what a failure is counted; none where the store is not to blame.
pub(super) fn failure(error: &LedgerError) -> Option<Failure> {
    Some(match error {
        LedgerError::Refused(_)
        | LedgerError::UnknownOrganization
        | LedgerError::DayNotKept { .. } => return None,
        LedgerError::Full(_) => Failure::Full,
        LedgerError::Down(_) => Failure::Down,
        LedgerError::OutOfTime => Failure::OutOfTime,
        LedgerError::RestlessClock => Failure::RestlessClock,
        LedgerError::Overloaded => Failure::Overloaded,
        LedgerError::TaskDied => Failure::TaskDied,
        LedgerError::Store(StoreError::Unreachable { .. }) => Failure::Unreachable,
        LedgerError::Store(StoreError::NoAnswer { .. }) => Failure::NoAnswer,
        LedgerError::Store(StoreError::Unfit { .. }) => Failure::Unfit,
        LedgerError::Store(StoreError::Corrupt { .. }) => Failure::Corrupt,
        LedgerError::Store(StoreError::Refused { why, .. }) => match why {
            Hindrance::Full => Failure::RefusedFull,
            Hindrance::CannotSave => Failure::RefusedCannotSave,
            Hindrance::Busy => Failure::RefusedBusy,
            Hindrance::Loading => Failure::RefusedLoading,
            Hindrance::ReadOnly => Failure::RefusedReadOnly,
            Hindrance::CutOff => Failure::RefusedCutOff,
            Hindrance::TooFewReplicas => Failure::RefusedTooFewReplicas,
            Hindrance::Incomplete => Failure::RefusedIncomplete,
            Hindrance::Moving => Failure::RefusedMoving,
            Hindrance::NoRight => Failure::RefusedNoRight,
            Hindrance::NotLoggedIn => Failure::RefusedNotLoggedIn,
            Hindrance::TooManyClients => Failure::RefusedTooManyClients,
            Hindrance::Other => Failure::RefusedOther,
        },
    })
}
