//! Faults of a document, with their lines.

use std::fmt::{self, Display};

/// How many faults a [summary](Faults::summary) has.
pub(super) const MAX_SHOWN: usize = 100;

/// A fault or a warning. Displays as `line: key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// From 1.
    pub line: usize,
    /// The key, with its tables: `orgs.org-acme.tier`. Empty if the fault is of no key.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

/// All faults of a document, by line. Displays as one line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.first(usize::MAX))]
pub struct Faults {
    /// The document's name: its path.
    pub file: String,
    /// At least one.
    pub faults: Vec<Diagnostic>,
}

impl Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, key, message } = self;
        let colon = if key.is_empty() { "" } else { ": " };
        write!(f, "{line}: {key}{colon}{message}")
    }
}

impl Faults {
    fn first(&self, max: usize) -> String {
        let faults = self.faults.iter().take(max);
        let lines: Vec<String> = faults.map(|it| format!("{}:{it}", self.file)).collect();
        lines.join("\n")
    }

    /// The first faults, one a line, and the number of further ones.
    pub fn summary(&self) -> String {
        let first = self.first(MAX_SHOWN);
        match self.faults.len().saturating_sub(MAX_SHOWN) {
            0 => first,
            more => format!("{first}\nand {more} more"),
        }
    }
}
