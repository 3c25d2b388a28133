//! What the pages need.

use std::sync::Arc;

use tokio::time::Instant;

use super::history::UsageHistory;
use crate::{auth::Authenticator, http::HttpState, ledger::Ledger};

/// What the pages show.
#[derive(Clone)]
pub(super) struct Dashboard {
    pub(super) http: HttpState,
    pub(super) history: Arc<UsageHistory>,
}

impl AsRef<Authenticator> for Dashboard {
    fn as_ref(&self) -> &Authenticator {
        &self.http.authenticator
    }
}

impl Dashboard {
    /// The ledger with the deadline of a call that begins now.
    pub(super) fn ledger(&self) -> Ledger {
        let deadline = Instant::now() + self.http.call_timeout;
        self.http.ledger.with_deadline(deadline)
    }
}
