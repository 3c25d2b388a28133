//! Notices that were not delivered: a replica that decided nothing finds them.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::sleep;
use tollgate::ledger::{Ledger, LedgerConfig, Notice, NoticeOrigin};

use super::{Overview, numbered, policy_of};
use crate::support::world::policy_text;

/// Another ledger over the same store, with the notices that it gives.
type Other = (Ledger, Arc<Mutex<Vec<Notice>>>);

fn other_ledger(overview: &Overview, policy: &str) -> Other {
    let notices: Arc<Mutex<Vec<Notice>>> = Arc::default();
    let found = Arc::clone(&notices);
    let ledger = Ledger::new(LedgerConfig {
        notices: Some(Arc::new(move |notice, origin| {
            assert_eq!(origin, NoticeOrigin::Found);
            found.lock().unwrap().push(notice);
        })),
        ..LedgerConfig::new(Arc::new(policy_text(policy)), overview.store.clone())
    });
    (ledger, notices)
}

fn take(notices: &Mutex<Vec<Notice>>) -> Vec<String> {
    let notices = mem::take(&mut *notices.lock().unwrap()).into_iter();
    let mut ids: Vec<String> = notices
        .map(|it| format!("{} {} {} {}", it.org, it.pool, it.day, it.threshold))
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

#[tokio::test(start_paused = true)]
async fn a_notice_that_was_not_delivered_is_found_until_its_delivery_is_recorded() {
    let policy = policy_of(["acme", "other"].map(str::to_owned));
    let overview = Overview::start(&policy).await;
    overview.reserve("acme", "gpt-4o", 960).await;
    let (other, notices) = other_ledger(&overview, &policy);
    other.probe().await.unwrap();
    let _refresh = tokio::spawn(other.refresh_overview());
    sleep(Duration::from_secs(6)).await;
    let found: Vec<Notice> = notices.lock().unwrap().clone();
    let expected = [80, 95].map(|it| format!("acme large 2026-11-22 {it}"));
    assert_eq!(take(&notices), expected);
    assert_eq!(
        (found[0].used.get(), found[0].allowance.get()),
        (960, 1_000)
    );
    other.confirm_notice(&found[0]).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    let rest = &expected[1..];
    take(&notices);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(take(&notices), rest);
    other.confirm_notice(&found[1]).await.unwrap();
    sleep(Duration::from_secs(6)).await;
    take(&notices);
    sleep(Duration::from_secs(12)).await;
    assert_eq!(take(&notices), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn of_20_000_organizations_it_is_found_within_40_seconds() {
    let policy = policy_of(numbered(20_000));
    let overview = Overview::start(&policy).await;
    let (other, notices) = other_ledger(&overview, &policy);
    other.probe().await.unwrap();
    let _refresh = tokio::spawn(other.refresh_overview());
    // In the middle of a round, the next of which begins with the first.
    sleep(Duration::from_secs(10)).await;
    for org in numbered(20_000).step_by(999) {
        overview.reserve(&org, "gpt-4o", 800).await;
    }
    sleep(Duration::from_secs(40)).await;
    assert_eq!(take(&notices).len(), numbered(20_000).step_by(999).count());
}
