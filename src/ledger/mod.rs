//! Policy and store put together: reserve, settle, release, and the queries. What gRPC and HTTP call.
//!
//! A request waits in the [`queue`] until its batch is formed, is assessed then, and decided by the store
//! ([`backend`]). The store's clock decides which day it is: the ledger only guesses it, from what the store
//! said last, and decides a batch again where it guessed wrong.

mod api;
mod assess;
mod backend;
mod breaker;
mod clock;
mod decision_log;
mod error;
mod org_queue;
mod probe_loop;
mod queries;
mod queue;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::Instant};

use self::{
    api::Request,
    backend::Backend,
    breaker::{Access, CircuitBreaker},
    clock::StoreClock,
    decision_log::ReserveRecord,
    probe_loop::WatchGuard,
    queue::Queue,
};
pub use self::{
    api::{Quota, Released, Reserve, Reserved, Settled, Usage, UsagePage, UsageRow},
    breaker::{Outage, StoreState},
    error::LedgerError,
};
use crate::{
    domain::{BilledReason, OrgId, RequestId, Tokens, Verdict},
    policy::Policy,
    store::{ClockStep, Outcome, Store, StoreError, Timestamped, UsageLimits},
    telemetry::{LogLimit, metrics::Metrics, traces},
};

/// The service's one way to decide and to count. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Shared>,
    /// When its requests must have their answers; none: whenever the store has.
    deadline: Option<Instant>,
}

struct Shared {
    backend: Arc<Backend>,
    queue: Arc<Queue>,
    on_store_failure: OnStoreFailure,
    usage_retention_days: u32,
}

/// What a ledger is made of.
pub struct LedgerConfig {
    /// Who gets what.
    pub policy: Arc<Policy>,
    /// Keeps the counters.
    pub store: Arc<dyn Store>,
    /// What a Reserve answers during an outage of the store.
    pub on_store_failure: OnStoreFailure,
    /// How many days of usage can be listed.
    pub usage_retention_days: u32,
    /// How many requests may wait for the store.
    pub max_waiting: usize,
    /// Where it counts what it does.
    pub metrics: Metrics,
}

/// What a Reserve answers when the store can't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnStoreFailure {
    /// An error: the outcome is unknown.
    Error,
    /// BILLED `STORE_UNAVAILABLE`. Never FREE by guess.
    Billed,
}

static DEGRADED_ANSWERS: LogLimit = LogLimit::new();

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
            metrics: Metrics::new(),
        }
    }
}

impl Ledger {
    /// How many requests may wait for the store by default. With the longest names that there are, they take
    /// some 40 MB.
    pub const MAX_WAITING: usize = 32 * 1024;

    /// Puts policy and store together.
    #[must_use]
    pub fn new(config: LedgerConfig) -> Self {
        config.metrics.know_pools(config.policy.pools());
        let backend = Arc::new(Backend {
            store: config.store,
            policy: ArcSwap::new(config.policy),
            clock: StoreClock::default(),
            breaker: CircuitBreaker::new(),
            metrics: config.metrics,
        });
        let inner = Shared {
            queue: Arc::new(Queue::new(Arc::clone(&backend), config.max_waiting)),
            backend,
            on_store_failure: config.on_store_failure,
            usage_retention_days: config.usage_retention_days,
        };
        Self {
            inner: Arc::new(inner),
            deadline: None,
        }
    }

