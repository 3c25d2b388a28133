//! The overview's loop: reads organizations in turn, at a rate that costs the store little.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use super::{backend::Backend, overview::Turns};
use crate::telemetry::log_limited;

/// How many organizations are read at a time: together they wake Redis once.
const READS_AT_A_TIME: usize = 10;

/// Between two such reads: at most 100 organizations a second. docs/OPERATIONS.md says what they cost.
const READ_INTERVAL: Duration = Duration::from_millis(100);

/// Between two looks for an organization whose turn it is, while there is none.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);

impl Backend {
    /// Reads organizations for ever. The circuit breaker learns of no failure: no decision depends on these reads.
    pub(super) async fn refresh_overview(&self) {
        let mut turns = Turns::default();
        let mut next_at = Instant::now();
        loop {
            sleep_until(next_at).await;
            self.breaker.until_closed().await;
            let policy = self.policy.load_full();
            let turn = self
                .overview
                .next_turn(&mut turns, &policy, READS_AT_A_TIME);
            next_at = Instant::now()
                + match turn.is_empty() {
                    true => IDLE_INTERVAL,
                    false => READ_INTERVAL,
                };
            let reads = turn.iter().map(|org| self.pools_today(org, &policy.pools));
            let reads = join_all(reads).await;
            for (org, read) in turn.into_iter().zip(reads) {
                if let Err(error) = &read {
                    log_limited!(warn, %error, "figures of the overview can't be read");
                }
                let overview = &self.overview;
                overview.record(&mut turns, org, &policy.pools, read.ok());
            }
        }
    }
}
