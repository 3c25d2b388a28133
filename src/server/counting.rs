//! What is counted of the policy and the certificates, for whoever scrapes it.

use tokio::sync::watch;

use crate::{ledger::Ledger, metrics::Metrics, policy::PolicyStatus};

/// Tells the metrics of the policy in force, and of each that is taken or refused from now on.
pub(super) async fn count_policies(
    ledger: Ledger,
    mut status: watch::Receiver<PolicyStatus>,
    metrics: Metrics,
) {
    let (mut applied, mut refused) = (0, 0);
    loop {
        let now = status.borrow_and_update().clone();
        let policy = ledger.policy();
        let (name, version) = (&policy.program().name, now.version.to_string());
        let organizations = policy.orgs().len();
        if now.applied == applied {
            metrics.policy_loaded(name, &version, organizations, now.taken_at);
        }
        // One look may find that several were taken since the last.
        for _ in applied..now.applied {
            metrics.policy_applied(name, &version, organizations, now.taken_at);
        }
        for _ in refused..now.refused {
            metrics.policy_refused();
        }
        (applied, refused) = (now.applied, now.refused);
        drop(policy);
        if status.changed().await.is_err() {
            return;
        }
    }
}
