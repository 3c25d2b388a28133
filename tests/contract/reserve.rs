//! docs/CONTRACT.md, "The programme" and "Reserve".

use tollgate::{
    domain::{Verdict, Workload},
    policy::Policy,
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, new_reserve, policy, policy_text, small_policy, verdict_text,
};

over_every_store!(
    a_request_that_would_exceed_the_allowance_is_billed_whole,
    a_pool_is_shared_by_all_projects_and_models_of_the_organization,
    pools_and_organizations_do_not_share,
    the_reasons_are_checked_in_their_order,
    the_built_in_policy_matches_model_names_exactly,
    a_stranger_writes_nothing,
    with_keep_open_a_smaller_request_is_free_after_an_overflow,
    with_close_until_reset_an_overflow_closes_the_pool_until_midnight,
    a_dry_run_answers_the_same_and_writes_nothing,
    a_dry_run_does_not_close_the_pool,
    the_balance_is_that_right_after_the_decision,
    the_programme_ends_by_the_stores_clock,
);

async fn a_request_that_would_exceed_the_allowance_is_billed_whole(new: NewWorld) {
    let world = new(Policy::builtin());
    let demo_reserve = |tokens| new_reserve(tokens).org("org-demo");
    assert_eq!(
        world.reserve(demo_reserve(975_000)).await.verdict,
        Verdict::Free
    );
    let billed = world.reserve(demo_reserve(30_000)).await;
    assert_eq!(verdict_text(billed.verdict), "AllowanceExceeded");
    assert_eq!(billed.pool.unwrap().used.get(), 975_000);
    let exact = world.reserve(demo_reserve(25_000)).await;
    assert_eq!(verdict_text(exact.verdict), "FREE");
    let pool = exact.pool.unwrap();
    assert_eq!((pool.used.get(), pool.remaining().get()), (1_000_000, 0));
    assert_eq!(
        verdict_text(world.reserve(demo_reserve(1)).await.verdict),
        "AllowanceExceeded"
    );
}

async fn a_pool_is_shared_by_all_projects_and_models_of_the_organization(new: NewWorld) {
    let world = new(policy("keep_open"));
    world
        .reserve(new_reserve(600).project("one").model("gpt-4o"))
        .await;
    let other = world
        .reserve(new_reserve(401).project("two").model("o1"))
        .await;
    assert_eq!(verdict_text(other.verdict), "AllowanceExceeded");
    let other = world
        .reserve(new_reserve(400).project("two").model("o1"))
        .await;
    assert_eq!(verdict_text(other.verdict), "FREE");
}

async fn pools_and_organizations_do_not_share(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(1_000)).await;
    for free in [
        new_reserve(1_000).org("other"),
        new_reserve(10_000).model("gpt-4o-mini"),
    ] {
        assert_eq!(verdict_text(world.reserve(free).await.verdict), "FREE");
    }
}

