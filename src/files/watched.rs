//! Loads values from files, and reloads them when the files change.
//!
//! Only a valid value replaces another. Invalid files are reported once, and the last good value stays in force.
//! Reading and loading run on threads that serve no calls.

use std::{
    fmt, mem,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::task::{JoinError, spawn_blocking};

use super::{
    memory::{on_own_thread, return_freed},
    read::{ReadError, read_version},
    toml::Faults,
    watcher::{FileWatcher, ReloadCause},
};

pub use super::{version::Version, watcher::ReloadSignal};

/// Files that hold one value together, such as a certificate and its key.
pub(crate) struct Watched<T, E> {
    watcher: FileWatcher,
    max_bytes: u64,
    load: Arc<Load<T, E>>,
    /// The version in force, and the one before it.
    version: Version,
    previous: Version,
    /// The version that was read last. It was rejected if it is not in force.
    last: Version,
    was_unstable: bool,
}

/// Each file's bytes, or the error of reading it.
pub(crate) type Contents = Vec<Result<Vec<u8>, ReadError>>;

type Load<T, E> = dyn Fn(Contents) -> Result<T, E> + Send + Sync;

/// The result of a change of the files or of a reload signal.
#[derive(Debug)]
pub(crate) enum Reload<T, E> {
    /// Another valid value.
    Loaded(T),
    /// An invalid one: the last good one stays. Reported once for the same contents.
    Rejected(E),
    /// After an invalid value, the files hold the one in force again.
    Restored,
    /// On a signal: the files hold the value in force.
    Unchanged,
    /// On a signal: the files still hold the rejected value.
    StillRejected,
    /// The files are being written all the time. Reported once, until a read succeeds.
    Unstable,
}

/// Why a TOML file is not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It can't be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// It has faults. The message has the first 100.
    #[error("is refused: {}", .0.summary())]
    Faulty(#[from] Faults),
    /// The parser panicked: a defect. The value in force stays.
    #[error("is refused: the parser failed: {0}")]
    Panicked(#[from] JoinError),
}

impl<T, E> Watched<T, E>
where
    T: Send + 'static,
    E: From<JoinError> + Send + 'static,
{
    /// Reads the files, each of at most `max_bytes`, and loads the first value. Blocks.
    pub(crate) fn open(
        files: impl IntoIterator<Item = PathBuf>,
        max_bytes: u64,
        load: impl Fn(Contents) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<(T, Self), E> {
        let files: Arc<[PathBuf]> = files.into_iter().collect();
        let (version, contents) = on_own_thread(|| read_files(&files, max_bytes));
        let value = on_own_thread(|| load(contents))?;
        return_freed();
        let watched = Self {
            watcher: FileWatcher::new(files),
            max_bytes,
            load: Arc::new(load),
            version,
            previous: version,
            last: version,
            was_unstable: false,
        };
        Ok((value, watched))
    }

    /// [`open`](Self::open) for a single file.
    pub(crate) fn open_file(
        file: &Path,
        max_bytes: u64,
        load: impl Fn(&[u8]) -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<(T, Self), E>
    where
        E: From<ReadError>,
    {
        Self::open([file.to_owned()], max_bytes, move |contents| {
            let bytes: Result<Vec<_>, ReadError> = contents.into_iter().collect();
            load(&bytes?[0])
        })
    }

    /// Also reloads at each signal.
    pub(crate) fn with_signal(mut self, signal: &ReloadSignal) -> Self {
        self.watcher.signal = signal.clone();
        self
    }

    pub(crate) fn name(&self) -> String {
        let paths = self.watcher.files.iter();
        let paths: Vec<_> = paths.map(|file| file.to_string_lossy()).collect();
        paths.join(", ")
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Waits for the next reload. Not cancel-safe: a dropped future can lose a reload.
    pub(crate) async fn next(&mut self) -> Reload<T, E> {
        loop {
            let is_requested = self.watcher.changed().await == ReloadCause::Requested;
            let (files, max_bytes) = (Arc::clone(&self.watcher.files), self.max_bytes);
            let read = move || on_own_thread(|| read_files(&files, max_bytes));
            let read = spawn_blocking(read).await;
            return_freed();
            let stable = read.ok().filter(|(_, contents)| is_stable(contents));
            let was_unstable = mem::replace(&mut self.was_unstable, stable.is_none());
            let reload = match stable {
                None => (!was_unstable).then_some(Reload::Unstable),
                Some((version, _)) if version == self.last => match version == self.version {
                    _ if !is_requested => None,
                    true => Some(Reload::Unchanged),
                    false => Some(Reload::StillRejected),
                },
                Some((version, _)) if version == self.version => {
                    self.last = version;
                    Some(Reload::Restored)
                }
                Some((version, contents)) => Some(self.load(version, contents).await),
            };
            if let Some(reload) = reload {
                return reload;
            }
        }
    }

    async fn load(&mut self, version: Version, contents: Contents) -> Reload<T, E> {
        self.last = version;
        let load = Arc::clone(&self.load);
        let loaded = spawn_blocking(move || on_own_thread(|| load(contents))).await;
        return_freed();
        match loaded.unwrap_or_else(|panicked| Err(panicked.into())) {
            Ok(value) => {
                self.previous = mem::replace(&mut self.version, version);
                Reload::Loaded(value)
            }
            Err(error) => Reload::Rejected(error),
        }
    }

    /// Rejects the value that was loaded last: the one before it stays in force.
    pub(crate) fn reject(&mut self) {
        self.version = self.previous;
    }
}

fn read_files(files: &[PathBuf], max_bytes: u64) -> (Version, Contents) {
    let read = files.iter().map(|file| read_version(file, max_bytes));
    let (versions, contents): (Vec<_>, _) = read.unzip();
    (Version::of_all(&versions), contents)
}

fn is_stable(contents: &[Result<Vec<u8>, ReadError>]) -> bool {
    let mut contents = contents.iter();
    contents.all(|read| !matches!(read, Err(ReadError::Unstable)))
}

impl LoadError {
    /// How many faults the file has, if it was parsed.
    pub(crate) fn faults(&self) -> Option<usize> {
        match self {
            Self::Faulty(faults) => Some(faults.faults.len()),
            Self::Unreadable(_) | Self::Panicked(_) => None,
        }
    }
}

impl<T, E> fmt::Debug for Watched<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.watcher).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn the_value_before_stays_if_the_parser_panics_or_the_user_rejects_the_next_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        let write = |text: &str| fs::write(&file, text).expect("written");
        write("1");
        let opened = Watched::open_file(&file, 8, |bytes| {
            assert_ne!(bytes, b"panic", "the test's panic");
            Ok::<_, LoadError>(bytes[0])
        });
        let (first, mut watched) = opened.expect("valid");
        let mut next = async |text: &str, is_rejected: bool| {
            write(text);
            let next = timeout(Duration::from_secs(10), watched.next()).await;
            let next = next.expect("reloaded in time");
            if is_rejected {
                watched.reject();
            }
            (next, watched.version())
        };
        let (panicked, version) = next("panic", false).await;
        assert!(matches!(panicked, Reload::Rejected(LoadError::Panicked(_))));
        assert_eq!((first, version), (b'1', Version::of(b"1")));
        assert!(matches!(next("1", false).await.0, Reload::Restored));
        let (loaded, version) = next("2", true).await;
        assert!(matches!(loaded, Reload::Loaded(b'2')));
        assert_eq!(version, Version::of(b"1"));
        assert!(matches!(next("1", false).await.0, Reload::Restored));
    }
}
