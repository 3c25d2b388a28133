//! `file:`, the embedded store that keeps what it counted: one file, which one process has open.
//!
//! **Layout** ([`keys`], [`records`]). A database (redb) with a table of pools' counters, one of usage
//! rows and one of reservations, by day, organization and names.
//!
//! **Protocol** ([`draft`]). All batches of a call are one transaction, which is synced before anything is
//! answered. A batch is decided on a draft over the tables, and written to them whole. Where the commit
//! fails, nothing of it is anywhere in memory.
//!
//! **Failures.** After an error of the disk the database refuses everything: what it has in memory may be
//! more than what is on disk. So it is closed, and opened again from what is on disk, until that succeeds
//! and there is room.
//!
//! **Old days** are removed little by little, in the transactions that there are anyway.

mod draft;
mod failures;
mod held;
mod keys;
mod opening;
mod reading;
mod records;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redb::{Database, TableDefinition, WriteTransaction};
use tokio::sync::Semaphore;

pub use self::opening::OpenError;
use self::{
    draft::{Fault, Tables},
    failures::{closed, corrupt, refused},
    opening::{StoreFile, steady_time_values},
    reading::Unread,
};
use super::{
    Batch, CallLimits, Clock, ClockStep, Decided, Hindrance, RowKey, Store, StoreError, Timed,
    UsageLimits, UsageRows,
    clock::{ClockReading, SteadyTime, StepDetector},
};
use crate::domain::{OrgId, PoolCounters, PoolName, UtcDay};

/// How many records of old days a transaction removes at least, so that it is not held up.
const LEAST_REMOVED: usize = 256;

/// After a failure: how soon the file is opened again. Each time all of it is read.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// How long nothing was written when a probe writes the clock, to see whether that can be done.
const IDLE: Duration = Duration::from_secs(10);

/// What there must be room for before a file that had failed is served again: more than any call writes.
const ROOM_BYTES: usize = 1024 * 1024;
const ROOM: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("room");

/// The counters in a file.
pub struct FileStore {
    inner: Arc<Inner>,
    /// How many reads may wait for the disk: decisions must not wait for a thread behind them.
    reads: Arc<Semaphore>,
}

/// How many.
const MOST_READS: usize = 16;

struct Inner {
    file: StoreFile,
    clock: Clock,
    limits: UsageLimits,
    steps: Mutex<StepDetector>,
    /// One call writes at a time.
    writer: Mutex<Writer>,
    /// None while it is closed because of a failure.
    database: RwLock<Option<Database>>,
}

struct Writer {
    /// When the file failed, or was last tried to be opened again.
    tried_at: Instant,
    /// When the last transaction was committed.
    wrote_at: Instant,
    /// How many transactions were committed: a file that knows of fewer has lost some.
    commits: i64,
    /// Since when the clock was steady, as the file has it.
    steady: Option<SteadyTime>,
    /// Why the file is closed.
    failure: Option<StoreError>,
    /// The day on which nothing older is left to remove.
    removed_on: Option<UtcDay>,
}

impl FileStore {
    /// Opens the file, or makes one.
    ///
    /// # Errors
    ///
    /// The file can't be the store; it was not touched then.
    pub fn open(path: &Path, clock: Clock, limits: UsageLimits) -> Result<Self, OpenError> {
        let file = StoreFile::take(path)?;
        let (database, about) = file.database()?;
        let steps = StepDetector::new(clock(), about.steady);
        let now = Instant::now();
        let inner = Inner {
            file,
            clock,
            limits,
            steps: Mutex::new(steps),
            writer: Mutex::new(Writer {
                tried_at: now,
                wrote_at: now,
                commits: about.commits,
                steady: about.steady,
                failure: None,
                removed_on: None,
            }),
            database: RwLock::new(Some(database)),
        };
        Ok(Self {
            inner: Arc::new(inner),
            reads: Arc::new(Semaphore::new(MOST_READS)),
        })
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, Unread> + Send + 'static,
    ) -> Result<Timed<T>, StoreError> {
        let turn = Arc::clone(&self.reads).acquire_owned().await;
        self.run(move |inner| {
            let read = inner.read(read);
            // Not before it ended: whoever asked may be gone by now.
            drop(turn);
            read
        })
        .await
    }

