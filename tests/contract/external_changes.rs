//! docs/CONTRACT.md, "External usage": its changes are kept and listed, beside the audit log.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tollgate::{
    domain::{ExternalChange, ExternalChanges, ExternalSource, PoolName, Tokens, UtcDay},
    ledger::{ExternalChangeList, Ledger, LedgerConfig, LedgerError, SetExternalUsage, UsageDays},
    store::{Store as _, StoreError, UsageLimits, memory::MemoryStore},
};

use super::{NewWorld, over_every_store};
use crate::support::{
    clock::Clock,
    held_store::{HeldStore, settled},
    world::{NOON, TODAY, World, org_id, policy, policy_text, small_policy},
};

over_every_store!(
    each_change_is_listed_the_newest_first_on_its_day,
    whole_days_are_listed_until_there_are_enough,
    a_day_has_a_thousand_changes_and_says_that_there_were_more,
    changes_of_the_reconcile_displace_none_by_hand,
    changes_are_kept_for_the_retention_of_usage,
    names_and_notes_are_data,
    the_days_are_those_of_a_range_of_usage,
);

const MANUAL: ExternalSource = ExternalSource::Manual;

fn set(org: &str, source: ExternalSource, tokens: u64, note: &str) -> SetExternalUsage {
    SetExternalUsage {
        org: org_id(org),
        pool: PoolName::parse("large").unwrap(),
        source,
        tokens: Tokens::of_external_usage(tokens).unwrap(),
        note: note.to_owned(),
        caller: Some("ops".to_owned()),
    }
}

async fn change(world: &World, at: &str, tokens: u64) {
    world.clock.set(at);
    let request = set("acme", MANUAL, tokens, "");
    world.ledger.set_external_usage(request).await.unwrap();
}

fn range(from: &str, to: &str) -> UsageDays {
    let day = |text: &str| UtcDay::parse(text).unwrap();
    UsageDays::Range {
        from: day(from),
        to: Some(day(to)),
    }
}

async fn list(world: &World, days: UsageDays, enough: usize) -> ExternalChangeList {
    let org = org_id("acme");
    let list = world.ledger.external_changes(&org, days, enough).await;
    list.unwrap()
}

/// The changes as text: `time source before after`.
fn texts(list: &ExternalChangeList) -> Vec<String> {
    let changes = list.changes.iter().map(|it| {
        let (at, source) = (it.at.format("%d %H:%M"), <&str>::from(it.source));
        let before = it.before.map_or("?".to_owned(), |it| it.to_string());
        format!("{at} {source} {before} {}", it.after)
    });
    changes.collect()
}

async fn each_change_is_listed_the_newest_first_on_its_day(new: NewWorld) {
    let world = new(policy("keep_open"));
    assert!(list(&world, UsageDays::Today, 1).await.changes.is_empty());
    change(&world, "2026-11-22T12:00:00Z", 300).await;
    world.clock.set("2026-11-22T12:05:00Z");
    let reconciled = set("acme", ExternalSource::Reconciled, 500, "");
    world.ledger.set_external_usage(reconciled).await.unwrap();
    let other = set("other", MANUAL, 1, "");
    world.ledger.set_external_usage(other).await.unwrap();
    change(&world, "2026-11-22T23:59:00Z", 0).await;
    // What is refused is no change.
    let unknown = SetExternalUsage {
        pool: PoolName::parse("huge").unwrap(),
        ..set("acme", MANUAL, 1, "")
    };
    world.ledger.set_external_usage(unknown).await.unwrap_err();
    change(&world, "2026-11-23T00:00:00Z", 7).await;
    let listed = list(&world, range(TODAY, "2026-11-23"), 1_000).await;
    assert_eq!(
        texts(&listed),
        [
            "23 00:00 manual 0 7",
            "22 23:59 manual 300 0",
            "22 12:05 reconciled 0 500",
            "22 12:00 manual 0 300",
        ]
    );
    assert_eq!(
        (&listed.truncated_days[..], listed.next_to_day),
        (&[][..], None)
    );
    let first = listed.changes.last().unwrap();
    assert_eq!(
        *first,
        ExternalChange {
            at: first.at,
            pool: PoolName::parse("large").unwrap(),
            source: MANUAL,
            before: Some(Tokens::ZERO),
            after: Tokens::new(300).unwrap(),
            caller: Some("ops".to_owned()),
            note: String::new(),
        }
    );
    assert_eq!(texts(&list(&world, UsageDays::Today, 1).await).len(), 1);
}

async fn whole_days_are_listed_until_there_are_enough(new: NewWorld) {
    let world = new(policy("keep_open"));
    for (at, tokens) in [
        ("2026-11-22T12:00:00Z", 1),
        ("2026-11-24T12:00:00Z", 2),
        ("2026-11-24T13:00:00Z", 3),
        ("2026-11-25T12:00:00Z", 4),
    ] {
        change(&world, at, tokens).await;
    }
    let mut to = "2026-11-25".to_owned();
    for (enough, changes, from, next) in [
        (2, 3, "2026-11-24", Some("2026-11-23")),
        (2, 1, "2026-11-20", None),
    ] {
        let listed = list(&world, range("2026-11-20", &to), enough).await;
        assert_eq!(
            (listed.changes.len(), listed.from_day.to_string()),
            (changes, from.to_owned())
        );
        let next_to_day = listed.next_to_day.map(|day| day.to_string());
        assert_eq!(next_to_day.as_deref(), next);
        to = next_to_day.unwrap_or_default();
    }
    let all = list(&world, range("2026-11-20", "2026-11-25"), 1_000).await;
    assert_eq!((all.changes.len(), all.next_to_day), (4, None));
}

