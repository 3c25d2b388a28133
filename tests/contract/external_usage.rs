//! docs/CONTRACT.md, "External usage": what the provider counted and Tollgate did not counts beside `used`.

use tollgate::{
    domain::{ExternalSource, PoolName, Tokens},
    ledger::{ExternalUsageSet, LedgerError, SetExternalUsage},
    store::{Batch, Decision, Operation, Outcome},
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, TODAY, World, new_reserve, org_id, policy, policy_text, small_policy,
    verdict_text,
};

over_every_store!(
    reserve_and_settle_count_it_beside_what_is_used,
    a_figure_replaces_the_one_before_and_ends_at_midnight,
    of_the_manual_and_the_reconciled_figure_the_larger_counts,
    it_counts_beside_a_margin_and_changes_nothing_else,
    an_unknown_organization_or_pool_is_refused,
);

async fn try_set(
    world: &World,
    org: &str,
    pool: &str,
    tokens: u64,
) -> Result<ExternalUsageSet, LedgerError> {
    let request = SetExternalUsage {
        org: org_id(org),
        pool: PoolName::parse(pool).unwrap(),
        source: ExternalSource::Manual,
        tokens: Tokens::of_external_usage(tokens).unwrap(),
        note: String::new(),
        caller: None,
    };
    world.ledger.set_external_usage(request).await
}

/// Sets it for `large` of `acme`. Gives the figure before, and what remains.
async fn set(world: &World, tokens: u64) -> (u64, u64) {
    let set = try_set(world, "acme", "large", tokens).await.unwrap();
    (set.before.get(), set.pool.remaining().get())
}

async fn reserve(world: &World, tokens: u64, id: &str) -> (String, u64) {
    let answer = world.reserve(new_reserve(tokens).id(id)).await;
    (
        verdict_text(answer.verdict),
        answer.pool.unwrap().remaining().get(),
    )
}

fn exceeded(remaining: u64) -> (String, u64) {
    ("AllowanceExceeded".to_owned(), remaining)
}

fn free(remaining: u64) -> (String, u64) {
    ("FREE".to_owned(), remaining)
}

async fn reserve_and_settle_count_it_beside_what_is_used(new: NewWorld) {
    let world = new(policy("keep_open"));
    assert_eq!(reserve(&world, 300, "r").await, free(700));
    assert_eq!(set(&world, 500).await, (0, 200));
    assert_eq!(reserve(&world, 201, "too large").await, exceeded(200));
    assert_eq!(reserve(&world, 150, "s").await, free(50));
    // Free up to what was reserved, and beyond it only if it fits beside the external usage.
    let settled = world.settle("r", 350).await;
    assert_eq!(verdict_text(settled.verdict), "FREE");
    assert_eq!(settled.pool.unwrap().remaining().get(), 0);
    let settled = world.settle("s", 151).await;
    assert_eq!(verdict_text(settled.verdict), "AllowanceExceeded");
    assert_eq!(settled.pool.unwrap().remaining().get(), 150);
    let settled = world.settle("too large", 150).await;
    assert_eq!(verdict_text(settled.verdict), "FREE");
    assert_eq!(world.pool("large").await, (500, 2, 151, 1));
    let quota = world.quota("acme").await;
    let pools = quota.pools.iter();
    let external = pools.map(|(pool, _)| (pool.external.get(), pool.remaining().get()));
    assert_eq!(external.collect::<Vec<_>>(), [(500, 0), (0, 10_000)]);
    // A replay answers with the present balance.
    assert_eq!(reserve(&world, 300, "r").await, free(0));
}

