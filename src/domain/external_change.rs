//! Changes of external usage, as administrators read them later (docs/CONTRACT.md, "External usage").

use chrono::{DateTime, Utc};

use super::{ids::PoolName, pool::ExternalSource, tokens::Tokens};

/// A change of the external usage of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalChange {
    /// When, by the store's clock, in whole microseconds.
    pub at: DateTime<Utc>,
    /// The pool.
    pub pool: PoolName,
    /// Which of the two figures was set.
    pub source: ExternalSource,
    /// The figure that was replaced; none: the outcome of the change is unknown.
    pub before: Option<Tokens>,
    /// The figure that was set.
    pub after: Tokens,
    /// Who set it; none if nobody is known, without a callers file.
    pub caller: Option<String>,
    /// Why; may be empty.
    pub note: String,
}

/// The changes of an organization on a day.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExternalChanges {
    /// Those that are kept, in the order in which the store got them.
    pub kept: Vec<ExternalChange>,
    /// Whether there were more, which only the log has.
    pub is_truncated: bool,
}

impl ExternalChanges {
    /// How many changes of an organization on a day are kept: the first ones.
    pub const MAX: usize = 1_000;

    /// Keeps a change, unless there are as many as are kept.
    pub fn add(&mut self, change: ExternalChange) {
        match self.kept.len() < Self::MAX {
            true => self.kept.push(change),
            false => self.is_truncated = true,
        }
    }
}
