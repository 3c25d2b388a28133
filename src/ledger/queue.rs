//! Group commit: requests that wait for the store are decided together.
//!
//! An organization has one call to the store under way at a time, and the store a few. A request that finds
//! both free goes at once, alone: nothing ever waits for company. What arrives meanwhile waits for the end of
//! a call. The next call takes all that is pending of every organization without a call under way, each
//! organization's requests in the order of their arrival, and assesses them then.
//!
//! A call belongs to no caller: it runs in a task of its own, so a write that was sent is carried to its end.
//! A request whose caller went away while it was pending is dropped, unsent.
//!
//! The queue is bounded. An organization may have as many requests pending as there is room left: one that
//! floods the service gets half of the room, two get a third each, and there is always some for a newcomer.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt as _;
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    LedgerError,
    api::{Request, Reserve},
    assess::assess,
    backend::Backend,
    org_queue::{CallBudget, OrgQueue, Pending, Reply, Waiter},
};
use crate::{
    domain::OrgId,
    store::{Batch, CallLimits, Timestamped},
    telemetry::traces::{self, Span},
};

/// Where requests wait for the store.
pub(super) struct Queue {
    backend: Arc<Backend>,
    limits: CallLimits,
    max_waiting: usize,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    /// The organizations with a call under way, or with pending requests.
    orgs: HashMap<OrgId, OrgQueue>,
    /// Those with pending requests and no call under way, in the order of their turns.
    ready: VecDeque<OrgId>,
    /// Pending requests of all organizations.
    waiting: usize,
    /// Calls under way.
    calls: usize,
}

impl Queue {
    pub(super) fn new(backend: Arc<Backend>, max_waiting: usize) -> Self {
        Self {
            limits: backend.store.call_limits(),
            backend,
            max_waiting,
            state: Mutex::default(),
        }
    }

    /// Decides a request: at once, or together with what else waits.
    pub(super) async fn decide(self: &Arc<Self>, org: OrgId, request: Request) -> Reply {
        if self.limits == CallLimits::UNLIMITED {
            return self.decide_alone(org, request).await;
        }
        let (reply, call) = {
            let mut state = self.state();
            let reply = state.push(org, request, self.max_waiting)?;
            (reply, self.next_call(&mut state))
        };
        if let Some(call) = call {
            call.begin();
        }
        received(reply).await
    }

    /// Submits Reserves together, in their order, so that they go in the same calls.
    pub(super) fn submit_all(
        self: &Arc<Self>,
        requests: Vec<Reserve>,
    ) -> Vec<impl Future<Output = Reply> + use<>> {
        let mut state = self.state();
        let replies: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let (org, request) = request.into_parts();
                state.push(org, request, self.max_waiting)
            })
            .collect();
        let mut call = self.next_call(&mut state);
        drop(state);
        while let Some(next) = call {
            next.begin();
            call = self.next_call(&mut self.state());
        }
        let replies = replies.into_iter();
        let replies = replies.map(|reply| async move { received(reply?).await });
        replies.collect()
    }

    /// The pending requests, and the calls under way.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.waiting, state.calls)
    }

    /// Decides by a store that never waits: its caller can't go away meanwhile.
    async fn decide_alone(&self, org: OrgId, request: Request) -> Reply {
        let spans = traces::current().map(|span| (0, span));
        let day = self.backend.clock.today();
        let batch = assess(&self.backend.policy.load(), org, day, [request]);
        let mut results = self.backend.decide(vec![batch], spans.as_slice()).await;
        let Timestamped { now, mut answer } = results.pop().expect("a result for each batch")?;
        let answer = answer.pop().expect("an outcome for each operation");
        Ok(Timestamped { now, answer })
    }

    /// Forms batches by the policy and the store's day of this moment.
    fn assess(&self, taken: Vec<(OrgId, Vec<Pending>)>) -> (Vec<Batch>, Vec<Vec<Waiter>>) {
        let (policy, day) = (self.backend.policy.load(), self.backend.clock.today());
        let batches = taken.into_iter().map(|(org, pending)| {
            let parts = pending.into_iter().map(|it| (it.request, it.waiter));
            let (requests, waiters): (Vec<_>, Vec<_>) = parts.unzip();
            (assess(&policy, org, day, requests), waiters)
        });
        batches.unzip()
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call, where one is needed and allowed.
    fn next_call(self: &Arc<Self>, state: &mut QueueState) -> Option<BatchCall> {
        let begins = !state.ready.is_empty() && state.calls < self.limits.calls;
        state.calls += usize::from(begins);
        begins.then(|| BatchCall::new(Arc::clone(self)))
    }
}

