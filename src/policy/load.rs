//! From the bytes of a policy file to a policy.

use super::{Policy, schema};
use crate::files::toml::{self, Faults};

/// The largest policy file that is read, of some 250,000 organizations. Parsing takes 40 times as much memory.
pub const MAX_BYTES: u64 = 16 << 20;

/// Parses a policy file's bytes, which are taken whole or not at all; `file` names it in faults.
///
/// # Errors
///
/// Every fault in it, with line and key.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Policy, Faults> {
    toml::read(file, bytes, schema::policy)
}
