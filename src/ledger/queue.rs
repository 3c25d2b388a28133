//! Decisions that wait together are decided together.
//!
//! An organization has one call to the store under way at a time, and the store a few. A decision that
//! finds room goes at once, alone: nothing ever waits for company. What arrives meanwhile waits for the
//! end of a call, and then goes in the next one: all that waits of every organization that has no call
//! under way, each organization's decisions in the order of their arrival.
//!
//! A call belongs to no caller: it runs in a task of its own, so that a write that was begun is carried
//! to its end. A decision whose caller went away while it waited is dropped, unsent.
//!
//! The queue is bounded. An organization may have as many decisions waiting as there is room left: one
//! that floods the service gets half of the room, two get a third each, and there is always some for a
//! newcomer.

mod lane;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use futures_util::FutureExt as _;
use tokio::{runtime::Handle, sync::oneshot};

use self::lane::{Caller, Lane, Room, Submission, give_answers};
use super::LedgerError;
use crate::{
    domain::{OrgId, Terms, UtcDay},
    store::{Batch, Decision, Operation, Outcome, Store, StoreError, Timestamped},
    telemetry::{
        metrics::{Metrics, StoreCallResult},
        traces,
    },
};

/// How many decisions, and how many bytes of names, go to the store in one call: so many that a call is
/// soon over. The first submission goes whatever its size.
const MOST_DECISIONS: usize = 2 * Batch::MAX_OPERATIONS;
const MOST_BYTES: usize = 256 * 1024;

/// Where decisions wait for the store.
pub(super) struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    metrics: Metrics,
    /// How many calls the store takes at a time; none where it never waits, and needs no queue.
    calls_at_once: Option<usize>,
    /// How many decisions may wait.
    most_waiting: usize,
    lanes: Mutex<Lanes>,
}

#[derive(Default)]
struct Lanes {
    /// The organizations with a call under way, or with decisions that wait.
    by_org: HashMap<OrgId, Lane>,
    /// Those with decisions that wait and no call under way, in the order of their turns.
    ready: VecDeque<OrgId>,
    /// Decisions that wait, of all organizations.
    waiting: usize,
    /// Calls under way.
    calls: usize,
}

/// What is to be decided for an organization. Stays together.
pub(super) struct Asked {
    pub(super) day: UtcDay,
    pub(super) terms: Arc<Terms>,
    /// At most [`Batch::MAX_OPERATIONS`].
    pub(super) operations: Vec<Operation>,
}

/// What became of it.
pub(super) enum Answer {
    /// An outcome for each operation.
    Decided(Timestamped<Vec<Outcome>>),
    /// It is another day by the store's clock. Nothing was written; here are the operations again.
    DayChanged(Timestamped<Vec<Operation>>),
}

