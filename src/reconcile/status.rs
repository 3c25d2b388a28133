//! How the last comparison of each organization ended: for the log, the metrics and `/readyz`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use enum_map::EnumMap;

use super::{Comparison, DriftKind, ReconcileSettings, comparison::Unknown, poll::PollError};
use crate::{
    domain::{OrgId, UtcDay},
    telemetry::metrics::{Metrics, ReconcileFigures, ReconcileState},
};

/// The state of every organization, while this replica has the lease. Dropping it removes the figures.
pub(super) struct ReconcileStatus {
    metrics: Metrics,
    orgs: Mutex<BTreeMap<OrgId, OrgStatus>>,
}

struct OrgStatus {
    state: ReconcileState,
    /// At first, when the lease was taken.
    compared_at: Instant,
    /// At the last comparison, if there was one: nothing is known before it.
    drift: Option<EnumMap<DriftKind, u64>>,
    /// What was logged last.
    logged: String,
}

impl ReconcileStatus {
    pub(super) fn new(settings: &ReconcileSettings, metrics: &Metrics) -> Self {
        let orgs = settings.orgs.keys().map(|org| {
            let status = OrgStatus {
                state: ReconcileState::Waiting,
                compared_at: Instant::now(),
                drift: None,
                logged: String::new(),
            };
            (org.clone(), status)
        });
        let status = Self {
            metrics: metrics.clone(),
            orgs: Mutex::new(orgs.collect()),
        };
        status.publish(&status.lock());
        status
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<OrgId, OrgStatus>> {
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records how a poll ended. Logs what is new.
    pub(super) fn record(&self, org: &OrgId, polled: Result<&Comparison, &PollError>) {
        let mut orgs = self.lock();
        let Some(status) = orgs.get_mut(org) else {
            return;
        };
        match polled {
            Ok(comparison) => status.record_comparison(org, comparison),
            Err(error) => {
                status.state = error.state();
                if status.is_new(error.to_string()) {
                    tracing::warn!(%org, %error, "no comparison with the provider");
                }
            }
        }
        self.publish(&orgs);
    }

    fn publish(&self, orgs: &BTreeMap<OrgId, OrgStatus>) {
        let mut states = EnumMap::default();
        let mut drift: Option<EnumMap<DriftKind, u64>> = None;
        for status in orgs.values() {
            states[status.state] += 1;
            for (kind, tokens) in status.drift.iter().flatten() {
                let sum = &mut drift.get_or_insert_default()[kind];
                *sum = sum.saturating_add(*tokens);
            }
        }
        let oldest = orgs.values().map(|status| status.compared_at).min();
        self.metrics.set_reconcile_figures(Some(ReconcileFigures {
            drift_tokens: drift
                .iter()
                .flatten()
                .map(|(kind, tokens)| (kind.name(), *tokens))
                .collect(),
            orgs: states,
            compared_at: oldest.unwrap_or_else(Instant::now),
        }));
    }
}

impl Drop for ReconcileStatus {
    fn drop(&mut self) {
        self.metrics.set_reconcile_figures(None);
    }
}

impl OrgStatus {
    fn is_new(&mut self, text: String) -> bool {
        let is_new = self.logged != text;
        self.logged = text;
        is_new
    }

    fn record_comparison(&mut self, org: &OrgId, comparison: &Comparison) {
        self.compared_at = Instant::now();
        let mut sums: EnumMap<DriftKind, u64> = EnumMap::default();
        for drift in &comparison.drifts {
            sums[drift.kind] = sums[drift.kind].saturating_add(drift.tokens);
        }
        self.drift = Some(sums);
        let found = sums
            .iter()
            .filter(|(kind, tokens)| kind.is_drift() && **tokens > 0);
        let found: Vec<(DriftKind, u64)> = found.map(|(kind, tokens)| (kind, *tokens)).collect();
        let kinds: Vec<&str> = found.iter().map(|(kind, _)| kind.name()).collect();
        let (kinds, reasons) = (kinds.join(", "), reasons(&comparison.unknown));
        self.state = match (reasons.is_empty(), kinds.is_empty()) {
            (false, _) => ReconcileState::Unknown,
            (true, false) => ReconcileState::Drifts,
            (true, true) => ReconcileState::Agrees,
        };
        let state: &str = self.state.into();
        let unknown = unknown_key(&comparison.unknown);
        if !self.is_new(format!("{state}: {kinds}; {unknown:?}")) {
            return;
        }
        let tokens: u64 = found.iter().map(|(_, tokens)| tokens).sum();
        match self.state {
            ReconcileState::Agrees => tracing::info!(%org, "the ledger and the provider agree"),
            ReconcileState::Unknown => {
                tracing::warn!(%org, drift = kinds, tokens, reasons, "the ledger and the provider can't be compared completely");
            }
            _ => tracing::warn!(%org, drift = kinds, tokens, "the ledger and the provider differ"),
        }
    }
}

/// What could not be compared, and of which day, for the log.
fn reasons(unknown: &[Unknown]) -> String {
    let reasons = unknown.iter().map(|it| match it.day {
        Some(day) => format!("{day}: {}", it.reason),
        None => it.reason.clone(),
    });
    reasons.collect::<Vec<_>>().join("; ")
}

/// By what it is known whether something else is unknown: the days, and the reasons without their amounts, since those of
/// an open day change at each poll.
fn unknown_key(unknown: &[Unknown]) -> Vec<(Option<UtcDay>, String)> {
    let keys = unknown.iter().map(|it| {
        let mut reason = it.reason.clone();
        reason.retain(|c| !c.is_ascii_digit());
        (it.day, reason)
    });
    keys.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(day: &str, tokens: u64) -> [Unknown; 1] {
        [Unknown {
            day: Some(UtcDay::parse(day).expect("a day")),
            reason: format!("the models of {tokens} tokens are not known"),
        }]
    }

    #[test]
    fn another_day_or_another_reason_is_new_and_another_amount_is_not() {
        let known = unknown_key(&hidden("2026-11-22", 70));
        assert_eq!(unknown_key(&hidden("2026-11-22", 1_234)), known);
        assert_ne!(unknown_key(&hidden("2026-11-23", 70)), known);
        let [mut other] = hidden("2026-11-22", 70);
        other.reason = "the report has no bucket of this day".to_owned();
        assert_ne!(unknown_key(&[other]), known);
        assert_ne!(unknown_key(&[]), known);
    }

    #[test]
    fn the_log_names_the_day_of_what_is_unknown() {
        let text = reasons(&hidden("2026-11-22", 70));
        assert_eq!(text, "2026-11-22: the models of 70 tokens are not known");
    }
}
