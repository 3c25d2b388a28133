//! docs/CONTRACT.md, "Settle" and "Release", on the day of the reservation: one case per row of the table.

use tollgate::{
    domain::Refusal,
    ledger::{LedgerError, Settled},
    policy::Policy,
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, World, new_reserve, policy, policy_text, small_policy, verdict_text,
};

over_every_store!(
    free_and_used_less_stays_free_and_gives_back_the_rest,
    free_and_used_more_stays_free_where_it_fits,
    free_and_used_more_is_billed_whole_where_it_does_not_fit,
    billed_for_the_allowance_becomes_free_where_the_actual_tokens_fit,
    billed_for_the_allowance_stays_billed_where_they_do_not_fit,
    billed_for_another_reason_stays_billed_for_it,
    settling_with_nothing_used_is_legal,
    an_overflow_at_settle_closes_the_pool,
    a_free_reservation_in_a_closed_pool_settles_by_the_table,
    billed_reservations_stay_billed_in_a_closed_pool,
    the_same_settle_again_replays_and_another_amount_is_refused,
    a_release_takes_back_everything_that_was_counted,
    a_release_again_replays_and_settled_or_unknown_ids_are_refused,
    a_released_or_unknown_id_cannot_be_settled,
    a_reservation_without_an_id_cannot_be_settled,
);

fn answer(settled: &Settled) -> (String, bool) {
    (verdict_text(settled.verdict), settled.verdict_changed)
}

fn changed(verdict: &str) -> (String, bool) {
    (verdict.to_owned(), true)
}

fn unchanged(verdict: &str) -> (String, bool) {
    (verdict.to_owned(), false)
}

/// A world in which a settled request has used this many of the 1,000 tokens.
async fn with_used(new: NewWorld, policy: Policy, used: u64) -> World {
    let world = new(policy);
    world.reserve(new_reserve(used).project("else")).await;
    world
}

async fn free_and_used_less_stays_free_and_gives_back_the_rest(new: NewWorld) {
    let world = with_used(new, policy("keep_open"), 500).await;
    world.reserve(new_reserve(400).id("r")).await;
    let settled = world.settle("r", 150).await;
    assert_eq!(answer(&settled), unchanged("FREE"));
    let pool = settled.pool.unwrap();
    assert_eq!((pool.used.get(), pool.remaining().get()), (650, 350));
    assert_eq!(world.pool("large").await, (650, 2, 0, 0));
    let rows = world.usage("acme", None).await;
    assert_eq!(
        rows,
        ["else gpt-4o large 500 0 1 0", "p gpt-4o large 150 0 1 0"]
    );
}

async fn free_and_used_more_stays_free_where_it_fits(new: NewWorld) {
    let world = with_used(new, policy("keep_open"), 500).await;
    world.reserve(new_reserve(400).id("r")).await;
    assert_eq!(
        answer(&world.settle("r", 500).await),
        unchanged("FREE"),
        "exactly the allowance"
    );
    assert_eq!(world.pool("large").await, (1_000, 2, 0, 0));
}

async fn free_and_used_more_is_billed_whole_where_it_does_not_fit(new: NewWorld) {
    let world = with_used(new, policy("keep_open"), 500).await;
    world.reserve(new_reserve(400).id("r")).await;
    let settled = world.settle("r", 501).await;
    assert_eq!(answer(&settled), changed("AllowanceExceeded"));
    assert_eq!(settled.pool.unwrap().used.get(), 500);
    assert_eq!(world.pool("large").await, (500, 1, 501, 1));
    let rows = world.usage("acme", None).await;
    assert_eq!(
        rows,
        ["else gpt-4o large 500 0 1 0", "p gpt-4o large 0 501 0 1"]
    );
}

async fn billed_for_the_allowance_becomes_free_where_the_actual_tokens_fit(new: NewWorld) {
    let world = with_used(new, policy("keep_open"), 500).await;
    world.reserve(new_reserve(501).id("r")).await;
    assert_eq!(world.pool("large").await, (500, 1, 501, 1));
    assert_eq!(answer(&world.settle("r", 500).await), changed("FREE"));
    assert_eq!(world.pool("large").await, (1_000, 2, 0, 0));
    let rows = world.usage("acme", None).await;
    assert_eq!(
        rows,
        ["else gpt-4o large 500 0 1 0", "p gpt-4o large 500 0 1 0"]
    );
}

async fn billed_for_the_allowance_stays_billed_where_they_do_not_fit(new: NewWorld) {
    let world = with_used(new, policy("keep_open"), 500).await;
    world.reserve(new_reserve(600).id("r")).await;
    assert_eq!(
        answer(&world.settle("r", 501).await),
        unchanged("AllowanceExceeded")
    );
    assert_eq!(world.pool("large").await, (500, 1, 501, 1));
}

async fn billed_for_another_reason_stays_billed_for_it(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(600).id("r").model("gpt-5")).await;
    let settled = world.settle("r", 1).await;
    assert_eq!(answer(&settled), unchanged("ModelNotCovered"));
    assert_eq!(settled.pool, None);
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
    assert_eq!(world.usage("acme", None).await, ["p gpt-5 - 0 1 0 1"]);
}

async fn settling_with_nothing_used_is_legal(new: NewWorld) {
    let world = with_used(new, policy("keep_open"), 900).await;
    world.reserve(new_reserve(100).id("free")).await;
    world.reserve(new_reserve(100).id("billed")).await;
    assert_eq!(answer(&world.settle("free", 0).await), unchanged("FREE"));
    assert_eq!(answer(&world.settle("billed", 0).await), changed("FREE"));
    assert_eq!(world.pool("large").await, (900, 3, 0, 0));
    let rows = world.usage("acme", None).await;
    assert_eq!(
        rows,
        ["else gpt-4o large 900 0 1 0", "p gpt-4o large 0 0 2 0"]
    );
}

