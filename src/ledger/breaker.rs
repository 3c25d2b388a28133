//! The circuit breaker: while the store is known to be down, requests fail at once and don't reach it.
//!
//! One watcher probes the store at intervals, and it alone opens the breaker: a failed call only triggers a
//! probe. The breaker opens after two failures in a row, the second of them a probe's. So one slow call is no
//! outage, nor is the failure of a part of the store that the probe does not need.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{Ledger, LedgerError, backend::Backend};
use crate::store::StoreError;

/// Between two probes while the store is up.
const PROBE_INTERVAL_UP: Duration = Duration::from_millis(500);

/// Between two probes while the store is down. Recovery is noticed within this plus one round trip.
const PROBE_INTERVAL_DOWN: Duration = Duration::from_millis(250);

/// A probe that takes longer opens the breaker.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two probes, however many calls fail.
const MIN_PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// The store, as the last probe found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// It has not been probed yet.
    Unknown,
    /// It would decide.
    Up,
    /// It would not decide.
    Down(Arc<Outage>),
}

/// Since when the store is down, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store is down since {}: {}", .since.to_rfc3339_opts(SecondsFormat::Secs, true), .error.public_message())]
pub struct Outage {
    /// When the outage was detected, by this machine's clock.
    pub since: DateTime<Utc>,
    /// The error of the last probe.
    pub error: StoreError,
}

/// The access that a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It counts.
    Decide,
    /// It only reads, which a full or read-only store can serve.
    Read,
}

pub(super) struct CircuitBreaker {
    state: watch::Sender<StoreState>,
    /// Whether every request passes. While the store is up, a request reads nothing else here.
    closed: AtomicBool,
    /// Whether there was a failure since the last success.
    failed: AtomicBool,
    /// Makes the watcher probe at once.
    probe_request: Notify,
}

impl CircuitBreaker {
    /// A closed breaker. It can open once the store is watched.
    pub(super) fn new() -> Self {
        Self {
            state: watch::Sender::new(StoreState::Unknown),
            closed: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            probe_request: Notify::new(),
        }
    }

    /// Lets a request pass, or fails with the outage. If the store is watched and not probed yet, waits for the
    /// first probe.
    pub(super) async fn admit(&self, access: Access) -> Result<(), LedgerError> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| *state != StoreState::Unknown).await;
        match known.as_deref() {
            Ok(StoreState::Down(outage)) if outage.blocks(access) => {
                Err(LedgerError::Down(Arc::clone(outage)))
            }
            _ => Ok(()),
        }
    }

    /// Records the result of a call.
    pub(super) fn record(&self, error: Option<&StoreError>) {
        match error {
            None if self.failed.load(Ordering::Relaxed) => {
                self.failed.store(false, Ordering::Relaxed);
            }
            Some(
                StoreError::Unreachable { .. }
                | StoreError::OutcomeUnknown { .. }
                | StoreError::Refused { .. }
                | StoreError::Unsuitable { .. },
            ) => {
                self.failed.store(true, Ordering::Relaxed);
                self.probe_request.notify_one();
            }
            _ => {}
        }
    }

    /// Whether a failure now would be the first one after a success.
    fn is_healthy(&self) -> bool {
        *self.state.borrow() == StoreState::Up && !self.failed.load(Ordering::Relaxed)
    }

    /// Records the result of a probe, and opens or closes the breaker.
    fn record_probe(&self, probed: Result<(), StoreError>) {
        self.failed.store(probed.is_err(), Ordering::Relaxed);
        let Err(error) = probed else {
            self.closed.store(true, Ordering::Release);
            self.state.send_if_modified(|state| {
                let changes = *state != StoreState::Up;
                *state = StoreState::Up;
                changes
            });
            return;
        };
        // Foreign data affects only the calls that read it.
        let closed = matches!(error, StoreError::Corrupt { .. });
        self.closed.store(closed, Ordering::Release);
        self.state.send_if_modified(|state| {
            let since = match state {
                StoreState::Down(down) if down.error.public_message() == error.public_message() => {
                    return false;
                }
                StoreState::Down(down) => down.since,
                StoreState::Unknown | StoreState::Up => crate::wall_clock::now(),
            };
            *state = StoreState::Down(Arc::new(Outage { since, error }));
            true
        });
    }
}

impl Outage {
    fn blocks(&self, access: Access) -> bool {
        match self.error {
            StoreError::Refused { .. } => access == Access::Decide,
            StoreError::Unreachable { .. }
            | StoreError::OutcomeUnknown { .. }
            | StoreError::Unsuitable { .. } => true,
            StoreError::Corrupt { .. } => false,
        }
    }
}

impl Ledger {
    /// The store's state, now and at each change.
    #[must_use]
    pub fn store_state(&self) -> watch::Receiver<StoreState> {
        self.inner.backend.breaker.state.subscribe()
    }

    /// Probes the store at intervals. Never ends. Requests wait for the first probe's result from this call on, not
    /// only from the first poll: an unfit store must count nothing. Dropping the future closes the breaker.
    pub fn watch_store(&self) -> impl Future<Output = ()> + Send + use<> {
        let watched = WatchGuard::new(Arc::clone(&self.inner.backend));
        async move {
            let WatchGuard(backend) = &watched;
            backend.watch().await;
        }
    }
}

impl Backend {
    async fn watch(&self) {
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

    /// Probes the store. After the timeout the store counts as down while the probe continues: a disk or a network
    /// can hang without an error.
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

/// Makes requests wait for the first probe, until it is dropped.
struct WatchGuard(Arc<Backend>);

impl WatchGuard {
    fn new(backend: Arc<Backend>) -> Self {
        backend.breaker.closed.store(false, Ordering::Release);
        Self(backend)
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let Self(backend) = self;
        backend.breaker.closed.store(true, Ordering::Release);
    }
}
