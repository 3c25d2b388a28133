//! A store that hands each of its calls to the test, which decides when and how it ends.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tollgate::{
    domain::{OrgId, PoolCounters, PoolName, UtcDay},
    store::{Batch, CallLimits, Decision, RowKey, Store, StoreError, Timestamped, UsageRows},
};

/// No call takes nearly as long to come, however busy the machine is.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// More turns of a runtime with one thread than any task needs to get as far as it can.
const TURNS: usize = 200;

pub struct HeldStore {
    inner: Arc<dyn Store>,
    calls_at_once: usize,
    calls: mpsc::UnboundedSender<HeldCall>,
    /// How each probe fails from now on.
    pub probes_fail: Mutex<Option<StoreError>>,
    /// How many probes there were.
    pub probes: AtomicUsize,
}

/// The calls, in the order in which they come.
pub struct HeldCalls(mpsc::UnboundedReceiver<HeldCall>);

/// A call that is under way until the test ends it.
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
        };
        (Arc::new(store), HeldCalls(held))
    }
}

impl HeldCalls {
    pub async fn next(&mut self) -> HeldCall {
        let call = timeout(WAIT_TIMEOUT, self.0.recv()).await;
        call.expect("a call to the store").unwrap()
    }

    /// The calls that there are once every task has got as far as it can.
    pub async fn all_now(&mut self) -> Vec<HeldCall> {
        let mut calls = Vec::new();
        settled().await;
        while let Ok(call) = self.0.try_recv() {
            calls.push(call);
        }
        calls
    }

    /// Waits for a call that was not there yet, without end.
    pub async fn any(&mut self) -> Option<HeldCall> {
        self.0.recv().await
    }
}

/// Lets every task of a runtime with one thread get as far as it can.
pub async fn settled() {
    for _ in 0..TURNS {
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

    /// What is in it: each batch's organization, and how many operations it has.
    pub fn sizes(&self) -> Vec<(&str, usize)> {
        let size = |batch: &'_ Batch| batch.operations.len();
        let named = self.batches.iter().map(|it| (it.org.as_str(), size(it)));
        named.collect()
    }

    /// The ids of each batch, in their order.
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
        // A test that no longer listens lets everything through.
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
    ) -> Result<Timestamped<Vec<PoolCounters>>, StoreError> {
        self.inner.pools(org, day, pools).await
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

    async fn probe(&self) -> Result<Timestamped<()>, StoreError> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        let fails = self.probes_fail.lock().unwrap().clone();
        match fails {
            Some(error) => Err(error),
            None => self.inner.probe().await,
        }
    }
}
