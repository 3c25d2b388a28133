//! Watches files, and reads them whole: what everything that is reloaded while the service runs is built on.
//!
//! A [`Watch`] looks at the metadata of its files four times a second, after following every symlink. So it
//! sees a write in place, a rename, and the swap of the directory behind a mounted ConfigMap, on any file
//! system, and its queue can't overflow. What is to be done with a change is its caller's: there is no
//! policy in here.
//!
//! A change is told once the files have been left alone for [`SETTLE`], since whoever writes may be half-way.
//! Files that are never left alone are told every [`MOST_UNREST`] all the same, and once more when they are.

mod reading;

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

pub use self::reading::{ReadError, read, read_all};

/// How long from one look to the next, while nothing changes.
pub const LOOK: Duration = Duration::from_millis(250);

/// How long the files must have been left alone before a change is told. Longer than any file system that
/// services run on takes a moment to be: a second write within one moment leaves the same metadata.
pub const SETTLE: Duration = Duration::from_millis(100);

/// How long files that are written all the time are waited for.
pub const MOST_UNREST: Duration = Duration::from_millis(500);

/// Watches one or several files, as one: a certificate and its key change together.
#[derive(Debug)]
pub struct Watch {
    files: Arc<[PathBuf]>,
    sight: Sight,
    next_look: Instant,
    /// Nothing is told before, however often someone asks.
    rest_until: Instant,
    nudge: Nudge,
    nudges: watch::Receiver<u64>,
}

/// Why files should be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// They look different.
    Seen,
    /// Someone asked for it, whatever they look like.
    Nudged,
}

/// Makes every [`Watch`] that knows it tell at once, as SIGHUP does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Nudge(watch::Sender<u64>);

/// What a file looks like from outside. Its contents are another where any of these is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    There {
        device: u64,
        inode: u64,
        bytes: u64,
        /// Seconds and nanoseconds.
        modified_at: (i64, i64),
        /// Also when rights changed, or a modification time was set back by whoever copied the file.
        changed_at: (i64, i64),
    },
    Unseen(io::ErrorKind),
}

/// What was seen so far, and so what a look means.
#[derive(Debug, Default)]
struct Sight {
    /// What was told last, and was left alone before that.
    settled: Option<Vec<Look>>,
    last: Option<Vec<Look>>,
    /// Since when they look different from one look to the next.
    restless_since: Option<Instant>,
}

/// What a look means.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// Something is going on: look again soon.
    Unrest,
    Change,
}

impl Watch {
    /// Starts to watch. The first change is told within moments, whatever the files look like: what was read
    /// of them before may be old by now.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = PathBuf>, nudge: &Nudge) -> Self {
        let now = Instant::now();
        Self {
            files: files.into_iter().collect(),
            sight: Sight::default(),
            next_look: now,
            rest_until: now,
            nudge: nudge.clone(),
            nudges: nudge.taken_up(),
        }
    }

    /// Waits until the files should be read again. Whoever drops the waiting loses nothing: the next one
    /// tells.
    ///
    /// What is told may be the same bytes as before, and may change again while it is read. It is told
    /// again then.
    pub async fn changed(&mut self) -> Cause {
        sleep_until(self.rest_until).await;
        loop {
            tokio::select! {
                biased;
                () = self.nudge.given(&mut self.nudges) => {
                    // Whoever asks may do so in the middle of a write.
                    self.sight = Sight::default();
                    self.told(SETTLE);
                    return Cause::Nudged;
                }
                () = sleep_until(self.next_look), if !self.files.is_empty() => {}
            }
            let looks = look_at(Arc::clone(&self.files)).await;
            match self.sight.take_in(looks, Instant::now()) {
                Seen::Nothing => self.next_look = Instant::now() + LOOK,
                Seen::Unrest => self.next_look = Instant::now() + SETTLE,
                Seen::Change => {
                    self.told(LOOK);
                    return Cause::Seen;
                }
            }
        }
    }

    fn told(&mut self, next_look: Duration) {
        let now = Instant::now();
        self.next_look = now + next_look;
        self.rest_until = now + SETTLE;
    }
}

impl Nudge {
    /// One that nobody has given yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it to all that watch.
    pub fn give(&self) {
        self.0.send_modify(|given| *given = given.wrapping_add(1));
    }

    /// Whoever gave it before anybody watched, as the service started, shall not have given it in vain.
    fn taken_up(&self) -> watch::Receiver<u64> {
        let mut nudges = self.0.subscribe();
        if *nudges.borrow() > 0 {
            nudges.mark_changed();
        }
        nudges
    }

    async fn given(&self, nudges: &mut watch::Receiver<u64>) {
        let given = nudges.changed().await;
        given.expect("a watch holds a sender of its own");
    }
}

impl Sight {
    /// Takes in what the files look like now.
    fn take_in(&mut self, looks: Vec<Look>, now: Instant) -> Seen {
        let quiet = self.restless_since.is_none() && self.settled.as_ref() == Some(&looks);
        if quiet {
            return Seen::Nothing;
        }
        if self.last.as_ref() == Some(&looks) {
            self.settled = Some(looks);
            self.restless_since = None;
            return Seen::Change;
        }
        self.last = Some(looks);
        let since = *self.restless_since.get_or_insert(now);
        if now.duration_since(since) < MOST_UNREST {
            return Seen::Unrest;
        }
        // Still restless: what is told now is told once more when they are left alone.
        self.restless_since = Some(now);
        Seen::Change
    }
}

/// A disk or a network can hang, and then it is not a worker of calls that hangs with it.
async fn look_at(files: Arc<[PathBuf]>) -> Vec<Look> {
    let looked = tokio::task::spawn_blocking(move || files.iter().map(|file| look(file)).collect());
    // Only at the end of the process is it not carried out.
    looked.await.unwrap_or_default()
}

fn look(file: &Path) -> Look {
    match fs::metadata(file) {
        Ok(seen) => Look::There {
            device: seen.dev(),
            inode: seen.ino(),
            bytes: seen.len(),
            modified_at: (seen.mtime(), seen.mtime_nsec()),
            changed_at: (seen.ctime(), seen.ctime_nsec()),
        },
        Err(error) => Look::Unseen(error.kind()),
    }
}

#[cfg(test)]
mod tests;