async fn the_reasons_are_checked_in_their_order(new: NewWorld) {
    // Each organization has one fault, and all faults that are checked later.
    let org = |name: &str, sharing: &str, zdr: bool, enterprise: bool| {
        format!(
            "[orgs.{name}]\ntier = 1\ndata_sharing = \"{sharing}\"\n{}\
             zero_data_retention = {zdr}\nenterprise = {enterprise}\n",
            if sharing == "selected" {
                "projects = [\"shared\"]\n"
            } else {
                ""
            }
        )
    };
    let text = small_policy("close_until_reset")
        + &org("off", "off", true, true)
        + &org("zdr", "selected", true, true)
        + &org("enterprise", "selected", false, true)
        + &org("selected", "selected", false, false);
    let world = new(policy_text(&text));
    // A request that is ineligible for every later reason: project, workload, fine-tuned model, tokens.
    let worst = |org| {
        new_reserve(1_001)
            .org(org)
            .project("private")
            .workload(Workload::Evaluation)
            .model("ft:gpt-4o:x")
    };
    for (call, reason) in [
        (worst("stranger"), "OrganizationNotEnrolled"),
        (worst("off"), "OrganizationNotEnrolled"),
        (worst("zdr"), "ZeroDataRetention"),
        (worst("enterprise"), "EnterprisePlan"),
        (worst("selected"), "ProjectNotSharing"),
        (worst("selected").project("shared"), "WorkloadNotCovered"),
        (worst("acme"), "WorkloadNotCovered"),
        (
            worst("acme").workload(Workload::HostedTool),
            "WorkloadNotCovered",
        ),
        (
            worst("acme").workload(Workload::FineTuning),
            "WorkloadNotCovered",
        ),
        (
            worst("acme").workload(Workload::Inference),
            "FineTunedModel",
        ),
        (
            new_reserve(1_001).model("gpt-4o-2024-08-06"),
            "ModelNotCovered",
        ),
        (new_reserve(1_001), "AllowanceExceeded"),
        (new_reserve(1_001), "PoolClosed"),
        (new_reserve(1), "PoolClosed"),
    ] {
        let answer = world.reserve(call.clone()).await;
        assert_eq!(verdict_text(answer.verdict), reason, "{call:?}");
        let eligible = ["AllowanceExceeded", "PoolClosed"].contains(&reason);
        assert_eq!(answer.pool.is_some(), eligible, "{call:?}");
        assert_eq!(answer.resets_at.to_rfc3339(), "2026-11-23T00:00:00+00:00");
    }
}

async fn the_built_in_policy_matches_model_names_exactly(new: NewWorld) {
    let world = new(Policy::builtin());
    for (model, said_of_it) in [
        ("o1", "FREE"),
        ("o1-pro", "ModelNotCovered"),
        ("O1", "ModelNotCovered"),
        ("gpt-4o-2024-08-06", "FREE"),
        ("gpt-4o-2024-08-07", "ModelNotCovered"),
        ("ft:gpt-4o-mini:acme::x", "FineTunedModel"),
        ("codex-mini-latest", "FREE"),
        (" gpt-4o", "ModelNotCovered"),
    ] {
        let answer = world
            .reserve(new_reserve(1).org("org-demo").model(model))
            .await;
        assert_eq!(verdict_text(answer.verdict), said_of_it, "{model}");
    }
}

async fn a_stranger_writes_nothing(new: NewWorld) {
    let world = new(policy("keep_open"));
    let answer = world.reserve(new_reserve(5).org("stranger").id("r")).await;
    assert_eq!(verdict_text(answer.verdict), "OrganizationNotEnrolled");
    assert!(world.try_settle("stranger", "r", 5).await.is_err());
    assert!(world.try_usage("stranger", None).await.is_err());
    assert!(
        world
            .ledger
            .quota(&crate::support::world::org_id("stranger"))
            .await
            .is_err()
    );
    if let Some(redis) = &world.redis {
        assert_eq!(redis.integer(&["DBSIZE"]), 0);
    }
}

async fn with_keep_open_a_smaller_request_is_free_after_an_overflow(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(900)).await;
    assert_eq!(
        verdict_text(world.reserve(new_reserve(101)).await.verdict),
        "AllowanceExceeded"
    );
    assert_eq!(
        verdict_text(world.reserve(new_reserve(100)).await.verdict),
        "FREE"
    );
}

