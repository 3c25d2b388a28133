//! The circuit breaker: while the store is known to be down, requests fail at once and don't reach it.
//!
//! One watcher probes the store all the time, and it alone opens the breaker: a call that fails only makes it
//! probe at once. It takes two failures in a row, the last of them a probe's. So one slow call is no outage,
//! and neither is the failure of a part of the store that others do without.

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
    /// It would not.
    Down(Arc<Outage>),
}

/// Since when the store is down, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store is down since {}: {}", .since.to_rfc3339_opts(SecondsFormat::Secs, true), .error.public_message())]
pub struct Outage {
    /// When that was found, by this machine's clock.
    pub since: DateTime<Utc>,
    /// Why, as it was found last.
    pub error: StoreError,
}

/// What a request needs of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// To count.
    Decide,
    /// To read: a store that is full or read-only may still be read.
    Read,
}

pub(super) struct CircuitBreaker {
    state: watch::Sender<StoreState>,
    /// Whether every request passes: all that a request reads while the store is up.
    closed: AtomicBool,
    /// Whether there was a failure since the last success.
    failed: AtomicBool,
    /// Makes the watcher probe at once.
    suspected: Notify,
}

impl CircuitBreaker {
    /// Closed, until the store is watched.
    pub(super) fn new() -> Self {
        Self {
            state: watch::Sender::new(StoreState::Unknown),
            closed: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            suspected: Notify::new(),
        }
    }

    /// Lets a request pass, or fails with the outage. While the store is watched and has not been probed yet, the
    /// request waits for the first probe.
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
                self.suspected.notify_one();
            }
            _ => {}
        }
    }

    /// Whether a failure now would be the first one after a success.
    fn is_trusted(&self) -> bool {
        *self.state.borrow() == StoreState::Up && !self.failed.load(Ordering::Relaxed)
    }

    /// Takes the result of a probe.
    fn learn(&self, probed: Result<(), StoreError>) {
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
        // Foreign data concerns only the calls that find it.
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

    /// Probes the store again and again. Never ends. Requests wait for the first probe's result from this call on,
    /// not only from the first poll: nothing shall be counted by a store that is then found to be unfit. Dropping
    /// the future closes the breaker.
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
            let trusted = breaker.is_trusted();
            let mut probed = self.probe_within_timeout().await;
            if trusted && probed.is_err() && !breaker.failed.load(Ordering::Relaxed) {
                probed = self.probe_within_timeout().await;
            }
            let up = probed.is_ok();
            breaker.learn(probed);
            if up {
                sleep(MIN_PROBE_INTERVAL).await;
                tokio::select! {
                    () = sleep(PROBE_INTERVAL_UP.saturating_sub(MIN_PROBE_INTERVAL)) => {}
                    () = breaker.suspected.notified() => {}
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
            .learn(Err(StoreError::OutcomeUnknown { reason }));
        probe.await
    }
}

/// Holds requests back until the first probe, while the store is watched.
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
