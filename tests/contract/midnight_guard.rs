//! docs/CONTRACT.md, "The midnight guard": what may end after midnight counts in the new day too.

use tollgate::ledger::Settle;

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, TODAY, World, new_reserve, new_settle, policy, policy_text, small_policy,
    verdict_text,
};

over_every_store!(
    a_free_reservation_of_the_last_ten_minutes_counts_in_the_next_day_too,
    what_ends_before_midnight_is_taken_off,
    after_midnight_the_new_day_keeps_what_stays_free,
    only_free_reservations_with_an_id_within_the_guard_are_carried,
    a_carried_reservation_is_decided_and_reported_on_its_own_day_alone,
    a_batch_sees_what_it_carries,
    an_id_of_a_clock_that_was_ahead_is_taken_off_its_own_next_day,
);

const IN_THE_GUARD: &str = "2026-11-22T23:50:00Z";
const AFTER_MIDNIGHT: &str = "2026-11-23T00:00:00Z";

fn world_at(new: NewWorld, moment: &str) -> World {
    let world = new(policy("keep_open"));
    world.clock.set(moment);
    world
}

async fn reserve(world: &World, tokens: u64, id: &str) -> String {
    let answer = world.reserve(new_reserve(tokens).id(id)).await;
    verdict_text(answer.verdict)
}

async fn settle_outside(world: &World, id: &str, tokens: u64) {
    let call = Settle {
        outside_program: true,
        ..new_settle(id, tokens)
    };
    world.ledger.settle(call).await.unwrap();
}

async fn used(world: &World) -> u64 {
    world.pool("large").await.0
}

async fn a_free_reservation_of_the_last_ten_minutes_counts_in_the_next_day_too(new: NewWorld) {
    let world = world_at(new, "2026-11-22T23:48:00Z");
    assert_eq!(reserve(&world, 100, "before").await, "FREE");
    world.clock.set(IN_THE_GUARD);
    assert_eq!(reserve(&world, 200, "first").await, "FREE");
    world.clock.set("2026-11-22T23:58:00Z");
    assert_eq!(reserve(&world, 300, "last").await, "FREE");
    // A replay counts nothing, here as there.
    assert_eq!(reserve(&world, 300, "last").await, "FREE");
    assert_eq!(used(&world).await, 600);
    world.clock.set(AFTER_MIDNIGHT);
    assert_eq!(world.pool("large").await, (500, 0, 0, 0));
    assert_eq!(reserve(&world, 300, "last").await, "FREE");
    assert_eq!(reserve(&world, 501, "too large").await, "AllowanceExceeded");
    assert_eq!(reserve(&world, 500, "new").await, "FREE");
    // What is never settled stays, until the end of its second day.
    world.clock.set("2026-11-23T12:00:00Z");
    assert_eq!(used(&world).await, 1_000);
    world.clock.set("2026-11-24T00:00:00Z");
    assert_eq!(used(&world).await, 0);
}

async fn what_ends_before_midnight_is_taken_off(new: NewWorld) {
    let world = world_at(new, IN_THE_GUARD);
    for (id, tokens) in [
        ("settled", 100),
        ("grown", 100),
        ("billed", 100),
        ("released", 100),
    ] {
        assert_eq!(reserve(&world, tokens, id).await, "FREE");
    }
    assert_eq!(reserve(&world, 100, "outside").await, "FREE");
    assert_eq!(reserve(&world, 10, "open").await, "FREE");
    world.settle("settled", 40).await;
    world.settle("grown", 300).await;
    assert_eq!(
        verdict_text(world.settle("billed", 1_000).await.verdict),
        "AllowanceExceeded"
    );
    for _ in 0..2 {
        world.release("released").await;
        settle_outside(&world, "outside", 70).await;
    }
    assert_eq!(used(&world).await, 350);
    world.clock.set(AFTER_MIDNIGHT);
    assert_eq!(used(&world).await, 10);
    // Late replays change nothing either.
    assert!(world.settle("settled", 40).await.replayed && world.release("released").await.replayed);
    assert_eq!(used(&world).await, 10);
}

async fn after_midnight_the_new_day_keeps_what_stays_free(new: NewWorld) {
    let world = world_at(new, IN_THE_GUARD);
    for id in ["less", "all", "more", "outside", "released", "open"] {
        assert_eq!(reserve(&world, 100, id).await, "FREE");
    }
    world.clock.set(AFTER_MIDNIGHT);
    assert_eq!(used(&world).await, 600);
    for (id, actual, verdict, then) in [
        ("less", 30, "FREE", 530),
        ("all", 100, "FREE", 530),
        ("more", 101, "DayClosed", 430),
    ] {
        for replayed in [false, true] {
            let settled = world.settle(id, actual).await;
            assert_eq!(
                (verdict_text(settled.verdict), settled.replayed),
                (verdict.to_owned(), replayed)
            );
            assert_eq!(used(&world).await, then, "{id}");
        }
    }
    settle_outside(&world, "outside", 5).await;
    assert_eq!(used(&world).await, 330);
    assert_eq!(world.release("released").await.tokens.get(), 100);
    assert_eq!(world.pool("large").await, (230, 0, 0, 0));
    assert_eq!(
        world.usage("acme", Some(TODAY)).await,
        ["p gpt-4o large 230 106 3 2"]
    );
    assert!(world.usage("acme", None).await.is_empty());
}