/// Keeps a change to this many tokens, so many microseconds after noon.
async fn keep(world: &World, source: ExternalSource, number: usize) {
    let noon: DateTime<Utc> = NOON.parse().unwrap();
    let change = ExternalChange {
        at: noon + TimeDelta::microseconds(number as i64),
        pool: PoolName::parse("large").unwrap(),
        source,
        before: None,
        after: Tokens::new(number as u64).unwrap(),
        caller: None,
        note: "n".repeat(512),
    };
    let kept = world
        .store
        .keep_external_change(&org_id("acme"), &change)
        .await;
    kept.unwrap();
}

async fn changes_of_the_reconcile_displace_none_by_hand(new: NewWorld) {
    let world = new(policy("keep_open"));
    let day = UtcDay::parse(TODAY).unwrap();
    for number in 1..=ExternalChanges::MAX + 1 {
        keep(&world, ExternalSource::Reconciled, number).await;
    }
    for number in [2_000, 2_001] {
        keep(&world, MANUAL, number).await;
    }
    let listed = list(&world, UsageDays::Today, 1).await;
    let after: Vec<u64> = listed.changes.iter().map(|it| it.after.get()).collect();
    let reconciled = (1..=1_000).rev();
    assert_eq!(
        after,
        [2_001, 2_000]
            .into_iter()
            .chain(reconciled)
            .collect::<Vec<u64>>()
    );
    assert_eq!(listed.truncated_days, [day]);
}

async fn a_day_has_a_thousand_changes_and_says_that_there_were_more(new: NewWorld) {
    let world = new(policy("keep_open"));
    let (org, day) = (org_id("acme"), UtcDay::parse(TODAY).unwrap());
    for number in 1..=ExternalChanges::MAX {
        keep(&world, MANUAL, number).await;
    }
    let kept = world
        .store
        .external_changes(&org, day)
        .await
        .unwrap()
        .answer;
    assert_eq!((kept.kept.len(), kept.is_truncated), (1_000, false));
    for number in 1_001..=1_003 {
        keep(&world, MANUAL, number).await;
    }
    let listed = list(&world, UsageDays::Today, 1).await;
    let after: Vec<u64> = listed.changes.iter().map(|it| it.after.get()).collect();
    assert_eq!(after, (1..=1_000).rev().collect::<Vec<u64>>());
    assert_eq!(listed.truncated_days, [day]);
}

async fn changes_are_kept_for_the_retention_of_usage(new: NewWorld) {
    let world = new(policy("keep_open"));
    change(&world, NOON, 5).await;
    world.clock.set("2026-12-27T23:59:00Z");
    assert_eq!(list(&world, range(TODAY, TODAY), 1).await.changes.len(), 1);
    world.clock.set("2026-12-28T00:00:00Z");
    let listed = list(&world, range(TODAY, "2026-12-28"), 1).await;
    assert_eq!(
        (listed.changes.len(), listed.from_day.to_string().as_str()),
        (0, "2026-11-23")
    );
    // An embedded store removes what is old once its clock has been steady.
    for minutes in [20, 40] {
        world.clock.pass(TimeDelta::minutes(minutes));
        let other = set("acme", MANUAL, 1, "");
        world.ledger.set_external_usage(other).await.unwrap();
    }
    let day = UtcDay::parse(TODAY).unwrap();
    let old = world
        .store
        .external_changes(&org_id("acme"), day)
        .await
        .unwrap();
    assert!(old.answer.kept.is_empty());
}

async fn names_and_notes_are_data(new: NewWorld) {
    let org = "a}:audit:{b\"";
    let text =
        small_policy("keep_open") + "[orgs.'a}:audit:{b\"']\ntier = 1\ndata_sharing = \"all\"\n";
    let world = new(policy_text(&text));
    let hostile = SetExternalUsage {
        caller: Some("\u{202e}'<b>".to_owned()),
        ..set(org, MANUAL, 5, "\"},{\"at\":0} \\ <script> \u{5d0}")
    };
    world
        .ledger
        .set_external_usage(hostile.clone())
        .await
        .unwrap();
    let listed = world
        .ledger
        .external_changes(&org_id(org), UsageDays::Today, 1)
        .await;
    let [change] = &listed.unwrap().changes[..] else {
        panic!("one change");
    };
    assert_eq!(
        (&change.note, &change.caller),
        (&hostile.note, &hostile.caller)
    );
    assert!(list(&world, UsageDays::Today, 1).await.changes.is_empty());
}

