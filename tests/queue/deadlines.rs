//! Requests whose deadline expires before or after they are sent.

use std::time::Duration;

use tokio::time::Instant;
use tollgate::ledger::LedgerError;

use super::HeldLedger;
use crate::support::{
    held_store::settled,
    world::{ReserveExt as _, new_reserve, new_settle, org_id, request_id},
};

const CALL_TIME: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn a_decision_whose_time_is_over_before_it_was_sent_is_never_sent() {
    let mut held = HeldLedger::new(1).await;
    let first = held.id("first").await;
    let call = held.calls.next().await;
    let in_time = held.ledger.with_deadline(Instant::now() + CALL_TIME);
    let begun = Instant::now();
    let late = in_time.reserve(new_reserve(1).id("late")).await;
    assert!(matches!(late, Err(LedgerError::OutOfTime)));
    assert!(begun.elapsed() >= CALL_TIME && begun.elapsed() < 2 * CALL_TIME);
    // Nor is a request sent whose deadline has already expired.
    let later = in_time.reserve(new_reserve(1).id("late")).await;
    assert!(matches!(later, Err(LedgerError::OutOfTime)));
    call.go();
    assert!(held.calls.all_now().await.is_empty());
    first.await.unwrap();
    assert!(!held.counted("late").await);
}

#[tokio::test(start_paused = true)]
async fn a_decision_whose_time_is_over_after_it_was_sent_is_carried_to_its_end() {
    let mut held = HeldLedger::new(1).await;
    let in_time = held.ledger.with_deadline(Instant::now() + CALL_TIME);
    let late = in_time.reserve(new_reserve(1).id("late")).await;
    assert!(matches!(late, Err(LedgerError::OutOfTime)));
    held.calls.next().await.go();
    settled().await;
    assert!(held.counted("late").await);
}

#[tokio::test(start_paused = true)]
async fn requests_of_one_call_time_out_together_and_so_do_settle_and_release() {
    let mut held = HeldLedger::new(1).await;
    let _first = held.id("first").await;
    let _call = held.calls.next().await;
    let in_time = || held.ledger.with_deadline(Instant::now() + CALL_TIME);
    let begun = Instant::now();
    for late in in_time()
        .reserve_all(vec![new_reserve(1), new_reserve(1).org("other")])
        .await
    {
        assert!(matches!(late, Err(LedgerError::OutOfTime)));
    }
    let (org, id) = (|| org_id("acme"), || request_id("r"));
    let late = in_time().settle(new_settle("r", 0)).await;
    assert!(matches!(late, Err(LedgerError::OutOfTime)));
    let late = in_time().release(org(), id()).await;
    assert!(matches!(late, Err(LedgerError::OutOfTime)));
    assert!(begun.elapsed() >= 3 * CALL_TIME && begun.elapsed() < 4 * CALL_TIME);
}