async fn only_free_reservations_with_an_id_within_the_guard_are_carried(new: NewWorld) {
    let world = world_at(new, IN_THE_GUARD);
    world.reserve(new_reserve(100)).await;
    world.reserve(new_reserve(100).id("dry").dry()).await;
    assert_eq!(reserve(&world, 1_000, "billed").await, "AllowanceExceeded");
    world
        .reserve(new_reserve(50).id("ineligible").model("gpt-5"))
        .await;
    assert_eq!(
        verdict_text(world.settle("billed", 200).await.verdict),
        "FREE"
    );
    world.clock.set(AFTER_MIDNIGHT);
    assert_eq!(used(&world).await, 0);
    for (guard, wanted) in [("0s", 0), ("500s", 0), ("600s", 7), ("12h", 7)] {
        let guard = format!("[program]\nmidnight_guard = \"{guard}\"\n");
        let text = small_policy("keep_open").replace("[program]\n", &guard);
        let world = new(policy_text(&text));
        world.clock.set(IN_THE_GUARD);
        assert_eq!(reserve(&world, 7, "r").await, "FREE");
        world.clock.set(AFTER_MIDNIGHT);
        assert_eq!(used(&world).await, wanted, "{guard}");
    }
}

async fn a_carried_reservation_is_decided_and_reported_on_its_own_day_alone(new: NewWorld) {
    let world = world_at(new, IN_THE_GUARD);
    assert_eq!(reserve(&world, 600, "r").await, "FREE");
    let quota = world.quota("acme").await;
    let (balance, counters) = &quota.pools[0];
    assert_eq!((balance.used.get(), counters.held.get()), (600, 600));
    world.clock.set(AFTER_MIDNIGHT);
    let quota = world.quota("acme").await;
    let (balance, counters) = &quota.pools[0];
    assert_eq!((balance.used.get(), balance.remaining().get()), (600, 400));
    assert_eq!((counters.held.get(), counters.free_requests), (0, 0));
    // The guard off, or the pool out of the policy: what was carried is taken off all the same.
    let text = small_policy("keep_open").replace(
        "[pools.large]\nmodels = [\"gpt-4o\", \"o1\"]\n",
        "[pools.huge]\nmodels = [\"gpt-4o\"]\n",
    );
    let text = text
        .replace("large = 1_000", "huge = 1_000")
        .replace("[program]", "[program]\nmidnight_guard = \"0s\"");
    world.ledger.set_policy(policy_text(&text).into());
    assert_eq!(world.settle("r", 1).await.pool.unwrap().used.get(), 0);
    world.ledger.set_policy(policy("keep_open").into());
    assert_eq!(used(&world).await, 1);
}

async fn a_batch_sees_what_it_carries(new: NewWorld) {
    let world = world_at(new, IN_THE_GUARD);
    let calls = (0..8).map(|at| new_reserve(10).id(&format!("{}", at % 4)));
    let answers = world.ledger.reserve_all(calls.collect()).await;
    assert_eq!(
        answers
            .into_iter()
            .filter(|it| it.as_ref().unwrap().replayed)
            .count(),
        4
    );
    world.release("0").await;
    world.settle("1", 3).await;
    world.clock.set(AFTER_MIDNIGHT);
    assert_eq!(used(&world).await, 20);
}

async fn an_id_of_a_clock_that_was_ahead_is_taken_off_its_own_next_day(new: NewWorld) {
    let world = world_at(new, "2026-11-23T23:55:00Z");
    if !world.is_embedded() {
        return;
    }
    assert_eq!(reserve(&world, 100, "settled").await, "FREE");
    assert_eq!(reserve(&world, 10, "open").await, "FREE");
    // The clock steps back by a day: the reservations are of tomorrow, and carried into the day after it.
    world.clock.set("2026-11-22T23:55:00Z");
    assert_eq!(
        verdict_text(world.settle("settled", 60).await.verdict),
        "FREE"
    );
    for (moment, wanted) in [
        ("2026-11-22T23:55:00Z", 0),
        ("2026-11-23T23:55:00Z", 70),
        ("2026-11-24T00:00:00Z", 10),
    ] {
        world.clock.set(moment);
        assert_eq!(used(&world).await, wanted, "{moment}");
    }
}
