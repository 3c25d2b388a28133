//! docs/CONTRACT.md, "Notices": each threshold that a pool reaches on a day gives one notice.

use tollgate::{
    domain::{ExternalSource, PoolCounters, PoolName, Threshold, Tokens, UtcDay},
    ledger::SetExternalUsage,
    policy::Policy,
    store::{Batch, Decision, Operation, Recording},
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, TODAY, World, new_reserve, org_id, policy, policy_text, request_id,
    small_policy,
};

over_every_store!(
    each_threshold_that_is_reached_gives_one_notice_with_the_figures,
    what_counts_nothing_gives_none,
    settle_and_external_usage_reach_thresholds_and_a_day_has_its_own,
    what_is_carried_reaches_thresholds_of_its_second_day_when_it_ends,
    a_threshold_that_a_batch_reaches_and_leaves_gives_a_notice,
    an_organization_has_thresholds_of_its_own,
    a_delivery_is_recorded_for_each_threshold_and_only_on_its_day,
    after_a_change_of_the_policy_what_was_reached_counts,
);

const DAY: &str = "2026-11-22";

/// The new notices: pool, day, threshold, used, external, allowance.
fn notices(world: &World) -> Vec<String> {
    let notices = world.take_notices().into_iter().map(|it| {
        assert_eq!(it.org.as_str(), "acme");
        format!(
            "{} {} {} {} {} {}",
            it.pool, it.day, it.threshold, it.used, it.external, it.allowance
        )
    });
    notices.collect()
}

async fn reserve(world: &World, tokens: u64, id: &str) {
    world.reserve(new_reserve(tokens).id(id)).await;
}

async fn set_external(world: &World, tokens: u64) {
    let request = SetExternalUsage {
        org: org_id("acme"),
        pool: large(),
        source: ExternalSource::Manual,
        tokens: Tokens::of_external_usage(tokens).unwrap(),
        note: String::new(),
        caller: None,
    };
    world.ledger.set_external_usage(request).await.unwrap();
}

fn large() -> PoolName {
    PoolName::parse("large").unwrap()
}

fn day(text: &str) -> UtcDay {
    UtcDay::parse(text).unwrap()
}

/// The counters of `large` of `acme` today.
async fn counters(world: &World) -> PoolCounters {
    let quota = world.quota("acme").await;
    let pools = quota.pools.into_iter();
    let mut large = pools.filter(|(balance, _)| balance.pool == self::large());
    large.next().unwrap().1
}

fn per_cent(thresholds: impl IntoIterator<Item = Threshold>) -> Vec<u8> {
    thresholds.into_iter().map(Threshold::per_cent).collect()
}

fn unconfirmed(policy: &Policy, counters: &PoolCounters) -> Vec<u8> {
    let enrollment = policy.enrollment(&org_id("acme"), day(TODAY)).unwrap();
    per_cent(counters.unconfirmed(enrollment.terms.of_pool(&large())))
}

async fn each_threshold_that_is_reached_gives_one_notice_with_the_figures(new: NewWorld) {
    let world = new(policy("keep_open"));
    reserve(&world, 799, "a").await;
    assert_eq!(notices(&world), [""; 0]);
    reserve(&world, 1, "b").await;
    assert_eq!(notices(&world), [format!("large {DAY} 80 800 0 1000")]);
    reserve(&world, 149, "c").await;
    assert_eq!(notices(&world), [""; 0]);
    // Without an id too.
    world.reserve(new_reserve(51)).await;
    let both = [95, 100].map(|it| format!("large {DAY} {it} 1000 0 1000"));
    assert_eq!(notices(&world), both);
    // What is given back and taken again is known.
    world.release("a").await;
    reserve(&world, 700, "d").await;
    reserve(&world, 99, "e").await;
    assert_eq!(notices(&world), [""; 0]);
    world.reserve(new_reserve(8_000).model("gpt-4o-mini")).await;
    assert_eq!(notices(&world), [format!("mini {DAY} 80 8000 0 10000")]);
}

async fn what_counts_nothing_gives_none(new: NewWorld) {
    let world = new(policy("close_until_reset"));
    let mut dry = new_reserve(1_000);
    dry.dry_run = true;
    world.reserve(dry).await;
    world.reserve(new_reserve(900).model("gpt-5")).await;
    reserve(&world, 1_001, "closes").await;
    reserve(&world, 900, "billed").await;
    assert_eq!(notices(&world), [""; 0]);
    assert_eq!(counters(&world).await.peak, Tokens::ZERO);
}

async fn settle_and_external_usage_reach_thresholds_and_a_day_has_its_own(new: NewWorld) {
    let world = new(policy("keep_open"));
    reserve(&world, 500, "a").await;
    world.settle("a", 820).await;
    assert_eq!(notices(&world), [format!("large {DAY} 80 820 0 1000")]);
    set_external(&world, 150).await;
    assert_eq!(notices(&world), [format!("large {DAY} 95 820 150 1000")]);
    set_external(&world, 0).await;
    set_external(&world, 5_000).await;
    assert_eq!(notices(&world), [format!("large {DAY} 100 820 5000 1000")]);
    set_external(&world, 0).await;
    set_external(&world, 5_000).await;
    assert_eq!(notices(&world), [""; 0]);
    world.clock.set("2026-11-23T00:00:00Z");
    reserve(&world, 800, "b").await;
    assert_eq!(notices(&world), ["large 2026-11-23 80 800 0 1000"]);
}

