//! docs/CONTRACT.md, "Background reconcile": what the provider counted, and how days were compared, in every store.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use tollgate::{
    domain::{
        ComparisonResult, DayComparison, DriftKind, ModelName, ProjectId, ProviderUsage, Tokens,
        UtcDay,
    },
    ledger::{Usage, UsageDays, UsagePage, UsageRow},
    store::ProviderChanges,
};

use super::{NewWorld, over_every_store};
use crate::support::world::{ReserveExt as _, TODAY, World, new_reserve, org_id, policy};

over_every_store!(
    rows_of_the_ledger_and_of_the_provider_are_listed_in_one_order_in_pages_of_any_size,
    a_row_that_a_release_emptied_is_listed_only_if_the_provider_has_it,
    a_row_of_the_provider_is_replaced_and_removed_and_belongs_to_its_organization_and_day,
    the_last_comparison_of_each_day_is_kept,
    what_the_provider_counted_is_kept_as_long_as_usage_rows,
);

fn day(text: &str) -> UtcDay {
    UtcDay::parse(text).unwrap()
}

fn tokens(amount: u64) -> Tokens {
    Tokens::new(amount).unwrap()
}

/// Rows of projects, all of gpt-4o: free and billed tokens; none removes the row.
fn changes(rows: &[(&str, Option<(u64, u64)>)]) -> ProviderChanges {
    let rows = rows.iter().map(|(project, usage)| {
        let project = ProjectId::parse(*project).unwrap();
        let usage = usage.map(|(free, billed)| ProviderUsage {
            free_tokens: tokens(free),
            billed_tokens: tokens(billed),
        });
        ((project, ModelName::parse("gpt-4o").unwrap()), usage)
    });
    rows.collect()
}

fn comparison(at: &str, result: ComparisonResult, drift: &[(DriftKind, u64)]) -> DayComparison {
    let at: DateTime<Utc> = at.parse().unwrap();
    DayComparison {
        compared_at: at,
        result,
        drift: drift
            .iter()
            .map(|(kind, it)| (*kind, tokens(*it)))
            .collect(),
    }
}

async fn write(world: &World, on: &str, rows: &[(&str, Option<(u64, u64)>)]) {
    let (org, changes) = (org_id("acme"), changes(rows));
    let written = world.store.record_comparison(&org, day(on), &changes, None);
    written.await.unwrap();
}

/// `day project free billed provider-free/provider-billed`.
fn text(row: &UsageRow) -> String {
    let provider = row
        .provider
        .map(|it| format!("{}/{}", it.free_tokens, it.billed_tokens));
    let UsageRow { day, project, .. } = row;
    let (free, billed) = (row.counters.free_tokens, row.counters.billed_tokens);
    let provider = provider.unwrap_or_else(|| "-".to_owned());
    format!("{day} {project} {free} {billed} {provider}")
}

async fn page(world: &World, from: &str, size: usize, before: Option<&Usage>) -> Usage {
    let page = UsagePage {
        days: UsageDays::Range {
            from: day(from),
            to: None,
        },
        start: before.and_then(|usage| usage.next.clone()),
        size,
    };
    world.ledger.usage(&org_id("acme"), page).await.unwrap()
}

/// The rows of all pages. Each page but the last is full.
async fn listed(world: &World, from: &str, size: usize) -> Vec<String> {
    let (mut rows, mut last) = (Vec::new(), None);
    loop {
        let usage = page(world, from, size, last.as_ref()).await;
        rows.extend(usage.rows.iter().map(text));
        if usage.next.is_none() {
            return rows;
        }
        assert_eq!(usage.rows.len(), size);
        last = Some(usage);
    }
}

