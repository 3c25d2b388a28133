//! The probe loop: finds out whether the store would decide, and sets the circuit breaker.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::backend::Backend;
use crate::store::StoreError;

/// Between two probes while the store is up.
const PROBE_INTERVAL_UP: Duration = Duration::from_millis(500);

/// Between two probes while the store is down. Recovery is noticed within this plus one round trip.
const PROBE_INTERVAL_DOWN: Duration = Duration::from_millis(250);

/// A probe that takes longer opens the breaker.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two probes, however many calls fail.
const MIN_PROBE_INTERVAL: Duration = Duration::from_millis(50);

impl Backend {
    pub(super) async fn watch(&self) {
        let breaker = &self.breaker;
        loop {
            let was_healthy = breaker.is_healthy();
            let mut probed = self.probe_within_timeout().await;
            if was_healthy && probed.is_err() && !breaker.failed.load(Ordering::Relaxed) {
                probed = self.probe_within_timeout().await;
            }
            let up = probed.is_ok();
            breaker.record_probe(probed);
            if up {
                sleep(MIN_PROBE_INTERVAL).await;
                tokio::select! {
                    () = sleep(PROBE_INTERVAL_UP.saturating_sub(MIN_PROBE_INTERVAL)) => {}
                    () = breaker.probe_request.notified() => {}
                }
            } else {
                sleep(PROBE_INTERVAL_DOWN).await;
            }
        }
    }

    /// Probes the store. After the timeout it counts as down while the probe goes on: a disk or a network can hang
    /// without an error.
    async fn probe_within_timeout(&self) -> Result<(), StoreError> {
        let mut probe = pin!(self.probe());
        if let Ok(probed) = timeout(PROBE_TIMEOUT, &mut probe).await {
            return probed;
        }
        let reason = "it does not answer a probe".to_owned();
        self.breaker
            .record_probe(Err(StoreError::OutcomeUnknown { reason }));
        probe.await
    }
}

/// Holds requests back until the first probe, while the store is watched.
pub(super) struct WatchGuard(pub(super) Arc<Backend>);

impl WatchGuard {
    pub(super) fn new(backend: Arc<Backend>) -> Self {
        backend.breaker.closed.store(false, Ordering::Release);
        Self(backend)
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.breaker.closed.store(true, Ordering::Release);
    }
}
