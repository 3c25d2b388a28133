//! What is stored, for how long, and with which file permissions.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use chrono::{DateTime, TimeDelta, Utc};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{ledger_over, open, used};
use crate::support::{
    clock::Clock,
    world::{NOON, ReserveExt as _, new_reserve, org_id, request_id},
};

/// The number of pools, reservations and usage rows in a closed file.
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
        let answer = ledger.reserve(new_reserve(100).id("id")).await.unwrap();
        assert_eq!(answer.replayed, round > 1);
        ledger.reserve(new_reserve(10)).await.unwrap();
        assert_eq!(used(&ledger).await, 100 + 10 * round);
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn expired_records_are_removed_gradually_and_nothing_else() {
    const IDS: usize = 2_000;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let path = dir.path().join("tollgate.db");
    {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        let calls = (0..IDS).map(|at| {
            new_reserve(1)
                .project(&format!("p{at}"))
                .id(&at.to_string())
        });
        for answer in ledger.reserve_all(calls.collect()).await {
            answer.unwrap();
        }
    }
    assert_eq!(records(&path), [1, IDS, IDS]);
    {
        // Yesterday's ids and pools are still stored, in case the clock steps back.
        clock.pass(TimeDelta::days(1));
        let ledger = ledger_over(open(&path, &clock).unwrap());
        assert!(
            ledger
                .reserve(new_reserve(1).project("p0").id("0"))
                .await
                .unwrap()
                .replayed
        );
        ledger.reserve(new_reserve(1).id("today's")).await.unwrap();
    }
    assert_eq!(records(&path), [2, IDS + 1, IDS + 1]);
    {
        clock.pass(TimeDelta::hours(12));
        let store = open(&path, &clock).unwrap();
        let ledger = ledger_over(store.clone());
        ledger.reserve(new_reserve(1)).await.unwrap();
    }
    let [_, ids, _] = records(&path);
    assert!(
        (1_000..IDS).contains(&ids),
        "{ids}: a call must not be held up"
    );
    {
        let store = open(&path, &clock).unwrap();
        // Without calls: the probes of readiness remove them.
        for _ in 0..2 * IDS / 256 {
            store.probe().await.unwrap();
        }
        let ledger = ledger_over(store);
        let settled = ledger.release(org_id("acme"), request_id("today's")).await;
        assert_eq!(settled.unwrap().tokens.get(), 1);
    }
    assert_eq!(records(&path), [2, 1, IDS + 2]);
    let last_minute: DateTime<Utc> = "2026-12-27T23:59:00Z".parse().unwrap();
    for (time, rows) in [
        (last_minute - clock.now(), IDS + 2),
        (TimeDelta::minutes(1), 2),
    ] {
        clock.pass(time);
        {
            let store = open(&path, &clock).unwrap();
            for _ in 0..2 * IDS / 256 {
                store.probe().await.unwrap();
            }
        }
        assert_eq!(records(&path), [0, 0, rows], "{}", clock.now());
    }
}
