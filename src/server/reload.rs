//! Watches the store and the files while the service runs.

use std::{fmt::Display, sync::Arc};

use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};

use crate::{
    auth::{Authenticator, Callers},
    files::watched::{LoadError, Reload, ReloadSignal, Watched},
    grpc::QuotaServiceConfig,
    ledger::{GaugedOrganizations, Ledger},
    net::WatchedCertificates,
    policy::{PolicySource, PolicyStatus},
    telemetry::metrics::{Metrics, ReloadResult, WatchedFile},
    wall_clock,
};

/// The parts that are reloaded when their files change.
pub(super) struct Files {
    pub(super) policy: PolicySource,
    pub(super) callers: Option<Watched<Callers, LoadError>>,
    pub(super) certificates: Vec<WatchedCertificates>,
    /// The organizations that have gauges, if the policy has them.
    pub(super) gauged: Arc<GaugedOrganizations>,
}

impl Files {
    /// Starts the tasks that watch the store and the files. They run until they are dropped.
    pub(super) fn follow(self, service: &QuotaServiceConfig, signal: &ReloadSignal) -> JoinSet<()> {
        let mut followers = JoinSet::new();
        let metrics = &service.metrics;
        followers.spawn(service.ledger.watch_store());
        followers.spawn(service.ledger.refresh_overview());
        followers.spawn(service.ledger.refresh_comparisons());
        for tls in self.certificates {
            let section = <&str>::from(tls.section);
            let apply = move |config| {
                tls.certificates.store(config);
                tracing::info!(
                    section,
                    "new certificates are shown from the next connection on"
                );
                Ok(())
            };
            let log_refusal = move |error: &str| {
                tracing::error!(
                    section,
                    %error,
                    "certificates are refused: those of before are shown on"
                );
            };
            let watched = tls.files.with_signal(signal);
            let followed = follow(watched, tls.section, metrics.clone(), apply, log_refusal);
            followers.spawn(followed);
        }
        if let (Some(watched), Authenticator::Callers(caller_set)) =
            (self.callers, &service.authenticator)
        {
            let watched = watched.with_signal(signal);
            let (name, caller_set) = (watched.name(), Arc::clone(caller_set));
            let apply = move |callers| {
                caller_set.replace(callers)?;
                Ok(())
            };
            let log_refusal = move |error: &str| {
                tracing::error!(
                    callers = name,
                    error,
                    "the callers file is not taken: the callers before stay"
                );
            };
            let file = WatchedFile::Callers;
            followers.spawn(follow(watched, file, metrics.clone(), apply, log_refusal));
        }
        let (ledger, status) = (service.ledger.clone(), self.policy.status());
        record_policy(&ledger, &status.borrow(), metrics, &self.gauged);
        let gauged = self.gauged;
        followers.spawn(count_policies(
            ledger.clone(),
            status,
            metrics.clone(),
            gauged,
        ));
        let apply = move |policy| ledger.set_policy(policy);
        followers.spawn(self.policy.follow(signal.clone(), apply));
        followers
    }
}

/// Applies each new value of watched files, and reports those that are refused.
async fn follow<T, E>(
    mut watched: Watched<T, E>,
    file: WatchedFile,
    metrics: Metrics,
    apply: impl Fn(T) -> anyhow::Result<()>,
    log_refusal: impl Fn(&str),
) where
    T: Send + 'static,
    E: From<JoinError> + Display + Send + 'static,
{
    loop {
        let refusal = match watched.next().await {
            Reload::Loaded(next) => {
                let refusal = apply(next).err().map(|error| error.to_string());
                if refusal.is_some() {
                    watched.reject();
                }
                refusal
            }
            Reload::Rejected(error) => Some(error.to_string()),
            Reload::Restored => None,
            Reload::Unchanged | Reload::StillRejected | Reload::Unstable => continue,
        };
        metrics.file_refused(file, refusal.is_some().then(wall_clock::now));
        if let Some(refusal) = refusal {
            log_refusal(&refusal);
        }
    }
}

/// Sets the metrics of the policy in force, and warns of organizations that have no gauges.
fn record_policy(
    ledger: &Ledger,
    status: &PolicyStatus,
    metrics: &Metrics,
    gauged: &GaugedOrganizations,
) {
    let policy = ledger.policy();
    let (name, version) = (&policy.program.name, status.version.to_string());
    metrics.policy_loaded(name, &version, policy.orgs.len(), status.loaded_at);
    if let Some(warning) = gauged.warning(&policy) {
        tracing::warn!("{warning}");
    }
}

/// Counts each policy that is loaded or refused from now on.
async fn count_policies(
    ledger: Ledger,
    mut status: watch::Receiver<PolicyStatus>,
    metrics: Metrics,
    gauged: Arc<GaugedOrganizations>,
) {
    let (mut applied, mut refused) = (0, 0);
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        record_policy(&ledger, &now, &metrics, &gauged);
        // Several may have been loaded since the last wake-up.
        metrics.policy_reloaded(ReloadResult::Applied, now.applied - applied);
        metrics.policy_reloaded(ReloadResult::Refused, now.refused - refused);
        metrics.file_refused(WatchedFile::Policy, now.refused_at);
        (applied, refused) = (now.applied, now.refused);
    }
}
