//! Opening the file: ours or refused, whole or refused, and untouched where it is refused.
//!
//! Every page of the file is read and held to its checksum, so that no damaged counter is ever believed.
//! After a crash the last commit that is whole stands; what was answered was synced before.

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
    held::HeldFile,
    keys::{ABOUT, COMMITS, FORMAT, POOLS, REQUESTS, ROW_COUNTS, STEADY_TIME, USAGE},
};

/// The format that this version writes, and the newest that it reads. A later version reads all earlier
/// ones, and brings the file to its own when it opens it.
const KNOWN_FORMAT: i64 = 2;

/// Format 1 kept the latest moment here that the store had decided at, and believed it.
const LATEST_OF_FORMAT_1: &str = "latest";

/// How much of the file is kept in memory.
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// How a file of the database begins.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

/// Why a file can't be the store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no directory for it.
    #[error("the directory {} does not exist", directory.display())]
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// A directory, a device, …
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// One process at a time.
    #[error("{} is in use: another process has it open, and only one can", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Not Tollgate's.
    #[error("{} is not Tollgate's: it was not touched", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Not as Tollgate left it.
    #[error(
        "{} is damaged, and what it counted can't be relied on: it was not touched ({reason})",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// Written by a later version.
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
    /// The system refuses.
    #[error("{} can't be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What the file says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    /// How many transactions were committed.
    pub(super) commits: i64,
    /// Since when the clock has been steady.
    pub(super) steady: Option<SteadyTime>,
}

/// The file, which this process alone has open.
#[derive(Debug)]
pub(super) struct StoreFile {
    path: PathBuf,
    /// Locked until it is dropped.
    file: Arc<File>,
}

impl StoreFile {
    /// Opens the file and locks it. Where there is none, one is made, and is there whole or not at all.
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

    /// Opens the database in it, and brings it to the format of this version.
    pub(super) fn database(&self) -> Result<(Database, About), OpenError> {
        let mut magic = [0; MAGIC.len()];
        let read = self.file.read_exact_at(&mut magic, 0);
        if read.is_err() || magic != MAGIC {
            return Err(self.foreign());
        }
        let held = HeldFile::new(Arc::clone(&self.file));
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let database = builder().create_with_backend(held.clone())?;
            let about = self.about(&database);
            Ok((database, about))
        }));
        let (database, about) = opened
            .map_err(|_| self.damaged("it is in disorder".to_owned()))?
            .map_err(|error| self.not_opened(error))?;
        let (about, format) = about?;
        held.let_go().map_err(failed(&self.path, "written"))?;
        if format != KNOWN_FORMAT {
            let upgraded = write_format(&database).map_err(io::Error::other);
            upgraded.map_err(failed(&self.path, "written"))?;
        }
        Ok((database, about))
    }

    /// Forgets what the system remembers of the file: after a failed write, that may be what is not on
    /// disk.
    pub(super) fn forget_cached(&self) {
        let all = None;
        // What can't be forgotten is verified all the same.
        let _ = rustix::fs::fadvise(&self.file, 0, all, rustix::fs::Advice::DontNeed);
    }

    /// What the file says of itself, and its format.
    fn about(&self, database: &Database) -> Result<(About, i64), OpenError> {
        let damaged = |error: redb::Error| self.damaged(error.to_string());
        let transaction = database.begin_read().map_err(|it| damaged(it.into()))?;
        let about = match transaction.open_table(ABOUT) {
            Ok(about) => about,
            Err(TableError::Storage(error)) => return Err(damaged(error.into())),
            Err(_) => return Err(self.foreign()),
        };
        let value = |key| {
            let value = redb::ReadableTable::get(&about, key);
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
        let about = About {
            commits: value(COMMITS)?.unwrap_or(0),
            steady: steady_time(steady),
        };
        Ok((about, format))
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

/// What is written of a steady time, by key.
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

/// Makes the file beside its place, and puts it there once it is whole and synced.
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
    // In its place it has another name.
    let _ = fs::remove_file(&new);
    made.map_err(failed(path, "created"))
}

/// Writes an empty store.
fn make(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let file = Arc::new(options.open(path)?);
    let held = HeldFile::new(Arc::clone(&file));
    let database = builder().create_with_backend(held.clone());
    let written = database
        .map_err(redb::Error::from)
        .and_then(|database| write_format(&database));
    written.map_err(io::Error::other)?;
    held.let_go()?;
    file.sync_all()
}

/// Writes this version's format, and the tables that it has.
fn write_format(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut about = transaction.open_table(ABOUT)?;
        about.insert(FORMAT, KNOWN_FORMAT)?;
        about.remove(LATEST_OF_FORMAT_1)?;
        for table in [POOLS, USAGE, ROW_COUNTS, REQUESTS] {
            transaction.open_table(table)?;
        }
    }
    Ok(transaction.commit()?)
}

/// Never replaces a file that another process put there meanwhile: that is the one, then.
fn put_in_place(new: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(new, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Some file systems have no links.
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
