//! docs/CONTRACT.md, "Background reconcile": what the store keeps of a comparison.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use tokio_util::task::AbortOnDropHandle;
use tollgate::{
    domain::{ComparisonResult, DayComparison, DriftKind},
    ledger::{Ledger, LedgerConfig, UsageDays, UsagePage, UsageRow},
    reconcile::{
        compare,
        provider::{ProviderDay, provider_days},
    },
    store::{ProviderChanges, Store},
};

use super::{
    Books, Counted, DAY, FREE, NEXT_DAY, Used,
    background::{Background, used, wait},
    bucket, day, ledger, page, report,
};
use crate::support::{
    held_store::HeldStore,
    usage_api::UsageEvent,
    world::{NOON, ReserveExt as _, TODAY, World, new_reserve, org_id, policy},
};

/// What the store keeps of [`DAY`].
fn kept(books: &Books, rows: &[Counted<'_>], used: &[Used<'_>]) -> ProviderDay {
    let (rows, report) = (ledger(rows), report(&page(&[bucket(DAY, used)])));
    let (scope, days) = (books.scope(), BTreeSet::from([day(DAY)]));
    let comparison = compare(&scope, days.clone(), &rows, &report);
    let mut kept = provider_days(&scope, &days, &rows, &report, &comparison);
    kept.remove(&day(DAY)).unwrap()
}

/// `project model free/billed`.
fn rows(kept: ProviderDay) -> Vec<String> {
    let rows = kept.rows.unwrap().into_iter();
    let rows = rows.map(|((project, model), usage)| {
        format!(
            "{project} {model} {}/{}",
            usage.free_tokens, usage.billed_tokens
        )
    });
    rows.collect()
}

#[test]
fn the_providers_figures_are_in_the_ledgers_rows_also_what_is_too_young_to_be_compared() {
    let books = Books::sharing();
    let kept = kept(
        &books,
        &[
            (DAY, "p", "gpt-4o", 900, 0),
            (DAY, "p", "gpt-4o-mini", 5, 0),
            (DAY, "q", "o1-2024-12-17", 70, 30),
            (NEXT_DAY, "q", "o3", 1, 0),
        ],
        &[
            ("proj_p", "gpt-4o-2024-08-06", FREE, 800),
            ("proj_p", "gpt-4o-2024-08-06", "default", 50),
            ("proj_x", "gpt-4o-2024-08-06", FREE, 20),
            ("q", "o1-2024-12-17", "default", 30),
        ],
    );
    let expected = [
        "p gpt-4o 800/50",
        // The provider counted nothing of it.
        "p gpt-4o-mini 0/0",
        "proj_x gpt-4o 20/0",
        "q o1-2024-12-17 0/30",
    ];
    assert_eq!(rows(kept), expected);
}

#[test]
fn names_that_are_compared_as_one_share_the_row_of_the_first_name() {
    let books = Books::sharing();
    let counted = [
        (DAY, "p", "gpt-4o-2024-11-20", 10, 0),
        (DAY, "p", "gpt-4o", 10, 0),
        (DAY, "q", "gpt-4o-2024-11-20", 10, 0),
        (DAY, "q", "gpt-4o-2024-08-06", 10, 0),
    ];
    let used = [
        ("p", "gpt-4o-2024-08-06", FREE, 12),
        ("p", "gpt-4o-2024-11-20", FREE, 8),
        ("q", "gpt-4o-2024-11-20", FREE, 20),
    ];
    let expected = ["p gpt-4o 20/0", "q gpt-4o-2024-08-06 20/0"];
    assert_eq!(rows(kept(&books, &counted, &used)), expected);
}

#[test]
fn names_that_the_ledger_can_not_have_are_in_the_row_other_and_that_of_the_ledger_is_not_compared()
{
    let books = Books::sharing();
    let long = "x".repeat(300);
    let counted = [(DAY, "(other)", "(other)", 10, 0)];
    assert_eq!(rows(kept(&books, &counted, &[])), [""; 0]);
    let used = [(&*long, "m", FREE, 5), ("", "m", "default", 7)];
    let expected = ["(none) m 0/7", "(other) (other) 5/0"];
    assert_eq!(rows(kept(&books, &counted, &used)), expected);
}

#[test]
fn at_most_ten_thousand_rows_are_the_providers_alone() {
    let books = Books::sharing();
    let names: Vec<String> = (0..10_003).map(|at| format!("project-{at:05}")).collect();
    let used: Vec<Used<'_>> = names.iter().map(|it| (&**it, "m", "default", 1)).collect();
    // The ledger's own rows come on top.
    let counted = [(DAY, "project-10002", "m", 0, 1)];
    let rows = rows(kept(&books, &counted, &used));
    assert_eq!(rows.len(), 10_002);
    assert_eq!(rows[0], "(other) (other) 0/2");
    assert_eq!(rows[10_001], "project-10002 m 0/1");
}

