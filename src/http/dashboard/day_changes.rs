//! The changes of external usage of an organization on a day, as its page shows them.

use crate::{
    domain::{ExternalChange, OrgId, UtcDay},
    ledger::{Ledger, LedgerError, UsageDays},
};

/// The newest changes of a day.
#[derive(Debug, Default, Clone)]
pub(super) struct DayChanges {
    /// The newest first, one more than is shown: are there others?
    pub(super) newest: Vec<ExternalChange>,
    /// Whether there are others, which only the log has.
    pub(super) is_truncated: bool,
}

impl DayChanges {
    /// The changes that are shown.
    pub(super) const MAX_SHOWN: usize = 100;

    /// Reads them; none: they can't be read now.
    pub(super) async fn read(ledger: &Ledger, org: &OrgId, day: UtcDay) -> Option<Self> {
        let list = ledger.external_changes(org, UsageDays::Day(day), 1).await;
        match list {
            Ok(mut list) => {
                list.changes.truncate(Self::MAX_SHOWN + 1);
                list.changes.shrink_to_fit();
                Some(Self {
                    newest: list.changes,
                    is_truncated: !list.truncated_days.is_empty(),
                })
            }
            Err(LedgerError::UnknownOrganization | LedgerError::DayNotKept { .. }) => {
                Some(Self::default())
            }
            Err(_) => None,
        }
    }

    /// The memory that they take, in names: with its note a change takes as much as five.
    pub(super) fn names(&self) -> usize {
        5 * self.newest.len()
    }
}
