//! The use cases that gRPC and HTTP call: reserve, settle, release, and the queries.
//!
//! A request waits in the [`queue`] until its batch is formed, is assessed then, and decided by the store
//! ([`backend`]). The store's clock decides the day. The ledger predicts it from the store's last reply; after a
//! wrong prediction it assesses and decides the batch again.

mod api;
mod assess;
mod backend;
mod breaker;
mod comparison_loop;
mod comparisons;
mod decision_log;
mod error;
mod external_changes;
mod fullness;
mod gauges;
mod notices;
mod organizations;
mod overview;
mod overview_loop;
mod probe_loop;
mod queries;
mod queue;
mod usage_rows;

use std::sync::Arc;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use tokio::{sync::watch, time::Instant};

use self::{
    api::Request,
    backend::{Backend, StoreClock},
    breaker::{Access, CircuitBreaker},
    comparisons::KnownComparisons,
    decision_log::ReserveRecord,
    overview::Overview,
    probe_loop::WatchGuard,
    queue::Queue,
};
pub use self::{
    api::{
        ExternalChangeList, ExternalUsageSet, Notice, NoticeOrigin, NoticeSink,
        OrganizationFigures, OrganizationList, OrganizationOrder, OrganizationPage, PagePosition,
        Quota, Released, Reserve, Reserved, SetExternalUsage, Settle, Settled, Usage, UsageDays,
        UsagePage, UsagePosition, UsageRow,
    },
    breaker::{Outage, StoreState},
    comparisons::ComparedDay,
    error::LedgerError,
    fullness::Fullness,
    gauges::GaugedOrganizations,
};
use crate::{
    domain::{BilledReason, OrgId, RequestId, Verdict},
    policy::Policy,
    store::{Operation, Outcome, Store, StoreError, Timestamped, UsageLimits},
    telemetry::{log_limited, metrics::Metrics, traces},
};

/// Decides and counts requests. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    backend: Arc<Backend>,
    queue: Arc<Queue>,
    on_store_failure: OnStoreFailure,
    usage_retention_days: u32,
    /// When its requests must have their answers; none: they wait as long as the store takes.
    deadline: Option<Instant>,
}

/// The parts and the limits of a [`Ledger`].
pub struct LedgerConfig {
    /// The policy of the first batch.
    pub policy: Arc<Policy>,
    /// Keeps the counters.
    pub store: Arc<dyn Store>,
    /// What a Reserve answers during an outage of the store.
    pub on_store_failure: OnStoreFailure,
    /// How many days of usage can be listed.
    pub usage_retention_days: u32,
    /// How many requests may wait for the store.
    pub max_waiting: usize,
    /// The organizations that the background reconcile compares, at this replica or at another one.
    pub reconciled: Vec<OrgId>,
    /// Where it counts decisions, calls and failures.
    pub metrics: Metrics,
    /// Takes the notices of pools that have reached a threshold.
    pub notices: Option<NoticeSink>,
}

/// What a Reserve answers during an outage of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnStoreFailure {
    /// An error: the outcome is unknown.
    Error,
    /// BILLED `STORE_UNAVAILABLE`, never FREE.
    Billed,
}

impl LedgerConfig {
    /// The defaults.
    #[must_use]
    pub fn new(policy: Arc<Policy>, store: Arc<dyn Store>) -> Self {
        Self {
            policy,
            store,
            on_store_failure: OnStoreFailure::Error,
            usage_retention_days: UsageLimits::default().retention_days,
            max_waiting: Ledger::MAX_WAITING,
            reconciled: Vec::new(),
            metrics: Metrics::default(),
            notices: None,
        }
    }
}

impl Ledger {
    /// How many requests may wait for the store by default. With the longest legal names they take some 40 MB.
    pub const MAX_WAITING: usize = 32 * 1024;

    /// A ledger whose requests have no deadline.
    #[must_use]
    pub fn new(config: LedgerConfig) -> Self {
        config.metrics.add_pools(&config.policy.pools);
        let backend = Arc::new(Backend {
            store: config.store,
            policy: ArcSwap::new(config.policy),
            clock: StoreClock::default(),
            breaker: CircuitBreaker::new(),
            overview: Overview::default(),
            comparisons: KnownComparisons::of(config.reconciled),
            metrics: config.metrics,
            notices: config.notices,
        });
        Self {
            queue: Arc::new(Queue::new(Arc::clone(&backend), config.max_waiting)),
            backend,
            on_store_failure: config.on_store_failure,
            usage_retention_days: config.usage_retention_days,
            deadline: None,
        }
    }

