//! `file:`, the durable embedded store: one redb database, opened by one process.
//!
//! # What is kept
//!
//! | table | key | record |
//! | --- | --- | --- |
//! | `pools` | day, organization, pool | counters of a pool |
//! | `usage` | day, organization, project, model | a usage row |
//! | `row_counts` | day, organization | the number of usage rows |
//! | `requests` | day, organization, request id | a reservation |
//! | `external_changes` | day, organization, source, number | a change of external usage; empty: there were more |
//! | `provider` | day, organization, project, model | what the provider counted ([`provider`]) |
//! | `provider` | day, organization | how the day was compared with the provider |
//! | `tollgate` | name | format, number of commits, steady time of the clock |
//!
//! [`tables`] builds the keys, [`encoding`] the records.
//!
//! # How it is updated
//!
//! All batches of a call are one transaction, which is synced before the answers are sent. A batch reads
//! through a buffer of its changes ([`transaction`]), which is flushed to the tables once the whole batch is decided.
//!
//! # What happens when the disk fails
//!
//! After a disk error memory may be ahead of the disk, so the database is closed and opened again from what
//! is on disk, until that succeeds and there is room.
//!
//! # Old days
//!
//! They are removed in small steps, in transactions that are made anyway.

mod deferred_writes;
mod encoding;
mod errors;
mod open;
mod provider;
mod queries;
mod tables;
mod transaction;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use redb::{Database, TableDefinition, WriteTransaction};
use tokio::sync::Semaphore;

pub use self::open::OpenError;
use self::{
    errors::{RecordError, refused},
    open::{Metadata, StoreFile, steady_time_values},
    transaction::Tables,
};
use super::{
    Batch, CallLimits, Clock, ClockStep, DayCounters, Decision, ProviderChanges, ProviderRows,
    RefusalReason, RowKey, Store, StoreError, Timestamped, UsageLimits, UsageRows,
    clock::{ClockReading, SteadyTime, StepDetector},
};
use crate::domain::{
    DayComparison, ExternalChange, ExternalChanges, OrgId, PoolName, ShareId, UtcDay,
};

/// The minimum number of old records that a transaction may remove.
const MIN_REMOVED: usize = 256;

/// The interval between attempts to reopen a failed file. Each attempt reads the whole file.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// After this time without a commit, a probe commits an empty transaction to test the disk.
const WRITE_PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// The free space that a failed file must have before it serves again: more than any call writes.
const ROOM_BYTES: usize = 1024 * 1024;
const ROOM: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("room");

/// The counters in a file.
pub struct FileStore {
    inner: Arc<Inner>,
    /// Bounds concurrent reads, so that decisions find a thread.
    reads: Arc<Semaphore>,
}

const MAX_READS: usize = 16;

struct Inner {
    file: StoreFile,
    clock: Clock,
    limits: UsageLimits,
    steps: Mutex<StepDetector>,
    /// One call writes at a time.
    writer: Mutex<Writer>,
    /// `None` while it is closed after a failure.
    database: RwLock<Option<Database>>,
}

struct Writer {
    /// The last attempt to open the file.
    tried_at: Instant,
    /// When the last transaction was committed.
    wrote_at: Instant,
    /// The number of commits. A file that has fewer has lost some.
    commits: i64,
    /// The steady time that the file has.
    steady: Option<SteadyTime>,
    /// Why the file is closed.
    failure: Option<StoreError>,
    /// The last day on which all old records were removed.
    removed_on: Option<UtcDay>,
}

