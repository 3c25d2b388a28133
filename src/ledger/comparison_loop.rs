//! Reads how organizations were compared with the provider last, at a rate that costs the store little.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{ComparedDay, Ledger, backend::Backend};
use crate::{
    domain::{OrgId, UtcDay},
    store::StoreError,
    telemetry::log_limited,
};

/// How many days are read, up to today: more than a comparison covers.
const DAYS: u32 = 10;

/// Between two rounds through the organizations.
const ROUND_INTERVAL: Duration = Duration::from_secs(5);

/// Between two organizations of a round.
const READ_INTERVAL: Duration = Duration::from_millis(50);

impl Ledger {
    /// The days of an organization's last comparison with the provider, in their order, as this replica has read them;
    /// none if its settings have no reconcile for the organization.
    #[must_use]
    pub fn comparisons(&self, org: &OrgId) -> Arc<[ComparedDay]> {
        self.backend.comparisons.get(org)
    }

    /// Keeps [`Ledger::comparisons`] up to date. Never ends.
    pub fn refresh_comparisons(&self) -> impl Future<Output = ()> + Send + use<> {
        let backend = Arc::clone(&self.backend);
        async move {
            loop {
                backend.read_comparisons().await;
                sleep(ROUND_INTERVAL).await;
            }
        }
    }
}

impl Backend {
    /// Reads each organization once. What can't be read stays as it was.
    async fn read_comparisons(&self) {
        for org in &self.comparisons.orgs {
            self.breaker.until_closed().await;
            match self.last_comparison(org).await {
                Ok(days) => self.comparisons.record(org, days),
                Err(error) => {
                    log_limited!(warn, %error, "comparisons with the provider can't be read");
                }
            }
            sleep(READ_INTERVAL).await;
        }
    }

    /// The days of the last comparison. Days that it left out were closed before.
    async fn last_comparison(&self, org: &OrgId) -> Result<Vec<ComparedDay>, StoreError> {
        let today = self.clock.today();
        let days: Vec<UtcDay> = (0..DAYS).rev().map(|ago| today.minus_days(ago)).collect();
        let mut compared = self.compared_days(org, days).await?;
        let last = compared.iter().map(|(_, it)| it.compared_at).max();
        compared.retain(|(_, it)| Some(it.compared_at) == last);
        Ok(compared)
    }

    /// Those of these days that were compared.
    pub(super) async fn compared_days(
        &self,
        org: &OrgId,
        days: Vec<UtcDay>,
    ) -> Result<Vec<ComparedDay>, StoreError> {
        let found = self.store.comparisons(org, &days).await?;
        let compared = days.into_iter().zip(found);
        let compared = compared.filter_map(|(day, found)| Some((day, found?)));
        Ok(compared.collect())
    }
}
