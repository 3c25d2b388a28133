//! Reads a file whole, and never half of what someone is writing; bounded, and without waiting for anybody.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    thread,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};

/// What is read twice, with so long between, and is the same, nobody was writing: or pauses in the middle, and
/// that can't be told from an end.
const BETWEEN: Duration = Duration::from_millis(5);

/// How often what is being written is tried, before it is left for another time.
const MOST_READINGS: usize = 20;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It isn't there, or may not be read, or its disk fails.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// A directory, a pipe or a device: its end may never come.
    #[error("can't be read: it is no regular file")]
    NotAFile,
    /// It was not read further.
    #[error("can't be read: it is larger than {}", binary_size(*.most))]
    TooLarge {
        /// How many bytes it may have.
        most: u64,
    },
    /// It was another one with every reading.
    #[error("can't be read: it is being written all the time")]
    Restless,
}

/// In MiB, or in KiB where it is less than one.
fn binary_size(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

impl PartialEq for ReadError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

/// Reads a regular file of at most `most` bytes, once it is the same twice. Blocks for some milliseconds, and
/// longer only where the disk does.
///
/// # Errors
///
/// It can't be read, is no regular file, is too large, or is never the same twice.
pub fn read(file: &Path, most: u64) -> Result<Vec<u8>, ReadError> {
    same_twice(|| read_once(file, most))
}

/// What is the same in two readings, one after the other.
pub(super) fn same_twice(
    mut read: impl FnMut() -> Result<Vec<u8>, ReadError>,
) -> Result<Vec<u8>, ReadError> {
    let mut last = read();
    for _ in 1..MOST_READINGS {
        thread::sleep(BETWEEN);
        let again = read();
        if again == last {
            return again;
        }
        last = again;
    }
    Err(ReadError::Restless)
}

/// Reads anything to its end, which must come within `most` bytes.
///
/// # Errors
///
/// It can't be read, or is too large.
pub fn read_all(from: impl Read, most: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let read = from.take(most + 1).read_to_end(&mut bytes)?;
    if read as u64 > most {
        return Err(ReadError::TooLarge { most });
    }
    Ok(bytes)
}

fn read_once(path: &Path, most: u64) -> Result<Vec<u8>, ReadError> {
    // Before it is opened, since opening a device may do something.
    if !fs::metadata(path)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    // A pipe that took its place in between is opened without waiting for whoever writes to it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    let opened = file.metadata()?;
    if !opened.is_file() {
        return Err(ReadError::NotAFile);
    }
    if opened.len() > most {
        return Err(ReadError::TooLarge { most });
    }
    read_all(file, most)
}