async fn rows_of_the_ledger_and_of_the_provider_are_listed_in_one_order_in_pages_of_any_size(
    new: NewWorld,
) {
    let world = new(policy("keep_open"));
    for project in ["a", "c", "e", "h"] {
        world.reserve(new_reserve(10).project(project)).await;
    }
    write(
        &world,
        TODAY,
        &[
            ("a", Some((9, 1))),
            ("b", Some((0, 7))),
            ("d", Some((0, 0))),
            ("d1", Some((0, 0))),
            ("d2", Some((0, 0))),
            ("d3", Some((0, 1))),
            ("e", Some((0, 0))),
            ("f", Some((3, 0))),
            ("g", Some((0, 0))),
        ],
    )
    .await;
    write(&world, "2026-11-20", &[("z", Some((1, 2)))]).await;
    let expected = [
        "2026-11-20 z 0 0 1/2",
        "2026-11-22 a 10 0 9/1",
        "2026-11-22 b 0 0 0/7",
        "2026-11-22 c 10 0 -",
        "2026-11-22 d3 0 0 0/1",
        "2026-11-22 e 10 0 0/0",
        "2026-11-22 f 0 0 3/0",
        "2026-11-22 h 10 0 -",
    ];
    for size in [1, 2, 3, 4, 7, 100] {
        assert_eq!(listed(&world, "2026-11-20", size).await, expected, "{size}");
    }
}

async fn a_row_that_a_release_emptied_is_listed_only_if_the_provider_has_it(new: NewWorld) {
    let world = new(policy("keep_open"));
    for project in ["a", "b", "c"] {
        world
            .reserve(new_reserve(10).project(project).id(project))
            .await;
    }
    let rows = [
        ("a", Some((0, 0))),
        ("b", Some((4, 0))),
        ("c", Some((0, 0))),
    ];
    write(&world, TODAY, &rows).await;
    for id in ["a", "b"] {
        world.release(id).await;
    }
    let expected = ["2026-11-22 b 0 0 4/0", "2026-11-22 c 10 0 0/0"];
    for size in [1, 2, 100] {
        assert_eq!(listed(&world, TODAY, size).await, expected, "{size}");
    }
}

async fn a_row_of_the_provider_is_replaced_and_removed_and_belongs_to_its_organization_and_day(
    new: NewWorld,
) {
    let world = new(policy("keep_open"));
    let rows = [
        ("a:%/b", Some((1, 1))),
        ("b", Some((2, 2))),
        ("c", Some((3, 3))),
    ];
    write(&world, TODAY, &rows).await;
    write(
        &world,
        TODAY,
        &[("a:%/b", Some((5, 0))), ("b", None), ("x", None)],
    )
    .await;
    let read = async |org: &str, on: &str| {
        let org = org_id(org);
        let rows = world.store.provider_usage(&org, day(on), None, 100);
        let rows = rows.await.unwrap().into_iter();
        let rows = rows.map(|(key, usage)| (key, Some(usage)));
        rows.collect::<ProviderChanges>()
    };
    let left = changes(&[("a:%/b", Some((5, 0))), ("c", Some((3, 3)))]);
    assert_eq!(read("acme", TODAY).await, left);
    assert_eq!(read("acme", "2026-11-21").await, BTreeMap::new());
    assert_eq!(read("acme2", TODAY).await, BTreeMap::new());
    let (after, _) = left.first_key_value().unwrap();
    let org = org_id("acme");
    let rest = world
        .store
        .provider_usage(&org, day(TODAY), Some(after), 100);
    assert_eq!(rest.await.unwrap().len(), 1);
}

