//! docs/CONTRACT.md, "Policy change in mid-day": it applies from the next decision on.

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, World, new_reserve, policy, policy_text, small_policy, verdict_text,
};

over_every_store!(
    an_allowance_cut_below_what_is_used_grants_nothing_more_and_what_was_granted_stands,
    a_raised_allowance_holds_from_the_next_decision_on,
    a_project_opted_out_keeps_its_open_reservations,
    an_organization_that_left_settles_with_an_allowance_of_0,
    an_organization_that_turned_sharing_off_settles_with_an_allowance_of_0,
    a_pool_that_left_settles_with_an_allowance_of_0,
    a_model_that_moved_settles_in_the_pool_of_its_reservation,
    a_pool_closed_by_the_old_rule_is_open_under_keep_open,
    an_overflow_under_keep_open_does_not_close_the_pool_for_a_later_rule,
);

fn change(world: &World, overflow: &str, from: &str, to: &str) {
    let text = small_policy(overflow);
    assert!(text.contains(from), "{from}");
    world
        .ledger
        .set_policy(policy_text(&text.replace(from, to)).into());
}

async fn an_allowance_cut_below_what_is_used_grants_nothing_more_and_what_was_granted_stands(
    new: NewWorld,
) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(600).id("free")).await;
    world.reserve(new_reserve(500).id("billed")).await;
    change(&world, "keep_open", "large = 1_000", "large = 300");
    let more = world.reserve(new_reserve(1)).await;
    assert_eq!(verdict_text(more.verdict), "AllowanceExceeded");
    let pool = more.pool.unwrap();
    assert_eq!(
        (
            pool.allowance.get(),
            pool.used.get(),
            pool.remaining().get()
        ),
        (300, 600, 0)
    );
    // Nothing fits any more, so what was billed stays billed.
    assert_eq!(
        verdict_text(world.settle("billed", 0).await.verdict),
        "AllowanceExceeded"
    );
    assert_eq!(
        verdict_text(world.settle("free", 600).await.verdict),
        "FREE"
    );
    assert_eq!(world.pool("large").await, (600, 1, 1, 2));
}

async fn a_raised_allowance_holds_from_the_next_decision_on(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(1_000)).await;
    world.reserve(new_reserve(500).id("r")).await;
    change(&world, "keep_open", "large = 1_000", "large = 2_000");
    assert_eq!(
        verdict_text(world.reserve(new_reserve(500)).await.verdict),
        "FREE"
    );
    let settled = world.settle("r", 500).await;
    assert_eq!(
        (
            verdict_text(settled.verdict).as_str(),
            settled.verdict_changed
        ),
        ("FREE", true)
    );
    assert_eq!(world.pool("large").await, (2_000, 3, 0, 0));
}

async fn a_project_opted_out_keeps_its_open_reservations(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(600).id("free")).await;
    world.reserve(new_reserve(500).id("billed")).await;
    let selected = "[orgs.acme]\ntier = 1\ndata_sharing = \"selected\"\nprojects = [\"q\"]";
    change(
        &world,
        "keep_open",
        "[orgs.acme]\ntier = 1\ndata_sharing = \"all\"",
        selected,
    );
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "ProjectNotSharing"
    );
    assert_eq!(
        verdict_text(world.settle("free", 700).await.verdict),
        "FREE"
    );
    assert_eq!(
        verdict_text(world.settle("billed", 300).await.verdict),
        "FREE"
    );
    assert_eq!(world.pool("large").await, (1_000, 2, 0, 0));
}

async fn settles_with_an_allowance_of_0(world: &World) {
    assert_eq!(
        verdict_text(world.settle("less", 100).await.verdict),
        "FREE"
    );
    let more = world.settle("more", 301).await;
    assert_eq!(verdict_text(more.verdict), "AllowanceExceeded");
    let pool = more.pool.unwrap();
    assert_eq!((pool.allowance.get(), pool.used.get()), (0, 100));
    assert_eq!(
        verdict_text(world.settle("billed", 1).await.verdict),
        "AllowanceExceeded"
    );
}

