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
use chrono::{DateTime, TimeDelta, Utc};
use redb::{Database, TableDefinition};
use tokio::sync::Semaphore;

pub use self::opening::OpenError;
use self::{
    draft::{Fault, Tables},
    failures::{closed, corrupt, refused},
    opening::StoreFile,
    reading::Unread,
};
use super::{Batch, Clock, Decided, Hindrance, RowKey, Store, StoreError, Timed, UsageRows};
use crate::domain::{OrgId, PoolCounters, PoolName, UtcDay};

/// How many records of old days a transaction removes at least, so that it is not held up.
const LEAST_REMOVED: usize = 256;

/// After a failure: how soon the file is opened again. Each time all of it is read.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// How long nothing was written when a probe writes the clock, to see whether that can be done.
const IDLE: Duration = Duration::from_secs(10);

/// How far the file's last decision may be ahead of the clock before that is worth a word.
const MOST_AHEAD: TimeDelta = TimeDelta::minutes(1);

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
    usage_retention_days: u32,
    /// The latest moment that was seen, also before this process: a clock that steps back over midnight
    /// must not start a day anew.
    latest: Mutex<DateTime<Utc>>,
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
    /// The clock that the last transaction wrote: a file that knows only an older one has lost it.
    committed: DateTime<Utc>,
    /// Why the file is closed.
    failure: Option<StoreError>,
    /// The day on which nothing older is left to remove.
    removed_on: Option<UtcDay>,
}

impl FileStore {
    /// Opens the file, or makes one. Usage rows are kept for `usage_retention_days` after their day.
    ///
    /// # Errors
    ///
    /// The file can't be the store; it was not touched then.
    pub fn open(path: &Path, clock: Clock, usage_retention_days: u32) -> Result<Self, OpenError> {
        let file = StoreFile::take(path, clock())?;
        let (database, latest) = file.database()?;
        let ahead = latest - clock();
        if ahead > MOST_AHEAD {
            tracing::warn!(
                %latest,
                "the store's last decision is in the future: its clock stands still until then"
            );
        }
        let now = Instant::now();
        let inner = Inner {
            file,
            clock,
            usage_retention_days,
            latest: Mutex::new(latest),
            writer: Mutex::new(Writer {
                tried_at: now,
                wrote_at: now,
                committed: latest,
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
    fn now(&self) -> DateTime<Utc> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = (*latest).max((self.clock)());
        *latest
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
                match tables.decide(today, batch) {
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
        let today = UtcDay::of(self.now());
        let due = writer.wrote_at.elapsed() >= IDLE || writer.removed_on != Some(today);
        if due {
            return self.write(&mut writer, |_, _| Ok(((), 1)));
        }
        let (now, answer) = (self.now(), ());
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
        now: DateTime<Utc>,
        work: impl FnOnce(&mut Tables<'_>, UtcDay) -> Result<(T, usize), redb::Error>,
    ) -> Result<Timed<T>, StoreError> {
        let today = UtcDay::of(now);
        let transaction = database.begin_write().map_err(refused)?;
        let mut tables = Tables::open(&transaction).map_err(refused)?;
        let (answer, written) = work(&mut tables, today).map_err(refused)?;
        if written == 0 {
            drop(tables);
            transaction.abort().map_err(refused)?;
            return Ok(Timed { now, answer });
        }
        if writer.removed_on != Some(today) {
            // Faster than they come.
            let most = LEAST_REMOVED.max(2 * written);
            let removed = tables.remove_old(today, self.usage_retention_days, most);
            if removed.map_err(refused)? < most {
                writer.removed_on = Some(today);
            }
        }
        drop(tables);
        let mut about = transaction.open_table(keys::ABOUT).map_err(refused)?;
        let latest = about.insert(keys::LATEST, now.timestamp_micros());
        drop(latest.map_err(refused)?);
        drop(about);
        transaction.commit().map_err(|error| {
            let reason = error.to_string();
            StoreError::NoAnswer { reason }
        })?;
        (writer.wrote_at, writer.committed) = (Instant::now(), now);
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
        let opened = opened.and_then(|(database, latest)| {
            if latest.timestamp_micros() < writer.committed.timestamp_micros() {
                let reason = "the file has lost what it had acknowledged".to_owned();
                return Err(StoreError::Corrupt { reason });
            }
            make_room(&database).map_err(refused)?;
            Ok(database)
        });
        writer.tried_at = Instant::now();
        let opened = opened.inspect_err(|error| writer.failure = Some(error.clone()))?;
        writer.wrote_at = Instant::now();
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
        let now = self.now();
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

    /// One: what waits meanwhile shares the next sync.
    fn calls_at_once(&self) -> Option<usize> {
        Some(1)
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

    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        self.run(Inner::probe).await
    }
}
