//! Which requests are sent together, and the fate of callers that leave and of calls that fail.

use futures_util::{future::join_all, poll};
use tollgate::{
    ledger::{LedgerError, Reserved},
    store::StoreError,
};

use super::HeldLedger;
use crate::support::{
    held_store::{HeldCall, settled},
    world::{ReserveExt as _, new_reserve, new_settle, org_id, policy, request_id, verdict_text},
};

#[tokio::test]
async fn a_single_request_is_sent_at_once() {
    let mut held = HeldLedger::new(4).await;
    for id in ["one", "two"] {
        let pending = held.id(id).await;
        let call = held.calls.next().await;
        assert_eq!(call.sizes(), [("acme", 1)]);
        call.go();
        assert_eq!(verdict_text(pending.await.unwrap().verdict), "FREE");
    }
}

#[tokio::test]
async fn requests_that_a_task_submits_before_it_waits_go_together_in_order() {
    let mut held = HeldLedger::new(4).await;
    let mut waiting = held.ids(&["a", "b"]).await;
    waiting.push(held.arrive(new_reserve(1).org("other")).await.unwrap());
    let call = held.calls.next().await;
    assert_eq!(call.ids()[0], ["a", "b"]);
    assert_eq!(call.sizes(), [("acme", 2), ("other", 1)]);
    call.go();
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn requests_that_arrive_during_a_call_go_together_in_the_next_in_order() {
    let mut held = HeldLedger::new(4).await;
    let ledger = held.ledger.clone();
    let first = held.id("first").await;
    let call = held.calls.next().await;
    let waiting = held.ids(&["c", "a", "b", "a"]).await;
    let settle = ledger.settle(new_settle("b", 0));
    let (mut settle, mut release) = (
        Box::pin(settle),
        Box::pin(ledger.release(org_id("acme"), request_id("c"))),
    );
    assert!(poll!(&mut settle).is_pending());
    assert!(poll!(&mut release).is_pending());
    assert!(held.calls.all_now().await.is_empty(), "one call at a time");
    call.go();
    let next = held.calls.next().await;
    assert_eq!(next.ids(), [["c", "a", "b", "a", "b", "c"]]);
    next.go();
    first.await.unwrap();
    let answers = join_all(waiting).await.into_iter();
    let balances = answers
        .map(|it| it.unwrap())
        .map(|it| (it.pool.unwrap().used.get(), it.replayed));
    let balances: Vec<_> = balances.collect();
    assert_eq!(balances, [(2, false), (3, false), (4, false), (4, true)]);
    assert_eq!(settle.await.unwrap().pool.unwrap().used.get(), 3);
    assert_eq!(release.await.unwrap().pool.unwrap().used.get(), 2);
    assert!(held.calls.all_now().await.is_empty());
}

#[tokio::test]
async fn other_organizations_do_not_wait_for_a_held_one_while_the_store_takes_more_calls() {
    let mut held = HeldLedger::new(2).await;
    let _first = held.id("held").await;
    let _held_call = held.calls.next().await;
    let _behind = held.id("behind").await;
    for org in ["other", "strange"] {
        let pending = held.arrive(new_reserve(1).org(org)).await.unwrap();
        let call = held.calls.next().await;
        assert_eq!(call.sizes(), [(org, 1)]);
        call.go();
        pending.await.unwrap();
    }
    // The store takes no third call: the request waits until one ends.
    let _other = held
        .arrive(new_reserve(1).org("other").id("o"))
        .await
        .unwrap();
    let other_call = held.calls.next().await;
    let _third = held.arrive(new_reserve(1).org("third")).await.unwrap();
    assert!(held.calls.all_now().await.is_empty());
    other_call.go();
    assert_eq!(held.calls.next().await.sizes(), [("third", 1)]);
}

#[tokio::test]
async fn waiting_requests_of_several_organizations_go_in_one_call() {
    let mut held = HeldLedger::new(1).await;
    let _first = held.id("first").await;
    let call = held.calls.next().await;
    let mut waiting = Vec::new();
    for (org, id) in [
        ("other", "x"),
        ("acme", "y"),
        ("third", "x"),
        ("other", "z"),
    ] {
        waiting.push(held.arrive(new_reserve(1).org(org).id(id)).await.unwrap());
    }
    call.go();
    let next = held.calls.next().await;
    assert_eq!(next.sizes(), [("other", 2), ("third", 1), ("acme", 1)]);
    assert_eq!(next.ids(), [vec!["x", "z"], vec!["x"], vec!["y"]]);
    next.go();
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_request_whose_caller_left_while_waiting_is_never_sent() {
    let mut held = HeldLedger::new(4).await;
    let first = held.id("first").await;
    let call = held.calls.next().await;
    let mut waiting = held
        .ids(&["stays", "leaves", "stays too", "leaves too"])
        .await;
    drop(waiting.remove(3));
    drop(waiting.remove(1));
    call.go();
    let next = held.calls.next().await;
    assert_eq!(next.ids(), [["stays", "stays too"]]);
    next.go();
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    first.await.unwrap();
    for (id, counted) in [("leaves", false), ("stays", true), ("leaves too", false)] {
        assert_eq!(held.counted(id).await, counted, "{id}");
    }
}

#[tokio::test]
async fn if_all_waiting_callers_left_no_call_is_made_and_the_next_goes_at_once() {
    let mut held = HeldLedger::new(1).await;
    let _first = held.id("first").await;
    let call = held.calls.next().await;
    drop(held.ids(&["a", "b"]).await);
    call.go();
    assert!(held.calls.all_now().await.is_empty());
    let next = held.id("next").await;
    let call = held.calls.next().await;
    assert_eq!(call.ids(), [["next"]]);
    call.go();
    next.await.unwrap();
}

#[tokio::test]
async fn a_caller_who_leaves_during_its_call_abandons_the_answer_and_not_the_write() {
    let mut held = HeldLedger::new(4).await;
    let alone = held.id("alone").await;
    let call = held.calls.next().await;
    drop(alone);
    let waiting = held.ids(&["a", "b"]).await;
    call.go();
    let call = held.calls.next().await;
    drop(waiting);
    call.go();
    settled().await;
    for id in ["alone", "a", "b"] {
        assert!(held.counted(id).await, "{id}");
    }
}

#[tokio::test]
async fn an_error_of_the_store_reaches_every_caller_of_its_call_and_no_other() {
    let mut held = HeldLedger::new(1).await;
    let first = held.id("first").await;
    let call = held.calls.next().await;
    let mut failing = held.ids(&["a", "b"]).await;
    failing.push(held.arrive(new_reserve(1).org("other")).await.unwrap());
    call.go();
    first.await.unwrap();
    let call = held.calls.next().await;
    let behind = held.id("behind").await;
    let reason = "the test wants it".to_owned();
    let error = StoreError::OutcomeUnknown { reason };
    call.fail(error.clone());
    for failed in join_all(failing).await {
        assert!(matches!(failed, Err(LedgerError::Store(it)) if it == error));
    }
    held.calls.next().await.go();
    assert_eq!(verdict_text(behind.await.unwrap().verdict), "FREE");
}

#[tokio::test]
async fn a_panic_in_a_call_fails_its_callers_and_the_queue_goes_on() {
    let mut held = HeldLedger::new(1).await;
    let first = held.id("first").await;
    let call = held.calls.next().await;
    let waiting = held.ids(&["a", "b"]).await;
    call.panic();
    assert!(matches!(first.await, Err(LedgerError::TaskPanicked)));
    let call = held.calls.next().await;
    assert_eq!(call.ids(), [["a", "b"]]);
    call.panic();
    for failed in join_all(waiting).await {
        assert!(matches!(failed, Err(LedgerError::TaskPanicked)));
    }
    let next = held.id("next").await;
    held.calls.next().await.go();
    next.await.unwrap();
}

#[tokio::test]
async fn waiting_requests_are_assessed_together_by_the_policy_at_the_time_of_sending() {
    let mut held = HeldLedger::new(1).await;
    let first = held.id("first").await;
    let call = held.calls.next().await;
    let mut waiting = held.ids(&["a", "b"]).await;
    held.ledger.set_policy(policy("keep_open").into());
    waiting.extend(held.ids(&["c", "d"]).await);
    call.go();
    // What was sent before is assessed by the previous policy.
    let allowance = |answer: Reserved| answer.pool.unwrap().allowance.get();
    assert_eq!(allowance(first.await.unwrap()), 1_000_000);
    let call = held.calls.next().await;
    assert_eq!(call.ids(), [["a", "b", "c", "d"]]);
    call.go();
    for answer in join_all(waiting).await {
        assert_eq!(allowance(answer.unwrap()), 1_000);
    }
}

#[tokio::test]
async fn a_batch_that_crosses_midnight_is_assessed_and_decided_again() {
    let mut held = HeldLedger::new(1).await;
    let first = held.id("first").await;
    let call = held.calls.next().await;
    let mut waiting = held.ids(&["a", "b"]).await;
    waiting.push(held.arrive(new_reserve(1).org("other")).await.unwrap());
    let day = |call: &HeldCall| call.batches[0].day.to_string();
    assert_eq!(day(&call), "2026-11-22");
    call.go();
    first.await.unwrap();
    let call = held.calls.next().await;
    assert_eq!(day(&call), "2026-11-22");
    held.clock.set("2026-11-23T00:00:01Z");
    // The second attempt uses the policy of its own time.
    held.ledger.set_policy(policy("keep_open").into());
    let behind = held.id("behind").await;
    call.go();
    let again = held.calls.next().await;
    assert_eq!(day(&again), "2026-11-23");
    assert_eq!(again.ids(), [vec![], vec!["a", "b"]]);
    assert_eq!(again.sizes(), [("other", 1), ("acme", 2)]);
    again.go();
    for (used, answer) in [1, 2, 1].into_iter().zip(join_all(waiting).await) {
        let answer = answer.unwrap();
        assert_eq!(answer.resets_at.to_rfc3339(), "2026-11-24T00:00:00+00:00");
        let pool = answer.pool.unwrap();
        assert_eq!((pool.used.get(), pool.allowance.get()), (used, 1_000));
        assert!(!answer.replayed);
    }
    let next = held.calls.next().await;
    assert_eq!(day(&next), "2026-11-23");
    assert_eq!(next.ids(), [["behind"]]);
    next.go();
    assert_eq!(behind.await.unwrap().pool.unwrap().used.get(), 3);
}

#[tokio::test]
async fn a_clock_that_names_another_day_each_time_fails_its_callers_and_counts_nothing() {
    let mut held = HeldLedger::new(1).await;
    let pending = held.id("pending").await;
    for day in 23..27 {
        let call = held.calls.next().await;
        held.clock.set(&format!("2026-11-{day}T00:00:01Z"));
        call.go();
    }
    assert!(matches!(pending.await, Err(LedgerError::ClockUnstable)));
    assert!(held.calls.all_now().await.is_empty());
    assert!(!held.counted("pending").await);
}

#[tokio::test]
async fn requests_of_one_call_are_sent_together_and_answered_in_order() {
    let mut held = HeldLedger::new(1).await;
    let calls = vec![
        new_reserve(1).id("a"),
        new_reserve(2).org("other"),
        new_reserve(3),
        new_reserve(1).id("a"),
    ];
    let ledger = held.ledger.clone();
    let pending = tokio::spawn(async move { ledger.reserve_all(calls).await });
    let call = held.calls.next().await;
    assert_eq!(call.sizes(), [("acme", 3), ("other", 1)]);
    call.go();
    let answers = pending.await.unwrap().into_iter();
    let used = answers.map(|it| it.unwrap().pool.unwrap().used.get());
    assert_eq!(used.collect::<Vec<_>>(), [1, 2, 4, 4]);
}

/// As at the end of the grace period: a dropped call must not begin another one.
#[test]
fn a_runtime_may_end_while_decisions_wait() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let waiting = runtime.block_on(async {
        let mut held = HeldLedger::new(1).await;
        let mut pending = held.ids(&["first", "a", "b"]).await;
        pending.push(held.arrive(new_reserve(1).org("other")).await.unwrap());
        (held.calls.next().await, held, pending)
    });
    drop(runtime);
    let (_call, _held, pending) = waiting;
    for cut in futures_util::FutureExt::now_or_never(join_all(pending)).unwrap() {
        assert!(matches!(cut, Err(LedgerError::TaskPanicked)));
    }
}
