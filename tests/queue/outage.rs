//! When the store counts as down, and the effect on calls.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tollgate::{
    ledger::{LedgerError, StoreState},
    store::{RefusalReason, StoreError},
};

use super::HeldLedger;
use crate::support::{
    held_store::settled,
    world::{ReserveExt as _, new_reserve, org_id},
};

/// Longer than the probe interval, whether the store is up or down.
const PROBE_WAIT: Duration = Duration::from_secs(1);

fn silent() -> StoreError {
    let reason = "the test wants it".to_owned();
    StoreError::OutcomeUnknown { reason }
}

fn full() -> StoreError {
    let (why, reason) = (RefusalReason::Full, "the test wants it".to_owned());
    StoreError::Refused { why, reason }
}

impl HeldLedger {
    /// A ledger whose store is watched and up.
    async fn watched() -> (Self, JoinHandle<()>) {
        let held = Self::new(1).await;
        let watching = tokio::spawn(held.ledger.watch_store());
        settled().await;
        assert_eq!(held.state(), StoreState::Up);
        (held, watching)
    }

    fn state(&self) -> StoreState {
        self.ledger.store_state().borrow().clone()
    }

    fn is_down(&self) -> bool {
        matches!(self.state(), StoreState::Down(_))
    }

    /// The number of probes within a time.
    async fn probes_in(&self, time: Duration) -> usize {
        let before = self.store.probes.load(Ordering::Relaxed);
        sleep(time).await;
        self.store.probes.load(Ordering::Relaxed) - before
    }

    fn probes_fail(&self, error: impl Into<Option<StoreError>>) {
        *self.store.probes_fail.lock().unwrap() = error.into();
    }

    /// Makes a call that the store fails.
    async fn fail_one(&mut self) {
        self.fail_one_for(silent()).await;
    }

    async fn fail_one_for(&mut self, error: StoreError) {
        let pending = self.id("fails").await;
        self.calls.next().await.fail(error);
        assert!(matches!(pending.await, Err(LedgerError::Store(_))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_fails_is_no_outage_while_the_store_answers_the_watcher() {
    let (mut held, _watching) = HeldLedger::watched().await;
    for _ in 0..20 {
        held.fail_one().await;
        sleep(Duration::from_millis(10)).await;
        assert_eq!(held.state(), StoreState::Up);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_makes_the_watcher_probe_at_once_and_begins_an_outage() {
    let (mut held, _watching) = HeldLedger::watched().await;
    sleep(Duration::from_millis(60)).await;
    held.probes_fail(silent());
    held.fail_one().await;
    settled().await;
    assert!(held.is_down());
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_makes_the_watcher_probe_at_once_too() {
    let reason = "the test wants it".to_owned();
    for error in [full(), StoreError::Unsuitable { reason }] {
        let (mut held, _watching) = HeldLedger::watched().await;
        sleep(Duration::from_millis(60)).await;
        held.probes_fail(error.clone());
        held.fail_one_for(error).await;
        settled().await;
        assert!(held.is_down());
    }
}

#[tokio::test(start_paused = true)]
async fn the_watcher_detects_an_outage_without_calls() {
    let (held, _watching) = HeldLedger::watched().await;
    held.probes_fail(silent());
    sleep(PROBE_WAIT).await;
    assert!(held.is_down());
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_every_call_is_answered_at_once_and_none_reaches_it() {
    let (mut held, _watching) = HeldLedger::watched().await;
    held.probes_fail(silent());
    sleep(PROBE_WAIT).await;
    for _ in 0..100 {
        let answer = held.ledger.reserve(new_reserve(1).id("r")).await;
        let Err(LedgerError::Down(down)) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(down.error, silent());
        let read = held.ledger.quota(&org_id("acme")).await;
        assert!(matches!(read, Err(LedgerError::Down(_))));
    }
    assert!(held.calls.all_now().await.is_empty());
    held.probes_fail(None);
    sleep(PROBE_WAIT).await;
    assert_eq!(held.state(), StoreState::Up);
    assert!(!held.counted("r").await);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_to_count_is_still_read() {
    let (held, _watching) = HeldLedger::watched().await;
    held.probes_fail(full());
    sleep(PROBE_WAIT).await;
    let refused = held.ledger.reserve(new_reserve(1)).await;
    assert!(matches!(refused, Err(LedgerError::Down(down)) if down.error == full()));
    held.ledger.quota(&org_id("acme")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_changes_its_reason_has_begun_when_it_began() {
    let (held, _watching) = HeldLedger::watched().await;
    held.probes_fail(silent());
    sleep(PROBE_WAIT).await;
    let StoreState::Down(first) = held.state() else {
        panic!();
    };
    held.probes_fail(full());
    sleep(PROBE_WAIT).await;
    let StoreState::Down(then) = held.state() else {
        panic!();
    };
    assert_eq!((then.since, &then.error), (first.since, &full()));
}

#[tokio::test(start_paused = true)]
async fn the_store_is_probed_at_a_bounded_rate_however_many_calls_fail() {
    let (mut held, _watching) = HeldLedger::watched().await;
    let quiet = held.probes_in(10 * PROBE_WAIT).await;
    assert!((19..=21).contains(&quiet), "{quiet}");
    let before = held.store.probes.load(Ordering::Relaxed);
    for _ in 0..500 {
        held.fail_one().await;
        sleep(Duration::from_millis(2)).await;
    }
    // One in 50 ms.
    let probes = held.store.probes.load(Ordering::Relaxed) - before;
    assert!((10..=31).contains(&probes), "{probes}");
    held.probes_fail(silent());
    sleep(PROBE_WAIT).await;
    let down = held.probes_in(10 * PROBE_WAIT).await;
    assert!((38..=41).contains(&down), "{down}");
}

#[tokio::test(start_paused = true)]
async fn before_the_first_probe_a_watched_ledger_counts_nothing() {
    let mut held = HeldLedger::new(1).await;
    held.probes_fail(StoreError::Unsuitable {
        reason: "the test wants it".to_owned(),
    });
    let mut watching = Box::pin(held.ledger.watch_store());
    // Polled here: otherwise the order of the two tasks would be undefined.
    let mut pending = Box::pin(held.ledger.reserve(new_reserve(1)));
    assert!(futures_util::poll!(pending.as_mut()).is_pending());
    assert!(futures_util::poll!(watching.as_mut()).is_pending());
    let pending = timeout(10 * PROBE_WAIT, pending)
        .await
        .expect("the store was probed");
    assert!(matches!(pending, Err(LedgerError::Down(_))));
    assert!(held.calls.all_now().await.is_empty());
    // A dropped watcher blocks no calls.
    drop(watching);
    let pending = held.id("r").await;
    held.calls.next().await.go();
    pending.await.unwrap();
}
