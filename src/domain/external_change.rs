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
    /// Those that are kept; of each source in the order in which the store got them.
    pub kept: Vec<ExternalChange>,
    /// Whether there are others, which only the log has: there were more than are kept, or one can't be read.
    pub is_truncated: bool,
}

impl ExternalChanges {
    /// How many changes of an organization on a day are kept of each source: the first ones. So what the background
    /// reconcile sets at its polls never displaces what people set.
    pub const MAX: usize = 1_000;

    /// Keeps a change, unless there are as many of its source as are kept.
    pub fn add(&mut self, change: ExternalChange) {
        let same = |kept: &&ExternalChange| kept.source == change.source;
        match self.kept.iter().filter(same).count() < Self::MAX {
            true => self.kept.push(change),
            false => self.is_truncated = true,
        }
    }

    /// Adds a change that a store has kept; none: it can't be read.
    pub fn add_kept(&mut self, change: Option<ExternalChange>) {
        self.is_truncated |= change.is_none();
        self.kept.extend(change);
    }
}
