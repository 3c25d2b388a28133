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
    time::{Instant, sleep, sleep_until},
};

const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Longer than the timestamp granularity of any file system: two writes within one tick leave the same metadata.
const QUIET_INTERVAL: Duration = Duration::from_millis(100);

const MAX_UNSETTLED: Duration = Duration::from_millis(500);

/// Watches several files as one.
#[derive(Debug)]
pub(super) struct FileWatcher {
    pub(super) files: Arc<[PathBuf]>,
    pub(super) signal: ReloadSignal,
    /// The stamps at the last report, if the files were quiet then.
    settled: Option<FileStamps>,
    /// Nothing is reported before this, whatever signals there are.
    quiet_until: Instant,
}

/// Why files should be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReloadCause {
    Changed,
    Requested,
}

/// Makes every watcher report at once, as SIGHUP does. A clone receives what was sent before it was made, too.
#[derive(Debug, Clone)]
pub struct ReloadSignal {
    sender: watch::Sender<()>,
    receiver: watch::Receiver<()>,
}

/// A file's device, inode, size, and times of modification and of change: a copy may preserve the former. If the
/// contents change, so does one of these.
type FileStamp = (u64, u64, u64, (i64, i64), (i64, i64));

type FileStamps = Vec<Result<FileStamp, io::ErrorKind>>;

impl FileWatcher {
    /// Reports a first change soon, whatever the metadata: the files may have changed since they were read.
    pub(super) fn new(files: Arc<[PathBuf]>) -> Self {
        Self {
            files,
            signal: ReloadSignal::default(),
            settled: None,
            quiet_until: Instant::now(),
        }
    }

    /// Waits until the files should be read again. Cancel-safe.
    ///
    /// The bytes may be the same as before. A change during the read is reported again.
    pub(super) async fn changed(&mut self) -> ReloadCause {
        sleep_until(self.quiet_until).await;
        let files = &self.files;
        let poll = || {
            let files = Arc::clone(files);
            // A disk or a network that hangs must not block a worker thread.
            let stamps = spawn_blocking(move || files.iter().map(|file| stamp(file)).collect());
            async move { stamps.await.unwrap_or_default() }
        };
        let cause = tokio::select! {
            biased;
            () = self.signal.received() => {
                // The signal may have come during a write.
                self.settled = None;
                ReloadCause::Requested
            }
            () = change(poll, &mut self.settled) => ReloadCause::Changed,
        };
        self.quiet_until = Instant::now() + QUIET_INTERVAL;
        cause
    }
}

/// Waits until the stamps are others than the settled ones, and quiet. Cancel-safe.
async fn change<F: Future<Output = FileStamps>>(
    poll: impl Fn() -> F,
    settled: &mut Option<FileStamps>,
) {
    let mut last = poll().await;
    while settled.as_ref() == Some(&last) {
        sleep(POLL_INTERVAL).await;
        last = poll().await;
    }
    let unsettled_since = Instant::now();
    loop {
        sleep(QUIET_INTERVAL).await;
        let stamps = poll().await;
        let is_quiet = stamps == last;
        if is_quiet || unsettled_since.elapsed() >= MAX_UNSETTLED {
            // Files that are not quiet are reported once more when they are.
            *settled = is_quiet.then_some(stamps);
            return;
        }
        last = stamps;
    }
}

fn stamp(file: &Path) -> Result<FileStamp, io::ErrorKind> {
    let metadata = fs::metadata(file).map_err(|error| error.kind())?;
    Ok((
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        (metadata.mtime(), metadata.mtime_nsec()),
        (metadata.ctime(), metadata.ctime_nsec()),
    ))
}

impl Default for ReloadSignal {
    fn default() -> Self {
        let (sender, receiver) = watch::channel(());
        Self { sender, receiver }
    }
}

impl ReloadSignal {
    /// Makes all watchers report.
    pub fn send(&self) {
        self.sender.send_replace(());
    }

    /// Waits until it is sent. Cancel-safe.
    pub(crate) async fn received(&mut self) {
        let sent = self.receiver.changed().await;
        sent.expect("this signal holds a sender");
    }
}

#[cfg(test)]
mod tests;
