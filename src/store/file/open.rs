//! Opening the file. A file that is foreign, damaged or newer is refused, and left unchanged.
//!
//! The checksum of every page is verified. After a crash the database is at its last complete commit;
//! answers were sent only after their commit was synced.

use std::{
    collections::HashMap,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::FileExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{
    Builder, Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageError,
    TableError,
};

use super::{
    super::clock::{BootId, SteadyTime},
    deferred_writes::DeferredFile,
    tables::{COMMITS, FORMAT, METADATA, POOLS, REQUESTS, ROW_COUNTS, SHARES, STEADY_TIME, USAGE},
};

/// The format that this version writes. Files of earlier formats are upgraded when they are opened.
const KNOWN_FORMAT: i64 = 6;

/// The key of format 1's latest decision time, which is no longer kept.
const LATEST_OF_FORMAT_1: &str = "latest";

/// The size of the page cache.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// The first bytes of a redb file.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// Why a file can't be opened as a store.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OpenError {
    #[error("the directory {} does not exist", .0.display())]
    NoDirectory(PathBuf),
    /// It is a directory, a device, …
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    #[error("{} is in use: another process has it open, and only one can", .0.display())]
    InUse(PathBuf),
    #[error("{} is not Tollgate's: it was not touched", .0.display())]
    Foreign(PathBuf),
    /// It differs from what Tollgate wrote.
    #[error(
        "{} is damaged, and what it counted can't be relied on: it was not touched ({reason})",
        path.display()
    )]
    Damaged { path: PathBuf, reason: String },
    /// A later version wrote it, in this format.
    #[error(
        "{} is in format {format}, and this version of Tollgate knows {KNOWN_FORMAT}: it was not touched; \
         serve it with the version that wrote it, or a later one",
        path.display()
    )]
    Newer { path: PathBuf, format: i64 },
    /// The operating system reported an error.
    #[error("{} can't be {what}", path.display())]
    Io {
        path: PathBuf,
        what: &'static str,
        source: io::Error,
    },
}

/// The file's metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata {
    format: i64,
    /// The number of commits.
    pub(super) commits: i64,
    /// Since when the clock has been steady.
    pub(super) steady: Option<SteadyTime>,
}

/// The file, locked by this process.
#[derive(Debug)]
pub(super) struct StoreFile {
    path: PathBuf,
    /// Locked until it is dropped.
    file: Arc<File>,
}