#[test]
fn the_comparison_of_a_day_has_its_drift_and_what_is_unknown() {
    let books = Books::sharing();
    let counted = [(DAY, "p", "gpt-4o", 100, 0)];
    let free = |tokens| ("proj_p", "gpt-4o-2024-08-06", FREE, tokens);
    let agrees = kept(&books, &counted, &[free(100)]).comparison;
    assert_eq!(agrees.result, ComparisonResult::Agrees);
    assert_eq!(agrees.compared_at, books.scope().now);
    let drifts = kept(&books, &counted, &[free(130)]).comparison;
    let drift: Vec<(DriftKind, u64)> = drifts
        .drift
        .iter()
        .map(|(it, of)| (*it, of.get()))
        .collect();
    assert_eq!(
        (drifts.result, drift),
        (ComparisonResult::Drifts, vec![(DriftKind::External, 30)])
    );
    let unknown = [("proj_p", "gpt-4o-2024-08-06", "default", 100)];
    let unknown = kept(&books, &counted, &unknown).comparison;
    assert_eq!(unknown.result, ComparisonResult::Unknown);
}

#[test]
fn a_day_that_the_report_does_not_have_is_unknown_and_changes_no_row() {
    let books = Books::sharing();
    let (rows, report) = (ledger(&[]), report(&page(&[bucket(DAY, &[])])));
    let (scope, days) = (books.scope(), BTreeSet::from([DAY, NEXT_DAY].map(day)));
    let comparison = compare(&scope, days.clone(), &rows, &report);
    let kept = provider_days(&scope, &days, &rows, &report, &comparison);
    let (known, absent) = (&kept[&day(DAY)], &kept[&day(NEXT_DAY)]);
    assert_eq!(known.comparison.result, ComparisonResult::Agrees);
    assert!(known.rows.is_some());
    assert_eq!(absent.comparison.result, ComparisonResult::Unknown);
    assert!(absent.rows.is_none());
}

/// Today's rows: `project model free provider`.
async fn today(world: &World) -> Vec<String> {
    let usage = world.try_usage("acme", Some(TODAY)).await.unwrap();
    let text = |row: &UsageRow| {
        let UsageRow { project, model, .. } = row;
        let provider = row.provider.map(|it| it.free_tokens.get());
        format!(
            "{project} {model} {} {provider:?}",
            row.counters.free_tokens
        )
    };
    usage.rows.iter().map(text).collect()
}

#[tokio::test]
async fn usage_has_the_providers_figures_and_rows_that_the_ledger_lost_are_removed() {
    for world in [World::memory, World::file, World::redis] {
        let world = world(policy("keep_open"));
        let elsewhere = UsageEvent::new("2026-11-22T08:00:00Z", "proj_x", "gpt-4o-mini", FREE, 70);
        let mut it = Background::over(world, vec![used(FREE, 200), elsewhere]).await;
        it.use_tokens(150, "r").await;
        let call = new_reserve(1).project("gone").id("gone");
        it.world.reserve(call).await;
        it.start();
        it.wait_for("drifts").await;
        let others = ["p gpt-4o 150 Some(200)", "proj_x gpt-4o-mini 0 Some(70)"];
        let with_gone = [&["gone gpt-4o 1 Some(0)"], &others[..]].concat();
        wait("rows", async || today(&it.world).await == with_gone).await;
        let drift = async || {
            let days = [day(TODAY)];
            let found = it.world.store.comparisons(&org_id("acme"), &days).await;
            let found = found.unwrap().into_iter().next().flatten();
            found.map(|it| (it.result, it.drift.into_iter().next()))
        };
        let (kind, tokens) = drift().await.unwrap().1.unwrap();
        assert_eq!((kind, tokens.get()), (DriftKind::External, 120));
        it.world.release("gone").await;
        it.polls(2).await;
        // A row that the ledger has no more, and the provider never had.
        let rows = async || {
            let org = org_id("acme");
            let rows = it.world.store.provider_usage(&org, day(TODAY), None, 10);
            rows.await.unwrap().len()
        };
        wait("removed", async || rows().await == 2).await;
        assert_eq!(today(&it.world).await, others);
    }
}

#[tokio::test]
async fn what_redis_has_lost_is_written_again_at_the_next_poll() {
    let mut it = Background::over(World::redis(policy("keep_open")), vec![used(FREE, 200)]).await;
    it.start();
    wait("rows", async || !today(&it.world).await.is_empty()).await;
    let redis = it.world.redis.as_ref().unwrap();
    redis.run(&["DEL", "tollgate:{acme}:provider:2026-11-22"]);
    it.polls(2).await;
    let expected = ["p gpt-4o 0 Some(200)"];
    wait("rows again", async || today(&it.world).await == expected).await;
}

