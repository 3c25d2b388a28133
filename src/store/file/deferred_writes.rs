//! The file as the database sees it. Writes are deferred while the database opens, so that a file that is
//! refused stays unchanged byte for byte.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use redb::StorageBackend;

/// A file whose writes can be deferred.
#[derive(Debug, Clone)]
pub(super) struct DeferredFile {
    file: Arc<File>,
    mode: Arc<RwLock<WriteMode>>,
}

#[derive(Debug)]
enum WriteMode {
    /// Writes to apply later, in order.
    Deferred(Vec<FileChange>),
    /// Writes go to the file.
    Direct,
    /// A write failed. Later ones are refused, since they may depend on it.
    Failed,
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
        Self {
            file,
            mode: Arc::new(RwLock::new(WriteMode::Deferred(Vec::new()))),
        }
    }

    /// Applies the deferred writes, and defers no more.
    ///
    /// # Errors
    ///
    /// The file can't be written. A prefix of the writes was applied, as after a crash.
    pub(super) fn apply(&self) -> io::Result<()> {
        let mut mode = self.mode.write().unwrap_or_else(PoisonError::into_inner);
        if let WriteMode::Deferred(changes) = std::mem::replace(&mut *mode, WriteMode::Failed) {
            for change in changes {
                match change {
                    FileChange::Write { at, bytes } => self.file.write_all_at(&bytes, at)?,
                    FileChange::Resize(length) => self.file.set_len(length)?,
                    FileChange::Sync => self.file.sync_data()?,
                }
            }
            *mode = WriteMode::Direct;
        }
        Ok(())
    }

    fn mode(&self) -> RwLockReadGuard<'_, WriteMode> {
        self.mode.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a change now, or defers it.
    fn change(
        &self,
        change: impl FnOnce() -> FileChange,
        make: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let is_free = matches!(*self.mode(), WriteMode::Direct);
        if is_free {
            let made = make(&self.file);
            if made.is_err() {
                *self.mode.write().unwrap_or_else(PoisonError::into_inner) = WriteMode::Failed;
            }
            return made;
        }
        match &mut *self.mode.write().unwrap_or_else(PoisonError::into_inner) {
            WriteMode::Deferred(changes) => {
                changes.push(change());
                Ok(())
            }
            // Applied by the thread that opens the file, while no other uses it.
            WriteMode::Direct => make(&self.file),
            WriteMode::Failed => Err(io::Error::other("a write failed before")),
        }
    }

    fn length(&self, held: &[FileChange]) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        Ok(held.iter().fold(length, |length, change| match change {
            FileChange::Write { at, bytes } => length.max(at + bytes.len() as u64),
            FileChange::Resize(length) => *length,
            FileChange::Sync => length,
        }))
    }

    /// Reads the file as if all deferred writes were applied.
    fn read_through(&self, held: &[FileChange], from: u64, out: &mut [u8]) -> io::Result<()> {
        if from + out.len() as u64 > self.length(held)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.fill(0);
        let in_file = self.file.metadata()?.len().saturating_sub(from);
        let in_file = out
            .len()
            .min(usize::try_from(in_file).unwrap_or(usize::MAX));
        self.file.read_exact_at(&mut out[..in_file], from)?;
        for change in held {
            match change {
                FileChange::Write { at, bytes } => overlay(out, from, bytes, *at),
                FileChange::Resize(length) => {
                    let kept = length.saturating_sub(from);
                    let kept = out.len().min(usize::try_from(kept).unwrap_or(usize::MAX));
                    out[kept..].fill(0);
                }
                FileChange::Sync => {}
            }
        }
        Ok(())
    }
}

/// Copies the part of `bytes` (at offset `at`) that overlaps `out` (at offset `from`).
fn overlay(out: &mut [u8], from: u64, bytes: &[u8], at: u64) {
    let first = at.max(from);
    let end = (at + bytes.len() as u64).min(from + out.len() as u64);
    if first < end {
        let place = |base: u64| (first - base) as usize..(end - base) as usize;
        out[place(from)].copy_from_slice(&bytes[place(at)]);
    }
}

impl StorageBackend for DeferredFile {
    fn len(&self) -> io::Result<u64> {
        match &*self.mode() {
            WriteMode::Deferred(held) => self.length(held),
            WriteMode::Direct | WriteMode::Failed => self.length(&[]),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.mode() {
            WriteMode::Deferred(held) if !held.is_empty() => self.read_through(held, offset, out),
            _ => self.file.read_exact_at(out, offset),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|| FileChange::Resize(len), |file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|| FileChange::Sync, File::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let held = || FileChange::Write {
            at: offset,
            bytes: data.to_vec(),
        };
        self.change(held, |file| file.write_all_at(data, offset))
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
    fn what_is_held_back_is_read_and_the_file_is_as_it_was_until_it_is_let_go() {
        let on_disk = tempfile::tempfile().expect("a file");
        on_disk.write_all_at(b"abcdef", 0).expect("written");
        let on_disk = Arc::new(on_disk);
        let file = DeferredFile::new(Arc::clone(&on_disk));
        file.write(1, b"XY").expect("held");
        file.set_len(4).expect("held");
        file.set_len(8).expect("held");
        file.write(6, b"Z").expect("held");
        file.sync_data().expect("held");
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

    #[test]
    fn after_a_change_that_failed_none_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "abc").expect("written");
        let read_only = || Arc::new(File::open(&path).expect("a file"));
        let file = DeferredFile::new(read_only());
        file.write(0, b"x").expect("held");
        assert!(file.apply().is_err());
        for _ in 0..2 {
            assert!(file.write(0, b"x").is_err() && file.sync_data().is_err());
        }
        let file = DeferredFile::new(read_only());
        file.apply().expect("there is nothing to do");
        file.sync_data().expect("what is only read can be synced");
        assert!(file.write(0, b"x").is_err());
        assert!(file.sync_data().is_err() && file.set_len(0).is_err());
        assert_eq!(read(&file, 0, 3), b"abc");
    }
}