impl FileStore {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    ///
    /// The file is not a usable store. It is unchanged then.
    pub fn open(path: &Path, clock: Clock, limits: UsageLimits) -> Result<Self, OpenError> {
        let file = StoreFile::take(path)?;
        let (database, metadata) = file.database()?;
        let steps = StepDetector::new(clock(), metadata.steady);
        let now = Instant::now();
        let inner = Inner {
            file,
            clock,
            limits,
            steps: Mutex::new(steps),
            writer: Mutex::new(Writer {
                tried_at: now,
                wrote_at: now,
                commits: metadata.commits,
                steady: metadata.steady,
                failure: None,
                removed_on: None,
            }),
            database: RwLock::new(Some(database)),
        };
        Ok(Self {
            inner: Arc::new(inner),
            reads: Arc::new(Semaphore::new(MAX_READS)),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, RecordError> + Send + 'static,
    ) -> Result<Timestamped<T>, StoreError> {
        let turn = Arc::clone(&self.reads).acquire_owned().await;
        self.run(move |inner| {
            let read = inner.read(read);
            // Held until the read ends, also if its caller went away.
            drop(turn);
            read
        })
        .await
    }

    /// Runs on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let ran = tokio::task::spawn_blocking(move || work(&inner)).await;
        ran.unwrap_or_else(|error| {
            let reason = error.to_string();
            Err(match error.is_cancelled() {
                true => StoreError::Unreachable { reason },
                false => StoreError::OutcomeUnknown { reason },
            })
        })
    }
}

impl Inner {
    fn now(&self) -> ClockReading {
        let reading = (self.clock)();
        self.steps().observe(reading);
        reading
    }