impl Queue {
    pub(super) fn new(store: Arc<dyn Store>, metrics: Metrics, most_waiting: usize) -> Self {
        let shared = Shared {
            calls_at_once: store.calls_at_once(),
            store,
            metrics,
            most_waiting,
            lanes: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(super) fn most_waiting(&self) -> usize {
        self.shared.most_waiting
    }

    /// Decides: at once, or together with what else waits.
    ///
    /// # Errors
    ///
    /// There is no room to wait, or the store failed.
    pub(super) async fn decide(&self, org: &OrgId, asked: Asked) -> Result<Answer, LedgerError> {
        if self.shared.calls_at_once.is_none() {
            return Ok(self.shared.decide_now(asked.for_org(org.clone())).await?);
        }
        let (sender, answer) = oneshot::channel();
        let submission = Submission {
            asked,
            answer: sender,
            span: traces::current(),
        };
        if let Some(call) = self.shared.enter(org, submission)? {
            // To be written before this caller waits; its first poll mostly does that.
            let mut call = Box::pin(call.make());
            if call.as_mut().now_or_never().is_none() {
                tokio::spawn(call);
            }
        }
        Ok(answer.await.map_err(|_| LedgerError::TaskDied)??)
    }

    /// The decisions that wait, and the calls under way.
    pub(super) fn load(&self) -> (usize, usize) {
        let lanes = self.shared.lanes();
        (lanes.waiting, lanes.calls)
    }
}

impl Shared {
    /// Decides alone, by a store that never waits: no caller can go away in the midst of it.
    async fn decide_now(&self, batch: Batch) -> Result<Answer, StoreError> {
        let spans = traces::current()
            .map(|span| (0, span))
            .into_iter()
            .collect();
        let mut decided = self.call(std::slice::from_ref(&batch), spans).await;
        let Timestamped { now, answer } = decided.pop().expect("a result for each batch")?;
        Ok(match answer {
            Decision::Outcomes(answer) => Answer::Decided(Timestamped { now, answer }),
            Decision::DayChanged => Answer::DayChanged(Timestamped {
                now,
                answer: batch.operations,
            }),
        })
    }

    /// Calls the store, and tells what became of it. `spans` are those of callers in each batch.
    async fn call(
        &self,
        batches: &[Batch],
        spans: Vec<(usize, traces::Span)>,
    ) -> Vec<Result<Timestamped<Decision>, StoreError>> {
        // Two clocks: one that can't go back, and one for traces, which is not looked at without any.
        let (since, began) = (Instant::now(), (!spans.is_empty()).then(SystemTime::now));
        let decided = self.store.decide(batches).await;
        let ended = match decided.iter().all(Result::is_ok) {
            true => StoreCallResult::Decision,
            false => StoreCallResult::Failed,
        };
        let decisions = batches.iter().map(|batch| batch.operations.len()).sum();
        self.metrics.store_called(ended, since.elapsed(), decisions);
        if let Some(began) = began {
            for (batch, span) in spans {
                span.store_called(traces::StoreCallSpan {
                    began,
                    decisions,
                    organizations: batches.len(),
                    failed: decided.get(batch).is_some_and(Result::is_err),
                });
            }
        }
        decided
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a submission wait, and begins a call where one more may be under way.
    fn enter(
        self: &Arc<Self>,
        org: &OrgId,
        submission: Submission,
    ) -> Result<Option<Call>, LedgerError> {
        let mut lanes = self.lanes();
        let Lanes {
            by_org,
            ready,
            waiting,
            calls,
        } = &mut *lanes;
        let decisions = submission.asked.operations.len();
        let room = self.most_waiting - *waiting;
        let its_waiting = by_org.get(org).map_or(0, |lane| lane.waiting);
        if its_waiting + decisions > room {
            return Err(LedgerError::Overloaded);
        }
        *waiting += decisions;
        match by_org.get_mut(org) {
            Some(lane) => lane.push(submission),
            None => {
                let mut lane = Lane::default();
                lane.push(submission);
                by_org.insert(org.clone(), lane);
                ready.push_back(org.clone());
            }
        }
        let most_calls = self.calls_at_once.unwrap_or(usize::MAX);
        let begins = !ready.is_empty() && *calls < most_calls;
        *calls += usize::from(begins);
        Ok(begins.then(|| Call::new(Arc::clone(self))))
    }
}

/// A call to the store. When it ends, however it ends, the next one begins, if anything waits.
struct Call {
    shared: Arc<Shared>,
    /// Whose decisions it takes.
    orgs: Vec<OrgId>,
    /// Whether it ran at all. A runtime that is ending drops it unrun, and would the next one too.
    began: bool,
}

impl Call {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            orgs: Vec::new(),
            began: false,
        }
    }

    /// Decides what waits.
    async fn make(mut self) {
        let (batches, mut callers) = self.take();
        if batches.is_empty() {
            return;
        }
        let spans = spans(&mut callers);
        let decided = self.shared.call(&batches, spans).await;
        drop(self);
        for ((decided, batch), callers) in decided.into_iter().zip(batches).zip(callers) {
            give_answers(decided, batch, callers);
        }
    }

    /// Takes what waits, organization after organization, as long as the bounds allow.
    fn take(&mut self) -> (Vec<Batch>, Vec<Vec<Caller>>) {
        self.began = true;
        let mut lanes = self.shared.lanes();
        let Lanes {
            by_org,
            ready,
            waiting,
            ..
        } = &mut *lanes;
        let (mut batches, mut callers) = (Vec::new(), Vec::new());
        let mut room = Room::of_a_call();
        let most_batches = self.shared.store.batches_in_a_call();
        while !room.is_used_up() && batches.len() < most_batches {
            let Some(org) = ready.pop_front() else {
                break;
            };
            let Some(lane) = by_org.get_mut(&org) else {
                continue;
            };
            let before = lane.waiting;
            let taken = lane.take(&org, &mut room);
            *waiting -= before - lane.waiting;
            if let Some((batch, its_callers)) = taken {
                batches.push(batch);
                callers.push(its_callers);
                self.orgs.push(org);
            } else {
                by_org.remove(&org);
            }
        }
        (batches, callers)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut lanes = self.shared.lanes();
        let Lanes {
            by_org,
            ready,
            waiting,
            calls,
        } = &mut *lanes;
        for org in self.orgs.drain(..) {
            match by_org.get_mut(&org) {
                Some(lane) if lane.waiting > 0 => ready.push_back(org),
                _ => drop(by_org.remove(&org)),
            }
        }
        let runtime = Handle::try_current().ok();
        let Some(runtime) = runtime.filter(|_| self.began && !ready.is_empty()) else {
            *calls -= 1;
            // The runtime is gone, and with it whoever waits.
            for org in ready.drain(..) {
                *waiting -= by_org.remove(&org).map_or(0, |lane| lane.waiting);
            }
            return;
        };
        // Not within the lock: a runtime that is ending drops the next call at once.
        drop(lanes);
        let next = Self::new(Arc::clone(&self.shared));
        runtime.spawn(async move {
            // What has arrived and only waits to be read shall be in the call.
            tokio::task::yield_now().await;
            next.make().await;
        });
    }
}

/// The spans of those callers that have one, each with the number of its batch.
fn spans(callers: &mut [Vec<Caller>]) -> Vec<(usize, traces::Span)> {
    let batches = callers.iter_mut().enumerate();
    let spans = batches.flat_map(|(batch, callers)| {
        let spans = callers.iter_mut().filter_map(|caller| caller.span.take());
        spans.map(move |span| (batch, span))
    });
    spans.collect()
}
