//! Watches files, and reads them whole: what everything that is reloaded while the service runs is built on.
//!
//! A [`FileWatcher`] stamps at the metadata of its files four times a second, after following every symlink. So it
//! sees a write in place, a rename, and the swap of the directory behind a mounted ConfigMap, on any file
//! system, and its queue can't overflow. What is to be done with a change is its caller's: there is no
//! policy in here.
//!
//! A change is told once the files have been left alone for [`QUIET_INTERVAL`], since whoever writes may be half-way.
//! Files that are never left alone are told every [`MAX_UNSETTLED`] all the same, and once more when they are.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// How long from one look to the next, while nothing changes.
pub const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long the files must have been left alone before a change is told. Longer than any file system that
/// services run on takes a moment to be: a second write within one moment leaves the same metadata.
pub const QUIET_INTERVAL: Duration = Duration::from_millis(100);

/// How long files that are written all the time are waited for.
pub const MAX_UNSETTLED: Duration = Duration::from_millis(500);

/// Watches one or several files, as one: a certificate and its key change together.
#[derive(Debug)]
pub struct FileWatcher {
    files: Arc<[PathBuf]>,
    debounce: Debounce,
    next_poll: Instant,
    /// Nothing is told before, however often someone asks.
    quiet_until: Instant,
    reload: ReloadSignal,
    requests: watch::Receiver<u64>,
}

/// Why files should be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadCause {
    /// They look different.
    Changed,
    /// Someone asked for it, whatever they look like.
    Requested,
}

/// Makes every [`FileWatcher`] that knows it tell at once, as SIGHUP does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ReloadSignal(watch::Sender<u64>);

/// What a file stamps like from outside. Its contents are another where any of these is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FileStamp {
    Present {
        device: u64,
        inode: u64,
        bytes: u64,
        /// Seconds and nanoseconds.
        modified_at: (i64, i64),
        /// Also when rights changed, or a modification time was set back by whoever copied the file.
        changed_at: (i64, i64),
    },
    Missing(io::ErrorKind),
}

/// What was seen so far, and so what a look means.
#[derive(Debug, Default)]
struct Debounce {
    /// What was told last, and was left alone before that.
    settled: Option<Vec<FileStamp>>,
    last: Option<Vec<FileStamp>>,
    /// Since when they look different from one look to the next.
    unsettled_since: Option<Instant>,
}

/// What a look means.
#[derive(Debug, PartialEq, Eq)]
enum Observation {
    Unchanged,
    /// Something is going on: look again soon.
    Unsettled,
    Settled,
}

impl FileWatcher {
    /// Starts to watch. The first change is told within moments, whatever the files look like: what was read
    /// of them before may be old by now.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = PathBuf>, reload: &ReloadSignal) -> Self {
        let now = Instant::now();
        Self {
            files: files.into_iter().collect(),
            debounce: Debounce::default(),
            next_poll: now,
            quiet_until: now,
            reload: reload.clone(),
            requests: reload.subscribe(),
        }
    }

    /// Waits until the files should be read again. Whoever drops the waiting loses nothing: the next one
    /// tells.
    ///
    /// What is told may be the same bytes as before, and may change again while it is read. It is told
    /// again then.
    pub async fn changed(&mut self) -> ReloadCause {
        sleep_until(self.quiet_until).await;
        loop {
            tokio::select! {
                biased;
                () = self.reload.received(&mut self.requests) => {
                    // Whoever asks may do so in the middle of a write.
                    self.debounce = Debounce::default();
                    self.reported(QUIET_INTERVAL);
                    return ReloadCause::Requested;
                }
                () = sleep_until(self.next_poll), if !self.files.is_empty() => {}
            }
            let stamps = stamps_of(Arc::clone(&self.files)).await;
            match self.debounce.observe(stamps, Instant::now()) {
                Observation::Unchanged => self.next_poll = Instant::now() + POLL_INTERVAL,
                Observation::Unsettled => self.next_poll = Instant::now() + QUIET_INTERVAL,
                Observation::Settled => {
                    self.reported(POLL_INTERVAL);
                    return ReloadCause::Changed;
                }
            }
        }
    }

    fn reported(&mut self, next_poll: Duration) {
        let now = Instant::now();
        self.next_poll = now + next_poll;
        self.quiet_until = now + QUIET_INTERVAL;
    }
}

impl ReloadSignal {
    /// One that nobody has given yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it to all that watch.
    pub fn send(&self) {
        self.0.send_modify(|given| *given = given.wrapping_add(1));
    }

    /// Whoever gave it before anybody watched, as the service started, shall not have given it in vain.
    fn subscribe(&self) -> watch::Receiver<u64> {
        let mut requests = self.0.subscribe();
        if *requests.borrow() > 0 {
            requests.mark_changed();
        }
        requests
    }

    async fn received(&self, requests: &mut watch::Receiver<u64>) {
        let given = requests.changed().await;
        given.expect("a watch holds a sender of its own");
    }
}

impl Debounce {
    /// Takes in what the files look like now.
    fn observe(&mut self, stamps: Vec<FileStamp>, now: Instant) -> Observation {
        let quiet = self.unsettled_since.is_none() && self.settled.as_ref() == Some(&stamps);
        if quiet {
            return Observation::Unchanged;
        }
        if self.last.as_ref() == Some(&stamps) {
            self.settled = Some(stamps);
            self.unsettled_since = None;
            return Observation::Settled;
        }
        self.last = Some(stamps);
        let since = *self.unsettled_since.get_or_insert(now);
        if now.duration_since(since) < MAX_UNSETTLED {
            return Observation::Unsettled;
        }
        // Still restless: what is told now is told once more when they are left alone.
        self.unsettled_since = Some(now);
        Observation::Settled
    }
}

/// A disk or a network can hang, and then it is not a worker of calls that hangs with it.
async fn stamps_of(files: Arc<[PathBuf]>) -> Vec<FileStamp> {
    let looked =
        tokio::task::spawn_blocking(move || files.iter().map(|file| stamp(file)).collect());
    // Only at the end of the process is it not carried out.
    looked.await.unwrap_or_default()
}

fn stamp(file: &Path) -> FileStamp {
    match fs::metadata(file) {
        Ok(seen) => FileStamp::Present {
            device: seen.dev(),
            inode: seen.ino(),
            bytes: seen.len(),
            modified_at: (seen.mtime(), seen.mtime_nsec()),
            changed_at: (seen.ctime(), seen.ctime_nsec()),
        },
        Err(error) => FileStamp::Missing(error.kind()),
    }
}

#[cfg(test)]
mod tests;