async fn the_last_comparison_of_each_day_is_kept(new: NewWorld) {
    let world = new(policy("keep_open"));
    let org = org_id("acme");
    let drift = [(DriftKind::Lost, 5), (DriftKind::FalseFree, 30)];
    let first = comparison("2026-11-22T11:00:00Z", ComparisonResult::Agrees, &[]);
    let last = comparison("2026-11-22T12:00:00Z", ComparisonResult::Drifts, &drift);
    let unknown = comparison(
        "2026-11-22T12:00:00Z",
        ComparisonResult::Unknown,
        &drift[..1],
    );
    for (on, comparison) in [(TODAY, &first), ("2026-11-20", &unknown), (TODAY, &last)] {
        let rows = changes(&[("p", Some((1, 0)))]);
        let written = world
            .store
            .record_comparison(&org, day(on), &rows, Some(comparison));
        written.await.unwrap();
    }
    // Rows alone leave it.
    write(&world, TODAY, &[("q", Some((1, 0)))]).await;
    let days = ["2026-11-22", "2026-11-21", "2026-11-20"].map(day);
    let found = world.store.comparisons(&org, &days).await.unwrap();
    assert_eq!(found, [Some(last.clone()), None, Some(unknown.clone())]);
    let other = world.store.comparisons(&org_id("other"), &days).await;
    assert_eq!(other.unwrap(), [None, None, None]);
    // The first page has them.
    let first = page(&world, "2026-11-20", 1, None).await;
    let expected = [(day("2026-11-20"), unknown), (day(TODAY), last)];
    assert_eq!(first.comparisons, expected);
    let second = page(&world, "2026-11-20", 1, Some(&first)).await;
    assert_eq!((second.rows.len(), second.comparisons), (1, Vec::new()));
}

async fn what_the_provider_counted_is_kept_as_long_as_usage_rows(new: NewWorld) {
    let world = new(policy("keep_open"));
    let org = org_id("acme");
    let comparison = comparison("2026-11-22T12:00:00Z", ComparisonResult::Agrees, &[]);
    let rows = changes(&[("p", Some((1, 0)))]);
    let written = world
        .store
        .record_comparison(&org, day(TODAY), &rows, Some(&comparison));
    written.await.unwrap();
    let is_kept = async || {
        // Embedded stores remove old days when they decide.
        for _ in 0..2 {
            world.reserve(new_reserve(1)).await;
        }
        let rows = world.store.provider_usage(&org, day(TODAY), None, 100);
        let days = [day(TODAY)];
        let found = world.store.comparisons(&org, &days);
        (rows.await.unwrap().len(), found.await.unwrap()[0].is_some())
    };
    world.clock.pass(TimeDelta::days(35));
    assert_eq!(is_kept().await, (1, true));
    world.clock.pass(TimeDelta::days(1));
    assert_eq!(is_kept().await, (0, false));
}

/// A later release, or someone else, may have written it.
#[tokio::test]
async fn records_of_redis_that_can_not_be_read_are_left_out() {
    let world = World::redis(policy("keep_open"));
    world.reserve(new_reserve(10).project("p")).await;
    let rows = [("a", Some((1, 0))), ("p", Some((9, 1)))];
    write(&world, TODAY, &rows).await;
    let redis = world.redis.as_ref().unwrap();
    let key = "tollgate:{acme}:provider:2026-11-22";
    redis.run(&["HSET", key, "a:gpt-4o", "later", "foreign", "1 1"]);
    let later = "1795351200 later_result external=5";
    redis.run(&["HSET", key, "\u{1}", later]);
    let before = "tollgate:{acme}:provider:2026-11-21";
    redis.run(&["HSET", before, "\u{1}", "unreadable"]);
    for size in [1, 100] {
        let rows = listed(&world, "2026-11-20", size).await;
        assert_eq!(rows, ["2026-11-22 p 10 0 9/1"], "{size}");
    }
    let compared = page(&world, "2026-11-20", 1, None).await.comparisons;
    let [(on, comparison)] = &compared[..] else {
        panic!("{compared:?}");
    };
    assert_eq!(*on, day(TODAY));
    assert_eq!(comparison.result, ComparisonResult::Unknown);
    assert_eq!(comparison.drift[&DriftKind::External], tokens(5));
    // No hash at all.
    redis.run(&["DEL", before]);
    redis.run(&["SET", before, "foreign"]);
    let rows = listed(&world, "2026-11-20", 1).await;
    assert_eq!(rows, ["2026-11-22 p 10 0 9/1"]);
    let usage = page(&world, "2026-11-20", 1, None).await;
    assert_eq!(usage.comparisons, []);
}
