//! docs/CONTRACT.md, "Settle" and "Release", after the day of the reservation.

use tollgate::ledger::Settled;

use super::{NewWorld, over_every_store};
use crate::support::world::{ReserveExt as _, TODAY, World, new_reserve, policy, verdict_text};

over_every_store!(
    free_and_used_no_more_than_reserved_stays_free,
    free_and_used_more_than_reserved_is_billed_for_the_closed_day,
    billed_stays_billed_for_the_same_reason,
    a_late_release_corrects_only_the_history,
    a_late_settle_replays,
    a_reservation_settled_in_time_replays_on_the_next_day_without_a_balance,
    two_days_later_the_id_is_unknown,
    a_closed_pool_of_yesterday_is_open_today,
);

const TOMORROW: &str = "2026-11-23T08:00:00Z";

/// The result of a Settle of a past day: a pool without a balance.
fn answer(settled: &Settled) -> (String, bool, Option<(&str, u64, u64)>) {
    let pool = settled.pool.as_ref();
    let balance = pool.map(|it| (it.pool.as_str(), it.allowance.get(), it.used.get()));
    (
        verdict_text(settled.verdict),
        settled.verdict_changed,
        balance,
    )
}

async fn today_is_untouched(world: &World) {
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
    assert!(world.usage("acme", None).await.is_empty());
}

async fn free_and_used_no_more_than_reserved_stays_free(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400).id("r")).await;
    world.reserve(new_reserve(300).id("all")).await;
    world.clock.set(TOMORROW);
    let settled = world.settle("r", 150).await;
    assert_eq!(
        answer(&settled),
        ("FREE".to_owned(), false, Some(("large", 0, 0)))
    );
    assert_eq!(settled.resets_at.to_rfc3339(), "2026-11-24T00:00:00+00:00");
    assert_eq!(verdict_text(world.settle("all", 300).await.verdict), "FREE");
    assert_eq!(
        world.usage("acme", Some(TODAY)).await,
        ["p gpt-4o large 450 0 2 0"]
    );
    today_is_untouched(&world).await;
}

async fn free_and_used_more_than_reserved_is_billed_for_the_closed_day(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400).id("r")).await;
    world.clock.set(TOMORROW);
    let settled = world.settle("r", 401).await;
    assert_eq!(
        answer(&settled),
        ("DayClosed".to_owned(), true, Some(("large", 0, 0)))
    );
    assert_eq!(
        world.usage("acme", Some(TODAY)).await,
        ["p gpt-4o large 0 401 0 1"]
    );
    today_is_untouched(&world).await;
}

async fn billed_stays_billed_for_the_same_reason(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(1_001).id("exceeded")).await;
    world
        .reserve(new_reserve(50).id("ineligible").model("gpt-5"))
        .await;
    world.clock.set(TOMORROW);
    let settled = world.settle("exceeded", 1).await;
    assert_eq!(
        answer(&settled),
        ("AllowanceExceeded".to_owned(), false, Some(("large", 0, 0)))
    );
    let settled = world.settle("ineligible", 60).await;
    assert_eq!(
        answer(&settled),
        ("ModelNotCovered".to_owned(), false, None)
    );
    let rows = world.usage("acme", Some(TODAY)).await;
    assert_eq!(rows, ["p gpt-4o large 0 1 0 1", "p gpt-5 - 0 60 0 1"]);
    today_is_untouched(&world).await;
}

async fn a_late_release_corrects_only_the_history(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400).id("free")).await;
    world.reserve(new_reserve(700).id("billed")).await;
    world.reserve(new_reserve(3)).await;
    world.clock.set(TOMORROW);
    world.reserve(new_reserve(20)).await;
    for (id, tokens) in [("free", 400), ("billed", 700)] {
        for replayed in [false, true] {
            let released = world.release(id).await;
            assert_eq!(
                (released.tokens.get(), released.replayed),
                (tokens, replayed)
            );
            let pool = released.pool.unwrap();
            assert_eq!(
                (pool.pool.as_str(), pool.allowance.get(), pool.used.get()),
                ("large", 0, 0)
            );
        }
    }
    assert_eq!(
        world.usage("acme", Some(TODAY)).await,
        ["p gpt-4o large 3 0 1 0"]
    );
    assert_eq!(world.pool("large").await, (20, 1, 0, 0));
    assert!(
        world
            .ledger
            .reserve(new_reserve(400).id("free"))
            .await
            .is_err(),
        "it was released"
    );
}

async fn a_late_settle_replays(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400).id("r")).await;
    world.clock.set(TOMORROW);
    world.settle("r", 401).await;
    let again = world.settle("r", 401).await;
    assert!(again.replayed);
    assert_eq!(
        answer(&again),
        ("DayClosed".to_owned(), true, Some(("large", 0, 0)))
    );
    assert!(world.try_settle("acme", "r", 400).await.is_err());
    assert!(world.try_release("acme", "r").await.is_err());
    let reserved = world.reserve(new_reserve(400).id("r")).await;
    assert_eq!(
        (verdict_text(reserved.verdict).as_str(), reserved.replayed),
        ("FREE", true)
    );
    assert_eq!(
        world.usage("acme", Some(TODAY)).await,
        ["p gpt-4o large 0 401 0 1"]
    );
}

async fn a_reservation_settled_in_time_replays_on_the_next_day_without_a_balance(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400).id("r")).await;
    world.settle("r", 500).await;
    world.clock.set(TOMORROW);
    let again = world.settle("r", 500).await;
    assert!(again.replayed);
    assert_eq!(
        answer(&again),
        ("FREE".to_owned(), false, Some(("large", 0, 0)))
    );
}

async fn two_days_later_the_id_is_unknown(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400).id("r")).await;
    world.clock.set("2026-11-24T00:00:00Z");
    assert!(world.try_settle("acme", "r", 1).await.is_err());
    assert!(world.try_release("acme", "r").await.is_err());
    assert_eq!(
        world.usage("acme", Some(TODAY)).await,
        ["p gpt-4o large 400 0 1 0"]
    );
}

async fn a_closed_pool_of_yesterday_is_open_today(new: NewWorld) {
    let world = new(policy("close_until_reset"));
    world.reserve(new_reserve(1_001).id("r")).await;
    world.clock.set(TOMORROW);
    world.settle("r", 1_001).await;
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1_000)).await.verdict),
        "FREE"
    );
}
