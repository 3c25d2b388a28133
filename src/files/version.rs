//! The version of a text, by which logs and probes name it.

use std::fmt;

use ring::digest::{SHA256, digest};

/// The SHA-256 of the contents. Displays as the first 12 digits of `sha256sum`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version([u8; 32]);

impl Version {
    const SHOWN_BYTES: usize = 6;

    /// The version of one file's bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest(&SHA256, bytes);
        let digest = digest.as_ref().try_into();
        Self(digest.expect("a SHA-256 has 32 bytes"))
    }

    /// The version of several files together.
    pub(super) fn of_all(versions: &[Self]) -> Self {
        match versions {
            [single] => *single,
            all => Self::of(all.iter().map(|it| it.0).collect::<Vec<_>>().as_flattened()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0[..Self::SHOWN_BYTES].iter();
        shown.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_beginning_of_the_sha_256_of_the_text() {
        assert_eq!(Version::of(b"abc").to_string(), "ba7816bf8f01");
    }
}
