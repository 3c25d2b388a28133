//! docs/CONTRACT.md, "What is counted where": the limit of usage rows a day, and the row `(other)`.

use tollgate::ledger::{UsageDays, UsagePage, UsageRow};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, World, new_reserve, org_id, policy, request_id, verdict_text,
};

over_every_store!(
    requests_beyond_the_last_row_count_in_the_row_other,
    models_that_no_pool_lists_take_at_most_half_of_the_rows,
    a_reservation_is_settled_and_released_in_the_row_that_counts_it,
    a_late_settle_corrects_the_row_other_of_its_day,
    a_callers_own_row_other_is_that_row,
    each_day_has_its_own_rows,
);

/// A world with at most four rows a day.
async fn small(new: NewWorld) -> World {
    let mut world = new(policy("keep_open"));
    world.limits.max_rows = 4;
    world.empty();
    world
}

async fn requests_beyond_the_last_row_count_in_the_row_other(new: NewWorld) {
    let world = small(new).await;
    for project in ["a", "b", "c", "d", "e", "f", "a"] {
        world.reserve(new_reserve(10).project(project)).await;
    }
    assert_eq!(
        world.usage("acme", None).await,
        [
            "(other) (other) - 20 0 2 0",
            "a gpt-4o large 20 0 2 0",
            "b gpt-4o large 10 0 1 0",
            "c gpt-4o large 10 0 1 0",
            "d gpt-4o large 10 0 1 0",
        ]
    );
    // A dry run creates no row.
    world.reserve(new_reserve(10).org("other").dry()).await;
    assert!(world.usage("other", None).await.is_empty());
    assert_eq!(world.pool("large").await, (70, 7, 0, 0));
}

async fn models_that_no_pool_lists_take_at_most_half_of_the_rows(new: NewWorld) {
    let world = small(new).await;
    for at in 0..20 {
        world
            .reserve(new_reserve(1).model(&format!("junk-{at:02}")))
            .await;
    }
    for project in ["a", "b", "c"] {
        world.reserve(new_reserve(5).project(project)).await;
    }
    assert_eq!(
        world.usage("acme", None).await,
        [
            "(other) (other) - 5 18 1 18",
            "a gpt-4o large 5 0 1 0",
            "b gpt-4o large 5 0 1 0",
            "p junk-00 - 0 1 0 1",
            "p junk-01 - 0 1 0 1",
        ]
    );
}

async fn a_reservation_is_settled_and_released_in_the_row_that_counts_it(new: NewWorld) {
    let world = small(new).await;
    for project in ["a", "b", "c", "d", "e", "f", "g"] {
        world
            .reserve(new_reserve(10).project(project).id(project))
            .await;
    }
    assert_eq!(verdict_text(world.settle("e", 25).await.verdict), "FREE");
    world.settle("a", 3).await;
    world.release("f").await;
    // The names that it was sent with still identify the reservation.
    let again = world.reserve(new_reserve(10).project("e").id("e")).await;
    assert!(again.replayed);
    assert!(
        world
            .ledger
            .reserve(new_reserve(10).project("x").id("e"))
            .await
            .is_err()
    );
    let rows = [
        "(other) (other) - 35 0 2 0",
        "a gpt-4o large 3 0 1 0",
        "b gpt-4o large 10 0 1 0",
        "c gpt-4o large 10 0 1 0",
        "d gpt-4o large 10 0 1 0",
    ];
    assert_eq!(world.usage("acme", None).await, rows);
    // A row that a release emptied is not listed, but still occupies a place.
    world.release("b").await;
    world.reserve(new_reserve(10).project("h")).await;
    assert_eq!(
        world.usage("acme", None).await[0],
        "(other) (other) - 45 0 3 0"
    );
    world.reserve(new_reserve(10).project("b")).await;
    assert_eq!(world.usage("acme", None).await[2], rows[2]);
}

async fn a_late_settle_corrects_the_row_other_of_its_day(new: NewWorld) {
    let world = small(new).await;
    for project in ["a", "b", "c", "d", "e", "f"] {
        world
            .reserve(new_reserve(10).project(project).id(project))
            .await;
    }
    world.clock.set("2026-11-23T12:00:00Z");
    world.settle("e", 4).await;
    world.release("f").await;
    let rows = world
        .usage("acme", Some(crate::support::world::TODAY))
        .await;
    assert_eq!(rows[0], "(other) (other) - 4 0 1 0");
    assert_eq!(rows.len(), 5);
    assert!(world.usage("acme", None).await.is_empty());
}

async fn a_callers_own_row_other_is_that_row(new: NewWorld) {
    let world = small(new).await;
    let own = || new_reserve(1).project("(other)").model("(other)");
    world.reserve(own().id("own")).await;
    for project in ["a", "b", "c", "d", "e"] {
        world.reserve(new_reserve(10).project(project)).await;
    }
    world.reserve(own()).await;
    world.settle("own", 6).await;
    let rows = world.usage("acme", None).await;
    assert_eq!(rows[0], "(other) (other) - 10 7 1 2");
    assert_eq!(rows.len(), 5);
}

async fn each_day_has_its_own_rows(new: NewWorld) {
    let world = small(new).await;
    for day in ["2026-11-22T12:00:00Z", "2026-11-23T12:00:00Z"] {
        world.clock.set(day);
        for project in ["a", "b", "c", "d", "e"] {
            world.reserve(new_reserve(10).project(project)).await;
        }
        let rows = world.usage("acme", None).await;
        assert_eq!(
            (rows.len(), rows[0].as_str()),
            (5, "(other) (other) - 10 0 1 0")
        );
    }
}

/// The sum of free and billed tokens.
fn sum(rows: &[UsageRow]) -> u64 {
    let of = |row: &UsageRow| row.counters.free_tokens.get() + row.counters.billed_tokens.get();
    rows.iter().map(of).sum()
}

/// The default limit, with a flood of invented names.
#[tokio::test]
async fn twenty_thousand_invented_models_leave_five_thousand_rows_and_right_sums() {
    const INVENTED_MODELS: u64 = 20_000;
    for new in [World::memory as NewWorld, World::file, World::redis] {
        let world = new(policy("keep_open"));
        for from in (0..INVENTED_MODELS).step_by(1_000) {
            let calls = (from..from + 1_000).map(|at| new_reserve(1).model(&format!("junk-{at}")));
            for answer in world.ledger.reserve_all(calls.collect()).await {
                answer.unwrap();
            }
        }
        world.reserve(new_reserve(7).id("listed")).await;
        let (mut rows, mut start) = (Vec::new(), None);
        loop {
            let page = UsagePage {
                days: UsageDays::Today,
                start,
                size: 1_000,
            };
            let usage = world.ledger.usage(&org_id("acme"), page).await.unwrap();
            rows.extend(usage.rows);
            start = usage.next;
            if start.is_none() {
                break;
            }
        }
        assert_eq!((rows.len(), sum(&rows)), (5_002, INVENTED_MODELS + 7));
        assert!(rows.iter().any(|row| row.model.as_str() == "gpt-4o"));
        let settled = world.ledger.release(org_id("acme"), request_id("listed"));
        assert_eq!(settled.await.unwrap().tokens.get(), 7);
    }
}
