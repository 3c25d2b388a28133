//! Watches the store and the files while the service runs.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinSet};

use super::build::Parts;
use crate::{
    auth::{Authenticator, CallerSet, Callers},
    files::watched::{LoadError, Reload, ReloadSignal, Watched},
    ledger::Ledger,
    net::CertificateReloader,
    policy::{PolicySource, PolicyStatus},
    telemetry::metrics::{Metrics, ReloadResult, WatchedFile},
    wall_clock,
};

/// The parts that are reloaded when their files change.
pub(super) struct Files {
    pub(super) policy: PolicySource,
    pub(super) callers: Option<Watched<Callers, LoadError>>,
    pub(super) certificates: Vec<CertificateReloader>,
}

impl Files {
    /// Starts the tasks that watch the store and the files. They run until they are dropped.
    pub(super) fn follow(self, parts: &Parts, signal: &ReloadSignal) -> JoinSet<()> {
        let mut followers = JoinSet::new();
        followers.spawn(parts.ledger.watch_store());
        for certificates in self.certificates {
            followers.spawn(certificates.follow(signal.clone()));
        }
        if let (Some(watched), Authenticator::Callers(callers)) =
            (self.callers, &parts.authenticator)
        {
            let watched = watched.with_signal(signal);
            let callers = Arc::clone(callers);
            followers.spawn(follow_callers(watched, callers, parts.metrics.clone()));
        }
        let (ledger, status) = (parts.ledger.clone(), self.policy.status());
        record_policy(&ledger, &status.borrow(), &parts.metrics);
        followers.spawn(count_policies(
            ledger.clone(),
            status,
            parts.metrics.clone(),
        ));
        let apply = move |policy| ledger.set_policy(policy);
        followers.spawn(self.policy.follow(signal.clone(), apply));
        followers
    }
}

/// Replaces the callers when the file has other valid ones.
async fn follow_callers(
    mut watched: Watched<Callers, LoadError>,
    callers: Arc<CallerSet>,
    metrics: Metrics,
) {
    loop {
        let rejected = match watched.next().await {
            Reload::Loaded(next) => {
                let replaced = callers.replace(next);
                replaced.err().map(|error| {
                    watched.reject();
                    error.to_string()
                })
            }
            Reload::Rejected(error) => Some(error.to_string()),
            Reload::Restored => None,
            Reload::Unchanged | Reload::StillRejected | Reload::Unstable => {
                continue;
            }
        };
        let rejected_at = rejected.is_some().then(wall_clock::now);
        metrics.file_refused(WatchedFile::Callers, rejected_at);
        if let Some(error) = rejected {
            let callers = watched.name();
            tracing::error!(
                callers,
                error,
                "the callers file is not taken: the callers before stay"
            );
        }
    }
}

/// Sets the metrics of the policy in force.
fn record_policy(ledger: &Ledger, status: &PolicyStatus, metrics: &Metrics) {
    let policy = ledger.policy();
    let (name, version) = (&policy.program().name, status.version.to_string());
    metrics.policy_loaded(name, &version, policy.orgs().len(), status.loaded_at);
}

/// Counts each policy that is loaded or refused from now on.
async fn count_policies(
    ledger: Ledger,
    mut status: watch::Receiver<PolicyStatus>,
    metrics: Metrics,
) {
    let (mut applied, mut refused) = (0, 0);
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        record_policy(&ledger, &now, &metrics);
        // Several may have been loaded since the last wake-up.
        metrics.policy_reloaded(ReloadResult::Applied, now.applied - applied);
        metrics.policy_reloaded(ReloadResult::Refused, now.refused - refused);
        metrics.file_refused(WatchedFile::Policy, now.refused_at);
        (applied, refused) = (now.applied, now.refused);
    }
}
