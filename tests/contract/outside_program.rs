//! docs/CONTRACT.md, "Settle", `outside_program`: requests that ran where nothing is shared.

use tollgate::{
    domain::{PoolName, Refusal, Tokens, UtcDay, Workload},
    ledger::{LedgerError, Released, Reserve, Settled},
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    NOON, ReserveExt as _, TODAY, World, new_reserve, org_id, policy, verdict_text,
};

over_every_store!(
    whatever_reserve_said_the_request_counts_as_billed_in_its_row_alone,
    after_midnight_the_history_and_the_counters_of_its_day_are_corrected,
    what_fits_is_never_free,
    no_amount_closes_a_pool,
    what_was_held_may_be_granted_again,
    the_row_other_counts_it_if_it_counted_the_reservation,
    the_same_settle_again_replays_and_any_other_is_refused,
    what_was_settled_within_the_programme_is_not_settled_outside_it,
    a_released_or_unknown_id_is_refused,
);

const TOMORROW: &str = "2026-11-23T08:00:00Z";

/// An id, its verdict at Reserve, the reserved tokens, and those of the Settle.
const REQUESTS: [(&str, &str, u64, u64); 6] = [
    ("free", "FREE", 400, 450),
    ("small", "FREE", 50, 7),
    ("exceeded", "AllowanceExceeded", 101, 40),
    ("closed", "PoolClosed", 7, 7),
    ("model", "ModelNotCovered", 9, 0),
    ("workload", "WorkloadNotCovered", 5, 3_000),
];

async fn settle_outside(world: &World, id: &str, tokens: u64) -> Settled {
    world.try_settle_outside(id, tokens).await.unwrap()
}

