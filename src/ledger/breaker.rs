//! The circuit breaker: while the store is known to be down, requests fail at once and don't reach it.
//!
//! One watcher probes the store at intervals, and it alone opens the breaker: a failed call only triggers a
//! probe. The breaker opens after two failures in a row, the second of them a probe's, or when a probe has no
//! answer within its timeout. So one slow call is no outage, nor is the failure of a part of the store that the
//! probe does not need.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::sync::{Notify, watch};

use crate::store::StoreError;

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
    pub(super) state: watch::Sender<StoreState>,
    /// Whether every request passes. While the store is up, a request reads nothing else here.
    pub(super) closed: AtomicBool,
    /// Whether there was a failure since the last success.
    pub(super) failed: AtomicBool,
    /// Makes the watcher probe at once.
    pub(super) probe_request: Notify,
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
    pub(super) async fn admit(&self, access: Access) -> Result<(), Arc<Outage>> {
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| *state != StoreState::Unknown).await;
        match known.as_deref() {
            Ok(StoreState::Down(outage)) if outage.blocks(access) => Err(Arc::clone(outage)),
            _ => Ok(()),
        }
    }

    /// Waits as long as it is open, or the store is watched and not probed yet.
    pub(super) async fn until_closed(&self) {
        let mut state = self.state.subscribe();
        while !self.closed.load(Ordering::Acquire) {
            // The sender is here, so it can't be gone.
            let _ = state.changed().await;
        }
    }

    pub(super) fn record(&self, error: Option<&StoreError>) {
        match error {
            None if self.failed.load(Ordering::Relaxed) => {
                self.failed.store(false, Ordering::Relaxed);
            }
            None | Some(StoreError::Corrupt { .. }) => {}
            Some(_) => {
                self.failed.store(true, Ordering::Relaxed);
                self.probe_request.notify_one();
            }
        }
    }

    /// Whether a failure now would be the first one after a success.
    pub(super) fn is_healthy(&self) -> bool {
        *self.state.borrow() == StoreState::Up && !self.failed.load(Ordering::Relaxed)
    }

    /// Records the result of a probe, and opens or closes the breaker.
    pub(super) fn record_probe(&self, probed: Result<(), StoreError>) {
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
            StoreError::Corrupt { .. } => false,
            _ => true,
        }
    }
}
