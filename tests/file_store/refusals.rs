//! A file that can't be the store is refused by name, and not changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use redb::TableDefinition;
use tempfile::TempDir;
use tollgate::store::file::OpenError;

use super::{ledger_over, open, used};
use crate::support::{
    clock::Clock,
    world::{NOON, ReserveExt as _, new_reserve},
};

/// The page size of the database.
const PAGE: usize = 4096;
/// The size of its header.
const HEADER: usize = 320;

/// Opens a file with these bytes. Gives what it counted, or why it was refused unchanged.
async fn outcome(path: &Path, bytes: &[u8], clock: &Clock) -> Result<u64, OpenError> {
    fs::write(path, bytes).unwrap();
    match open(path, clock) {
        Ok(store) => Ok(used(&ledger_over(store)).await),
        Err(error) => {
            assert!(fs::read(path).unwrap() == bytes, "touched: {error}");
            let name = path.to_str().unwrap();
            assert!(error.to_string().contains(name), "{error}");
            Err(error)
        }
    }
}

struct SampleFiles {
    dir: TempDir,
    clock: Clock,
    /// After a clean close.
    closed: Vec<u8>,
    /// After a crash.
    open: Vec<u8>,
}

impl SampleFiles {
    /// A file with 10 tokens counted first, and then 300.
    async fn new() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
        let path = dir.path().join("made.db");
        let ledger = ledger_over(open(&path, &clock).unwrap());
        ledger.reserve(new_reserve(10)).await.unwrap();
        let calls = (0..290).map(|at| new_reserve(1).id(&at.to_string()));
        for answer in ledger.reserve_all(calls.collect()).await {
            answer.unwrap();
        }
        let open = fs::read(&path).unwrap();
        drop(ledger);
        let closed = fs::read(&path).unwrap();
        Self {
            dir,
            clock,
            closed,
            open,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("tollgate.db")
    }
}

#[tokio::test]
async fn a_foreign_file_is_refused() {
    let made = SampleFiles::new().await;
    let path = made.path();
    let others = made.dir.path().join("others.db");
    {
        let table: TableDefinition<'_, &str, u64> = TableDefinition::new("others");
        let database = redb::Database::create(&others).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(table)
            .unwrap()
            .insert("a", 1)
            .unwrap();
        transaction.commit().unwrap();
    }
    for bytes in [
        Vec::new(),
        b"x".to_vec(),
        b"a letter to my aunt".repeat(1_000),
        vec![0; 1 << 20],
        b"SQLite format 3\0".repeat(512),
        fs::read(&others).unwrap(),
    ] {
        let refused = outcome(&path, &bytes, &made.clock).await.unwrap_err();
        assert!(matches!(refused, OpenError::Foreign { .. }), "{refused}");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let refused = open(&path, &made.clock).err().unwrap();
    assert!(matches!(refused, OpenError::NotAFile { .. }), "{refused}");
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused() {
    let made = SampleFiles::new().await;
    let path = made.path();
    fs::write(&path, &made.closed).unwrap();
    for (format, newer) in [(7, true), (i64::MAX, true), (0, false)] {
        {
            let about: TableDefinition<'_, &str, i64> = TableDefinition::new("tollgate");
            let database = redb::Database::open(&path).unwrap();
            let transaction = database.begin_write().unwrap();
            let mut table = transaction.open_table(about).unwrap();
            table.insert("format", format).unwrap();
            drop(table);
            transaction.commit().unwrap();
        }
        let bytes = fs::read(&path).unwrap();
        let refused = outcome(&path, &bytes, &made.clock).await.unwrap_err();
        assert_eq!(
            matches!(refused, OpenError::Newer { .. }),
            newer,
            "{refused}"
        );
    }
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let made = SampleFiles::new().await;
    for bytes in [&made.closed, &made.open] {
        let lengths = (1..60)
            .map(|at| at * 7)
            .chain((1..bytes.len() / PAGE).map(|at| at * PAGE));
        for length in lengths.chain([bytes.len() - 1]) {
            let cut = outcome(&made.path(), &bytes[..length], &made.clock).await;
            // The removed part may have been empty.
            assert!(matches!(cut, Err(_) | Ok(300)), "{length}: {cut:?}");
            assert!(length >= bytes.len() / 2 || cut.is_err(), "{length}");
        }
    }
}

#[tokio::test]
async fn damage_anywhere_is_harmless_or_refused_and_never_changes_counters() {
    let made = SampleFiles::new().await;
    let mut refused = 0;
    for (bytes, allowed) in [
        (&made.closed, &[300][..]),
        // After a crash, an incomplete last commit is discarded. A damaged one looks the same.
        (&made.open, &[300, 10]),
    ] {
        let pages =
            (1..bytes.len() / PAGE).flat_map(|page| [4, 40, PAGE / 2].map(|at| page * PAGE + at));
        for at in (0..HEADER).chain(pages) {
            for flip in [0x01, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                match outcome(&made.path(), &damaged, &made.clock).await {
                    Ok(used) => assert!(allowed.contains(&used), "{at}: {used}"),
                    Err(_) => refused += 1,
                }
            }
        }
        let mut noise = bytes.clone();
        let mut state = 1_u64;
        for byte in &mut noise[64..] {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        assert!(outcome(&made.path(), &noise, &made.clock).await.is_err());
    }
    assert!(refused > 20, "{refused}");
}
