//! A file of an earlier format is upgraded when it is opened.

use std::{fs, path::Path, process::Command};

use chrono::{DateTime, Utc};
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction,
};
use tollgate::ledger::{Ledger, Settle};

use super::{ledger_over, open, used};
use crate::support::{
    clock::Clock,
    tools::{run, tool},
    world::{NOON, ReserveExt as _, new_reserve, new_settle, org_id, request_id},
};

const META: TableDefinition<'_, &str, i64> = TableDefinition::new("tollgate");
const POOLS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("pools");
const ROW_COUNTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("row_counts");

const POOL_BYTES_OF_FORMAT_1: usize = 40;
const POOL_BYTES_OF_FORMAT_3: usize = 48;

/// Cuts the records of pools: later formats have more at their ends.
fn cut_pools(transaction: &WriteTransaction, bytes: usize) {
    let mut pools = transaction.open_table(POOLS).unwrap();
    let records = pools.iter().unwrap().map(|entry| {
        let (key, record) = entry.unwrap();
        (key.value().to_vec(), record.value()[..bytes].to_vec())
    });
    let records: Vec<_> = records.collect();
    assert!(!records.is_empty());
    for (key, record) in records {
        pools.insert(&*key, &*record).unwrap();
    }
}

/// Rewrites a file in format 1, with a latest time in the future.
fn to_format_1(path: &Path, latest: &str) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut about = transaction.open_table(META).unwrap();
        about.retain(|_, _| false).unwrap();
        let latest: DateTime<Utc> = latest.parse().unwrap();
        about.insert("format", 1).unwrap();
        about.insert("latest", latest.timestamp_micros()).unwrap();
    }
    cut_pools(&transaction, POOL_BYTES_OF_FORMAT_1);
    transaction.delete_table(ROW_COUNTS).unwrap();
    transaction.commit().unwrap();
}

#[tokio::test]
async fn a_file_that_format_1_latched_ahead_goes_on_with_the_real_day() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let path = dir.path().join("tollgate.db");
    {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        ledger.reserve(new_reserve(400).id("r")).await.unwrap();
    }
    to_format_1(&path, "2027-12-27T12:00:00Z");
    for _ in 0..2 {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        assert_eq!(used(&ledger).await, 400);
        assert!(
            ledger
                .reserve(new_reserve(400).id("r"))
                .await
                .unwrap()
                .replayed
        );
        let answer = ledger.reserve(new_reserve(601)).await.unwrap();
        assert!(!answer.verdict.is_free());
    }
    let ledger = ledger_over(open(&path, &clock).unwrap());
    let released = ledger.release(org_id("acme"), request_id("r")).await;
    assert_eq!(released.unwrap().pool.unwrap().used.get(), 0);
    drop(ledger);
    let database = Database::open(&path).unwrap();
    let about = database.begin_read().unwrap().open_table(META).unwrap();
    assert_eq!(about.get("format").unwrap().unwrap().value(), 6);
    assert!(about.get("latest").unwrap().is_none());
}

/// Settles `r` as run outside the programme; gives whether that is a replay.
async fn settle_outside(ledger: &Ledger) -> bool {
    let call = Settle {
        outside_program: true,
        ..new_settle("r", 300)
    };
    ledger.settle(call).await.unwrap().replayed
}

#[tokio::test]
async fn a_file_of_format_2_is_upgraded_and_keeps_what_ran_outside_the_programme() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let path = dir.path().join("tollgate.db");
    {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        ledger.reserve(new_reserve(400).id("r")).await.unwrap();
    }
    {
        // Format 3 has one more verdict and more workloads, format 4 longer pools, format 5 carried reservations, format 6 shares; all
        // else is as in format 2.
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let mut about = transaction.open_table(META).unwrap();
        about.insert("format", 2).unwrap();
        drop(about);
        cut_pools(&transaction, POOL_BYTES_OF_FORMAT_3);
        transaction.commit().unwrap();
    }
    for replayed in [false, true] {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        assert_eq!(settle_outside(&ledger).await, replayed);
        assert_eq!(used(&ledger).await, 0);
    }
    let database = Database::open(&path).unwrap();
    let about = database.begin_read().unwrap().open_table(META).unwrap();
    assert_eq!(about.get("format").unwrap().unwrap().value(), 6);
}

#[tokio::test]
async fn the_previous_release_refuses_the_file_and_leaves_it_unchanged() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let path = dir.path().join("tollgate.db");
    {
        let ledger = ledger_over(open(&path, &clock).unwrap());
        ledger.reserve(new_reserve(400).id("r")).await.unwrap();
        assert!(!settle_outside(&ledger).await);
    }
    let bytes = fs::read(&path).unwrap();
    let mut previous = Command::new(tool("bin/tollgate-previous"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TOLLGATE_")) {
        previous.env_remove(name);
    }
    previous.args(["--store", &format!("file:{}", path.display())]);
    previous.args(["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let ended = run(&mut previous);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("is in format 6"), "{ended:?}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