async fn the_days_are_those_of_a_range_of_usage(new: NewWorld) {
    let world = new(policy("keep_open"));
    change(&world, NOON, 5).await;
    for (org, from, to, error) in [
        (
            "stranger",
            TODAY,
            TODAY,
            "org: the policy does not know this organization",
        ),
        (
            "acme",
            "2026-10-01",
            "2026-10-17",
            "to_day: 2026-10-17 is not kept; there are 2026-10-18 to 2026-11-22",
        ),
        (
            "acme",
            TODAY,
            "2026-11-23",
            "to_day: 2026-11-23 is not kept; there are 2026-10-18 to 2026-11-22",
        ),
        (
            "acme",
            "2026-09-21",
            TODAY,
            "from_day: 2026-09-21 to 2026-11-22 are more than 62 days",
        ),
    ] {
        let refused = world
            .ledger
            .external_changes(&org_id(org), range(from, to), 1)
            .await;
        assert_eq!(refused.unwrap_err().to_string(), error);
    }
    // It has left the policy, and has changes.
    let others = small_policy("keep_open").replace("[orgs.acme]", "[orgs.new]");
    world.ledger.set_policy(Arc::new(policy_text(&others)));
    assert_eq!(list(&world, UsageDays::Today, 1).await.changes.len(), 1);
}

#[tokio::test]
async fn a_change_that_can_not_be_kept_counts_all_the_same() {
    let world = World::redis(policy("keep_open"));
    let key = "tollgate:{acme}:audit:2026-11-22";
    world.redis.as_ref().unwrap().run(&["SET", key, "foreign"]);
    change(&world, NOON, 300).await;
    assert_eq!(world.quota("acme").await.pools[0].0.external.get(), 300);
    let listed = world
        .ledger
        .external_changes(&org_id("acme"), UsageDays::Today, 1)
        .await;
    assert!(matches!(listed, Err(LedgerError::Store(_))), "{listed:?}");
}

#[tokio::test]
async fn a_change_that_can_not_be_read_is_left_out_and_its_day_is_named() {
    let world = World::redis(policy("keep_open"));
    for tokens in [1, 2, 3] {
        change(&world, NOON, tokens).await;
    }
    let redis = world.redis.as_ref().unwrap();
    let key = "tollgate:{acme}:audit:2026-11-22";
    let [later] = &redis.strings(&["HMGET", key, "manual:2"])[..] else {
        panic!("one field");
    };
    let later = later.replace("\"manual\"", "\"imported\"");
    redis.run(&["HSET", key, "manual:2", &later]);
    let listed = list(&world, UsageDays::Today, 1).await;
    let mut after: Vec<u64> = listed.changes.iter().map(|it| it.after.get()).collect();
    after.sort_unstable();
    let today = UtcDay::parse(TODAY).unwrap();
    assert_eq!((after, listed.truncated_days), (vec![1, 3], vec![today]));
    redis.run(&["HDEL", key, "manual:1"]);
    let listed = list(&world, UsageDays::Today, 1).await;
    assert_eq!(listed.changes.len(), 1);
}

/// A ledger that knows the clock of its store, whose decisions the test ends.
async fn held() -> (
    Ledger,
    Arc<HeldStore>,
    crate::support::held_store::HeldCalls,
) {
    let memory = MemoryStore::new(Clock::at(NOON).function(), UsageLimits::default());
    let (store, calls) = HeldStore::over(Arc::new(memory), 1);
    let policy = Arc::new(policy("keep_open"));
    let ledger = Ledger::new(LedgerConfig::new(policy, store.clone()));
    ledger.probe().await.unwrap();
    (ledger, store, calls)
}

#[tokio::test]
async fn a_change_whose_caller_goes_away_is_listed_with_an_unknown_outcome() {
    let (ledger, store, mut calls) = held().await;
    let caller = tokio::spawn(async move {
        let request = set("acme", MANUAL, 300, "");
        ledger.set_external_usage(request).await
    });
    let call = calls.next().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    call.go();
    settled().await;
    let day = UtcDay::parse(TODAY).unwrap();
    let changes = store.external_changes(&org_id("acme"), day).await.unwrap();
    let kept = changes.answer.kept;
    assert_eq!((kept.len(), kept[0].before), (1, None));
}

#[tokio::test]
async fn a_change_without_an_answer_is_listed_with_an_unknown_outcome() {
    let (ledger, store, mut calls) = held().await;
    for (error, listed) in [
        (
            StoreError::Unreachable {
                reason: "test".to_owned(),
            },
            0,
        ),
        (
            StoreError::OutcomeUnknown {
                reason: "test".to_owned(),
            },
            1,
        ),
    ] {
        let its = ledger.clone();
        let caller = tokio::spawn(async move {
            let request = set("acme", MANUAL, 300, "");
            its.set_external_usage(request).await
        });
        calls.next().await.fail(error);
        caller.await.unwrap().unwrap_err();
        let today = UtcDay::parse(TODAY).unwrap();
        let changes = store
            .external_changes(&org_id("acme"), today)
            .await
            .unwrap();
        let kept = changes.answer.kept;
        assert_eq!(kept.len(), listed);
        assert!(kept.iter().all(|it| it.before.is_none()));
    }
}