impl StoreFile {
    /// Opens and locks the file. If there is none, it is created, whole or not at all.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        if matches!(path.try_exists(), Ok(false)) {
            create(path)?;
        }
        let metadata = fs::metadata(path).map_err(failed(path, "opened"))?;
        let path = path.to_owned();
        if !metadata.is_file() {
            return Err(OpenError::NotAFile(path));
        }
        let file = File::options().read(true).write(true).open(&path);
        let file = Arc::new(file.map_err(failed(&path, "opened"))?);
        match file.try_lock() {
            Ok(()) => Ok(Self { path, file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path)),
            Err(TryLockError::Error(error)) => Err(failed(&path, "locked")(error)),
        }
    }

    /// Opens its database, and upgrades it to the current format.
    pub(super) fn database(&self) -> Result<(Database, Metadata), OpenError> {
        let mut magic = [0; MAGIC.len()];
        let read = self.file.read_exact_at(&mut magic, 0);
        if read.is_err() || magic != MAGIC {
            return Err(OpenError::Foreign(self.path.clone()));
        }
        let file = DeferredFile::new(Arc::clone(&self.file));
        // The database panics at some damages.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = builder().create_with_backend(file.clone());
            let database = database.map_err(|error| match error {
                DatabaseError::Storage(StorageError::Io(error)) => {
                    failed(&self.path, "opened")(error)
                }
                error => self.damaged(error),
            })?;
            let metadata = read_metadata(&database).map_err(|error| self.damaged(error))?;
            Ok((database, metadata))
        }));
        let (database, metadata) = opened.map_err(|_| self.damaged("it is in disorder"))??;
        let path = self.path.clone();
        let metadata = match metadata {
            None => return Err(OpenError::Foreign(path)),
            Some(Metadata { format, .. }) if format > KNOWN_FORMAT => {
                return Err(OpenError::Newer { path, format });
            }
            Some(Metadata { format, .. }) if format < 1 => {
                return Err(self.damaged(format!("it says that it is in format {format}")));
            }
            Some(metadata) => metadata,
        };
        file.apply().map_err(failed(&path, "written"))?;
        if metadata.format != KNOWN_FORMAT {
            let upgraded = write_format(&database).map_err(io::Error::other);
            upgraded.map_err(failed(&path, "written"))?;
        }
        Ok((database, metadata))
    }

    /// Drops the system's cached pages of the file: after a failed write they may differ from the disk.
    pub(super) fn forget_cached(&self) {
        let all = None;
        // Best effort: checksums are verified anyway.
        let _ = rustix::fs::fadvise(&self.file, 0, all, rustix::fs::Advice::DontNeed);
    }

    fn damaged(&self, reason: impl ToString) -> OpenError {
        OpenError::Damaged {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// Reads the metadata. `None` if there is none: the database is not Tollgate's.
fn read_metadata(database: &Database) -> Result<Option<Metadata>, redb::Error> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(METADATA) {
        Ok(table) => table,
        Err(TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(None),
    };
    let mut values = HashMap::new();
    for entry in table.iter()? {
        let (key, value) = entry?;
        values.insert(key.value().to_owned(), value.value());
    }
    let value = |key| values.get(key).copied();
    let Some(format) = value(FORMAT) else {
        return Ok(None);
    };
    if (1..=KNOWN_FORMAT).contains(&format) {
        for table in [POOLS, USAGE, REQUESTS] {
            transaction.open_table(table)?;
        }
    }
    Ok(Some(Metadata {
        format,
        commits: value(COMMITS).unwrap_or(0),
        steady: steady_time(STEADY_TIME.map(value)),
    }))
}

fn steady_time(values: [Option<i64>; STEADY_TIME.len()]) -> Option<SteadyTime> {
    let [high, low, boot_micros, since_micros, step_micros] = values;
    let half = |value: i64| u128::from(value.cast_unsigned());
    Some(SteadyTime {
        boot: BootId(half(high?) << 64 | half(low?)),
        boot_micros: boot_micros?,
        since_micros: since_micros?,
        step_micros: step_micros?,
    })
}

/// The metadata entries of a steady time.
pub(super) fn steady_time_values(steady: SteadyTime) -> [(&'static str, i64); STEADY_TIME.len()] {
    let BootId(boot) = steady.boot;
    let half = |shift: u32| ((boot >> shift) as u64).cast_signed();
    let values = [
        half(64),
        half(0),
        steady.boot_micros,
        steady.since_micros,
        steady.step_micros,
    ];
    std::array::from_fn(|at| (STEADY_TIME[at], values[at]))
}

/// Creates the file under a temporary name, and renames it once it is complete and synced. Never replaces a
/// file that another process created meanwhile: that one is used.
fn create(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    if !directory.is_dir() {
        return Err(OpenError::NoDirectory(directory.to_owned()));
    }
    let create = || {
        let mut name = tempfile::Builder::new();
        let new = name
            .prefix(".tollgate-")
            .suffix(".new")
            .tempfile_in(directory)?;
        let database = builder().create(new.path()).map_err(io::Error::other)?;
        write_format(&database).map_err(io::Error::other)?;
        database.close().map_err(io::Error::other)?;
        new.as_file().sync_all()?;
        match new.persist_noclobber(path) {
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
            // Some file systems can neither rename without replacing nor make a hard link.
            Err(error) if !path.exists() => drop(error.file.persist(path)?),
            persisted => drop(persisted?),
        }
        File::open(directory)?.sync_all()
    };
    create().map_err(failed(path, "created"))
}

/// Writes the current format, and creates its tables.
fn write_format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut metadata = transaction.open_table(METADATA)?;
        metadata.insert(FORMAT, KNOWN_FORMAT)?;
        metadata.remove(LATEST_OF_FORMAT_1)?;
        for table in [POOLS, SHARES, USAGE, ROW_COUNTS, REQUESTS] {
            transaction.open_table(table)?;
        }
    }
    Ok(transaction.commit()?)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

fn failed<'p>(path: &'p Path, what: &'static str) -> impl Fn(io::Error) -> OpenError + Copy + 'p {
    move |source| OpenError::Io {
        path: path.to_owned(),
        what,
        source,
    }
}