    /// The same ledger with a deadline for its requests, after which they fail. A request that was not sent by then is
    /// never sent; a write that was sent is completed.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        Self {
            deadline: Some(deadline),
            ..self.clone()
        }
    }

    /// Replaces the policy, from the next batch on.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        self.backend.metrics.add_pools(&policy.pools);
        self.backend.policy.store(policy);
    }

    /// The policy of the next batch.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.backend.policy.load_full()
    }

    /// The store's time, as far as its last reply shows.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.backend.clock.now()
    }

    /// How many days of usage are kept, beside today.
    #[must_use]
    pub fn usage_retention_days(&self) -> u32 {
        self.usage_retention_days
    }

    /// Decides whether a request is free, and counts it.
    ///
    /// # Errors
    ///
    /// The request id was used with other fields, or the store failed.
    pub async fn reserve(&self, request: Reserve) -> Result<Reserved, LedgerError> {
        let record = ReserveRecord::of(&request);
        let org = request.org.clone();
        let reserved = self.decide(org, Request::Reserve(request)).await;
        self.finish_reserve(record, reserved)
    }

    /// Decides many requests in the same calls to the store. The results are in the order of the requests, which
    /// is also the order in which those of one organization are decided.
    pub async fn reserve_all(&self, requests: Vec<Reserve>) -> Vec<Result<Reserved, LedgerError>> {
        let records: Vec<_> = requests.iter().map(ReserveRecord::of).collect();
        let mut decided = Vec::with_capacity(records.len());
        let all = self.within_deadline(async {
            self.backend.breaker.admit(Access::Decide).await?;
            self.queue.decide_all(requests, &mut decided).await;
            Ok(())
        });
        if let Err(error) = all.await {
            decided.resize(records.len(), Err(error));
        }
        let results = records.into_iter().zip(decided).map(|(record, reply)| {
            let reserved = self.count_failure(reply.and_then(Reserved::try_from));
            self.finish_reserve(record, reserved)
        });
        results.collect()
    }

    /// Records what a reserved request really used.
    ///
    /// # Errors
    ///
    /// There is no such reservation, it was released or settled with other fields, or the store failed.
    pub async fn settle(&self, request: Settle) -> Result<Settled, LedgerError> {
        let began = Instant::now();
        let Settle {
            org,
            request_id,
            tokens,
            outside_program,
        } = request;
        let operation = Operation::Settle {
            request_id,
            tokens,
            outside_program,
        };
        let settled = self.decide(org.clone(), Request::Assessed(operation));
        let settled = settled.await?;
        self.backend.record_settled(began, &org, tokens, &settled);
        Ok(settled)
    }

    /// Cancels a reserved request that never ran: its tokens are not counted any more.
    ///
    /// # Errors
    ///
    /// There is no such reservation, it was settled, or the store failed.
    pub async fn release(
        &self,
        org: OrgId,
        request_id: RequestId,
    ) -> Result<Released, LedgerError> {
        let began = Instant::now();
        let request = Request::Assessed(Operation::Release { request_id });
        let released = self.decide(org.clone(), request).await?;
        self.backend.record_released(began, &org, &released);
        Ok(released)
    }

    /// The store, for its reports. Decisions and queries go through the ledger.
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.backend.store
    }

    /// How many requests wait for the store, and how many calls to it are under way.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        self.queue.load()
    }

    /// Checks that the store answers and would decide now.
    ///
    /// # Errors
    ///
    /// It does not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.backend.probe().await
    }

    async fn decide<T>(&self, org: OrgId, request: Request) -> Result<T, LedgerError>
    where
        T: TryFrom<Timestamped<Outcome>, Error = LedgerError>,
    {
        let decided = async {
            self.backend.breaker.admit(Access::Decide).await?;
            self.queue.decide(org, request).await?.try_into()
        };
        // On the heap: it is large, and moved several times until its first poll.
        self.answer(Box::pin(decided)).await
    }

    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        self.count_failure(self.within_deadline(answer).await)
    }

    /// Waits until the deadline. After it, a request that was sent continues in its own task, and the queue drops
    /// one that was not sent.
    async fn within_deadline<T>(
        &self,
        answer: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        match self.deadline {
            None => answer.await,
            Some(deadline) if deadline <= Instant::now() => Err(LedgerError::OutOfTime),
            Some(deadline) => {
                let answer = tokio::time::timeout_at(deadline, answer).await;
                answer.unwrap_or(Err(LedgerError::OutOfTime))
            }
        }
    }

    /// The store's state, now and at each change.
    #[must_use]
    pub fn store_state(&self) -> watch::Receiver<StoreState> {
        self.backend.breaker.state.subscribe()
    }

    /// Probes the store at intervals. Never ends. From this call on, not only from the first poll, requests wait for the
    /// first probe's result: an unfit store must count nothing. Dropping the future closes the breaker.
    pub fn watch_store(&self) -> impl Future<Output = ()> + Send + use<> {
        let watched = WatchGuard::new(Arc::clone(&self.backend));
        async move { watched.0.watch().await }
    }

    /// Keeps the figures of [`Ledger::organizations`] up to date. Never ends. It reads nothing while the circuit breaker
    /// is open.
    pub fn refresh_overview(&self) -> impl Future<Output = ()> + Send + use<> {
        let backend = Arc::clone(&self.backend);
        async move { backend.refresh_overview().await }
    }

    fn count_failure<T>(&self, result: Result<T, LedgerError>) -> Result<T, LedgerError> {
        if let Some(failure) = result.as_ref().err().and_then(LedgerError::failure) {
            self.backend.metrics.store_failed(failure);
        }
        result
    }

    /// Records the response to a Reserve. During an outage that is BILLED `STORE_UNAVAILABLE`, if the operator
    /// has chosen so.
    fn finish_reserve(
        &self,
        record: ReserveRecord,
        reserved: Result<Reserved, LedgerError>,
    ) -> Result<Reserved, LedgerError> {
        let reserved = match reserved {
            Err(error) if error.is_outage() && self.on_store_failure == OnStoreFailure::Billed => {
                log_limited!(
                    warn,
                    %error,
                    trace_id = traces::trace_id(),
                    "calls are answered BILLED STORE_UNAVAILABLE"
                );
                Reserved {
                    verdict: Verdict::Billed(BilledReason::StoreUnavailable),
                    pool: None,
                    replayed: false,
                    resets_at: self.backend.clock.today().end(),
                }
            }
            reserved => reserved?,
        };
        self.backend.record_reserved(record, &reserved);
        Ok(reserved)
    }
}