async fn a_figure_replaces_the_one_before_and_ends_at_midnight(new: NewWorld) {
    let world = new(policy("keep_open"));
    assert_eq!(set(&world, 1_200).await, (0, 0));
    assert_eq!(reserve(&world, 1, "r").await, exceeded(0));
    assert_eq!(set(&world, 400).await, (1_200, 600));
    assert_eq!(reserve(&world, 600, "s").await, free(0));
    assert_eq!(set(&world, 0).await, (400, 400));
    assert_eq!(set(&world, 300).await, (0, 100));
    world.clock.set("2026-11-23T00:00:00Z");
    assert_eq!(reserve(&world, 1_000, "t").await, free(0));
    assert_eq!(set(&world, 1).await, (0, 0));
}

async fn of_the_manual_and_the_reconciled_figure_the_larger_counts(new: NewWorld) {
    let world = new(policy("keep_open"));
    let policy = world.ledger.policy();
    let day = tollgate::domain::UtcDay::parse(TODAY).unwrap();
    let decide = async |figures: &[(ExternalSource, u64)]| {
        let operations = figures
            .iter()
            .map(|(source, tokens)| Operation::SetExternalUsage {
                pool: PoolName::parse("large").unwrap(),
                source: *source,
                tokens: Tokens::new(*tokens).unwrap(),
            });
        let batch = Batch {
            org: org_id("acme"),
            day,
            terms: policy.assessor(&org_id("acme"), day).terms(),
            operations: operations.collect(),
        };
        let decided = world.store.decide(&[batch]).await.pop().unwrap().unwrap();
        let Decision::Outcomes { outcomes, .. } = decided.answer else {
            panic!("it is {day}");
        };
        let outcomes = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::ExternalUsageSet { before, pool } => (before.get(), pool.external.get()),
            other => panic!("{other:?}"),
        });
        outcomes.collect::<Vec<_>>()
    };
    let (manual, reconciled) = (ExternalSource::Manual, ExternalSource::Reconciled);
    // In one batch each operation sees the ones before.
    let figures = decide(&[(manual, 100), (reconciled, 300), (manual, 200)]).await;
    assert_eq!(figures, [(0, 100), (0, 300), (100, 300)]);
    assert_eq!(decide(&[(reconciled, 50)]).await, [(300, 200)]);
    assert_eq!(decide(&[(manual, 0)]).await, [(200, 50)]);
    assert_eq!(reserve(&world, 951, "r").await, exceeded(950));
    let counters = world.quota("acme").await.pools[0].1;
    let external = counters.external;
    assert_eq!((external.manual.get(), external.reconciled.get()), (0, 50));
}

async fn it_counts_beside_a_margin_and_changes_nothing_else(new: NewWorld) {
    let text =
        small_policy("close_until_reset").replace("[pools.large]", "[pools.large]\nmargin = 100");
    let world = new(policy_text(&text));
    assert_eq!(set(&world, 200).await, (0, 700));
    assert_eq!(reserve(&world, 700, "r").await, free(0));
    assert_eq!(set(&world, 950).await, (200, 0));
    assert_eq!(world.pool("large").await, (700, 1, 0, 0));
    assert!(world.usage("acme", None).await.len() == 1);
    // Nothing overflowed yet, so the pool is open.
    assert_eq!(set(&world, 0).await, (950, 200));
    assert_eq!(reserve(&world, 200, "s").await, free(0));
    assert_eq!(
        world.try_release("acme", "s").await.unwrap().tokens.get(),
        200
    );
    assert_eq!(world.quota("other").await.pools[0].0.external.get(), 0);
}

async fn an_unknown_organization_or_pool_is_refused(new: NewWorld) {
    let world = new(policy("keep_open"));
    let unknown = try_set(&world, "stranger", "large", 1).await.unwrap_err();
    assert!(
        matches!(unknown, LedgerError::UnknownOrganization),
        "{unknown}"
    );
    let unknown = try_set(&world, "acme", "huge", 1).await.unwrap_err();
    assert!(matches!(unknown, LedgerError::UnknownPool), "{unknown}");
    let Err(too_large) = Tokens::of_external_usage(1_000_000_000_001) else {
        panic!("it is bounded");
    };
    assert_eq!(too_large.field, "tokens");
}
