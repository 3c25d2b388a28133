//! Group commit: requests that wait for the store are decided together.
//!
//! Each organization has at most one call to the store under way, and the store a few. A request that can begin
//! a call does so at once, with the others that its task submits: nothing waits to make a batch larger. Requests that
//! arrive meanwhile wait for the end of a call. The next call takes the pending requests of every organization without
//! a call under way, in the order of their arrival, and assesses them then.
//!
//! A call runs in a task of its own, so a write that was sent is completed even if its callers go away. A pending
//! request whose caller has gone away is dropped, unsent.
//!
//! The queue is bounded. An organization may have as many requests pending as there are places left: one that
//! floods the service gets half of the places, two get a third each, and some are left for others.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
};

use tokio::{runtime::Handle, sync::oneshot};

use super::{
    LedgerError,
    api::{Request, Reserve},
    assess::assess,
    backend::Backend,
};
use crate::{
    domain::OrgId,
    store::{Batch, CallLimits, Outcome, Timestamped},
    telemetry::traces::{self, Span},
};

/// The result that a caller waits for.
pub(super) type DecisionResult = Result<Timestamped<Outcome>, LedgerError>;

struct Pending {
    request: Request,
    waiter: Waiter,
}

/// The caller that waits for a reply.
struct Waiter {
    reply: oneshot::Sender<DecisionResult>,
    /// The span of its call, if that is traced.
    span: Option<Span>,
}

/// The requests that wait for the store.
pub(super) struct Queue {
    backend: Arc<Backend>,
    limits: CallLimits,
    max_waiting: usize,
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    /// The pending requests, in the order of their arrival, of the organizations that have some or a call under way.
    orgs: HashMap<OrgId, VecDeque<Pending>>,
    /// Those with pending requests and no call under way, in the order of their turns.
    ready: VecDeque<OrgId>,
    waiting: usize,
    calls: usize,
    /// The threads whose next task is one of these calls, which takes the requests that are ready then.
    forming: Vec<ThreadId>,
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

    /// Decides a request: at once, or in a batch with other requests.
    pub(super) async fn decide(self: &Arc<Self>, org: OrgId, request: Request) -> DecisionResult {
        if self.limits == CallLimits::UNLIMITED {
            let mut results = self.decide_directly(org, vec![request]).await;
            return results.pop().expect("a result for each request");
        }
        let reply = {
            let mut state = self.state();
            let reply = state.push(org, request, self.max_waiting)?;
            self.begin_call(state);
            reply
        };
        wait_for(reply).await
    }

    /// Decides Reserves in their order, in as few calls as possible. The results arrive one by one: those that came
    /// before the caller stops waiting are kept.
    pub(super) async fn decide_all(
        self: &Arc<Self>,
        requests: Vec<Reserve>,
        results: &mut Vec<DecisionResult>,
    ) {
        if self.limits == CallLimits::UNLIMITED {
            let same_org = |one: &Reserve, next: &Reserve| one.org == next.org;
            for run in requests.chunk_by(same_org) {
                let all = run.iter().cloned().map(Request::Reserve).collect();
                results.extend(self.decide_directly(run[0].org.clone(), all).await);
            }
            return;
        }
        for reply in self.submit(requests) {
            results.push(match reply {
                Ok(reply) => wait_for(reply).await,
                Err(error) => Err(error),
            });
        }
    }

    /// Submits all of them before a call begins, so that they share calls.
    fn submit(
        self: &Arc<Self>,
        requests: Vec<Reserve>,
    ) -> Vec<Result<oneshot::Receiver<DecisionResult>, LedgerError>> {
        let mut state = self.state();
        let replies = requests.into_iter().map(|request| {
            let org = request.org.clone();
            state.push(org, Request::Reserve(request), self.max_waiting)
        });
        let replies = replies.collect();
        self.begin_call(state);
        replies
    }

    /// The pending requests, and the calls under way.
    pub(super) fn load(&self) -> (usize, usize) {
        let state = self.state();
        (state.waiting, state.calls)
    }

    /// Decides an organization's requests as one batch, without the queue, for a store that never waits: the caller
    /// can't go away meanwhile.
    async fn decide_directly(&self, org: OrgId, requests: Vec<Request>) -> Vec<DecisionResult> {
        let count = requests.len();
        let spans = traces::current().map(|span| (0, span));
        let day = self.backend.clock.today();
        let batch = assess(&self.backend.policy.load(), org, day, requests);
        let mut results = self.backend.decide(vec![batch], spans.as_slice()).await;
        match results.pop().expect("a result for each batch") {
            Ok(Timestamped { now, answer }) => {
                let answers = answer.into_iter();
                answers
                    .map(|answer| Ok(Timestamped { now, answer }))
                    .collect()
            }
            Err(error) => vec![Err(error); count],
        }
    }

    /// Forms batches by the current policy and the store's current day.
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

    /// Begins the next call, if requests are ready and another call is allowed. It is mostly this thread's next task, so
    /// it takes all that the current task submits. Other threads begin calls of their own, as far as that is allowed.
    fn begin_call(self: &Arc<Self>, mut state: MutexGuard<'_, QueueState>) {
        let thread = thread::current().id();
        let has_requests = !state.ready.is_empty() && !state.forming.contains(&thread);
        if has_requests && state.calls < self.limits.calls {
            state.calls += 1;
            state.forming.push(thread);
            // Not under the lock: a runtime that is ending drops the call at once, which locks again.
            drop(state);
            tokio::spawn(BatchCall::new(Arc::clone(self), Some(thread)).run());
        }
    }

