//! The queue in front of the store: what is sent together, in which order, and what is never sent. The test holds each
//! call of the store until it releases it.

mod bounds;
mod callers;
mod deadlines;
mod outage;

use std::{pin::Pin, sync::Arc, task::Poll};

use futures_util::{
    future::{Either, join_all, select},
    poll,
};
use tollgate::{
    ledger::{Ledger, LedgerConfig, LedgerError, Reserve, Reserved},
    store::{Batch, UsageLimits, memory::MemoryStore},
};

use crate::support::{
    clock::Clock,
    held_store::{HeldCalls, HeldStore},
    world::{NOON, ReserveExt as _, new_reserve, policy_text, small_policy},
};

/// A ledger over a held store with this many concurrent calls.
struct HeldLedger {
    ledger: Ledger,
    calls: HeldCalls,
    clock: Clock,
    store: Arc<HeldStore>,
}

type PendingReserve = Pin<Box<dyn Future<Output = Result<Reserved, LedgerError>>>>;

impl HeldLedger {
    /// The policy grants `acme` and `other` all that the tests reserve.
    async fn new(calls_at_once: usize) -> Self {
        let clock = Clock::at(NOON);
        let memory = Arc::new(MemoryStore::new(clock.function(), UsageLimits::default()));
        let (store, calls) = HeldStore::over(memory, calls_at_once);
        let text = small_policy("keep_open").replace("large = 1_000", "large = 1_000_000");
        let policy = Arc::new(policy_text(&text));
        let ledger = Ledger::new(LedgerConfig::new(policy, store.clone()));
        // The ledger learns the store's day.
        ledger.probe().await.unwrap();
        Self {
            ledger,
            calls,
            clock,
            store,
        }
    }

    /// Starts a Reserve: it waits, or is refused at once.
    async fn arrive(&self, call: Reserve) -> Result<PendingReserve, LedgerError> {
        let ledger = self.ledger.clone();
        let mut pending: PendingReserve = Box::pin(async move { ledger.reserve(call).await });
        match poll!(pending.as_mut()) {
            Poll::Pending => Ok(pending),
            Poll::Ready(answer) => Err(answer.unwrap_err()),
        }
    }

    /// Starts Reserves with these ids of `acme`, in this order.
    async fn ids(&self, ids: &[&str]) -> Vec<PendingReserve> {
        let mut pending = Vec::new();
        for id in ids {
            pending.push(self.id(id).await);
        }
        pending
    }

    async fn id(&self, id: &str) -> PendingReserve {
        self.arrive(new_reserve(1).id(id)).await.unwrap()
    }

    /// Releases calls until these requests have their answers. Also gives the batches of the calls.
    async fn answered(
        &mut self,
        pending: Vec<PendingReserve>,
    ) -> (Vec<Result<Reserved, LedgerError>>, Vec<Vec<Batch>>) {
        let mut made = Vec::new();
        let calls = Box::pin(async {
            while let Some(call) = self.calls.any().await {
                made.push(call.batches.clone());
                call.go();
            }
        });
        let answers = match select(join_all(pending), calls).await {
            Either::Left((answers, _)) => answers,
            Either::Right(_) => unreachable!("the calls have no end"),
        };
        (answers, made)
    }

    /// Whether the store has the id: a second Reserve is then a replay.
    async fn counted(&mut self, id: &str) -> bool {
        let pending = self.ledger.clone();
        let call = new_reserve(1).id(id);
        let again = tokio::spawn(async move { pending.reserve(call).await });
        self.calls.next().await.go();
        again.await.unwrap().unwrap().replayed
    }
}