async fn with_close_until_reset_an_overflow_closes_the_pool_until_midnight(new: NewWorld) {
    let world = new(policy("close_until_reset"));
    world.reserve(new_reserve(900).id("free")).await;
    assert_eq!(
        verdict_text(world.reserve(new_reserve(101).id("over")).await.verdict),
        "AllowanceExceeded"
    );
    let closed = world.reserve(new_reserve(1)).await;
    assert_eq!(verdict_text(closed.verdict), "PoolClosed");
    // What another Reserve could still get.
    assert_eq!(closed.pool.unwrap().remaining().get(), 0);
    let quota = world.quota("acme").await;
    let [(large, _), (mini, _)] = quota.pools.as_slice() else {
        panic!("{quota:?}");
    };
    assert!(large.is_closed && !mini.is_closed);
    let remaining = [large, mini].map(|pool| pool.remaining().get());
    assert_eq!(remaining, [0, 10_000]);
    // Neither a release nor a settle reopens it. The other pool stays open.
    world.release("over").await;
    world.settle("free", 1).await;
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "PoolClosed"
    );
    assert_eq!(
        verdict_text(
            world
                .reserve(new_reserve(1).model("gpt-4o-mini"))
                .await
                .verdict
        ),
        "FREE"
    );
    assert_eq!(world.pool("large").await, (1, 1, 2, 2));
    world.clock.set("2026-11-23T00:00:01Z");
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1_000)).await.verdict),
        "FREE"
    );
}

async fn a_dry_run_answers_the_same_and_writes_nothing(new: NewWorld) {
    let world = new(policy("keep_open"));
    let answer = world.reserve(new_reserve(700).dry().id("r")).await;
    assert_eq!(verdict_text(answer.verdict), "FREE");
    assert_eq!(answer.pool.unwrap().used.get(), 0);
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1_001).dry()).await.verdict),
        "AllowanceExceeded"
    );
    if let Some(redis) = &world.redis {
        assert_eq!(redis.integer(&["DBSIZE"]), 0);
    }
    assert!(
        world.try_settle("acme", "r", 1).await.is_err(),
        "nothing was written"
    );
    world.reserve(new_reserve(400).id("r")).await;
    let answer = world.reserve(new_reserve(601).dry()).await;
    assert_eq!(verdict_text(answer.verdict), "AllowanceExceeded");
    // Over gRPC a dry run has no id. With a known one, it repeats the first verdict.
    let answer = world.reserve(new_reserve(400).dry().id("r")).await;
    assert_eq!(verdict_text(answer.verdict), "FREE");
    assert!(answer.replayed);
    assert_eq!(world.pool("large").await, (400, 1, 0, 0));
    assert_eq!(
        world.usage("acme", None).await,
        ["p gpt-4o large 400 0 1 0"]
    );
}

async fn a_dry_run_does_not_close_the_pool(new: NewWorld) {
    let world = new(policy("close_until_reset"));
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1_001).dry()).await.verdict),
        "AllowanceExceeded"
    );
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1_000)).await.verdict),
        "FREE"
    );
    world.reserve(new_reserve(1)).await;
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1).dry()).await.verdict),
        "PoolClosed"
    );
}

async fn the_balance_is_that_right_after_the_decision(new: NewWorld) {
    let world = new(policy("keep_open"));
    let balance = world.reserve(new_reserve(300)).await.pool.unwrap();
    assert_eq!(balance.pool.as_str(), "large");
    assert_eq!(
        (
            balance.allowance.get(),
            balance.used.get(),
            balance.remaining().get()
        ),
        (1_000, 300, 700)
    );
}

async fn the_programme_ends_by_the_stores_clock(new: NewWorld) {
    let text = small_policy("keep_open").replace("[program]", "[program]\nends_on = 2026-11-22");
    let world = new(policy_text(&text));
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "FREE"
    );
    world.clock.set("2026-11-22T23:59:58Z");
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "FREE"
    );
    world.clock.set("2026-11-23T00:00:00Z");
    assert_eq!(
        verdict_text(world.reserve(new_reserve(1)).await.verdict),
        "ProgramEnded"
    );
    let quota = world.quota("acme").await;
    assert_eq!(
        quota
            .enrollment
            .not_enrolled
            .map(|it| format!("{it:?}"))
            .unwrap(),
        "ProgramEnded"
    );
    assert_eq!(quota.pools[0].0.allowance.get(), 0);
}
