//! When organizations are read, and what is known of them then.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::sleep;
use tollgate::ledger::StoreState;

use super::{Overview, names, numbered, page, policy_of};
use crate::support::{
    held_store::settled,
    world::{org_id, policy_text},
};

const READ_INTERVAL: Duration = Duration::from_secs(5);

async fn few() -> Overview {
    let orgs = ["acme", "other", "third"].map(str::to_owned);
    Overview::start(&policy_of(orgs)).await
}

#[tokio::test(start_paused = true)]
async fn an_organization_is_read_every_five_seconds_and_not_more_often() {
    let overview = few().await;
    overview.reserve("acme", "gpt-4o", 7).await;
    sleep(Duration::from_secs(60)).await;
    for org in ["acme", "other", "third"] {
        let reads = overview.reads_of(org);
        assert!((11..=13).contains(&reads.len()), "{org}: {}", reads.len());
        for pair in reads.windows(2) {
            assert!(pair[1] - pair[0] >= READ_INTERVAL, "{org}: {pair:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn between_100_and_1_000_organizations_are_read_in_a_second() {
    // Those of the policy in 20 seconds, within these bounds.
    for (orgs, a_second) in [(1_000, 100), (3_000, 150), (30_000, 1_000)] {
        let overview = Overview::start(&policy_of(numbered(orgs))).await;
        sleep(Duration::from_secs(80)).await;
        let reads = overview.reads();
        assert!(reads.len() > a_second * 70, "{orgs}: {}", reads.len());
        for pair in reads.windows(a_second + 11) {
            assert!(
                pair[a_second + 10] - pair[0] >= Duration::from_secs(1),
                "{orgs}: {pair:?}"
            );
        }
        let org = numbered(orgs).nth(orgs / 2).unwrap();
        let rounds = a_second * 80 / orgs;
        let reads = overview.reads_of(&org);
        assert!(
            (rounds * 8 / 10..=rounds + 1).contains(&reads.len()),
            "{org}: {reads:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn organizations_that_have_counted_something_are_read_again_before_the_others() {
    let overview = Overview::start(&policy_of(numbered(3_000))).await;
    let busy: Vec<String> = numbered(3_000).step_by(300).collect();
    for org in &busy {
        overview.reserve(org, "gpt-4o", 1).await;
    }
    // By then each was read once.
    sleep(Duration::from_secs(40)).await;
    overview.store.reads.lock().unwrap().clear();
    sleep(Duration::from_secs(12)).await;
    for org in &busy {
        assert!(overview.reads_of(org).len() >= 2, "{org}");
    }
    assert!(overview.reads_of("org-0001").len() <= 1);
}

#[tokio::test(start_paused = true)]
async fn figures_follow_what_is_counted_and_say_when_they_were_read() {
    let overview = few().await;
    settled().await;
    overview.clock.set("2026-11-22T12:00:00Z");
    assert_eq!(overview.figures("acme").await.unwrap().as_of, None);
    sleep(Duration::from_secs(1)).await;
    let (used, as_of) = overview.large("acme").await;
    assert!(as_of.unwrap().starts_with("2026-11-22T12:00:0"));
    assert_eq!(used, 0);
    overview.reserve("acme", "gpt-4o", 300).await;
    assert_eq!(overview.large("acme").await.0, 0);
    overview.clock.set("2026-11-22T13:00:00Z");
    sleep(2 * READ_INTERVAL).await;
    let (used, as_of) = overview.large("acme").await;
    assert_eq!(used, 300);
    assert!(as_of.unwrap().starts_with("2026-11-22T13:00:0"));
    // The others, which have counted nothing, were read in the meantime too.
    let (used, as_of) = overview.large("third").await;
    assert_eq!(used, 0);
    assert!(as_of.unwrap().starts_with("2026-11-22T13:00:0"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_while_the_circuit_breaker_is_open_and_the_figures_stay() {
    let overview = few().await;
    let _watch = tokio::spawn(overview.ledger.watch_store());
    overview.reserve("acme", "gpt-4o", 300).await;
    sleep(2 * READ_INTERVAL).await;
    *overview.store.is_down.lock().unwrap() = true;
    // Until the watcher has opened it.
    sleep(Duration::from_secs(2)).await;
    let before = overview.reads().len();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(overview.reads().len(), before);
    let (used, as_of) = overview.large("acme").await;
    assert_eq!((used, as_of.is_some()), (300, true));
    *overview.store.is_down.lock().unwrap() = false;
    sleep(2 * READ_INTERVAL).await;
    assert!(overview.reads().len() > before);
}

#[tokio::test(start_paused = true)]
async fn at_midnight_the_figures_of_the_day_before_count_as_zero_at_once() {
    let overview = few().await;
    overview.reserve("acme", "gpt-4o", 300).await;
    overview.reserve("other", "gpt-4o", 200).await;
    sleep(2 * READ_INTERVAL).await;
    assert_eq!(overview.large("acme").await.0, 300);
    overview.clock.set("2026-11-23T00:00:00Z");
    // Any answer of the store has its new day.
    overview.ledger.probe().await.unwrap();
    let (used, as_of) = overview.large("acme").await;
    assert_eq!(used, 0);
    assert!(
        as_of.unwrap().starts_with("2026-11-22T12"),
        "not read since"
    );
    overview.reserve("acme", "gpt-4o", 5).await;
    sleep(4 * READ_INTERVAL).await;
    for (org, wanted) in [("acme", 5), ("other", 0)] {
        let (used, as_of) = overview.large(org).await;
        assert_eq!(used, wanted, "{org}");
        assert!(as_of.unwrap().starts_with("2026-11-23T00"), "{org}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_policy_adds_organizations_and_removes_others() {
    let overview = few().await;
    overview.reserve("acme", "gpt-4o", 300).await;
    overview.reserve("third", "gpt-4o", 200).await;
    sleep(2 * READ_INTERVAL).await;
    let next = policy_of(["acme", "new"].map(str::to_owned));
    overview.ledger.set_policy(Arc::new(policy_text(&next)));
    assert_eq!(names(&overview.list(page(10)).await), ["acme", "new"]);
    assert_eq!(overview.large("acme").await.0, 300);
    assert_eq!(overview.figures("new").await.unwrap().as_of, None);
    overview.store.reads.lock().unwrap().clear();
    sleep(2 * READ_INTERVAL).await;
    assert!(overview.figures("new").await.unwrap().as_of.is_some());
    assert!(overview.reads_of("third").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_organization_that_can_not_be_read_has_no_time_and_holds_up_no_other() {
    let overview = few().await;
    let failing = &overview.store.failing;
    failing.lock().unwrap().insert(org_id("other"));
    sleep(4 * READ_INTERVAL).await;
    assert_eq!(overview.figures("other").await.unwrap().as_of, None);
    for org in ["acme", "third"] {
        assert!(
            overview.figures(org).await.unwrap().as_of.is_some(),
            "{org}"
        );
        assert!(overview.reads_of(org).len() >= 3, "{org}");
    }
    let reads = overview.reads_of("other");
    assert!(reads.windows(2).all(|it| it[1] - it[0] >= READ_INTERVAL));
    failing.lock().unwrap().clear();
    sleep(2 * READ_INTERVAL).await;
    assert!(overview.figures("other").await.unwrap().as_of.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_is_nothing_to_the_circuit_breaker() {
    let overview = few().await;
    let _watch = tokio::spawn(overview.ledger.watch_store());
    let all = ["acme", "other", "third"].map(org_id);
    overview.store.failing.lock().unwrap().extend(all);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(*overview.ledger.store_state().borrow(), StoreState::Up);
    // A failure of a call would make the watcher probe at once, beside the two probes of each second.
    let probes = overview.store.probes.load(Ordering::Relaxed);
    assert!((118..=122).contains(&probes), "{probes}");
}
