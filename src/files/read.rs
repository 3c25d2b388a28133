//! Reads a whole regular file: bounded, stable, and without blocking on pipes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
    thread,
    time::Duration,
};

use rustix::fs::{Mode, OFlags};

use super::version::Version;

/// If two reads at this interval have the same result, nobody is writing the file. A writer that pauses for longer
/// looks finished.
const RETRY_INTERVAL: Duration = Duration::from_millis(5);

const MAX_ATTEMPTS: usize = 20;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It isn't there, or may not be read, or its disk fails.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// A directory, a pipe or a device, which may have no end.
    #[error("can't be read: it is no regular file")]
    NotAFile,
    /// Larger than allowed.
    #[error("can't be read: it is larger than {}", binary_size(*.max))]
    TooLarge {
        /// In bytes.
        max: u64,
    },
    /// It changed at every attempt.
    #[error("can't be read: it is being written all the time")]
    Unstable,
}

/// In MiB, or in KiB if it is less than one.
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

/// Reads a regular file of at most `max` bytes, until two reads have the same result. Blocks.
pub(crate) fn read_file(file: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    read_version(file, max).1
}

/// As [`read_file`]. The version is that of the error, if there is one.
pub(super) fn read_version(file: &Path, max: u64) -> (Version, Result<Vec<u8>, ReadError>) {
    read_stable(|| read_regular(file, max))
}

fn read_stable(
    mut read: impl FnMut() -> Result<Vec<u8>, ReadError>,
) -> (Version, Result<Vec<u8>, ReadError>) {
    let version = |read: &Result<Vec<u8>, ReadError>| match read {
        Ok(bytes) => Version::of(bytes),
        Err(error) => Version::of(error.to_string().as_bytes()),
    };
    // Only one of them is in memory at a time.
    let mut last = version(&read());
    for _ in 1..MAX_ATTEMPTS {
        thread::sleep(RETRY_INTERVAL);
        let again = read();
        let next = version(&again);
        if next == last {
            return (next, again);
        }
        last = next;
    }
    let unstable = Err(ReadError::Unstable);
    (version(&unstable), unstable)
}

/// Reads a file of at most `max` bytes once. It may be a pipe, for which this waits.
pub(crate) fn read_once(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    read_all(file, len, max)
}

/// Reads standard input to its end: at most `max` bytes.
pub(crate) fn read_stdin(max: u64) -> Result<Vec<u8>, ReadError> {
    read_all(io::stdin().lock(), 0, max)
}

/// `len`: how many bytes there probably are. A buffer that grows would be twice as large.
fn read_all(file: impl Read, len: u64, max: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::with_capacity(usize::try_from(len.min(max) + 1).unwrap_or_default());
    let read = file.take(max + 1).read_to_end(&mut bytes)?;
    if read as u64 > max {
        return Err(ReadError::TooLarge { max });
    }
    Ok(bytes)
}

fn read_regular(path: &Path, max: u64) -> Result<Vec<u8>, ReadError> {
    // Checked before it is opened: opening a device may have effects.
    if !fs::metadata(path)?.is_file() {
        return Err(ReadError::NotAFile);
    }
    // If a pipe has replaced it meanwhile, opening that must not block.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)?);
    let opened = file.metadata()?;
    if !opened.is_file() {
        return Err(ReadError::NotAFile);
    }
    if opened.len() > max {
        return Err(ReadError::TooLarge { max });
    }
    read_all(file, opened.len(), max)
}

/// Trims a setting: a Secret that was made from a file often ends with a newline. The error does not repeat the value:
/// it may be a password.
pub(crate) fn trimmed(text: &str) -> Result<&str, String> {
    let text = text.trim();
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(format!(
            "holds a control character (U+{:04X})",
            u32::from(c)
        )),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_beyond_the_bound_is_not_read() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "12345678").expect("written");
        for read in [read_file, read_once] {
            assert_eq!(read(file.path(), 8).expect("read"), b"12345678");
            assert_eq!(read(file.path(), 7), Err(ReadError::TooLarge { max: 7 }));
        }
        assert!(read_once(Path::new("/dev/zero"), 1 << 20).is_err());
    }

    /// The result if the first attempts read these texts ("" is an error), and each later one another.
    fn attempts(first: &[&'static str]) -> Result<Vec<u8>, ReadError> {
        let mut results = first.iter().map(|text| match *text {
            "" => Err(ReadError::NotAFile),
            text => Ok(text.as_bytes().to_vec()),
        });
        let mut count = 0;
        read_stable(|| {
            count += 1;
            results.next().unwrap_or_else(|| Ok(vec![count]))
        })
        .1
    }

    #[test]
    fn a_file_is_read_until_two_attempts_have_the_same_result() {
        assert_eq!(attempts(&["a", "a"]), Ok(b"a".to_vec()));
        assert_eq!(
            attempts(&["a", "ab", "", "abc", "abc"]),
            Ok(b"abc".to_vec())
        );
        assert_eq!(attempts(&["a", "", ""]), Err(ReadError::NotAFile));
        assert_eq!(attempts(&["a", "b", "a", "b"]), Err(ReadError::Unstable));
    }

    #[test]
    fn a_value_is_trimmed_and_a_control_character_within_it_is_named_without_the_value() {
        assert_eq!(trimmed("\r\n a b\t\n"), Ok("a b"));
        assert_eq!(trimmed(" \n"), Ok(""));
        for (text, name) in [
            ("pass\nword", "U+000A"),
            ("pass\0", "U+0000"),
            ("pass\u{85}word", "U+0085"),
        ] {
            let fault = format!("holds a control character ({name})");
            assert_eq!(trimmed(text), Err(fault));
        }
    }
}
