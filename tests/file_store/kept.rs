//! What is kept, for how long, and for whose eyes.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{ledger_over, open, used};
use crate::support::{
    clock::Clock,
    world::{NOON, With as _, ask, org_id, request_id},
};

/// How many records of each kind a closed file holds: pools, reservations, usage rows.
fn records(path: &Path) -> [usize; 3] {
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_read().unwrap();
    ["pools", "requests", "usage"].map(|name| {
        let table: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new(name);
        let table = transaction.open_table(table).unwrap();
        table.iter().unwrap().count()
    })
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let path = dir.path().join("tollgate.db");
    for round in 1..=3 {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        let answer = ledger.reserve(ask(100).id("id")).await.unwrap();
        assert_eq!(answer.replayed, round > 1);
        ledger.reserve(ask(10)).await.unwrap();
        assert_eq!(used(&ledger).await, 100 + 10 * round);
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_clock_that_steps_back_over_midnight_starts_no_day_anew_also_over_a_restart() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let path = dir.path().join("tollgate.db");
    {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        ledger.reserve(ask(400)).await.unwrap();
        clock.set("2026-11-23T00:00:05Z");
        ledger.reserve(ask(30)).await.unwrap();
    }
    clock.set("2026-11-22T23:59:50Z");
    let store = open(&path, &clock).unwrap();
    let now = store.probe().await.unwrap().now;
    assert!(now.to_rfc3339().starts_with("2026-11-23T00:00:0"), "{now}");
    let ledger = ledger_over(store);
    assert_eq!(used(&ledger).await, 30);
    assert_eq!(
        ledger
            .reserve(ask(970))
            .await
            .unwrap()
            .pool
            .unwrap()
            .used
            .get(),
        1_000
    );
}

#[tokio::test]
async fn what_is_too_old_is_removed_little_by_little_and_nothing_else() {
    const IDS: usize = 2_000;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let path = dir.path().join("tollgate.db");
    {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        let calls = (0..IDS).map(|at| ask(1).project(&format!("p{at}")).id(&at.to_string()));
        for answer in ledger.reserve_all(calls.collect()).await {
            answer.unwrap();
        }
    }
    assert_eq!(records(&path), [1, IDS, IDS]);
    {
        // Yesterday's ids are remembered, its pools are not.
        clock.set("2026-11-23T12:00:00Z");
        let ledger = ledger_over(open(&path, &clock).unwrap());
        assert!(
            ledger
                .reserve(ask(1).project("p0").id("0"))
                .await
                .unwrap()
                .replayed
        );
        ledger.reserve(ask(1).id("today's")).await.unwrap();
    }
    assert_eq!(records(&path), [1, IDS + 1, IDS + 1]);
    {
        clock.set("2026-11-24T00:00:00Z");
        let store = open(&path, &clock).unwrap();
        let ledger = ledger_over(store.clone());
        ledger.reserve(ask(1)).await.unwrap();
    }
    let [_, ids, _] = records(&path);
    assert!(
        (1_000..IDS).contains(&ids),
        "{ids}: a call must not be held up"
    );
    {
        let store = open(&path, &clock).unwrap();
        // Nobody calls: readiness asks.
        for _ in 0..2 * IDS / 256 {
            store.probe().await.unwrap();
        }
        let ledger = ledger_over(store);
        let settled = ledger.release(org_id("acme"), request_id("today's")).await;
        assert_eq!(settled.unwrap().tokens.get(), 1);
    }
    assert_eq!(records(&path), [1, 1, IDS + 2]);
    for (now, rows) in [
        ("2026-12-27T23:59:00Z", IDS + 2),
        ("2026-12-28T00:00:00Z", 2),
    ] {
        clock.set(now);
        {
            let store = open(&path, &clock).unwrap();
            for _ in 0..2 * IDS / 256 {
                store.probe().await.unwrap();
            }
        }
        assert_eq!(records(&path), [0, 0, rows], "{now}");
    }
}
