//! `tollgate check-callers` and `tollgate new-token`.

use std::{fs, path::Path};

use anyhow::{Context as _, anyhow};

use super::tables;
use crate::{
    auth::{Callers, TokenHash, new_token},
    client::output::{counted, print},
};

/// Prints the content of a callers file.
///
/// # Errors
///
/// The file can't be read, or has faults.
pub fn check_callers(file: &Path) -> anyhow::Result<()> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).with_context(|| format!("{name} can't be read"))?;
    let callers = Callers::parse(&name, &text)
        .map_err(|faults| anyhow!("{}\n{faults}", counted(faults.faults.len(), "fault")))?;
    print(&format!("{name} is valid\n{}", tables::callers(&callers)))
}

/// Prints a new token, and its line for the callers file.
///
/// # Errors
///
/// Standard output can't be written to.
pub fn print_new_token() -> anyhow::Result<()> {
    let token = new_token();
    let hash = TokenHash::of(token.as_bytes());
    print(&format!("{token}\ntokens = [\"{hash}\"]"))
}
