//! From a policy's file to a policy that is taken, or to why it is refused.

use std::{fmt, path::Path, str, sync::Arc};

use super::{BUILTIN_TEXT, Policy};
use crate::files::{
    read::{ReadError, read_file},
    toml::{Fault, Faults},
};

/// The largest policy file that is read: of some 250,000 organizations. It takes 40 times as much memory meanwhile.
pub const MAX_BYTES: u64 = 16 << 20;

/// How many faults of a file are told.
const MAX_SHOWN: usize = 100;

/// A policy, and which text it was read from.
#[derive(Debug, Clone)]
pub struct LoadedPolicy {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Of its text.
    pub version: Version,
}

/// Which text a policy was read from: its SHA-256. Displays as its first 12 hexadecimal digits, as
/// `sha256sum` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version([u8; 32]);

/// Why a policy file is refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It can't be read.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// It has faults.
    #[error("is refused: {}", told(.0))]
    Faulty(Faults),
    /// The reader failed. That is a defect, and the policy in force stays all the same.
    #[error("is refused: the reader failed: {0}")]
    Defect(String),
}

impl LoadedPolicy {
    /// The built-in policy.
    #[must_use]
    pub fn builtin() -> Self {
        Self {
            policy: Arc::new(Policy::builtin()),
            version: Version::of(BUILTIN_TEXT.as_bytes()),
        }
    }

    /// Reads a policy file. Blocks.
    ///
    /// # Errors
    ///
    /// It can't be read, is no regular file, is larger than [`MAX_BYTES`], or has faults.
    pub fn read(file: &Path) -> Result<Self, LoadError> {
        let bytes = read_file(file, MAX_BYTES)?;
        Ok(Self {
            policy: Arc::new(parse(&file.display().to_string(), &bytes)?),
            version: Version::of(&bytes),
        })
    }
}

impl Version {
    const SHOWN_BYTES: usize = 6;

    /// Of a policy's text.
    #[must_use]
    pub fn of(text: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, text);
        let digest = digest.as_ref().try_into();
        Self(digest.expect("a SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0[..Self::SHOWN_BYTES].iter();
        shown.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Reads a policy file's bytes; `file` names it in faults.
///
/// # Errors
///
/// Every fault in it. What is no UTF-8 is one.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Policy, LoadError> {
    let text = str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        LoadError::Faulty(Faults {
            file: file.to_owned(),
            faults: vec![Fault {
                line,
                key: String::new(),
                message: "is not UTF-8".to_owned(),
            }],
        })
    })?;
    Policy::parse(file, text).map_err(LoadError::Faulty)
}

/// The faults, one a line, and of very many the first.
pub(super) fn told(faults: &Faults) -> String {
    let all = faults.faults.len();
    let first = Faults {
        file: faults.file.clone(),
        faults: faults.faults.iter().take(MAX_SHOWN).cloned().collect(),
    };
    match all.saturating_sub(MAX_SHOWN) {
        0 => first.to_string(),
        more => format!("{first}\nand {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_how_the_sha_256_of_the_text_begins() {
        assert_eq!(Version::of(b"abc").to_string(), "ba7816bf8f01");
        assert_eq!(
            LoadedPolicy::builtin().version,
            Version::of(BUILTIN_TEXT.as_bytes())
        );
    }

    #[test]
    fn a_text_that_is_no_utf_8_is_refused_with_its_line() {
        let error = parse("p.toml", b"a = 1\n\n\xff\n").expect_err("refused");
        assert_eq!(error.to_string(), "is refused: p.toml:3: is not UTF-8");
    }

    #[test]
    fn of_very_many_faults_the_first_are_told_and_all_are_counted() {
        let text: String = (0..1_000).map(|at| format!("key{at} = 1\n")).collect();
        let error = parse("p.toml", text.as_bytes()).expect_err("refused");
        let told = error.to_string();
        // Besides the unknown keys, `pools` and `tiers` are missing, on the first line.
        assert_eq!(told.lines().count(), MAX_SHOWN + 1);
        assert!(told.ends_with("\nand 902 more"), "{told}");
    }
}
