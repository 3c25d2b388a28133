//! docs/CONTRACT.md, "The margin": Reserve keeps away from the end of the allowance, and Settle does not.

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, World, new_reserve, policy_text, small_policy, verdict_text,
};

over_every_store!(
    reserve_reaches_the_allowance_less_the_margin_and_settle_the_allowance,
    an_overflow_of_the_margin_closes_a_pool_that_closes,
    a_margin_that_is_larger_than_the_allowance_leaves_nothing_to_reserve,
);

/// A world whose programme has a margin. `large` has an allowance of 1,000.
fn with_margin(new: NewWorld, overflow: &str, margin: &str) -> World {
    let text = small_policy(overflow).replace(
        "name = \"test\"",
        &format!("name = \"test\"\nmargin = {margin}"),
    );
    new(policy_text(&text))
}

/// The verdict on a Reserve, and what remains after it.
async fn reserved(world: &World, tokens: u64, id: &str) -> (String, u64) {
    let answer = world.reserve(new_reserve(tokens).id(id)).await;
    let pool = answer.pool.unwrap();
    assert_eq!(pool.allowance.get(), 1_000);
    (verdict_text(answer.verdict), pool.remaining().get())
}

fn free(remaining: u64) -> (String, u64) {
    ("FREE".to_owned(), remaining)
}

fn exceeded(remaining: u64) -> (String, u64) {
    ("AllowanceExceeded".to_owned(), remaining)
}

async fn reserve_reaches_the_allowance_less_the_margin_and_settle_the_allowance(new: NewWorld) {
    let world = with_margin(new, "keep_open", "\"10%\"");
    assert_eq!(reserved(&world, 901, "too large").await, exceeded(900));
    assert_eq!(reserved(&world, 900, "r").await, free(0));
    assert_eq!(reserved(&world, 1, "more").await, exceeded(0));
    // What ran is free up to the allowance, as it is at the provider.
    let settled = world.settle("r", 950).await;
    assert_eq!(verdict_text(settled.verdict), "FREE");
    assert_eq!(settled.pool.unwrap().remaining().get(), 0);
    let billed = world.settle("more", 50).await;
    assert_eq!(
        (verdict_text(billed.verdict), billed.verdict_changed),
        ("FREE".to_owned(), true)
    );
    let billed = world.settle("too large", 1).await;
    assert_eq!(verdict_text(billed.verdict), "AllowanceExceeded");
    assert_eq!(world.pool("large").await, (1_000, 2, 1, 1));
    let quota = world.quota("acme").await;
    let margins = quota.pools.iter().map(|(pool, _)| pool.margin.get());
    assert_eq!(margins.collect::<Vec<_>>(), [100, 1_000]);
}

async fn an_overflow_of_the_margin_closes_a_pool_that_closes(new: NewWorld) {
    let world = with_margin(new, "close_until_reset", "100");
    assert_eq!(reserved(&world, 901, "r").await, exceeded(0));
    let more = world.reserve(new_reserve(1)).await;
    assert_eq!(verdict_text(more.verdict), "PoolClosed");
}

async fn a_margin_that_is_larger_than_the_allowance_leaves_nothing_to_reserve(new: NewWorld) {
    let world = with_margin(new, "keep_open", "1_001");
    assert_eq!(reserved(&world, 1, "r").await, exceeded(0));
    assert_eq!(verdict_text(world.settle("r", 1_000).await.verdict), "FREE");
}
