//! The overview's loop: reads organizations in turn, at a rate that costs the store little.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{LedgerError, backend::Backend, overview::Turns};
use crate::telemetry::log_limited;

/// Between two reads of the store: at most 200 organizations a second. docs/OPERATIONS.md says what they cost.
const READ_INTERVAL: Duration = Duration::from_millis(5);

/// Between two looks for an organization whose turn it is, while there is none.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);

impl Backend {
    pub(super) async fn refresh_overview(&self) {
        let mut turns = Turns::default();
        let mut next_at = Instant::now();
        loop {
            sleep_until(next_at).await;
            self.breaker.until_closed().await;
            let policy = self.policy.load_full();
            let Some(org) = self.overview.next(&mut turns, &policy) else {
                next_at = Instant::now() + IDLE_INTERVAL;
                continue;
            };
            next_at = Instant::now() + READ_INTERVAL;
            let read = self.pools_today(&org, &policy.pools).await;
            match &read {
                Ok(read) => _ = turns.stretch_as_of.get_or_insert(read.now),
                // The watcher of the store logs it.
                Err(LedgerError::Down(_)) => {}
                Err(error) => log_limited!(warn, %error, "figures of the overview can't be read"),
            }
            self.overview.record(org, &policy.pools, read.ok());
        }
    }
}
