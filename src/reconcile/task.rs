//! The background task: continuously compares organizations with the provider, at one replica (docs/CONTRACT.md,
//! "Background reconcile").
//!
//! The replica that holds the lease polls each organization in a loop of its own, and renews the lease three times
//! within its duration. A replica that loses the lease stops at once and discards its state. If the store loses the
//! lease, two replicas may hold it for a moment. Then both compare, and each takes the other's figures for proven
//! ([`super::external`]), so no figure stays for long below what either has proven.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    api::UsageApiLimits,
    external::ExternalFigures,
    poll::{OrgPoller, PollError},
    samples::SampleHistory,
    settings::ReconcileSettings,
    status::ReconcileStatus,
};
use crate::{
    ledger::Ledger,
    telemetry::{log_limited, metrics::Metrics},
};

/// The longest time between two renewals of the lease.
const MAX_RENEWAL_INTERVAL: Duration = Duration::from_secs(20);

/// The duration of the lease, in renewals.
const RENEWALS_PER_LEASE: u32 = 3;

/// The number of organizations that are polled at a time. Each has its report and its usage rows in memory meanwhile.
const MAX_POLLS: usize = 2;

/// The longest pause after failures, unless `every` is longer.
const MAX_BACK_OFF: Duration = Duration::from_secs(60 * 60);

/// The longest pause that the provider may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The background task.
pub struct Reconciler {
    settings: Arc<ReconcileSettings>,
    ledger: Ledger,
    metrics: Metrics,
    limits: UsageApiLimits,
}

impl Reconciler {
    /// The task with these settings. The pages of a query are bounded by these limits; a failed query is not repeated
    /// before the next poll.
    pub fn new(
        settings: ReconcileSettings,
        ledger: Ledger,
        metrics: Metrics,
        limits: UsageApiLimits,
    ) -> Self {
        let limits = UsageApiLimits {
            attempts: 1,
            max_retry_delay: Duration::ZERO,
            ..limits
        };
        Self {
            settings: Arc::new(settings),
            ledger,
            metrics,
            limits,
        }
    }

    /// Compares while this replica has the lease, until the service stops.
    pub async fn run(self, stopping: CancellationToken) {
        self.metrics.enable_reconcile();
        loop {
            let Some(taken_at) = stopping.run_until_cancelled(self.wait_for_lease()).await else {
                return;
            };
            let organizations = self.settings.orgs.len();
            tracing::info!(
                organizations,
                "this replica compares the ledger with the provider"
            );
            let status = ReconcileStatus::new(&self.settings, &self.metrics);
            let (lease_end, ends_at) = watch::channel(taken_at + self.lease_duration());
            tokio::select! {
                () = self.poll_all(&status, &ends_at, &stopping) => return,
                () = self.keep_lease(&lease_end) => {}
            }
            tracing::warn!(
                "this replica no longer compares the ledger with the provider: it has lost the lease"
            );
        }
    }

    /// Polls every organization, each in its own time, until the service stops.
    async fn poll_all(
        &self,
        status: &ReconcileStatus,
        lease_end: &watch::Receiver<Instant>,
        stopping: &CancellationToken,
    ) {
        let permits = &Semaphore::new(MAX_POLLS);
        let pollers = self.settings.orgs.iter().map(|(org, config)| OrgPoller {
            org: org.clone(),
            config: config.clone(),
            settings: Arc::clone(&self.settings),
            limits: self.limits,
            ledger: self.ledger.clone(),
            lease_end: lease_end.clone(),
            samples: SampleHistory::new(self.settings.settle_lag, self.settings.every),
            external: ExternalFigures::default(),
            refused: None,
        });
        let polls = pollers.map(async |mut poller| {
            let polls = self.poll_repeatedly(&mut poller, status, permits);
            stopping.run_until_cancelled(polls).await;
            if let Err(error) = poller.lower_to_proven().await {
                tracing::warn!(org = %poller.org, %error, "likely external usage stays until midnight");
            }
        });
        join_all(polls).await;
    }

    async fn poll_repeatedly(
        &self,
        poller: &mut OrgPoller,
        status: &ReconcileStatus,
        permits: &Semaphore,
    ) {
        let (mut failures, mut took) = (0, Duration::ZERO);
        loop {
            let due = Instant::now();
            let permit = permits.acquire().await;
            let began = Instant::now();
            let spacing = took.max(self.settings.every) + (began - due);
            poller.samples.set_spacing(spacing);
            let polled = poller.poll().await;
            status.record(&poller.org, polled.as_ref().map(|it| &it.comparison));
            if let Ok(polled) = &polled {
                poller.record(polled).await;
            }
            took = began.elapsed();
            drop(permit);
            failures = match &polled {
                Err(PollError::Provider(_)) => failures + 1,
                // No back-off: a new key or a ledger that is back is noticed at the next poll.
                Ok(_) | Err(_) => 0,
            };
            let pause = back_off(self.settings.every, failures);
            let asked = polled.as_ref().err().and_then(PollError::retry_after);
            let next = Instant::now() + asked.unwrap_or_default().min(MAX_RETRY_AFTER);
            tokio::time::sleep_until(next.max(began + pause)).await;
        }
    }

    fn renewal_interval(&self) -> Duration {
        self.settings.every.min(MAX_RENEWAL_INTERVAL)
    }

    fn lease_duration(&self) -> Duration {
        self.renewal_interval() * RENEWALS_PER_LEASE
    }

    /// Takes the lease or renews it. Returns `None` if it is not known whether this replica has it.
    async fn take_lease(&self) -> Option<bool> {
        let interval = self.renewal_interval();
        let lease = self.ledger.store().take_lease(self.lease_duration());
        match timeout(interval, lease).await {
            Ok(Ok(is_taken)) => return Some(is_taken),
            Ok(Err(error)) => log_limited!(warn, %error, "the lease of reconcile can't be taken"),
            Err(_) => {
                log_limited!(warn, waited = ?interval, "the lease of reconcile can't be taken: the store does not answer");
            }
        }
        None
    }

    /// Waits until this replica has the lease. Returns when the lease begins.
    async fn wait_for_lease(&self) -> Instant {
        loop {
            let began = Instant::now();
            if self.take_lease().await == Some(true) {
                return began;
            }
            sleep(self.renewal_interval()).await;
        }
    }

    /// Renews the lease until it is lost, or until half an interval before its end.
    async fn keep_lease(&self, lease_end: &watch::Sender<Instant>) {
        let margin = self.renewal_interval() / 2;
        loop {
            let last = *lease_end.borrow() - margin;
            match timeout_at(last, self.renew_lease()).await {
                Ok(Some(began)) => _ = lease_end.send_replace(began + self.lease_duration()),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Renews the lease once, after as many attempts as it takes. Returns when the new one begins, or `None` if another
    /// replica has it.
    async fn renew_lease(&self) -> Option<Instant> {
        loop {
            sleep(self.renewal_interval()).await;
            let began = Instant::now();
            if let Some(is_taken) = self.take_lease().await {
                return is_taken.then_some(began);
            }
        }
    }
}

/// The time from the start of one poll to the start of the next, after this many failures in a row.
fn back_off(every: Duration, failures: u32) -> Duration {
    let doubled = every.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(MAX_BACK_OFF.max(every))
}
