//! docs/CONTRACT.md, "GetQuota and ListUsage": a pool's held tokens.

use super::{NewWorld, over_every_store};
use crate::support::world::{ReserveExt as _, World, new_reserve, policy};

over_every_store!(
    free_reservations_are_held_until_they_are_settled_or_released,
    billed_requests_and_those_without_id_or_effect_are_not_held,
    a_new_day_begins_with_nothing_held,
);

/// The held tokens of `large`.
async fn held(world: &World) -> u64 {
    let quota = world.quota("acme").await;
    quota.pools[0].1.held.get()
}

async fn free_reservations_are_held_until_they_are_settled_or_released(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("a")).await;
    world.reserve(new_reserve(200).id("b").model("o1")).await;
    world.reserve(new_reserve(300).id("c")).await;
    assert_eq!(held(&world).await, 600);
    world.settle("a", 150).await;
    world.settle("a", 150).await;
    assert_eq!(held(&world).await, 500);
    world.release("b").await;
    world.release("b").await;
    assert_eq!(held(&world).await, 300);
    // Settled as BILLED, it is not held any more either.
    world.settle("c", 1_000).await;
    assert_eq!(held(&world).await, 0);
}

async fn billed_requests_and_those_without_id_or_effect_are_not_held(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("a")).await;
    world.reserve(new_reserve(50)).await;
    world.reserve(new_reserve(50).id("dry").dry()).await;
    world.reserve(new_reserve(1_000).id("billed")).await;
    world
        .reserve(new_reserve(50).id("ineligible").model("gpt-5"))
        .await;
    world.reserve(new_reserve(100).id("a")).await;
    assert_eq!(held(&world).await, 100);
    // Settled as FREE, the billed request is used, not held.
    world.settle("billed", 10).await;
    world.release("ineligible").await;
    assert_eq!(held(&world).await, 100);
    assert_eq!(world.pool("large").await.0, 160);
}

async fn a_new_day_begins_with_nothing_held(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("a")).await;
    world.reserve(new_reserve(100).id("b")).await;
    world.clock.set("2026-11-23T12:00:00Z");
    assert_eq!(held(&world).await, 0);
    world.reserve(new_reserve(30).id("c")).await;
    world.settle("a", 10).await;
    world.release("b").await;
    assert_eq!(held(&world).await, 30);
}
