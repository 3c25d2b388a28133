//! Whether the store is known to be down, and since when. While it is, calls are answered at once.
//!
//! One watcher asks the store all the time, and it alone decides: a call that fails only makes it ask at
//! once. For it takes two failures in a row, the last of them the watcher's own, to be down. So one slow
//! call is no outage, and neither is a part of the store that others do without.

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
    time::timeout,
};

use super::{Ledger, LedgerError};
use crate::store::StoreError;

/// How long the watcher waits between two questions, while the store serves.
const PROBE_INTERVAL_UP: Duration = Duration::from_millis(500);

/// And while it is down: so long, and as long as an answer takes, it may be back unseen.
const PROBE_INTERVAL_DOWN: Duration = Duration::from_millis(250);

/// How long a probe may take before the store is taken to be down.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// And at least, however many calls fail.
const MIN_PROBE_INTERVAL: Duration = Duration::from_millis(50);

/// What is known of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// It has not been asked yet.
    Unknown,
    /// It would decide.
    Up,
    /// It would not.
    Down(Arc<Outage>),
}

/// A store that would not decide.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store is down since {}: {}", .since.to_rfc3339_opts(SecondsFormat::Secs, true), .error.in_short())]
pub struct Outage {
    /// When that was found, by this machine's clock.
    pub since: DateTime<Utc>,
    /// Why, as it was found last.
    pub error: StoreError,
}

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// To count. A store that refuses to is not asked.
    Decide,
    /// To read. A store that refuses to count, being full or read-only, may still be read.
    Read,
}

pub(super) struct CircuitBreaker {
    state: watch::Sender<StoreState>,
    /// Whether every call goes to the store: the one thing that a call looks at while all is well.
    open: AtomicBool,
    /// A failure since the last success.
    failed: AtomicBool,
    /// Makes the watcher ask at once.
    suspected: Notify,
}

impl CircuitBreaker {
    /// Nothing is known, and nothing held up, until someone watches.
    pub(super) fn new() -> Self {
        Self {
            state: watch::Sender::new(StoreState::Unknown),
            open: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            suspected: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> watch::Receiver<StoreState> {
        self.state.subscribe()
    }

    /// Lets a call through to the store, or tells at once that it is down. Before the store has said
    /// anything at all, a call waits for that.
    pub(super) async fn admit(&self, access: Access) -> Result<(), LedgerError> {
        if self.open.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut state = self.state.subscribe();
        let known = state.wait_for(|state| *state != StoreState::Unknown).await;
        match known.as_deref() {
            Ok(StoreState::Down(down)) if down.blocks(access) => {
                Err(LedgerError::Down(Arc::clone(down)))
            }
            _ => Ok(()),
        }
    }

    /// Takes in what became of a call.
    pub(super) fn record(&self, error: Option<&StoreError>) {
        match error {
            None if self.failed.load(Ordering::Relaxed) => {
                self.failed.store(false, Ordering::Relaxed);
            }
            Some(
                StoreError::Unreachable { .. }
                | StoreError::NoAnswer { .. }
                | StoreError::Refused { .. }
                | StoreError::Unfit { .. },
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

    /// Takes in what the store said to the watcher.
    fn learn(&self, probed: Result<(), StoreError>) {
        self.failed.store(probed.is_err(), Ordering::Relaxed);
        let Err(error) = probed else {
            self.open.store(true, Ordering::Release);
            self.state.send_if_modified(|state| {
                let changes = *state != StoreState::Up;
                *state = StoreState::Up;
                changes
            });
            return;
        };
        // What it holds is not ours to judge for every call: each has its own answer.
        let open = matches!(error, StoreError::Corrupt { .. });
        self.open.store(open, Ordering::Release);
        self.state.send_if_modified(|state| {
            let since = match state {
                StoreState::Down(down) if down.error.in_short() == error.in_short() => {
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
            | StoreError::NoAnswer { .. }
            | StoreError::Unfit { .. } => true,
            StoreError::Corrupt { .. } => false,
        }
    }
}

impl Ledger {
    /// What is known of the store, now and from now on.
    #[must_use]
    pub fn store_state(&self) -> watch::Receiver<StoreState> {
        self.inner.backend.breaker.state()
    }

    /// Asks the store again and again whether it would decide. Has no end. Calls wait for its first answer
    /// from the moment on that this is called, not only when it is first polled: what the store can't be
    /// trusted with shall not be counted before that is known. Whoever drops it lets every call through.
    pub fn watch_store(&self) -> impl Future<Output = ()> + Send + use<> {
        let watching = Watching::new(self.clone());
        async move {
            let Watching(ledger) = &watching;
            ledger.watch().await;
        }
    }

    async fn watch(&self) {
        let breaker = &self.inner.backend.breaker;
        loop {
            let trusted = breaker.is_trusted();
            let mut probed = self.probe_within_timeout().await;
            if trusted && probed.is_err() && !breaker.failed.load(Ordering::Relaxed) {
                probed = self.probe_within_timeout().await;
            }
            let up = probed.is_ok();
            breaker.learn(probed);
            if up {
                tokio::time::sleep(MIN_PROBE_INTERVAL).await;
                tokio::select! {
                    () = tokio::time::sleep(PROBE_INTERVAL_UP.saturating_sub(MIN_PROBE_INTERVAL)) => {}
                    () = breaker.suspected.notified() => {}
                }
            } else {
                tokio::time::sleep(PROBE_INTERVAL_DOWN).await;
            }
        }
    }

    /// Asks the store. One that takes longer than any answer may is known to be down meanwhile: a disk or
    /// a network can hang without an error.
    async fn probe_within_timeout(&self) -> Result<(), StoreError> {
        let mut probe = pin!(self.probe());
        if let Ok(probed) = timeout(PROBE_TIMEOUT, &mut probe).await {
            return probed;
        }
        let reason = "it does not answer a probe".to_owned();
        self.inner
            .backend
            .breaker
            .learn(Err(StoreError::NoAnswer { reason }));
        probe.await
    }
}

/// While someone watches.
struct Watching(Ledger);

impl Watching {
    fn new(ledger: Ledger) -> Self {
        ledger
            .inner
            .backend
            .breaker
            .open
            .store(false, Ordering::Release);
        Self(ledger)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let Self(ledger) = self;
        ledger
            .inner
            .backend
            .breaker
            .open
            .store(true, Ordering::Release);
    }
}