async fn reserve_three(world: &World) {
    world.reserve(new_reserve(300).id("less")).await;
    world.reserve(new_reserve(300).id("more")).await;
    world.reserve(new_reserve(500).id("billed")).await;
}

async fn an_organization_that_left_settles_with_an_allowance_of_0(new: NewWorld) {
    let world = new(policy("keep_open"));
    reserve_three(&world).await;
    change(&world, "keep_open", "[orgs.acme]", "[orgs.somebody-else]");
    settles_with_an_allowance_of_0(&world).await;
    // Its history can still be read.
    assert_eq!(
        world.usage("acme", None).await,
        ["p gpt-4o large 100 302 1 2"]
    );
}

async fn an_organization_that_turned_sharing_off_settles_with_an_allowance_of_0(new: NewWorld) {
    let world = new(policy("keep_open"));
    reserve_three(&world).await;
    let (on, off) = (
        "data_sharing = \"all\"\n[orgs.other]",
        "data_sharing = \"off\"\n[orgs.other]",
    );
    change(&world, "keep_open", on, off);
    settles_with_an_allowance_of_0(&world).await;
    let quota = world.quota("acme").await;
    assert!(quota.enrollment.not_enrolled.is_some());
    let large = &quota.pools[0].0;
    assert_eq!(
        (
            large.allowance.get(),
            large.used.get(),
            large.remaining().get()
        ),
        (0, 100, 0)
    );
}

async fn a_pool_that_left_settles_with_an_allowance_of_0(new: NewWorld) {
    let world = new(policy("keep_open"));
    reserve_three(&world).await;
    let text = small_policy("keep_open")
        .replace("[pools.large]\nmodels = [\"gpt-4o\", \"o1\"]\n", "")
        .replace("large = 1_000\n", "");
    world.ledger.set_policy(policy_text(&text).into());
    let replay = world.reserve(new_reserve(300).id("less")).await;
    let pool = replay.pool.unwrap();
    assert_eq!(
        (pool.pool.as_str(), pool.allowance.get(), pool.used.get()),
        ("large", 0, 600)
    );
    settles_with_an_allowance_of_0(&world).await;
    assert_eq!(world.quota("acme").await.pools.len(), 1);
    world.ledger.set_policy(policy("keep_open").into());
    assert_eq!(world.pool("large").await, (100, 1, 302, 2));
}

async fn a_model_that_moved_settles_in_the_pool_of_its_reservation(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(300).id("r").model("o1")).await;
    let text = small_policy("keep_open")
        .replace("\"gpt-4o\", \"o1\"", "\"gpt-4o\"")
        .replace("\"gpt-4o-mini\"", "\"gpt-4o-mini\", \"o1\"");
    world.ledger.set_policy(policy_text(&text).into());
    let replay = world.reserve(new_reserve(300).id("r").model("o1")).await;
    assert_eq!(
        (replay.replayed, replay.pool.unwrap().pool.as_str()),
        (true, "large")
    );
    assert_eq!(
        world.settle("r", 200).await.pool.unwrap().pool.as_str(),
        "large"
    );
    assert_eq!(world.pool("large").await, (200, 1, 0, 0));
    assert_eq!(world.pool("mini").await, (0, 0, 0, 0));
}

async fn a_pool_closed_by_the_old_rule_is_open_under_keep_open(new: NewWorld) {
    let world = new(policy("close_until_reset"));
    world.reserve(new_reserve(1_001)).await;
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "PoolClosed"
    );
    world.ledger.set_policy(policy("keep_open").into());
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "FREE"
    );
}

async fn an_overflow_under_keep_open_does_not_close_the_pool_for_a_later_rule(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(1_001)).await;
    world.ledger.set_policy(policy("close_until_reset").into());
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "FREE"
    );
    world.reserve(new_reserve(1_001)).await;
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "PoolClosed"
    );
}
