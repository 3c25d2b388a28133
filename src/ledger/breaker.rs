//! The circuit breaker: while the store is known to be down, requests fail at once and don't reach it.
//!
//! One watcher probes the store all the time, and it alone opens the breaker: a call that fails only makes it
//! probe at once. It takes two failures in a row, the last of them a probe's. So one slow call is no outage,
//! and neither is the failure of a part of the store that others do without.

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
    pub(super) state: watch::Sender<StoreState>,
    /// Whether every request passes: all that a request reads while the store is up.
    pub(super) closed: AtomicBool,
    /// Whether there was a failure since the last success.
    pub(super) failed: AtomicBool,
    /// Makes the watcher probe at once.
    pub(super) suspected: Notify,
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
    pub(super) fn is_trusted(&self) -> bool {
        *self.state.borrow() == StoreState::Up && !self.failed.load(Ordering::Relaxed)
    }

    /// Takes the result of a probe.
    pub(super) fn learn(&self, probed: Result<(), StoreError>) {
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