fn settled_refusal(result: Result<Settled, LedgerError>) -> Refusal {
    match result {
        Err(LedgerError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn released_refusal(result: Result<Released, LedgerError>) -> Refusal {
    match result {
        Err(LedgerError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn other_place(outside_program: bool) -> Refusal {
    Refusal::OtherPlace { outside_program }
}

/// The held tokens of `large`, and whether it is closed.
async fn held_and_closed(world: &World) -> (u64, bool) {
    let quota = world.quota("acme").await;
    let (balance, counters) = &quota.pools[0];
    (counters.held.get(), balance.is_closed)
}

fn request(id: &str, tokens: u64) -> Reserve {
    let call = new_reserve(tokens).id(id);
    match id {
        "model" => call.model("gpt-5"),
        "workload" => call.workload(Workload::Evaluation),
        _ => call,
    }
}

/// Reserves all [`REQUESTS`] beside another request of 500 tokens. The third closes the pool.
async fn with_requests(new: NewWorld) -> World {
    let world = new(policy("close_until_reset"));
    world.reserve(new_reserve(500).project("else")).await;
    for (id, verdict, tokens, _) in REQUESTS {
        let reserved = world.reserve(request(id, tokens)).await;
        assert_eq!(verdict_text(reserved.verdict), verdict);
    }
    assert_eq!(world.pool("large").await, (950, 3, 108, 2));
    assert_eq!(held_and_closed(&world).await, (450, true));
    world
}

/// Settles them all as run outside the programme. `used`: in the answer to each whose pool counted it; none: their
/// day is over.
async fn settle_all(world: &World, used: Option<[u64; 4]>) {
    for (at, (id, reserved_as, _, tokens)) in REQUESTS.into_iter().enumerate() {
        let settled = settle_outside(world, id, tokens).await;
        assert_eq!(verdict_text(settled.verdict), "RanOutsideProgram", "{id}");
        assert_eq!(settled.verdict_changed, reserved_as == "FREE", "{id}");
        assert!(!settled.replayed, "{id}");
        let pool = settled.pool.map(|it| {
            let remaining = it.remaining().get();
            (
                it.pool.to_string(),
                it.allowance.get(),
                it.used.get(),
                remaining,
            )
        });
        let figures = used.map_or((0, 0), |used| (1_000, used[at.min(3)]));
        let named = ("large".to_owned(), figures.0, figures.1, 0);
        let is_eligible = !matches!(id, "model" | "workload");
        assert_eq!(pool, is_eligible.then_some(named), "{id}");
    }
}

/// The rows after [`settle_all`].
const ROWS: [&str; 3] = [
    "else gpt-4o large 500 0 1 0",
    "p gpt-4o large 0 3504 0 5",
    "p gpt-5 - 0 0 0 1",
];

async fn whatever_reserve_said_the_request_counts_as_billed_in_its_row_alone(new: NewWorld) {
    let world = with_requests(new).await;
    settle_all(&world, Some([550, 500, 500, 500])).await;
    assert_eq!(world.usage("acme", None).await, ROWS);
    assert_eq!(world.pool("large").await, (500, 1, 0, 0));
    // It stays closed.
    assert_eq!(held_and_closed(&world).await, (0, true));
    let reserved = world.reserve(new_reserve(1)).await;
    assert_eq!(verdict_text(reserved.verdict), "PoolClosed");
}

async fn after_midnight_the_history_and_the_counters_of_its_day_are_corrected(new: NewWorld) {
    let world = with_requests(new).await;
    world.clock.set(TOMORROW);
    settle_all(&world, None).await;
    assert_eq!(world.usage("acme", Some(TODAY)).await, ROWS);
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
    assert!(world.usage("acme", None).await.is_empty());
    assert_eq!(held_and_closed(&world).await, (0, false));
    // Redis' counters of a day end with it.
    if world.is_embedded() {
        let (org, large) = (org_id("acme"), [PoolName::parse("large").unwrap()]);
        let pools = world
            .store
            .pools(&org, UtcDay::parse(TODAY).unwrap(), &large, &[]);
        let counters = pools.await.unwrap().answer.pools[0];
        let tokens = [counters.used, counters.billed_tokens, counters.held].map(Tokens::get);
        assert_eq!(tokens, [500, 0, 0]);
        assert_eq!((counters.free_requests, counters.billed_requests), (1, 0));
        assert!(counters.closed);
        // If the clock steps back, the day goes on with them.
        world.clock.set(NOON);
        assert_eq!(world.pool("large").await, (500, 1, 0, 0));
    }
}

async fn what_fits_is_never_free(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(1_001).id("r")).await;
    let settled = settle_outside(&world, "r", 1).await;
    assert_eq!(verdict_text(settled.verdict), "RanOutsideProgram");
    assert!(!settled.verdict_changed);
    assert_eq!(settled.pool.unwrap().remaining().get(), 1_000);
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
}

async fn no_amount_closes_a_pool(new: NewWorld) {
    let world = new(policy("close_until_reset"));
    world.reserve(new_reserve(400).id("r")).await;
    let settled = settle_outside(&world, "r", 1_000_000_000).await;
    assert_eq!(settled.pool.unwrap().remaining().get(), 1_000);
    assert_eq!(held_and_closed(&world).await, (0, false));
}

async fn what_was_held_may_be_granted_again(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(1_000).id("r")).await;
    settle_outside(&world, "r", 1_000).await;
    let reserved = world.reserve(new_reserve(1_000).id("next")).await;
    assert_eq!(verdict_text(reserved.verdict), "FREE");
    assert_eq!(world.pool("large").await, (1_000, 1, 0, 0));
    assert_eq!(
        world.usage("acme", None).await,
        ["p gpt-4o large 1000 1000 1 1"]
    );
}

async fn the_row_other_counts_it_if_it_counted_the_reservation(new: NewWorld) {
    let mut world = new(policy("keep_open"));
    world.limits.max_rows = 2;
    world.empty();
    for project in ["a", "b", "c"] {
        world
            .reserve(new_reserve(10).project(project).id(project))
            .await;
    }
    settle_outside(&world, "c", 7).await;
    let rows = [
        "(other) (other) - 0 7 0 1",
        "a gpt-4o large 10 0 1 0",
        "b gpt-4o large 10 0 1 0",
    ];
    assert_eq!(world.usage("acme", None).await, rows);
}

async fn the_same_settle_again_replays_and_any_other_is_refused(new: NewWorld) {
    let world = with_requests(new).await;
    for (id, ..) in REQUESTS {
        settle_outside(&world, id, 50).await;
    }
    let pool = world.pool("large").await;
    let rows = world.usage("acme", None).await;
    // The second time, their day is over.
    for (now, pool) in [(NOON, pool), (TOMORROW, (0, 0, 0, 0))] {
        world.clock.set(now);
        for (id, reserved_as, reserved, _) in REQUESTS {
            let again = settle_outside(&world, id, 50).await;
            assert_eq!(verdict_text(again.verdict), "RanOutsideProgram", "{id}");
            assert_eq!(again.verdict_changed, reserved_as == "FREE", "{id}");
            assert!(again.replayed, "{id}");
            let settled = Tokens::new(50).unwrap();
            assert_eq!(
                settled_refusal(world.try_settle_outside(id, 51).await),
                Refusal::OtherAmount { settled }
            );
            for tokens in [50, 51] {
                let refusal = settled_refusal(world.try_settle("acme", id, tokens).await);
                assert_eq!(refusal, other_place(true), "{id}");
                let text = "request_id: was settled before outside the programme; ";
                assert!(refusal.to_string().starts_with(text), "{refusal}");
            }
            let refusal = released_refusal(world.try_release("acme", id).await);
            assert_eq!(refusal, Refusal::Settled, "{id}");
            let again = world.reserve(request(id, reserved)).await;
            assert_eq!(verdict_text(again.verdict), reserved_as);
            assert!(again.replayed, "{id}");
        }
        assert_eq!(world.pool("large").await, pool);
        assert_eq!(world.usage("acme", Some(TODAY)).await, rows);
    }
}

async fn what_was_settled_within_the_programme_is_not_settled_outside_it(new: NewWorld) {
    let world = with_requests(new).await;
    for (id, _, _, tokens) in REQUESTS {
        world.settle(id, tokens).await;
        for other in [tokens, tokens + 1] {
            let refusal = settled_refusal(world.try_settle_outside(id, other).await);
            assert_eq!(refusal, other_place(false), "{id}");
            let text = "request_id: was settled before within the programme; ";
            assert!(refusal.to_string().starts_with(text), "{refusal}");
        }
        assert!(world.settle(id, tokens).await.replayed, "{id}");
    }
}

async fn a_released_or_unknown_id_is_refused(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400).id("r")).await;
    world.release("r").await;
    for now in [NOON, TOMORROW] {
        world.clock.set(now);
        assert_eq!(
            settled_refusal(world.try_settle_outside("r", 400).await),
            Refusal::Released
        );
        assert_eq!(
            settled_refusal(world.try_settle_outside("?", 400).await),
            Refusal::UnknownRequestId
        );
    }
    assert!(world.usage("acme", Some(TODAY)).await.is_empty());
}
