//! The limits of the queue and of a call.

use tollgate::{
    ledger::LedgerError,
    store::{Batch, CallLimits, Operation},
};

use super::{HeldLedger, PendingReserve};
use crate::support::world::{ReserveExt as _, new_reserve, org_id, verdict_text};

/// The capacity of the queue: src/ledger/mod.rs.
const MAX_WAITING: usize = 32 * 1024;

/// The limit of a call: tests/support/held_store.rs.
const MAX_OPERATIONS: usize = 2 * Batch::MAX_OPERATIONS;

/// The bytes of the names in a Reserve.
fn bytes(operation: &Operation) -> usize {
    let Operation::Reserve {
        fields, request_id, ..
    } = operation
    else {
        panic!("{operation:?}");
    };
    let id = request_id.as_ref().map_or(0, |id| id.as_str().len());
    fields.project.as_str().len() + fields.model.as_str().len() + id
}

/// Releases calls until these requests have their answers, and counts the successes.
async fn answered(held: &mut HeldLedger, pending: Vec<PendingReserve>) -> usize {
    let (answers, _) = held.answered(pending).await;
    answers.iter().filter(|it| it.is_ok()).count()
}

#[tokio::test]
async fn a_call_takes_at_most_as_many_of_an_organization_as_a_batch_has() {
    let mut held = HeldLedger::new(1).await;
    let mut pending = vec![held.arrive(new_reserve(1)).await.unwrap()];
    let call = held.calls.next().await;
    for _ in 0..Batch::MAX_OPERATIONS + 1 {
        pending.push(held.arrive(new_reserve(1)).await.unwrap());
    }
    call.go();
    for size in [Batch::MAX_OPERATIONS, 1] {
        let call = held.calls.next().await;
        assert_eq!(call.sizes(), [("acme", size)]);
        call.go();
    }
    assert_eq!(
        answered(&mut held, pending).await,
        Batch::MAX_OPERATIONS + 2
    );
}

#[tokio::test]
async fn a_call_takes_a_bounded_number_of_decisions_and_all_have_their_turn() {
    let mut held = HeldLedger::new(1).await;
    let mut pending = vec![held.arrive(new_reserve(1)).await.unwrap()];
    let call = held.calls.next().await;
    let orgs: Vec<String> = (0..5).map(|at| format!("org {at}")).collect();
    for org in &orgs {
        for _ in 0..300 {
            pending.push(held.arrive(new_reserve(1).org(org)).await.unwrap());
        }
    }
    call.go();
    let mut sizes = Vec::new();
    for _ in 0..2 {
        let call = held.calls.next().await;
        let its: Vec<usize> = call.sizes().into_iter().map(|(_, size)| size).collect();
        assert!(its.iter().sum::<usize>() <= MAX_OPERATIONS, "{its:?}");
        sizes.push(its.iter().sum::<usize>());
        call.go();
    }
    assert_eq!(sizes.iter().sum::<usize>(), 1_500, "{sizes:?}");
    assert_eq!(answered(&mut held, pending).await, 1_501);
}

#[tokio::test]
async fn a_call_takes_a_bounded_number_of_bytes() {
    let mut held = HeldLedger::new(1).await;
    let mut pending = vec![held.arrive(new_reserve(1)).await.unwrap()];
    let call = held.calls.next().await;
    let longest = |at: usize| format!("{at:0256}");
    let count = Batch::MAX_OPERATIONS + 100;
    for at in 0..count {
        let (name, id) = (longest(at), &longest(at)[128..]);
        let named = new_reserve(1).project(&name).model(&name).id(id);
        pending.push(held.arrive(named).await.unwrap());
    }
    call.go();
    let mut taken = 0;
    while taken < count {
        let call = held.calls.next().await;
        let operations = call.batches.iter().flat_map(|batch| &batch.operations);
        let (operations, bytes) = operations.fold((0, 0), |(count, bytes), it| {
            (count + 1, bytes + self::bytes(it))
        });
        // A whole batch of these would exceed the limit.
        assert!(bytes <= CallLimits::MAX_BYTES, "{bytes}");
        taken += operations;
        call.go();
    }
    assert_eq!(answered(&mut held, pending).await, count + 1);
}

#[tokio::test]
async fn an_organization_that_floods_is_refused_at_once_and_a_newcomer_still_gets_in() {
    let mut held = HeldLedger::new(1).await;
    let mut pending = vec![held.arrive(new_reserve(1)).await.unwrap()];
    let call = held.calls.next().await;
    let mut refused = 0;
    for _ in 0..MAX_WAITING {
        match held.arrive(new_reserve(1)).await {
            Ok(waits) => pending.push(waits),
            Err(error) => {
                assert!(matches!(error, LedgerError::Overloaded), "{error}");
                refused += 1;
            }
        }
    }
    // An organization gets at most half of the queue.
    assert_eq!(pending.len(), 1 + MAX_WAITING / 2);
    assert_eq!(refused, MAX_WAITING / 2);
    let newcomer = held.arrive(new_reserve(7).org("other")).await.unwrap();
    assert!(
        held.calls.all_now().await.is_empty(),
        "nothing is sent for it"
    );
    call.go();
    // The newcomer's organization gets its turn before the rest of the flood.
    let next = held.calls.next().await;
    assert!(next.sizes().contains(&("other", 1)), "{:?}", next.sizes());
    next.go();
    assert_eq!(verdict_text(newcomer.await.unwrap().verdict), "FREE");
    let waited = pending.len();
    assert_eq!(answered(&mut held, pending).await, waited);
    // Refused requests count nothing.
    let quota = held.ledger.quota(&org_id("acme")).await;
    let large = &quota.unwrap().pools[0].1;
    assert_eq!(large.free_requests, waited as u64);
    // The queue has room again.
    let again = held.arrive(new_reserve(1)).await.unwrap();
    assert_eq!(answered(&mut held, vec![again]).await, 1);
}

#[tokio::test]
async fn a_caller_who_leaves_frees_its_place_once_its_turn_has_come() {
    let mut held = HeldLedger::new(1).await;
    let first = held.arrive(new_reserve(1)).await.unwrap();
    let call = held.calls.next().await;
    let mut waiting = Vec::new();
    while let Ok(pending) = held.arrive(new_reserve(1)).await {
        waiting.push(pending);
    }
    drop(waiting);
    call.go();
    assert!(
        held.calls.all_now().await.is_empty(),
        "none of them is sent"
    );
    first.await.unwrap();
    let mut pending = vec![held.arrive(new_reserve(1)).await.unwrap()];
    let _call = held.calls.next().await;
    while let Ok(waits) = held.arrive(new_reserve(1)).await {
        pending.push(waits);
    }
    assert_eq!(pending.len(), 1 + MAX_WAITING / 2);
}
