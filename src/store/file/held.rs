//! The file as the database sees it. While it is being opened, what the database would write is held back:
//! a file that is then refused is left untouched byte for byte.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use redb::StorageBackend;

/// A file, and what is held back from it.
#[derive(Debug, Clone)]
pub(super) struct HeldFile {
    file: Arc<File>,
    state: Arc<RwLock<State>>,
}

#[derive(Debug)]
enum State {
    /// What is to be done, in this order.
    Held(Vec<Change>),
    /// Everything goes straight to the file.
    Free,
    /// A change failed. None is made any more: it could rely on the one that failed.
    Failed,
}

#[derive(Debug)]
enum Change {
    Write { at: u64, bytes: Vec<u8> },
    Resize(u64),
    Sync,
}

impl HeldFile {
    /// Holds everything back.
    pub(super) fn new(file: Arc<File>) -> Self {
        Self {
            file,
            state: Arc::new(RwLock::new(State::Held(Vec::new()))),
        }
    }

    /// Does what was held back, and holds back nothing more.
    ///
    /// # Errors
    ///
    /// The file can't be written. What was done is the beginning of it, as after a crash.
    pub(super) fn let_go(&self) -> io::Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Held(changes) = std::mem::replace(&mut *state, State::Failed) {
            for change in changes {
                match change {
                    Change::Write { at, bytes } => self.file.write_all_at(&bytes, at)?,
                    Change::Resize(length) => self.file.set_len(length)?,
                    Change::Sync => self.file.sync_data()?,
                }
            }
            *state = State::Free;
        }
        Ok(())
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change at once, or holds it back.
    fn change(
        &self,
        change: impl FnOnce() -> Change,
        make: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let is_free = matches!(*self.state(), State::Free);
        if is_free {
            let made = make(&self.file);
            if made.is_err() {
                *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Failed;
            }
            return made;
        }
        match &mut *self.state.write().unwrap_or_else(PoisonError::into_inner) {
            State::Held(changes) => {
                changes.push(change());
                Ok(())
            }
            // It is let go by the one who opens the file, when nothing else is under way.
            State::Free => make(&self.file),
            State::Failed => Err(io::Error::other("a write failed before")),
        }
    }

    fn length(&self, held: &[Change]) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        Ok(held.iter().fold(length, |length, change| match change {
            Change::Write { at, bytes } => length.max(at + bytes.len() as u64),
            Change::Resize(length) => *length,
            Change::Sync => length,
        }))
    }

    /// What the file would hold here, had everything been done.
    fn read_through(&self, held: &[Change], from: u64, out: &mut [u8]) -> io::Result<()> {
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
                Change::Write { at, bytes } => overlay(out, from, bytes, *at),
                Change::Resize(length) => {
                    let kept = length.saturating_sub(from);
                    let kept = out.len().min(usize::try_from(kept).unwrap_or(usize::MAX));
                    out[kept..].fill(0);
                }
                Change::Sync => {}
            }
        }
        Ok(())
    }
}

/// Puts the part of `bytes`, which stand at `at`, into what stands from `from` on.
fn overlay(out: &mut [u8], from: u64, bytes: &[u8], at: u64) {
    let first = at.max(from);
    let end = (at + bytes.len() as u64).min(from + out.len() as u64);
    if first < end {
        let place = |base: u64| (first - base) as usize..(end - base) as usize;
        out[place(from)].copy_from_slice(&bytes[place(at)]);
    }
}

impl StorageBackend for HeldFile {
    fn len(&self) -> io::Result<u64> {
        match &*self.state() {
            State::Held(held) => self.length(held),
            State::Free | State::Failed => self.length(&[]),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.state() {
            State::Held(held) if !held.is_empty() => self.read_through(held, offset, out),
            _ => self.file.read_exact_at(out, offset),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|| Change::Resize(len), |file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|| Change::Sync, File::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let held = || Change::Write {
            at: offset,
            bytes: data.to_vec(),
        };
        self.change(held, |file| file.write_all_at(data, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &HeldFile, from: u64, length: usize) -> Vec<u8> {
        let mut out = vec![9; length];
        file.read(from, &mut out).expect("it is there");
        out
    }

    #[test]
    fn what_is_held_back_is_read_and_the_file_is_as_it_was_until_it_is_let_go() {
        let on_disk = tempfile::tempfile().expect("a file");
        on_disk.write_all_at(b"abcdef", 0).expect("written");
        let on_disk = Arc::new(on_disk);
        let file = HeldFile::new(Arc::clone(&on_disk));
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
        file.let_go().expect("written");
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
        let file = HeldFile::new(read_only());
        file.write(0, b"x").expect("held");
        assert!(file.let_go().is_err());
        for _ in 0..2 {
            assert!(file.write(0, b"x").is_err() && file.sync_data().is_err());
        }
        let file = HeldFile::new(read_only());
        file.let_go().expect("there is nothing to do");
        file.sync_data().expect("what is only read can be synced");
        assert!(file.write(0, b"x").is_err());
        assert!(file.sync_data().is_err() && file.set_len(0).is_err());
        assert_eq!(read(&file, 0, 3), b"abc");
    }
}