    /// Begins calls for the requests that are beyond the limits of one: all at once, since each would wait for a turn
    /// behind the one before it.
    fn begin_further_calls(self: &Arc<Self>, mut state: MutexGuard<'_, QueueState>) {
        let needed = state.ready.len().div_ceil(self.limits.batches);
        let calls = needed.min(self.limits.calls.saturating_sub(state.calls));
        state.calls += calls;
        drop(state);
        for _ in 0..calls {
            tokio::spawn(BatchCall::new(Arc::clone(self), None).run());
        }
    }
}

async fn wait_for(reply: oneshot::Receiver<DecisionResult>) -> DecisionResult {
    reply.await.unwrap_or(Err(LedgerError::TaskPanicked))
}

impl QueueState {
    /// Adds a request, unless the queue is full for its organization.
    fn push(
        &mut self,
        org: OrgId,
        request: Request,
        max_waiting: usize,
    ) -> Result<oneshot::Receiver<DecisionResult>, LedgerError> {
        let org_waiting = self.orgs.get(&org).map_or(0, VecDeque::len);
        if org_waiting + self.waiting >= max_waiting {
            return Err(LedgerError::Overloaded);
        }
        let (reply, receiver) = oneshot::channel();
        let span = traces::current();
        let waiter = Waiter { reply, span };
        let queue = self.orgs.entry(org).or_insert_with_key(|org| {
            self.ready.push_back(org.clone());
            VecDeque::new()
        });
        queue.push_back(Pending { request, waiter });
        self.waiting += 1;
        Ok(receiver)
    }

    fn end_forming(&mut self, thread: Option<ThreadId>) {
        self.forming.retain(|it| Some(*it) != thread);
    }

    /// Takes requests, organization by organization, within the limits of a call.
    fn take(&mut self, limits: CallLimits) -> Vec<(OrgId, Vec<Pending>)> {
        let mut taken = Vec::new();
        let mut budget = limits;
        while budget.operations > 0 && budget.bytes > 0 && taken.len() < limits.batches {
            let Some(org) = self.ready.pop_front() else {
                break;
            };
            let Some(queue) = self.orgs.get_mut(&org) else {
                continue;
            };
            let before = queue.len();
            let requests = take_batch(queue, &mut budget);
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

/// Takes a batch of an organization's requests within the budget, the first even beyond it. Drops those whose callers
/// have gone away.
fn take_batch(queue: &mut VecDeque<Pending>, budget: &mut CallLimits) -> Vec<Pending> {
    let mut taken = Vec::new();
    while let Some(Pending { request, waiter }) = queue.front() {
        let (bytes, is_wanted) = (request.bytes(), !waiter.reply.is_closed());
        let has_room = budget.operations > 0 && bytes <= budget.bytes;
        let is_full = taken.len() == Batch::MAX_OPERATIONS || !has_room;
        if is_wanted && is_full && !taken.is_empty() {
            break;
        }
        let next = queue.pop_front();
        if let Some(next) = next.filter(|_| is_wanted) {
            budget.operations = budget.operations.saturating_sub(1);
            budget.bytes = budget.bytes.saturating_sub(bytes);
            taken.push(next);
        }
    }
    taken
}

/// A call to the store. When it ends, even by a panic, the next one begins, if requests are ready.
struct BatchCall {
    queue: Arc<Queue>,
    /// The organizations whose requests it took.
    orgs: Vec<OrgId>,
    /// The thread whose next task it is, until it starts.
    thread: Option<ThreadId>,
    /// Whether it started. A runtime that is ending drops it before, and would drop the next one too.
    has_started: bool,
}

impl BatchCall {
    fn new(queue: Arc<Queue>, thread: Option<ThreadId>) -> Self {
        Self {
            queue,
            orgs: Vec::new(),
            thread,
            has_started: false,
        }
    }

    /// Takes the ready requests, decides them, and sends the replies.
    async fn run(mut self) {
        self.has_started = true;
        let taken = {
            let mut state = self.queue.state();
            state.end_forming(self.thread.take());
            let taken = state.take(self.queue.limits);
            self.orgs = taken.iter().map(|(org, _)| org.clone()).collect();
            self.queue.begin_further_calls(state);
            taken
        };
        if taken.is_empty() {
            return;
        }
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
        state.end_forming(self.thread.take());
        for org in self.orgs.drain(..) {
            match state.orgs.get(&org) {
                Some(queue) if !queue.is_empty() => state.ready.push_back(org),
                _ => drop(state.orgs.remove(&org)),
            }
        }
        let runtime = Handle::try_current().ok();
        let Some(runtime) = runtime.filter(|_| self.has_started && !state.ready.is_empty()) else {
            state.calls -= 1;
            // The runtime has ended, and the waiting callers with it.
            for org in state.ready.drain(..) {
                state.waiting -= state.orgs.remove(&org).map_or(0, |queue| queue.len());
            }
            return;
        };
        // Not under the lock: a runtime that is ending drops the next call at once, which locks again.
        drop(guard);
        let next = Self::new(Arc::clone(&self.queue), None);
        runtime.spawn(async move {
            // Requests that are about to be submitted join this call.
            tokio::task::yield_now().await;
            next.run().await;
        });
    }
}

/// The callers' spans, each with the index of its batch.
fn spans(waiters: &[Vec<Waiter>]) -> Vec<(usize, Span)> {
    let batches = waiters.iter().enumerate();
    let spans = batches.flat_map(|(place, waiters)| {
        let spans = waiters.iter().filter_map(|waiter| waiter.span.clone());
        spans.map(move |span| (place, span))
    });
    spans.collect()
}