    fn steps(&self) -> MutexGuard<'_, StepDetector> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(|poisoned| {
            // A panic may have left the database inconsistent: reopen it.
            self.writer.clear_poison();
            let mut writer = poisoned.into_inner();
            self.close(&mut writer);
            writer
        })
    }

    fn decide(
        &self,
        batches: &[Batch],
    ) -> Result<Vec<Result<Timestamped<Decision>, StoreError>>, StoreError> {
        let decided = self.write(&mut self.writer(), |tables, now| {
            let mut written = 0;
            let decide = |batch: &Batch| {
                if batch.day != UtcDay::of(now) {
                    return Ok(Ok(Decision::DayChanged));
                }
                match tables.decide(now, self.limits.max_rows, batch) {
                    Ok((decision, its_written)) => {
                        written += its_written;
                        Ok(Ok(decision))
                    }
                    Err(RecordError::Storage(error)) => Err(error),
                    Err(corrupt) => Ok(Err(corrupt.into())),
                }
            };
            let decided: Result<Vec<_>, _> = batches.iter().map(decide).collect();
            Ok((decided?, written))
        })?;
        let now = decided.now;
        let timed = |decided: Result<_, _>| decided.map(|answer| Timestamped { now, answer });
        Ok(decided.answer.into_iter().map(timed).collect())
    }

    /// Reopens the file after a failure, and tests from time to time that it can be written.
    fn probe(&self) -> Result<Timestamped<()>, StoreError> {
        let mut writer = self.writer();
        self.open_again(&mut writer)?;
        let reading = self.now();
        let today = UtcDay::of(reading.wall);
        let removes = self.steps().is_steady(reading) && writer.removed_on != Some(today);
        if removes || writer.wrote_at.elapsed() >= WRITE_PROBE_INTERVAL {
            return self.write(&mut writer, |_, _| Ok(((), 1)));
        }
        let (now, answer) = (reading.wall, ());
        Ok(Timestamped { now, answer })
    }

    /// Runs `work` in a transaction. `work` returns the number of records that it wrote; 0 aborts.
    fn write<T>(
        &self,
        writer: &mut Writer,
        work: impl FnOnce(&mut Tables<'_>, DateTime<Utc>) -> Result<(T, usize), redb::Error>,
    ) -> Result<Timestamped<T>, StoreError> {
        self.open_again(writer)?;
        // Read under the writer's lock, so that days follow the order of the decisions.
        let now = self.now();
        let written = match &*self.database() {
            Some(database) => self.transact(writer, database, now, work),
            None => Err(closed()),
        };
        written.inspect_err(|error| {
            self.close(writer);
            // The outcome of this call may be unknown. Calls until the next attempt write nothing.
            writer.failure = Some(match error {
                StoreError::OutcomeUnknown { reason } => StoreError::Refused {
                    why: RefusalReason::CannotSave,
                    reason: reason.clone(),
                },
                error => error.clone(),
            });
        })
    }

    fn transact<T>(
        &self,
        writer: &mut Writer,
        database: &Database,
        reading: ClockReading,
        work: impl FnOnce(&mut Tables<'_>, DateTime<Utc>) -> Result<(T, usize), redb::Error>,
    ) -> Result<Timestamped<T>, StoreError> {
        let now = reading.wall;
        let today = UtcDay::of(now);
        let transaction = database.begin_write().map_err(refused)?;
        let mut tables = Tables::open(&transaction).map_err(refused)?;
        let (answer, written) = work(&mut tables, now).map_err(refused)?;
        if written == 0 {
            drop(tables);
            transaction.abort().map_err(refused)?;
            return Ok(Timestamped { now, answer });
        }
        let (steady, is_steady) = {
            let steps = self.steps();
            (steps.steady(), steps.is_steady(reading))
        };
        if is_steady && writer.removed_on != Some(today) {
            // Faster than records are added.
            let most = MIN_REMOVED.max(2 * written);
            let removed = tables.remove_old(today, self.limits.retention_days, most);
            if removed.map_err(refused)? < most {
                writer.removed_on = Some(today);
            }
        }
        drop(tables);
        let commits = writer.commits + 1;
        let steady = Some(steady).filter(|_| writer.steady != Some(steady));
        write_metadata(&transaction, commits, steady).map_err(refused)?;
        transaction.commit().map_err(|error| {
            let reason = error.to_string();
            StoreError::OutcomeUnknown { reason }
        })?;
        (writer.wrote_at, writer.commits) = (Instant::now(), commits);
        writer.steady = steady.or(writer.steady);
        Ok(Timestamped { now, answer })
    }

    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_database(&self, database: Option<Database>) {
        let mut place = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = database;
    }

    fn close(&self, writer: &mut Writer) {
        self.set_database(None);
        writer.tried_at = Instant::now();
        // The last removal may be lost.
        writer.removed_on = None;
    }

    /// Reopens the file if it is closed, at most once an interval.
    fn open_again(&self, writer: &mut Writer) -> Result<(), StoreError> {
        if self.database().is_some() {
            return Ok(());
        }
        if writer.tried_at.elapsed() < REOPEN_INTERVAL {
            return Err(writer.failure.clone().unwrap_or_else(closed));
        }
        self.file.forget_cached();
        let opened = self.reopen(writer.commits);
        writer.tried_at = Instant::now();
        let (database, metadata) =
            opened.inspect_err(|error| writer.failure = Some(error.clone()))?;
        writer.wrote_at = Instant::now();
        (writer.commits, writer.steady) = (metadata.commits, metadata.steady);
        self.set_database(Some(database));
        Ok(())
    }

    /// Opens the file, if it has at least as many commits, and has room.
    fn reopen(&self, commits: i64) -> Result<(Database, Metadata), StoreError> {
        let (database, metadata) = self.file.database().map_err(|error| match error {
            OpenError::Io { what, source, .. } => StoreError::Unreachable {
                reason: format!("the file can't be {what}: {source}"),
            },
            error => StoreError::Corrupt {
                reason: error.to_string(),
            },
        })?;
        if metadata.commits < commits {
            let reason = "the file has lost what it had acknowledged".to_owned();
            return Err(StoreError::Corrupt { reason });
        }
        make_room(&database).map_err(refused)?;
        Ok((database, metadata))
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, RecordError>,
    ) -> Result<Timestamped<T>, StoreError> {
        let now = self.now().wall;
        let answer = read(self.database().as_ref().ok_or_else(closed)?);
        if let Err(RecordError::Storage(_)) = &answer {
            self.close(&mut self.writer());
        }
        let answer = answer?;
        Ok(Timestamped { now, answer })
    }
}

fn closed() -> StoreError {
    let reason = "the file failed, and is opened again soon".to_owned();
    StoreError::Unreachable { reason }
}

/// Writes the metadata; the steady time only if it is new.
fn write_metadata(
    transaction: &WriteTransaction,
    commits: i64,
    steady: Option<SteadyTime>,
) -> Result<(), redb::Error> {
    let mut metadata = transaction.open_table(tables::METADATA)?;
    metadata.insert(tables::COMMITS, commits)?;
    for (key, value) in steady.into_iter().flat_map(steady_time_values) {
        metadata.insert(key, value)?;
    }
    Ok(())
}

/// Grows the file, so that the next call finds room.
fn make_room(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction
        .open_table(ROOM)?
        .insert("", &*vec![1; ROOM_BYTES])?;
    transaction.commit()?;
    let transaction = database.begin_write()?;
    transaction.delete_table(ROOM)?;
    Ok(transaction.commit()?)
}

#[async_trait]
impl Store for FileStore {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timestamped<Decision>, StoreError>> {
        let its_batches = batches.to_vec();
        let decided = self.run(move |inner| inner.decide(&its_batches)).await;
        decided.unwrap_or_else(|error| vec![Err(error); batches.len()])
    }

    /// One call: operations that wait share the next sync.
    fn call_limits(&self) -> CallLimits {
        CallLimits {
            calls: 1,
            batches: usize::MAX,
            operations: 2 * Batch::MAX_OPERATIONS,
            bytes: CallLimits::MAX_BYTES,
        }
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
        shares: &[ShareId],
    ) -> Result<Timestamped<DayCounters>, StoreError> {
        let (org, pools, shares) = (org.clone(), pools.to_vec(), shares.to_vec());
        let read = move |database: &Database| queries::pools(database, &org, day, &pools, &shares);
        self.read(read).await
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError> {
        let (org, after) = (org.clone(), after.cloned());
        let read =
            move |database: &Database| queries::usage(database, &org, day, after.as_ref(), limit);
        self.read(read).await
    }

    async fn keep_external_change(
        &self,
        org: &OrgId,
        change: &ExternalChange,
    ) -> Result<(), StoreError> {
        let (org, change) = (org.clone(), change.clone());
        let keep = move |inner: &Inner| {
            inner.write(&mut inner.writer(), |tables, _| {
                Ok(((), tables.keep_external_change(&org, &change)?))
            })
        };
        self.run(keep).await.map(|_| ())
    }

    async fn external_changes(
        &self,
        org: &OrgId,
        day: UtcDay,
    ) -> Result<Timestamped<ExternalChanges>, StoreError> {
        let org = org.clone();
        let read = move |database: &Database| queries::external_changes(database, &org, day);
        self.read(read).await
    }

    async fn record_comparison(
        &self,
        org: &OrgId,
        day: UtcDay,
        changes: &ProviderChanges,
        comparison: Option<&DayComparison>,
    ) -> Result<(), StoreError> {
        let (org, changes, comparison) = (org.clone(), changes.clone(), comparison.cloned());
        let write = move |inner: &Inner| {
            let written = inner.write(&mut inner.writer(), |tables, _| {
                let written = provider::write(tables, &org, day, &changes, comparison.as_ref());
                Ok(((), written?))
            });
            written.map(drop)
        };
        self.run(write).await
    }

    async fn provider_usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<ProviderRows, StoreError> {
        let (org, after) = (org.clone(), after.cloned());
        let read =
            move |database: &Database| provider::usage(database, &org, day, after.as_ref(), limit);
        Ok(self.read(read).await?.answer)
    }

    async fn comparisons(
        &self,
        org: &OrgId,
        days: &[UtcDay],
    ) -> Result<Vec<Option<DayComparison>>, StoreError> {
        let (org, days) = (org.clone(), days.to_vec());
        let read = move |database: &Database| provider::comparisons(database, &org, &days);
        Ok(self.read(read).await?.answer)
    }

    fn clock_steps(&self) -> u64 {
        self.inner.steps().steps()
    }

    fn latest_clock_step(&self) -> Option<ClockStep> {
        let reading = (self.inner.clock)();
        self.inner.steps().latest_step(reading)
    }

    async fn probe(&self) -> Result<Timestamped<()>, StoreError> {
        self.run(Inner::probe).await
    }
}
