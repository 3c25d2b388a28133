//! A store that passes each of its calls to the test, which decides when and how it ends.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tollgate::{
    domain::{DayComparison, ExternalChange, ExternalChanges, OrgId, PoolName, ShareId, UtcDay},
    store::{
        Batch, CallLimits, DayCounters, Decision, ProviderChanges, ProviderRows, RowKey, Store,
        StoreError, Timestamped, UsageRows,
    },
};

/// Longer than any call takes to arrive, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// More yields than any task needs until it waits, on a runtime with one thread.
const MAX_YIELDS: usize = 200;

pub struct HeldStore {
    inner: Arc<dyn Store>,
    calls_at_once: usize,
    calls: mpsc::UnboundedSender<HeldCall>,
    /// The error of each probe from now on.
    pub probes_fail: Mutex<Option<StoreError>>,
    /// The number of probes.
    pub probes: AtomicUsize,
    /// How long the next calls for the lease take, one after the other.
    pub lease_delays: Mutex<VecDeque<Duration>>,
    /// Whether comparisons can't be recorded.
    pub comparisons_fail: AtomicBool,
    /// Whether what the provider counted, and how days were compared, can't be read.
    pub provider_reads_fail: AtomicBool,
}

/// The calls in order.
pub struct HeldCalls(mpsc::UnboundedReceiver<HeldCall>);

/// A call in flight until the test ends it.
pub struct HeldCall {
    pub batches: Vec<Batch>,
    end: oneshot::Sender<End>,
}

enum End {
    Decide,
    Fail(StoreError),
    Panic,
}

impl HeldStore {
    pub fn over(inner: Arc<dyn Store>, calls_at_once: usize) -> (Arc<Self>, HeldCalls) {
        let (calls, held) = mpsc::unbounded_channel();
        let store = Self {
            inner,
            calls_at_once,
            calls,
            probes_fail: Mutex::default(),
            probes: AtomicUsize::default(),
            lease_delays: Mutex::default(),
            comparisons_fail: AtomicBool::default(),
            provider_reads_fail: AtomicBool::default(),
        };
        (Arc::new(store), HeldCalls(held))
    }

    fn read_provider(&self) -> Result<(), StoreError> {
        match self.provider_reads_fail.load(Ordering::Relaxed) {
            true => Err(StoreError::Corrupt {
                reason: "the test wants it".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

impl HeldCalls {
    pub async fn next(&mut self) -> HeldCall {
        let call = timeout(WAIT_TIMEOUT, self.0.recv()).await;
        call.expect("a call to the store").unwrap()
    }

    /// All calls so far, after every task has run until it waits.
    pub async fn all_now(&mut self) -> Vec<HeldCall> {
        let mut calls = Vec::new();
        settled().await;
        while let Ok(call) = self.0.try_recv() {
            calls.push(call);
        }
        calls
    }

    /// Waits for the next call without a timeout.
    pub async fn any(&mut self) -> Option<HeldCall> {
        self.0.recv().await
    }
}

/// Lets every task run until it waits, on a runtime with one thread.
pub async fn settled() {
    for _ in 0..MAX_YIELDS {
        tokio::task::yield_now().await;
    }
}

impl HeldCall {
    /// Lets the store decide.
    pub fn go(self) {
        let _ = self.end.send(End::Decide);
    }

    pub fn fail(self, error: StoreError) {
        let _ = self.end.send(End::Fail(error));
    }

    pub fn panic(self) {
        let _ = self.end.send(End::Panic);
    }

    /// The organization and the number of operations of each batch.
    pub fn sizes(&self) -> Vec<(&str, usize)> {
        let size = |batch: &'_ Batch| batch.operations.len();
        let named = self.batches.iter().map(|it| (it.org.as_str(), size(it)));
        named.collect()
    }

    /// The ids of each batch, in order.
    pub fn ids(&self) -> Vec<Vec<&str>> {
        let ids = self.batches.iter().map(|batch| {
            let ids = batch.operations.iter().filter_map(|it| it.request_id());
            ids.map(|id| id.as_str()).collect()
        });
        ids.collect()
    }
}

#[async_trait]
impl Store for HeldStore {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timestamped<Decision>, StoreError>> {
        let (end, ended) = oneshot::channel();
        let batches_held = batches.to_vec();
        let call = HeldCall {
            batches: batches_held,
            end,
        };
        // If the test has dropped the calls, all pass.
        let end = match self.calls.send(call) {
            Ok(()) => ended.await.unwrap_or(End::Decide),
            Err(_) => End::Decide,
        };
        match end {
            End::Decide => self.inner.decide(batches).await,
            End::Fail(error) => batches.iter().map(|_| Err(error.clone())).collect(),
            End::Panic => panic!("the test wants it"),
        }
    }

    fn call_limits(&self) -> CallLimits {
        CallLimits {
            calls: self.calls_at_once,
            batches: usize::MAX,
            operations: 2 * Batch::MAX_OPERATIONS,
            bytes: CallLimits::MAX_BYTES,
        }
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
        shares: &[ShareId],
    ) -> Result<Timestamped<DayCounters>, StoreError> {
        self.inner.pools(org, day, pools, shares).await
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError> {
        self.inner.usage(org, day, after, limit).await
    }

    async fn keep_external_change(
        &self,
        org: &OrgId,
        change: &ExternalChange,
    ) -> Result<(), StoreError> {
        self.inner.keep_external_change(org, change).await
    }

    async fn external_changes(
        &self,
        org: &OrgId,
        day: UtcDay,
    ) -> Result<Timestamped<ExternalChanges>, StoreError> {
        self.inner.external_changes(org, day).await
    }

    async fn record_comparison(
        &self,
        org: &OrgId,
        day: UtcDay,
        changes: &ProviderChanges,
        comparison: Option<&DayComparison>,
    ) -> Result<(), StoreError> {
        if self.comparisons_fail.load(Ordering::Relaxed) {
            let reason = "the test wants it".to_owned();
            return Err(StoreError::Unreachable { reason });
        }
        let inner = &self.inner;
        inner.record_comparison(org, day, changes, comparison).await
    }

    async fn provider_usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<ProviderRows, StoreError> {
        self.read_provider()?;
        self.inner.provider_usage(org, day, after, limit).await
    }

    async fn comparisons(
        &self,
        org: &OrgId,
        days: &[UtcDay],
    ) -> Result<Vec<Option<DayComparison>>, StoreError> {
        self.read_provider()?;
        self.inner.comparisons(org, days).await
    }

    async fn take_lease(&self, duration: Duration) -> Result<bool, StoreError> {
        let delay = self.lease_delays.lock().unwrap().pop_front();
        sleep(delay.unwrap_or_default()).await;
        self.inner.take_lease(duration).await
    }

    async fn probe(&self) -> Result<Timestamped<()>, StoreError> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        let fails = self.probes_fail.lock().unwrap().clone();
        match fails {
            Some(error) => Err(error),
            None => self.inner.probe().await,
        }
    }
}
