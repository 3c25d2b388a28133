//! How a ledger is put together.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Inner, Ledger, OnStoreFailure, breaker::Outage, clock::StoreClock, queue::Queue};
use crate::{policy::Policy, store::Store, telemetry::metrics::Metrics};

impl Ledger {
    /// How many decisions may wait for the store, unless it is said. With the longest names that there are,
    /// they take some 40 MB.
    pub const MOST_WAITING: usize = 32 * 1024;

    /// Puts policy and store together.
    #[must_use]
    pub fn new(
        policy: Arc<Policy>,
        store: Arc<dyn Store>,
        on_store_failure: OnStoreFailure,
        usage_retention_days: u32,
    ) -> Self {
        let metrics = Metrics::new();
        metrics.know_pools(policy.pools());
        let inner = Inner {
            queue: Queue::new(Arc::clone(&store), metrics.clone(), Self::MOST_WAITING),
            store,
            policy: ArcSwap::new(policy),
            on_store_failure,
            usage_retention_days,
            clock: StoreClock::default(),
            outage: Outage::new(),
            metrics,
        };
        Self {
            inner: Arc::new(inner),
            answers_by: None,
        }
    }

    /// The same ledger, which counts in `metrics` what it does.
    ///
    /// # Panics
    ///
    /// It has been cloned: this is for one that was just made.
    #[must_use]
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        let most_waiting = self.inner.queue.most_waiting();
        metrics.know_pools(self.inner.policy.load().pools());
        self.with_queue(metrics, most_waiting)
    }

    /// The same ledger, where only so many decisions may wait for the store.
    ///
    /// # Panics
    ///
    /// It has been cloned: this is for one that was just made.
    #[must_use]
    pub fn with_most_waiting(self, most_waiting: usize) -> Self {
        let metrics = self.inner.metrics.clone();
        self.with_queue(metrics, most_waiting)
    }

    fn with_queue(self, metrics: Metrics, most_waiting: usize) -> Self {
        let inner = Arc::into_inner(self.inner).expect("one that was just made is not shared");
        let inner = Inner {
            queue: Queue::new(Arc::clone(&inner.store), metrics.clone(), most_waiting),
            metrics,
            ..inner
        };
        Self {
            inner: Arc::new(inner),
            answers_by: self.answers_by,
        }
    }
}
