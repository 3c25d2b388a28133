//! Opening the file. A file that is foreign, damaged or newer is refused, and left unchanged.
//!
//! The checksum of every page is verified. After a crash the database is at its last complete commit;
//! answers were sent only after their commit was synced.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Builder, Database, DatabaseError, ReadableDatabase as _, StorageError, TableError};

use super::{
    super::clock::{BootId, SteadyTime},
    deferred_writes::DeferredFile,
    tables::{COMMITS, FORMAT, METADATA, POOLS, REQUESTS, ROW_COUNTS, STEADY_TIME, USAGE},
};

/// The format that this version writes. Files of earlier formats are upgraded when they are opened.
const KNOWN_FORMAT: i64 = 2;

/// The key of format 1's latest decision time, which is no longer kept.
const LATEST_OF_FORMAT_1: &str = "latest";

/// The size of the page cache.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// The first bytes of a redb file.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// Why a file can't be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory does not exist.
    #[error("the directory {} does not exist", directory.display())]
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// It is a directory, a device, …
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("{} is in use: another process has it open, and only one can", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Tollgate did not write it.
    #[error("{} is not Tollgate's: it was not touched", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It differs from what Tollgate wrote.
    #[error(
        "{} is damaged, and what it counted can't be relied on: it was not touched ({reason})",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        reason: String,
    },
    /// A later version wrote it.
    #[error(
        "{} is in format {format}, and this version of Tollgate knows {KNOWN_FORMAT}: it was not touched; \
         serve it with the version that wrote it, or a later one",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: i64,
    },
    /// The operating system reported an error.
    #[error("{} can't be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operation that failed.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
}

/// The file's metadata.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metadata {
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
        let io = failed(path, "opened");
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(path)?;
                fs::metadata(path)
            }
            metadata => metadata,
        };
        if !metadata.map_err(io)?.is_file() {
            let path = path.to_owned();
            return Err(OpenError::NotAFile { path });
        }
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let path = path.to_owned();
                return Err(OpenError::InUse { path });
            }
            Err(TryLockError::Error(error)) => return Err(failed(path, "locked")(error)),
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
        })
    }

    /// Opens its database, and upgrades it to the current format.
    pub(super) fn database(&self) -> Result<(Database, Metadata), OpenError> {
        let mut magic = [0; MAGIC.len()];
        let read = self.file.read_exact_at(&mut magic, 0);
        if read.is_err() || magic != MAGIC {
            return Err(self.foreign());
        }
        let held = DeferredFile::new(Arc::clone(&self.file));
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = builder().create_with_backend(held.clone())?;
            let metadata = self.about(&database);
            Ok((database, metadata))
        }));
        let (database, metadata) = opened
            .map_err(|_| self.damaged("it is in disorder".to_owned()))?
            .map_err(|error| self.not_opened(error))?;
        let (metadata, format) = metadata?;
        held.apply().map_err(failed(&self.path, "written"))?;
        if format != KNOWN_FORMAT {
            let upgraded = write_format(&database).map_err(io::Error::other);
            upgraded.map_err(failed(&self.path, "written"))?;
        }
        Ok((database, metadata))
    }

    /// Drops the system's cached pages of the file: after a failed write they may differ from the disk.
    pub(super) fn forget_cached(&self) {
        let all = None;
        // Best effort: checksums are verified anyway.
        let _ = rustix::fs::fadvise(&self.file, 0, all, rustix::fs::Advice::DontNeed);
    }

    /// Reads the metadata and the format.
    fn about(&self, database: &Database) -> Result<(Metadata, i64), OpenError> {
        let damaged = |error: redb::Error| self.damaged(error.to_string());
        let transaction = database.begin_read().map_err(|it| damaged(it.into()))?;
        let metadata = match transaction.open_table(METADATA) {
            Ok(metadata) => metadata,
            Err(TableError::Storage(error)) => return Err(damaged(error.into())),
            Err(_) => return Err(self.foreign()),
        };
        let value = |key| {
            let value = redb::ReadableTable::get(&metadata, key);
            let value = value.map_err(|it| damaged(it.into()))?;
            Ok(value.map(|value| value.value()))
        };
        let format = value(FORMAT)?.ok_or_else(|| self.foreign())?;
        match format {
            1..=KNOWN_FORMAT => {}
            format if format > KNOWN_FORMAT => {
                let path = self.path.clone();
                return Err(OpenError::Newer { path, format });
            }
            format => return Err(self.damaged(format!("it says that it is in format {format}"))),
        }
        for table in [POOLS, USAGE, REQUESTS] {
            let opened = transaction.open_table(table);
            opened.map_err(|it| damaged(it.into()))?;
        }
        let mut steady = [None; STEADY_TIME.len()];
        for (value_of, key) in steady.iter_mut().zip(STEADY_TIME) {
            *value_of = value(key)?;
        }
        let metadata = Metadata {
            commits: value(COMMITS)?.unwrap_or(0),
            steady: steady_time(steady),
        };
        Ok((metadata, format))
    }

    fn not_opened(&self, error: DatabaseError) -> OpenError {
        match error {
            DatabaseError::Storage(StorageError::Io(error)) => failed(&self.path, "opened")(error),
            error => self.damaged(error.to_string()),
        }
    }

    fn foreign(&self) -> OpenError {
        let path = self.path.clone();
        OpenError::Foreign { path }
    }

    fn damaged(&self, reason: String) -> OpenError {
        let path = self.path.clone();
        OpenError::Damaged { path, reason }
    }
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

/// Creates the file under a temporary name, and links it once it is complete and synced.
fn create(path: &Path) -> Result<(), OpenError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let Some(name) = path.file_name().filter(|_| directory.is_dir()) else {
        let directory = directory.to_owned();
        return Err(OpenError::NoDirectory { directory });
    };
    let now = crate::wall_clock::now().timestamp_micros();
    let nobody_elses = format!(".{}.{now}.new", std::process::id());
    let mut new_name = OsString::from(".");
    new_name.push(name);
    new_name.push(nobody_elses);
    let new = directory.join(new_name);
    let made = make(&new)
        .and_then(|()| put_in_place(&new, path))
        .and_then(|()| File::open(directory)?.sync_all());
    // It has its final name by now.
    let _ = fs::remove_file(&new);
    made.map_err(failed(path, "created"))
}

/// Writes an empty store.
fn make(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = Arc::new(options.open(path)?);
    let held = DeferredFile::new(Arc::clone(&file));
    let database = builder().create_with_backend(held.clone());
    let written = database
        .map_err(redb::Error::from)
        .and_then(|database| write_format(&database));
    written.map_err(io::Error::other)?;
    held.apply()?;
    file.sync_all()
}

/// Writes the current format, and creates its tables.
fn write_format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut metadata = transaction.open_table(METADATA)?;
        metadata.insert(FORMAT, KNOWN_FORMAT)?;
        metadata.remove(LATEST_OF_FORMAT_1)?;
        for table in [POOLS, USAGE, ROW_COUNTS, REQUESTS] {
            transaction.open_table(table)?;
        }
    }
    Ok(transaction.commit()?)
}

/// Never replaces a file that another process created meanwhile: that one is used.
fn put_in_place(new: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(new, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Some file systems have no hard links.
        Err(_) if !path.exists() => fs::rename(new, path),
        linked => linked,
    }
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
