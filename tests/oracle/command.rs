//! The command against a service and the provider's API, each with its own side of the same traffic.

use super::{
    drift::usage_events,
    history::{History, ledger_rows},
    traffic::{Behavior, Traffic, programme},
};
use crate::support::{
    calls::TextFile,
    tollgate::{Tollgate, program},
    tools::{ProgramOutput, run},
    usage_api::{ADMIN_KEY, UsageApiServer},
    world::World,
};

/// Runs `reconcile` on the first traffic that has a FREE request that is billed, or that has none.
async fn reconcile(behaviors: &[Behavior], bills_free: bool) -> ProgramOutput {
    let mut world = World::redis(Traffic::random(0, behaviors).policy());
    let mut seed = 0;
    let (traffic, events) = loop {
        let traffic = Traffic::random(seed, behaviors);
        world.empty();
        let history = History::of(&world, &traffic).await;
        if traffic.requests.len() > 30 && history.false_free(&programme()).is_empty() != bills_free
        {
            break (traffic, usage_events(&programme(), &history));
        }
        seed += 1;
        assert!(seed < 100, "no such traffic");
    };
    // The days are closed.
    assert!(!ledger_rows(&world).await.is_empty());
    let policy = TextFile::new(&traffic.policy_text());
    let url = world.redis.as_ref().unwrap().url();
    let service = Tollgate::start_at(&world.clock, &["--store", &url, "--policy", policy.path()]);
    let now = world.clock.now().to_rfc3339();
    let provider = UsageApiServer::start(&now, events).await;
    let mut command = program();
    world.clock.preload(&mut command);
    command
        .env("OPENAI_ADMIN_KEY", ADMIN_KEY)
        .args([
            "reconcile",
            "--addr",
            &service.addr,
            "--api-base",
            &provider.base,
        ])
        .args(["--policy", policy.path(), "--days", "7"]);
    tokio::task::block_in_place(|| run(&mut command))
}

#[tokio::test(flavor = "multi_thread")]
async fn under_the_conditions_the_command_says_that_both_sides_agree() {
    let ran = reconcile(&[], false).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.stdout.contains("agrees"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_the_condition_that_is_broken() {
    for (behavior, kind) in [
        (Behavior::GoesPast, "external"),
        (Behavior::IsReleasedThoughRun, "external"),
        (Behavior::IsBilledInside, "billed_in_sharing_project"),
    ] {
        let ran = reconcile(&[behavior], true).await;
        assert_eq!(ran.code, Some(1), "{behavior:?}: {ran:?}");
        assert!(ran.stdout.contains(kind), "{behavior:?}: {ran:?}");
    }
}