async fn what_is_carried_reaches_thresholds_of_its_second_day_when_it_ends(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.clock.set("2026-11-22T23:55:00Z");
    reserve(&world, 900, "a").await;
    assert_eq!(notices(&world), [format!("large {DAY} 80 900 0 1000")]);
    world.clock.set("2026-11-23T00:00:00Z");
    world.settle("a", 100).await;
    assert_eq!(notices(&world), ["large 2026-11-23 80 900 0 1000"]);
    assert_eq!(counters(&world).await.used.get(), 100);
}

async fn a_threshold_that_a_batch_reaches_and_leaves_gives_a_notice(new: NewWorld) {
    let world = new(policy("keep_open"));
    let policy = world.ledger.policy();
    let terms = policy.assessor(&org_id("acme"), day(TODAY)).terms();
    let call = new_reserve(960).id("r");
    let assessor = policy.assessor(&org_id("acme"), day(TODAY));
    let reserve = Operation::Reserve {
        eligibility: assessor.eligibility(&call.fields),
        request_id: call.request_id,
        fields: call.fields,
        is_listed: true,
        recording: Recording::Record,
        has_run: false,
    };
    let release = Operation::Release {
        request_id: request_id("r"),
    };
    let batch = Batch {
        org: org_id("acme"),
        day: day(TODAY),
        terms,
        operations: vec![reserve, release],
    };
    let decided = world.store.decide(&[batch]).await.pop().unwrap().unwrap();
    let Decision::Outcomes { crossings, .. } = decided.answer else {
        panic!("it is {TODAY}");
    };
    assert_eq!(crossings.len(), 1);
    let crossing = &crossings[0];
    assert_eq!((&crossing.pool, crossing.before), (&large(), Tokens::ZERO));
    assert_eq!((crossing.used.get(), crossing.external.get()), (960, 0));
    let counters = counters(&world).await;
    assert_eq!((counters.used, counters.peak.get()), (Tokens::ZERO, 960));
    assert_eq!(unconfirmed(&policy, &counters), [80, 95]);
}

async fn an_organization_has_thresholds_of_its_own(new: NewWorld) {
    let with = |notify_at: &str| {
        let own = format!("[orgs.acme]\nnotify_at = {notify_at}");
        let text = small_policy("keep_open").replace("[orgs.acme]", &own);
        policy_text(&text)
    };
    let world = new(with("[100, 1, 50]"));
    let thresholds = world.ledger.policy().thresholds;
    assert_eq!(per_cent(thresholds.iter()), [1, 50, 80, 95, 100]);
    reserve(&world, 499, "a").await;
    assert_eq!(notices(&world), [format!("large {DAY} 1 499 0 1000")]);
    reserve(&world, 400, "b").await;
    assert_eq!(notices(&world), [format!("large {DAY} 50 899 0 1000")]);
    world.ledger.set_policy(with("[]").into());
    reserve(&world, 101, "c").await;
    assert_eq!(notices(&world), [""; 0]);
}

async fn a_delivery_is_recorded_for_each_threshold_and_only_on_its_day(new: NewWorld) {
    let world = new(policy("keep_open"));
    reserve(&world, 1_000, "a").await;
    let noticed = world.take_notices();
    assert_eq!(
        per_cent(noticed.iter().map(|it| it.threshold)),
        [80, 95, 100]
    );
    let policy = world.ledger.policy();
    assert_eq!(unconfirmed(&policy, &counters(&world).await), [80, 95, 100]);
    // In any order, and twice.
    for at in [1, 1] {
        world.ledger.confirm_notice(&noticed[at]).await.unwrap();
        let now = counters(&world).await;
        assert_eq!(unconfirmed(&policy, &now), [80, 100]);
        assert_eq!((now.used.get(), now.peak.get()), (1_000, 1_000));
    }
    let confirmed = async |at: usize| world.ledger.is_confirmed(&noticed[at]).await.unwrap();
    assert!(confirmed(1).await && !confirmed(0).await && !confirmed(2).await);
    world.ledger.confirm_notice(&noticed[0]).await.unwrap();
    assert_eq!(unconfirmed(&policy, &counters(&world).await), [100]);
    world.clock.set("2026-11-23T00:00:00Z");
    world.ledger.confirm_notice(&noticed[2]).await.unwrap();
    reserve(&world, 1_000, "b").await;
    assert_eq!(unconfirmed(&policy, &counters(&world).await), [80, 95, 100]);
    assert_eq!(world.take_notices().len(), 3);
}

async fn after_a_change_of_the_policy_what_was_reached_counts(new: NewWorld) {
    let world = new(policy("keep_open"));
    reserve(&world, 850, "a").await;
    assert_eq!(notices(&world), [format!("large {DAY} 80 850 0 1000")]);
    let with = |allowance: &str| {
        policy_text(&small_policy("keep_open").replace("large = 1_000", allowance))
    };
    // What was counted before reaches 95 per cent of less. That gives no notice here, and is found by those who read.
    world.ledger.set_policy(with("large = 870").into());
    let reached = unconfirmed(&world.ledger.policy(), &counters(&world).await);
    assert_eq!(reached, [80, 95]);
    reserve(&world, 20, "b").await;
    assert_eq!(notices(&world), [format!("large {DAY} 100 870 0 870")]);
    // Of a larger allowance less is reached: it gives a notice again, with the same id.
    world.ledger.set_policy(with("large = 2_000").into());
    reserve(&world, 730, "c").await;
    assert_eq!(notices(&world), [format!("large {DAY} 80 1600 0 2000")]);
}