    /// The same ledger, whose requests are answered by this deadline. A request that was not sent by then is
    /// not sent; one that was sent is carried to its end, and only its answer comes too late.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            deadline: Some(deadline),
        }
    }

    /// Decides by another policy from the next batch on.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        self.inner.backend.metrics.know_pools(policy.pools());
        self.inner.backend.policy.store(policy);
    }

    /// The policy of the next batch.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.inner.backend.policy.load_full()
    }

    /// Is this request free? Counts it.
    ///
    /// # Errors
    ///
    /// The id was used otherwise, or the store failed.
    pub async fn reserve(&self, request: Reserve) -> Result<Reserved, LedgerError> {
        let record = ReserveRecord::of(&request);
        let (org, request) = request.into_parts();
        let reserved = self.decide(org, request).await;
        self.inner.reserved(record, reserved)
    }

    /// Decides many requests, and gives a result for each, in their order. They go to the store together,
    /// those of one organization in their order too.
    pub async fn reserve_all(&self, requests: Vec<Reserve>) -> Vec<Result<Reserved, LedgerError>> {
        let records: Vec<_> = requests.iter().map(ReserveRecord::of).collect();
        let mut decided = Vec::with_capacity(records.len());
        let all = self.within_deadline(async {
            self.inner.backend.breaker.admit(Access::Decide).await?;
            for reply in self.inner.queue.submit_all(requests) {
                decided.push(reply.await);
            }
            Ok(())
        });
        if let Err(error) = all.await {
            decided.resize(records.len(), Err(error));
        }
        let results = records.into_iter().zip(decided).map(|(record, reply)| {
            let reserved = self.inner.counted(reply.and_then(Reserved::try_from));
            self.inner.reserved(record, reserved)
        });
        results.collect()
    }

    /// Records what a reserved request really used.
    ///
    /// # Errors
    ///
    /// There is no such reservation, it was settled or released otherwise, or the store failed.
    pub async fn settle(
        &self,
        org: OrgId,
        request_id: RequestId,
        tokens: Tokens,
    ) -> Result<Settled, LedgerError> {
        let began = Instant::now();
        let request = Request::Settle { request_id, tokens };
        let settled = self.decide(org.clone(), request).await?;
        self.inner
            .backend
            .record_settled(began, &org, tokens, &settled);
        Ok(settled)
    }

    /// Takes back what a reserved request counted.
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
        let request = Request::Release { request_id };
        let released = self.decide(org.clone(), request).await?;
        self.inner.backend.record_released(began, &org, &released);
        Ok(released)
    }

    /// How often the store was found to have lost writes of today, and they were restored.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.inner.backend.store.losses()
    }

    /// Why some of the store's servers refuse while others decide.
    #[must_use]
    pub fn partial_refusal(&self) -> Option<String> {
        self.inner.backend.store.partial_refusal()
    }

    /// How often the wall clock was found to have stepped.
    #[must_use]
    pub fn clock_steps(&self) -> u64 {
        self.inner.backend.store.clock_steps()
    }

    /// The wall clock's latest step, for an hour after it.
    #[must_use]
    pub fn latest_clock_step(&self) -> Option<ClockStep> {
        self.inner.backend.store.latest_clock_step()
    }

    /// The requests that wait for the store, and the calls to it that are under way.
    #[must_use]
    pub fn load(&self) -> (usize, usize) {
        self.inner.queue.load()
    }

    /// Whether the store answers and would decide now.
    ///
    /// # Errors
    ///
    /// It doesn't.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.inner.backend.probe().await
    }

    /// Decides a request, unless the circuit breaker is open.
    async fn decide<T>(&self, org: OrgId, request: Request) -> Result<T, LedgerError>
    where
        T: TryFrom<Timestamped<Outcome>, Error = LedgerError>,
    {
        let decided = async {
            self.inner.backend.breaker.admit(Access::Decide).await?;
            self.inner.queue.decide(org, request).await?.try_into()
        };
        self.answer(decided).await
    }

    /// The answer, within the deadline. A failure is counted.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        self.inner.counted(self.within_deadline(answer).await)
    }

    /// Waits until the deadline. Only the waiting is dropped then: a request that was sent has a task of its
    /// own, and the queue drops one that was not.
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
        self.inner.backend.breaker.state.subscribe()
    }

    /// Probes the store again and again. Never ends. Requests wait for the first probe's result from this call on,
    /// not only from the first poll: nothing shall be counted by a store that is then found to be unfit. Dropping
    /// the future closes the breaker.
    pub fn watch_store(&self) -> impl Future<Output = ()> + Send + use<> {
        let watched = WatchGuard::new(Arc::clone(&self.inner.backend));
        async move {
            let WatchGuard(backend) = &watched;
            backend.watch().await;
        }
    }
}

impl Shared {
    fn counted<T>(&self, result: Result<T, LedgerError>) -> Result<T, LedgerError> {
        if let Some(failure) = result.as_ref().err().and_then(LedgerError::failure) {
            self.backend.metrics.store_failed(failure, 1);
        }
        result
    }

    /// The response to a Reserve, recorded; a degraded one during an outage, where the operator wants it.
    fn reserved(
        &self,
        record: ReserveRecord,
        reserved: Result<Reserved, LedgerError>,
    ) -> Result<Reserved, LedgerError> {
        let reserved = match reserved {
            Err(error) if error.is_outage() && self.on_store_failure == OnStoreFailure::Billed => {
                if let Some(left_out) = DEGRADED_ANSWERS.admit(Instant::now().into_std()) {
                    let trace_id = traces::trace_id();
                    tracing::warn!(%error, left_out, trace_id, "calls are answered BILLED STORE_UNAVAILABLE");
                }
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