#[tokio::test]
async fn a_store_that_can_not_keep_a_comparison_changes_no_other_result() {
    let mut world = World::memory(policy("keep_open"));
    let (store, calls) = HeldStore::over(Arc::clone(&world.store), 1);
    drop(calls);
    store.comparisons_fail.store(true, Ordering::Relaxed);
    let held: Arc<dyn Store> = store.clone();
    world.ledger = Ledger::new(LedgerConfig::new(world.ledger.policy(), held));
    let mut it = Background::over(world, vec![used(FREE, 200)])
        .await
        .raising();
    it.start();
    it.wait_for("drifts").await;
    it.wait_for_external(200).await;
    let before = it.api.queries().len();
    it.polls(2).await;
    assert!(it.api.queries().len() >= before + 2, "it polls on");
    assert_eq!(today(&it.world).await, [""; 0]);
    store.comparisons_fail.store(false, Ordering::Relaxed);
    wait("rows", async || !today(&it.world).await.is_empty()).await;
}

/// What can't be read is shown nowhere, and nothing else fails.
#[tokio::test]
async fn what_the_provider_counted_may_be_unreadable_for_usage_and_for_polls() {
    let mut world = World::memory(policy("keep_open"));
    let (store, calls) = HeldStore::over(Arc::clone(&world.store), 1);
    drop(calls);
    let held: Arc<dyn Store> = store.clone();
    world.ledger = Ledger::new(LedgerConfig::new(world.ledger.policy(), held));
    let elsewhere = UsageEvent::new("2026-11-22T08:00:00Z", "b", "gpt-4o-mini", FREE, 70);
    let mut it = Background::over(world, vec![used(FREE, 200), elsewhere])
        .await
        .raising();
    for project in ["a", "c", "p"] {
        let call = new_reserve(10).project(project);
        it.world.reserve(call).await;
    }
    it.start();
    let rows = [
        "a gpt-4o 10 Some(0)",
        "b gpt-4o-mini 0 Some(70)",
        "c gpt-4o 10 Some(0)",
        "p gpt-4o 10 Some(200)",
    ];
    wait("rows", async || today(&it.world).await == rows).await;
    store.provider_reads_fail.store(true, Ordering::Relaxed);
    it.api.add(used(FREE, 300));
    // It polls on.
    it.wait_for_external(470).await;
    let (mut listed, mut start) = (Vec::new(), None);
    loop {
        let days = UsageDays::Today;
        let size = 1;
        let page = UsagePage { days, start, size };
        let usage = it.world.ledger.usage(&org_id("acme"), page).await.unwrap();
        assert_eq!(usage.comparisons, []);
        let text = |row: &UsageRow| format!("{} {:?}", row.project, row.provider);
        listed.extend(usage.rows.iter().map(text));
        start = usage.next;
        if start.is_none() {
            break;
        }
    }
    assert_eq!(listed, ["a None", "c None", "p None"]);
    store.provider_reads_fail.store(false, Ordering::Relaxed);
    assert_eq!(today(&it.world).await.len(), 4);
}

#[tokio::test]
async fn the_last_comparison_of_an_organization_has_its_days_and_no_others() {
    let world = World::memory(policy("keep_open"));
    let compared = |at: &str| DayComparison {
        compared_at: at.parse().unwrap(),
        result: ComparisonResult::Agrees,
        drift: BTreeMap::new(),
    };
    let (last, before) = (compared(NOON), compared("2026-11-22T11:00:00Z"));
    let org = org_id("acme");
    for (on, comparison) in [
        ("2026-11-22", &last),
        ("2026-11-20", &last),
        // It was closed before.
        ("2026-11-19", &before),
        ("2026-11-12", &last),
    ] {
        let none = ProviderChanges::new();
        let recorded = world
            .store
            .record_comparison(&org, day(on), &none, Some(comparison));
        recorded.await.unwrap();
    }
    let ledger = Ledger::new(LedgerConfig {
        reconciled: vec![org.clone()],
        ..LedgerConfig::new(world.ledger.policy(), Arc::clone(&world.store))
    });
    // The store's clock is known from its answers.
    ledger.quota(&org).await.unwrap();
    let refreshed = tokio::spawn(ledger.refresh_comparisons());
    let _refreshed = AbortOnDropHandle::new(refreshed);
    wait("comparisons", async || !ledger.comparisons(&org).is_empty()).await;
    let expected = ["2026-11-20", "2026-11-22"].map(|on| (day(on), last.clone()));
    assert_eq!(*ledger.comparisons(&org), expected);
    assert!(ledger.comparisons(&org_id("other")).is_empty());
}