async fn an_overflow_at_settle_closes_the_pool(new: NewWorld) {
    let world = with_used(new, policy("close_until_reset"), 500).await;
    world.reserve(new_reserve(400).id("r")).await;
    assert_eq!(
        answer(&world.settle("r", 501).await),
        changed("AllowanceExceeded")
    );
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "PoolClosed"
    );
}

async fn a_free_reservation_in_a_closed_pool_settles_by_the_table(new: NewWorld) {
    let world = with_used(new, policy("close_until_reset"), 500).await;
    for id in ["less", "more", "too much"] {
        world.reserve(new_reserve(100).id(id)).await;
    }
    world.reserve(new_reserve(201)).await;
    assert_eq!(answer(&world.settle("less", 50).await), unchanged("FREE"));
    assert_eq!(answer(&world.settle("more", 300).await), unchanged("FREE"));
    assert_eq!(
        answer(&world.settle("too much", 151).await),
        changed("AllowanceExceeded")
    );
    assert_eq!(world.pool("large").await, (850, 3, 352, 2));
}

async fn billed_reservations_stay_billed_in_a_closed_pool(new: NewWorld) {
    let world = with_used(new, policy("close_until_reset"), 500).await;
    world.reserve(new_reserve(501).id("over")).await;
    world.reserve(new_reserve(5).id("closed")).await;
    assert_eq!(
        answer(&world.settle("over", 1).await),
        unchanged("AllowanceExceeded")
    );
    assert_eq!(
        answer(&world.settle("closed", 2).await),
        unchanged("PoolClosed")
    );
    assert_eq!(world.pool("large").await, (500, 1, 3, 2));
}

async fn the_same_settle_again_replays_and_another_amount_is_refused(new: NewWorld) {
    let world = with_used(new, policy("keep_open"), 500).await;
    world.reserve(new_reserve(400).id("r")).await;
    assert!(!world.settle("r", 501).await.replayed);
    world.reserve(new_reserve(30)).await;
    let again = world.settle("r", 501).await;
    assert_eq!(
        (answer(&again), again.replayed),
        (changed("AllowanceExceeded"), true)
    );
    assert_eq!(again.pool.unwrap().used.get(), 530);
    let other = world.try_settle("acme", "r", 500).await;
    let settled = tollgate::domain::Tokens::new(501).unwrap();
    assert!(matches!(
        other,
        Err(LedgerError::Refused(Refusal::OtherAmount { settled: received })) if received == settled
    ));
    assert_eq!(world.pool("large").await, (530, 2, 501, 1));
}

async fn a_release_takes_back_everything_that_was_counted(new: NewWorld) {
    let world = with_used(new, policy("close_until_reset"), 500).await;
    world.reserve(new_reserve(400).id("free")).await;
    world.reserve(new_reserve(101).id("exceeded")).await;
    world.reserve(new_reserve(7).id("closed")).await;
    world
        .reserve(new_reserve(9).id("ineligible").model("gpt-5"))
        .await;
    assert_eq!(world.pool("large").await, (900, 2, 108, 2));
    for (id, tokens, pool) in [
        ("free", 400, Some(500)),
        ("exceeded", 101, Some(500)),
        ("closed", 7, Some(500)),
        ("ineligible", 9, None),
    ] {
        let released = world.release(id).await;
        assert_eq!(released.tokens.get(), tokens, "{id}");
        assert_eq!(released.pool.map(|pool| pool.used.get()), pool, "{id}");
        assert!(!released.replayed);
    }
    assert_eq!(world.pool("large").await, (500, 1, 0, 0));
    assert_eq!(
        world.usage("acme", None).await,
        ["else gpt-4o large 500 0 1 0"]
    );
}

async fn a_release_again_replays_and_settled_or_unknown_ids_are_refused(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400).id("r")).await;
    world.reserve(new_reserve(100).id("s")).await;
    world.release("r").await;
    let again = world.release("r").await;
    assert_eq!((again.tokens.get(), again.replayed), (400, true));
    assert_eq!(again.pool.unwrap().used.get(), 100);
    world.settle("s", 100).await;
    let refusal = |result| match result {
        Err(LedgerError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refusal(world.try_release("acme", "s").await),
        Refusal::Settled
    );
    assert_eq!(
        refusal(world.try_release("acme", "?").await),
        Refusal::UnknownRequestId
    );
    assert_eq!(
        refusal(world.try_release("other", "s").await),
        Refusal::UnknownRequestId
    );
    assert_eq!(world.pool("large").await, (100, 1, 0, 0));
}

async fn a_released_or_unknown_id_cannot_be_settled(new: NewWorld) {
    let world = new(policy_text(&small_policy("keep_open")));
    world.reserve(new_reserve(400).id("r")).await;
    world.release("r").await;
    let refusal = |result| match result {
        Err(LedgerError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refusal(world.try_settle("acme", "r", 400).await),
        Refusal::Released
    );
    assert_eq!(
        refusal(world.try_settle("acme", "?", 400).await),
        Refusal::UnknownRequestId
    );
    assert_eq!(
        refusal(world.try_settle("other", "r", 400).await),
        Refusal::UnknownRequestId
    );
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
    assert!(world.usage("acme", None).await.is_empty());
}

async fn a_reservation_without_an_id_cannot_be_settled(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400)).await;
    if let Some(redis) = &world.redis {
        // Only the number of usage rows.
        assert_eq!(
            redis.integer(&["HLEN", "tollgate:{acme}:requests:2026-11-22"]),
            1
        );
    }
    assert_eq!(world.pool("large").await, (400, 1, 0, 0));
}
