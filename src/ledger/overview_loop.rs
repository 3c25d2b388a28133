//! The overview's loop: reads organizations in turn, at a rate that costs the store little.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use super::{backend::Backend, overview::Turns};
use crate::telemetry::log_limited;

/// How many organizations are read at a time: together they wake Redis once.
const READS_AT_A_TIME: usize = 10;

/// The longest and the shortest time between two such reads: 100 to 1,000 organizations a second. docs/OPERATIONS.md says
/// what they cost.
const MAX_READ_INTERVAL: Duration = Duration::from_millis(100);
const MIN_READ_INTERVAL: Duration = Duration::from_millis(10);

/// The time in which as many reads are made as the policy has organizations. A notice that another replica has not
/// delivered is found in twice this time.
const ROUND: Duration = Duration::from_secs(20);

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
                    false => read_interval(policy.orgs.len()),
                };
            let reads = turn.iter().map(|org| self.pools_today(org, &policy.pools));
            let reads = join_all(reads).await;
            for (org, read) in turn.into_iter().zip(reads) {
                match &read {
                    Ok(read) => self.notice_unconfirmed(&policy, &org, read),
                    Err(error) => {
                        log_limited!(warn, %error, "figures of the overview can't be read");
                    }
                }
                let overview = &self.overview;
                overview.record(&mut turns, org, &policy.pools, read.ok());
            }
        }
    }
}

/// The time between two reads, with this many organizations.
fn read_interval(organizations: usize) -> Duration {
    let reads = organizations.div_ceil(READS_AT_A_TIME).max(1);
    let interval = ROUND / u32::try_from(reads).unwrap_or(u32::MAX);
    interval.clamp(MIN_READ_INTERVAL, MAX_READ_INTERVAL)
}
