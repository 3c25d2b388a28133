//! The file as the database sees it. Writes are deferred while the database opens, so that a file that is
//! refused stays unchanged byte for byte.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use redb::StorageBackend;

/// A file whose writes can be deferred. After one that failed, redb makes no more (`PreviousIo`): a later one may depend
/// on it.
#[derive(Debug, Clone)]
pub(super) struct DeferredFile {
    file: Arc<File>,
    /// The changes to apply later, in order. `None` once they were applied, and later ones go to the file.
    deferred: Arc<RwLock<Option<Vec<FileChange>>>>,
}

#[derive(Debug)]
enum FileChange {
    Write { at: u64, bytes: Vec<u8> },
    Resize(u64),
    Sync,
}

impl DeferredFile {
    /// Defers all writes.
    pub(super) fn new(file: Arc<File>) -> Self {
        let deferred = Arc::new(RwLock::new(Some(Vec::new())));
        Self { file, deferred }
    }

    /// Applies the deferred writes, and defers no more.
    ///
    /// # Errors
    ///
    /// The file can't be written. A prefix of the writes was applied, as after a crash. No later write is.
    pub(super) fn apply(&self) -> io::Result<()> {
        let mut deferred = self.write_lock();
        for change in deferred.iter().flatten() {
            match change {
                FileChange::Write { at, bytes } => self.file.write_all_at(bytes, *at)?,
                FileChange::Resize(length) => self.file.set_len(*length)?,
                FileChange::Sync => self.file.sync_data()?,
            }
        }
        *deferred = None;
        Ok(())
    }

    fn read_lock(&self) -> RwLockReadGuard<'_, Option<Vec<FileChange>>> {
        self.deferred.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lock(&self) -> RwLockWriteGuard<'_, Option<Vec<FileChange>>> {
        let lock = self.deferred.write();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    /// Defers a change. Returns whether changes are deferred at all.
    fn defer(&self, change: impl FnOnce() -> FileChange) -> bool {
        let mut deferred = self.write_lock();
        let deferred = deferred.as_mut();
        deferred.map(|changes| changes.push(change())).is_some()
    }

    fn length(&self, deferred: &[FileChange]) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        let changes = deferred.iter();
        Ok(changes.fold(length, |length, change| match change {
            FileChange::Write { at, bytes } => length.max(at + bytes.len() as u64),
            FileChange::Resize(length) => *length,
            FileChange::Sync => length,
        }))
    }

    /// Reads the file as if all deferred writes were applied.
    fn read_through(&self, deferred: &[FileChange], from: u64, out: &mut [u8]) -> io::Result<()> {
        let end = from + out.len() as u64;
        if end > self.length(deferred)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The part of `out` that lies between two offsets of the file.
        let range = |first: u64, last: u64| {
            let place = |at: u64| (at.clamp(from, end) - from) as usize;
            place(first)..place(last)
        };
        let in_file = range(from, self.file.metadata()?.len());
        out.fill(0);
        self.file.read_exact_at(&mut out[in_file], from)?;
        for change in deferred {
            match change {
                FileChange::Write { at, bytes } => {
                    let part = range(*at, at + bytes.len() as u64);
                    let before = (from.saturating_sub(*at) as usize).min(bytes.len());
                    let length = part.len();
                    out[part].copy_from_slice(&bytes[before..][..length]);
                }
                FileChange::Resize(length) => out[range(*length, end)].fill(0),
                FileChange::Sync => {}
            }
        }
        Ok(())
    }
}

impl StorageBackend for DeferredFile {
    fn len(&self) -> io::Result<u64> {
        self.length(self.read_lock().as_deref().unwrap_or_default())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.read_lock().as_deref() {
            Some(deferred) => self.read_through(deferred, offset, out),
            None => self.file.read_exact_at(out, offset),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        match self.defer(|| FileChange::Resize(len)) {
            true => Ok(()),
            false => self.file.set_len(len),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.defer(|| FileChange::Sync) {
            true => Ok(()),
            false => self.file.sync_data(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let change = || FileChange::Write {
            at: offset,
            bytes: data.to_vec(),
        };
        match self.defer(change) {
            true => Ok(()),
            false => self.file.write_all_at(data, offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &DeferredFile, from: u64, length: usize) -> Vec<u8> {
        let mut out = vec![9; length];
        file.read(from, &mut out).expect("it is there");
        out
    }

    #[test]
    fn what_is_deferred_is_read_and_the_file_is_as_it_was_until_it_is_applied() {
        let on_disk = tempfile::tempfile().expect("a file");
        on_disk.write_all_at(b"abcdef", 0).expect("written");
        let on_disk = Arc::new(on_disk);
        let file = DeferredFile::new(Arc::clone(&on_disk));
        file.write(1, b"XY").expect("deferred");
        file.set_len(4).expect("deferred");
        file.set_len(8).expect("deferred");
        file.write(6, b"Z").expect("deferred");
        file.sync_data().expect("deferred");
        let wanted = b"aXYd\0\0Z\0";
        assert_eq!(file.len().expect("a length"), 8);
        assert_eq!(read(&file, 0, 8), wanted);
        assert_eq!(read(&file, 2, 5), wanted[2..7]);
        assert!(file.read(5, &mut [0; 4]).is_err());
        assert_eq!(on_disk.metadata().expect("there").len(), 6);
        file.apply().expect("written");
        file.write(7, b"!").expect("written");
        assert_eq!(read(&file, 0, 8), b"aXYd\0\0Z!");
        assert_eq!(on_disk.metadata().expect("there").len(), 8);
    }
}
