//! docs/CONTRACT.md, "Reserve" 5: the guarantees of a request id.

use tollgate::{
    domain::{Refusal, RequestField, Workload},
    ledger::{LedgerError, Reserve},
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, World, new_reserve, policy, policy_text, small_policy, verdict_text,
};

over_every_store!(
    the_same_id_gives_the_first_answer_again_and_counts_nothing,
    a_billed_answer_is_replayed_too_even_where_it_would_fit_now,
    the_balance_of_a_replay_is_the_present_one,
    other_fields_are_refused,
    ids_belong_to_an_organization,
    an_id_replays_after_its_settle,
    a_released_id_is_refused,
    an_id_replays_across_midnight_and_is_forgotten_a_day_later,
    an_ineligible_request_is_remembered_too,
    an_id_replays_after_its_organization_left_the_policy,
    an_id_is_one_hash_field_of_any_text,
);

async fn refusal(world: &World, call: Reserve) -> Refusal {
    match world.ledger.reserve(call).await {
        Err(LedgerError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

async fn the_same_id_gives_the_first_answer_again_and_counts_nothing(new: NewWorld) {
    let world = new(policy("keep_open"));
    let first = world.reserve(new_reserve(600).id("r")).await;
    assert!(!first.replayed);
    for _ in 0..3 {
        let again = world.reserve(new_reserve(600).id("r")).await;
        assert_eq!(
            (verdict_text(again.verdict).as_str(), again.replayed),
            ("FREE", true)
        );
        assert_eq!(again.pool, first.pool);
    }
    assert_eq!(world.pool("large").await, (600, 1, 0, 0));
    assert_eq!(
        world.usage("acme", None).await,
        ["p gpt-4o large 600 0 1 0"]
    );
}

async fn a_billed_answer_is_replayed_too_even_where_it_would_fit_now(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(900).id("big")).await;
    assert_eq!(
        verdict_text(world.reserve(new_reserve(200).id("r")).await.verdict),
        "AllowanceExceeded"
    );
    world.release("big").await;
    let again = world.reserve(new_reserve(200).id("r")).await;
    assert_eq!(
        (verdict_text(again.verdict).as_str(), again.replayed),
        ("AllowanceExceeded", true)
    );
}

async fn the_balance_of_a_replay_is_the_present_one(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("r")).await;
    world.reserve(new_reserve(250)).await;
    let again = world.reserve(new_reserve(100).id("r")).await;
    assert_eq!(again.pool.unwrap().used.get(), 350);
}

async fn other_fields_are_refused(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("r")).await;
    let again = || new_reserve(100).id("r");
    let evaluation = Workload::Evaluation;
    let all = new_reserve(101).id("r").project("q").model("o1");
    for (other, differing) in [
        (new_reserve(101).id("r"), "tokens"),
        (again().project("q"), "project"),
        (again().model("o1"), "model"),
        (again().workload(evaluation), "workload"),
        (all.workload(evaluation), "project, model, tokens, workload"),
    ] {
        assert_eq!(
            refusal(&world, other).await.to_string(),
            format!(
                "request_id: was used before with other fields ({differing}); a retry sends the same fields; \
                 a new attempt needs a new request_id"
            )
        );
    }
    world.release("r").await;
    let differing = vec![RequestField::Tokens];
    assert_eq!(
        refusal(&world, new_reserve(101).id("r")).await,
        Refusal::OtherFields { differing }
    );
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
}

async fn ids_belong_to_an_organization(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("r")).await;
    let other = world.reserve(new_reserve(7).org("other").id("r")).await;
    assert_eq!(
        (verdict_text(other.verdict).as_str(), other.replayed),
        ("FREE", false)
    );
    world.try_release("other", "r").await.unwrap();
    assert!(world.reserve(new_reserve(100).id("r")).await.replayed);
}

async fn an_id_replays_after_its_settle(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("r")).await;
    world.settle("r", 1_001).await;
    let again = world.reserve(new_reserve(100).id("r")).await;
    assert_eq!(
        (verdict_text(again.verdict).as_str(), again.replayed),
        ("FREE", true),
        "Reserve's answer"
    );
    assert_eq!(world.pool("large").await, (0, 0, 1_001, 1));
}

async fn a_released_id_is_refused(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("r")).await;
    world.release("r").await;
    assert_eq!(
        refusal(&world, new_reserve(100).id("r")).await,
        Refusal::Released
    );
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
}

async fn an_id_replays_across_midnight_and_is_forgotten_a_day_later(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("r")).await;
    world.clock.set("2026-11-23T23:59:50Z");
    world.reserve(new_reserve(30)).await;
    let again = world.reserve(new_reserve(100).id("r")).await;
    assert_eq!(
        (verdict_text(again.verdict).as_str(), again.replayed),
        ("FREE", true)
    );
    assert_eq!(again.pool.unwrap().used.get(), 30, "today's balance");
    assert_eq!(again.resets_at.to_rfc3339(), "2026-11-24T00:00:00+00:00");
    assert_eq!(world.pool("large").await, (30, 1, 0, 0));
    world.clock.set("2026-11-24T00:00:00Z");
    let new_request = world.reserve(new_reserve(100).id("r")).await;
    assert!(!new_request.replayed);
    assert_eq!(world.pool("large").await, (100, 1, 0, 0));
}

async fn an_ineligible_request_is_remembered_too(new: NewWorld) {
    let world = new(policy("keep_open"));
    let unlisted = || new_reserve(100).id("r").model("o3");
    assert_eq!(
        verdict_text(world.reserve(unlisted()).await.verdict),
        "ModelNotCovered"
    );
    let with_o3 = small_policy("keep_open").replace("\"o1\"", "\"o1\", \"o3\"");
    world.ledger.set_policy(policy_text(&with_o3).into());
    let again = world.reserve(unlisted()).await;
    assert_eq!(
        (verdict_text(again.verdict).as_str(), again.replayed),
        ("ModelNotCovered", true)
    );
    assert_eq!(again.pool, None);
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
    // The row's pool is the one that lists the model now.
    assert_eq!(world.usage("acme", None).await, ["p o3 large 0 100 0 1"]);
}

async fn an_id_replays_after_its_organization_left_the_policy(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(100).id("r")).await;
    let without = small_policy("keep_open").replace("[orgs.acme]", "[orgs.somebody-else]");
    world.ledger.set_policy(policy_text(&without).into());
    let again = world.reserve(new_reserve(100).id("r")).await;
    assert_eq!(
        (verdict_text(again.verdict).as_str(), again.replayed),
        ("FREE", true)
    );
    let pool = again.pool.unwrap();
    assert_eq!((pool.allowance.get(), pool.used.get()), (0, 100));
    let stranger = world.reserve(new_reserve(100).id("new")).await;
    assert_eq!(verdict_text(stranger.verdict), "OrganizationNotEnrolled");
    assert!(world.try_settle("acme", "new", 1).await.is_err());
}

async fn an_id_is_one_hash_field_of_any_text(new: NewWorld) {
    let world = new(policy("keep_open"));
    let longest = "ß".repeat(64);
    let ids = [
        "a:b",
        "a",
        "{r}",
        "50%",
        "\"'",
        " ",
        "🦀",
        "used",
        longest.as_str(),
    ];
    for id in ids {
        assert!(!world.reserve(new_reserve(1).id(id)).await.replayed, "{id}");
    }
    for id in ids {
        assert!(world.reserve(new_reserve(1).id(id)).await.replayed, "{id}");
    }
    assert_eq!(world.pool("large").await.0, ids.len() as u64);
}
