//! What is counted of the policy and the certificates, for whoever scrapes it.

use tokio::sync::watch;

use crate::{
    ledger::Ledger,
    policy::PolicyStatus,
    telemetry::metrics::{Metrics, WatchedFile},
};

/// Tells the metrics of the policy in force.
pub(super) fn count_first_policy(ledger: &Ledger, status: &PolicyStatus, metrics: &Metrics) {
    let policy = ledger.policy();
    let (name, version) = (&policy.program().name, status.version.to_string());
    metrics.policy_loaded(name, &version, policy.orgs().len(), status.loaded_at);
}

/// Tells the metrics of each policy that is taken or refused from now on.
pub(super) async fn count_policies(
    ledger: Ledger,
    mut status: watch::Receiver<PolicyStatus>,
    metrics: Metrics,
) {
    let (mut applied, mut refused) = (0, 0);
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        let policy = ledger.policy();
        let (name, version) = (&policy.program().name, now.version.to_string());
        // One look may find that several were taken since the last.
        for _ in applied..now.applied {
            metrics.policy_applied(name, &version, policy.orgs().len(), now.loaded_at);
        }
        for _ in refused..now.refused {
            metrics.policy_refused();
        }
        metrics.file_refused(WatchedFile::Policy, now.refused_at);
        (applied, refused) = (now.applied, now.refused);
    }
}
