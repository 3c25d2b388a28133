//! Notices when files change, by polling their metadata four times a second.
//!
//! Symlinks are followed, so it notices a write in place, a rename, and the swap of the directory behind a mounted
//! ConfigMap, on any file system. A change is reported once the files have been quiet for [`QUIET_INTERVAL`], since a
//! write may be incomplete. Files that are never quiet are reported every [`MAX_UNSETTLED`], and once more when they
//! become quiet.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Longer than the timestamp granularity of any file system: two writes within one tick leave the same metadata.
const QUIET_INTERVAL: Duration = Duration::from_millis(100);

const MAX_UNSETTLED: Duration = Duration::from_millis(500);

/// Watches several files as one.
#[derive(Debug)]
pub(crate) struct FileWatcher {
    files: Arc<[PathBuf]>,
    debounce: Debounce,
    next_poll: Instant,
    /// Nothing is reported before this, whatever signals there are.
    quiet_until: Instant,
    signal: ReloadSignal,
    requests: watch::Receiver<u64>,
}

/// Why files should be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReloadCause {
    /// Their metadata changed.
    Changed,
    /// A [`ReloadSignal`].
    Requested,
}

/// Makes every watcher report at once, as SIGHUP does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ReloadSignal(watch::Sender<u64>);

/// A file's metadata. If the contents change, so does a field of this.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    modified_at: (i64, i64),
    /// Changes even if a copy preserves the modification time.
    changed_at: (i64, i64),
}

type FileStamps = Vec<Result<FileStamp, io::ErrorKind>>;

#[derive(Debug, Default)]
struct Debounce {
    /// The last stamps after a quiet interval.
    settled: Option<FileStamps>,
    last: Option<FileStamps>,
    /// When consecutive polls began to differ, if they still do.
    unsettled_since: Option<Instant>,
}

/// The result of a poll.
#[derive(Debug, PartialEq, Eq)]
enum Observation {
    Unchanged,
    /// The files are changing: poll again soon.
    Unsettled,
    Settled,
}

impl FileWatcher {
    /// Reports a first change soon, whatever the metadata: the files may have changed since they were read.
    pub(crate) fn new(files: Arc<[PathBuf]>, signal: &ReloadSignal) -> Self {
        let now = Instant::now();
        Self {
            files,
            debounce: Debounce::default(),
            next_poll: now,
            quiet_until: now,
            signal: signal.clone(),
            requests: signal.subscribe(),
        }
    }

    /// Waits until the files should be read again. Cancel-safe.
    ///
    /// The bytes may be the same as before. A change during the read is reported again.
    pub(crate) async fn changed(&mut self) -> ReloadCause {
        sleep_until(self.quiet_until).await;
        loop {
            tokio::select! {
                biased;
                () = self.signal.received(&mut self.requests) => {
                    // The signal may have come during a write.
                    self.debounce = Debounce::default();
                    self.pause(QUIET_INTERVAL);
                    return ReloadCause::Requested;
                }
                () = sleep_until(self.next_poll), if !self.files.is_empty() => {}
            }
            // A disk or a network that hangs must not block a worker thread.
            let files = Arc::clone(&self.files);
            let stamps = spawn_blocking(move || files.iter().map(|file| stamp(file)).collect());
            let stamps = stamps.await.unwrap_or_default();
            match self.debounce.observe(stamps, Instant::now()) {
                Observation::Unchanged => self.next_poll = Instant::now() + POLL_INTERVAL,
                Observation::Unsettled => self.next_poll = Instant::now() + QUIET_INTERVAL,
                Observation::Settled => {
                    self.pause(POLL_INTERVAL);
                    return ReloadCause::Changed;
                }
            }
        }
    }

    fn pause(&mut self, poll_interval: Duration) {
        let now = Instant::now();
        self.next_poll = now + poll_interval;
        self.quiet_until = now + QUIET_INTERVAL;
    }
}

impl ReloadSignal {
    /// A signal that has not been sent.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes all watchers report.
    pub fn send(&self) {
        self.0.send_modify(|sent| *sent = sent.wrapping_add(1));
    }

    /// The new receiver also gets a signal that was sent before.
    fn subscribe(&self) -> watch::Receiver<u64> {
        let mut requests = self.0.subscribe();
        if *requests.borrow() > 0 {
            requests.mark_changed();
        }
        requests
    }

    async fn received(&self, requests: &mut watch::Receiver<u64>) {
        let sent = requests.changed().await;
        sent.expect("this signal holds a sender");
    }
}

impl Debounce {
    fn observe(&mut self, stamps: FileStamps, now: Instant) -> Observation {
        let is_quiet = self.unsettled_since.is_none() && self.settled.as_ref() == Some(&stamps);
        if is_quiet {
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
        // Reported once more when they settle.
        self.unsettled_since = Some(now);
        Observation::Settled
    }
}

fn stamp(file: &Path) -> Result<FileStamp, io::ErrorKind> {
    let metadata = fs::metadata(file).map_err(|error| error.kind())?;
    Ok(FileStamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        modified_at: (metadata.mtime(), metadata.mtime_nsec()),
        changed_at: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests;
