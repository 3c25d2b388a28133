//! Reads the files of the subcommands.

use std::path::Path;

use anyhow::anyhow;

use crate::{
    client::output::counted,
    files::{read::read_once, toml::Faults},
    policy::{FILE_BYTES, Policy},
};

/// Reads a policy of any size that a service may be set to take.
pub(super) fn read_policy(file: &Path) -> anyhow::Result<Policy> {
    read_document(file, *FILE_BYTES.end(), Policy::from_bytes)
}

/// Reads and parses a file. Accepts a pipe too; the service does not, since it reads its files repeatedly.
pub(super) fn read_document<T>(
    file: &Path,
    max_bytes: u64,
    parse: impl FnOnce(&str, &[u8]) -> Result<T, Faults>,
) -> anyhow::Result<T> {
    let name = file.display().to_string();
    let bytes = read_once(file, max_bytes).map_err(|error| anyhow!("{name} {error}"))?;
    parse(&name, &bytes)
        .map_err(|faults| anyhow!("{}\n{faults}", counted(faults.faults.len(), "fault")))
}