    /// Runs where it may wait for the disk.
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
                false => StoreError::NoAnswer { reason },
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
            // Whoever panicked may have left the database in disorder: it is opened anew.
            self.writer.clear_poison();
            let mut writer = poisoned.into_inner();
            self.close(&mut writer);
            writer
        })
    }

    fn decide(
        &self,
        batches: &[Batch],
    ) -> Result<Vec<Result<Timed<Decided>, StoreError>>, StoreError> {
        let decided = self.write(&mut self.writer(), |tables, today| {
            let mut written = 0;
            let mut decide = |batch: &Batch| {
                if batch.day != today {
                    return Ok(Ok(Decided::OnAnotherDay));
                }
                match tables.decide(today, self.limits.max_rows, batch) {
                    Ok((outcomes, its_written)) => {
                        written += its_written;
                        Ok(Ok(Decided::Outcomes(outcomes)))
                    }
                    Err(Fault::Record(bad)) => Ok(Err(corrupt(bad))),
                    Err(Fault::Storage(error)) => Err(error.into()),
                }
            };
            let decided = batches.iter().map(&mut decide);
            let decided: Vec<Result<Decided, StoreError>> =
                decided.collect::<Result<_, redb::Error>>()?;
            Ok((decided, written))
        })?;
        let now = decided.now;
        let timed = |decided: Result<_, _>| decided.map(|answer| Timed { now, answer });
        Ok(decided.answer.into_iter().map(timed).collect())
    }

    /// Whether the store would decide now: after a failure whether it can be opened again, and from time
    /// to time whether it can be written.
    fn probe(&self) -> Result<Timed<()>, StoreError> {
        let mut writer = self.writer();
        self.open_again(&mut writer)?;
        let reading = self.now();
        let today = UtcDay::of(reading.wall);
        let removes = self.steps().is_steady(reading) && writer.removed_on != Some(today);
        if removes || writer.wrote_at.elapsed() >= IDLE {
            return self.write(&mut writer, |_, _| Ok(((), 1)));
        }
        let (now, answer) = (reading.wall, ());
        Ok(Timed { now, answer })
    }

    /// Does some work in a transaction, and commits it where the work says that it wrote records.
    fn write<T>(
        &self,
        writer: &mut Writer,
        work: impl FnOnce(&mut Tables<'_>, UtcDay) -> Result<(T, usize), redb::Error>,
    ) -> Result<Timed<T>, StoreError> {
        self.open_again(writer)?;
        // By the one who writes, so that decisions and days are in one order.
        let now = self.now();
        let written = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = database.as_ref().ok_or_else(closed)?;
            self.transact(writer, database, now, work)
        };
        written.inspect_err(|error| {
            self.close(writer);
            // Of this call the outcome may be unknown; the ones until the next try count nothing.
            writer.failure = Some(match error {
                StoreError::NoAnswer { reason } => StoreError::Refused {
                    why: Hindrance::CannotSave,
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
        work: impl FnOnce(&mut Tables<'_>, UtcDay) -> Result<(T, usize), redb::Error>,
    ) -> Result<Timed<T>, StoreError> {
        let now = reading.wall;
        let today = UtcDay::of(now);
        let transaction = database.begin_write().map_err(refused)?;
        let mut tables = Tables::open(&transaction).map_err(refused)?;
        let (answer, written) = work(&mut tables, today).map_err(refused)?;
        if written == 0 {
            drop(tables);
            transaction.abort().map_err(refused)?;
            return Ok(Timed { now, answer });
        }
        let (steady, is_steady) = {
            let steps = self.steps();
            (steps.steady(), steps.is_steady(reading))
        };
        if is_steady && writer.removed_on != Some(today) {
            // Faster than they come.
            let most = LEAST_REMOVED.max(2 * written);
            let removed = tables.remove_old(today, self.limits.retention_days, most);
            if removed.map_err(refused)? < most {
                writer.removed_on = Some(today);
            }
        }
        drop(tables);
        let commits = writer.commits + 1;
        let steady = Some(steady).filter(|_| writer.steady != Some(steady));
        write_about(&transaction, commits, steady).map_err(refused)?;
        transaction.commit().map_err(|error| {
            let reason = error.to_string();
            StoreError::NoAnswer { reason }
        })?;
        (writer.wrote_at, writer.commits) = (Instant::now(), commits);
        writer.steady = steady.or(writer.steady);
        Ok(Timed { now, answer })
    }

    fn close(&self, writer: &mut Writer) {
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *database = None;
        writer.tried_at = Instant::now();
        // The last removal may not stand.
        writer.removed_on = None;
    }

    /// Opens the file again where it was closed because of a failure, a while after it.
    fn open_again(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let is_open = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            database.is_some()
        };
        if is_open {
            return Ok(());
        }
        if writer.tried_at.elapsed() < REOPEN_AFTER {
            return Err(writer.failure.clone().unwrap_or_else(closed));
        }
        self.file.forget_cached();
        let opened = self.file.database().map_err(|error| match error {
            OpenError::Io { what, source, .. } => {
                let reason = format!("the file can't be {what}: {source}");
                StoreError::Unreachable { reason }
            }
            error => {
                let reason = error.to_string();
                StoreError::Corrupt { reason }
            }
        });
        let opened = opened.and_then(|(database, about)| {
            if about.commits < writer.commits {
                let reason = "the file has lost what it had acknowledged".to_owned();
                return Err(StoreError::Corrupt { reason });
            }
            make_room(&database).map_err(refused)?;
            Ok((database, about))
        });
        writer.tried_at = Instant::now();
        let (opened, about) = opened.inspect_err(|error| writer.failure = Some(error.clone()))?;
        writer.wrote_at = Instant::now();
        (writer.commits, writer.steady) = (about.commits, about.steady);
        let mut database = self
            .database
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *database = Some(opened);
        Ok(())
    }

    fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, Unread>,
    ) -> Result<Timed<T>, StoreError> {
        let now = self.now().wall;
        let answer = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            read(database.as_ref().ok_or_else(closed)?)
        };
        match answer {
            Ok(answer) => Ok(Timed { now, answer }),
            Err(Unread::Record(bad)) => Err(corrupt(bad)),
            Err(Unread::Storage(error)) => {
                self.close(&mut self.writer());
                Err(refused(error))
            }
        }
    }
}

/// Writes what the file says of itself; since when the clock is steady only where that is new.
fn write_about(
    transaction: &WriteTransaction,
    commits: i64,
    steady: Option<SteadyTime>,
) -> Result<(), redb::Error> {
    let mut about = transaction.open_table(keys::ABOUT)?;
    about.insert(keys::COMMITS, commits)?;
    for (key, value) in steady.into_iter().flat_map(steady_time_values) {
        about.insert(key, value)?;
    }
    Ok(())
}

/// Makes the file larger than it has to be, so that a call that follows finds room.
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
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timed<Decided>, StoreError>> {
        let its_batches = batches.to_vec();
        let decided = self.run(move |inner| inner.decide(&its_batches)).await;
        decided.unwrap_or_else(|error| vec![Err(error); batches.len()])
    }

    /// One call: what waits meanwhile shares the next sync.
    fn call_limits(&self) -> CallLimits {
        CallLimits {
            calls: 1,
            batches: usize::MAX,
            operations: 2 * Batch::MOST_OPERATIONS,
            bytes: CallLimits::MAX_BYTES,
        }
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        names: &[PoolName],
    ) -> Result<Timed<Vec<PoolCounters>>, StoreError> {
        let (org, names) = (org.clone(), names.to_vec());
        let read = move |database: &Database| reading::pools(database, &org, day, &names);
        self.read(read).await
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timed<UsageRows>, StoreError> {
        let (org, after) = (org.clone(), after.cloned());
        let read =
            move |database: &Database| reading::usage(database, &org, day, after.as_ref(), limit);
        self.read(read).await
    }

    fn clock_steps(&self) -> u64 {
        self.inner.steps().steps()
    }

    fn latest_clock_step(&self) -> Option<ClockStep> {
        let reading = (self.inner.clock)();
        self.inner.steps().latest_step(reading)
    }

    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        self.run(Inner::probe).await
    }
}