async fn received(reply: oneshot::Receiver<Reply>) -> Reply {
    reply.await.unwrap_or(Err(LedgerError::TaskPanicked))
}

impl QueueState {
    /// Lets a request wait, where there is room.
    fn push(
        &mut self,
        org: OrgId,
        request: Request,
        max_waiting: usize,
    ) -> Result<oneshot::Receiver<Reply>, LedgerError> {
        let its_waiting = self.orgs.get(&org).map_or(0, OrgQueue::len);
        if its_waiting + self.waiting >= max_waiting {
            return Err(LedgerError::Overloaded);
        }
        let (reply, receiver) = oneshot::channel();
        let span = traces::current();
        let waiter = Waiter { reply, span };
        let queue = self.orgs.entry(org).or_insert_with_key(|org| {
            self.ready.push_back(org.clone());
            OrgQueue::default()
        });
        queue.push(Pending { request, waiter });
        self.waiting += 1;
        Ok(receiver)
    }

    /// Takes requests of one organization after another, within the limits of a call.
    fn take(&mut self, limits: CallLimits) -> Vec<(OrgId, Vec<Pending>)> {
        let mut taken = Vec::new();
        let mut budget = CallBudget::new(limits);
        while !budget.is_spent() && taken.len() < limits.batches {
            let Some(org) = self.ready.pop_front() else {
                break;
            };
            let Some(queue) = self.orgs.get_mut(&org) else {
                continue;
            };
            let before = queue.len();
            let requests = queue.take(&mut budget);
            self.waiting -= before - queue.len();
            if requests.is_empty() {
                self.orgs.remove(&org);
            } else {
                taken.push((org, requests));
            }
        }
        taken
    }
}

/// A call to the store. When it ends, however it ends, the next one begins, if anything is pending.
struct BatchCall {
    queue: Arc<Queue>,
    /// Whose requests it took.
    orgs: Vec<OrgId>,
    /// Whether it ran at all. A runtime that is ending drops it unrun, and would drop the next one too.
    began: bool,
}

impl BatchCall {
    fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            orgs: Vec::new(),
            began: false,
        }
    }

    /// Runs it here up to its first wait, which mostly writes to the store, and then in a task of its own.
    fn begin(self) {
        let mut call = Box::pin(self.run());
        if call.as_mut().now_or_never().is_none() {
            tokio::spawn(call);
        }
    }

    /// Decides what is pending.
    async fn run(mut self) {
        self.began = true;
        let taken = self.queue.state().take(self.queue.limits);
        if taken.is_empty() {
            return;
        }
        self.orgs = taken.iter().map(|(org, _)| org.clone()).collect();
        let (batches, waiters) = self.queue.assess(taken);
        let spans = spans(&waiters);
        let results = self.queue.backend.decide(batches, &spans).await;
        drop(self);
        for (result, waiters) in results.into_iter().zip(waiters) {
            match result {
                Ok(Timestamped { now, answer }) => {
                    for (waiter, answer) in waiters.into_iter().zip(answer) {
                        let _ = waiter.reply.send(Ok(Timestamped { now, answer }));
                    }
                }
                Err(error) => {
                    for waiter in waiters {
                        let _ = waiter.reply.send(Err(error.clone()));
                    }
                }
            }
        }
    }
}

impl Drop for BatchCall {
    fn drop(&mut self) {
        let mut guard = self.queue.state();
        let state = &mut *guard;
        for org in self.orgs.drain(..) {
            match state.orgs.get(&org) {
                Some(queue) if queue.len() > 0 => state.ready.push_back(org),
                _ => drop(state.orgs.remove(&org)),
            }
        }
        let runtime = Handle::try_current().ok();
        let Some(runtime) = runtime.filter(|_| self.began && !state.ready.is_empty()) else {
            state.calls -= 1;
            // The runtime is gone, and with it whoever waits.
            for org in state.ready.drain(..) {
                state.waiting -= state.orgs.remove(&org).map_or(0, |queue| queue.len());
            }
            return;
        };
        // Not within the lock: a runtime that is ending drops the next call at once.
        drop(guard);
        let next = Self::new(Arc::clone(&self.queue));
        runtime.spawn(async move {
            // Requests that have arrived and are about to be submitted shall be in the call.
            tokio::task::yield_now().await;
            next.run().await;
        });
    }
}

/// The spans of those callers that have one, each with the place of its batch.
fn spans(waiters: &[Vec<Waiter>]) -> Vec<(usize, Span)> {
    let batches = waiters.iter().enumerate();
    let spans = batches.flat_map(|(place, waiters)| {
        let spans = waiters.iter().filter_map(|waiter| waiter.span.clone());
        spans.map(move |span| (place, span))
    });
    spans.collect()
}
