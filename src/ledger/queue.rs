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

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt as _;
use tokio::{runtime::Handle, sync::oneshot};

use super::LedgerError;
use crate::{
    domain::{OrgId, Terms, UtcDay},
    store::{Batch, Decided, Operation, Outcome, Store, StoreError, Timed},
};

/// How many decisions, and how many bytes of names, go to the store in one call: so many that a call is
/// soon over. The first submission goes whatever its size.
const MOST_DECISIONS: usize = 2 * Batch::MOST_OPERATIONS;
const MOST_BYTES: usize = 256 * 1024;

/// Where decisions wait for the store.
pub(super) struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
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

#[derive(Default)]
struct Lane {
    submissions: VecDeque<Submission>,
    /// Decisions that wait in them.
    waiting: usize,
}

/// What one caller wants decided, and where it waits for it.
struct Submission {
    asked: Asked,
    answer: oneshot::Sender<Result<Answer, StoreError>>,
}

/// What is to be decided for an organization. Stays together.
pub(super) struct Asked {
    pub(super) day: UtcDay,
    pub(super) terms: Arc<Terms>,
    /// At most [`Batch::MOST_OPERATIONS`].
    pub(super) operations: Vec<Operation>,
}

/// What became of it.
pub(super) enum Answer {
    /// An outcome for each operation.
    Decided(Timed<Vec<Outcome>>),
    /// It is another day by the store's clock. Nothing was written; here are the operations again.
    OnAnotherDay(Timed<Vec<Operation>>),
}

impl Queue {
    pub(super) fn new(store: Arc<dyn Store>, most_waiting: usize) -> Self {
        let shared = Shared {
            calls_at_once: store.calls_at_once(),
            store,
            most_waiting,
            lanes: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
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
}

impl Shared {
    /// Decides alone, by a store that never waits: no caller can go away in the midst of it.
    async fn decide_now(&self, batch: Batch) -> Result<Answer, StoreError> {
        let mut decided = self.store.decide(std::slice::from_ref(&batch)).await;
        let Timed { now, answer } = decided.pop().expect("a result for each batch")?;
        Ok(match answer {
            Decided::Outcomes(answer) => Answer::Decided(Timed { now, answer }),
            Decided::OnAnotherDay => Answer::OnAnotherDay(Timed {
                now,
                answer: batch.operations,
            }),
        })
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
        let (batches, callers) = self.take();
        if batches.is_empty() {
            return;
        }
        let decided = self.shared.store.decide(&batches).await;
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

/// What a call may still take.
struct Room {
    decisions: usize,
    bytes: usize,
}

impl Room {
    fn of_a_call() -> Self {
        Self {
            decisions: MOST_DECISIONS,
            bytes: MOST_BYTES,
        }
    }

    fn is_used_up(&self) -> bool {
        self.decisions == 0 || self.bytes == 0
    }

    fn has(&self, asked: &Asked) -> bool {
        asked.operations.len() <= self.decisions && asked.bytes() <= self.bytes
    }

    fn use_for(&mut self, asked: &Asked) {
        self.decisions = self.decisions.saturating_sub(asked.operations.len());
        self.bytes = self.bytes.saturating_sub(asked.bytes());
    }
}

impl Lane {
    fn push(&mut self, submission: Submission) {
        self.waiting += submission.asked.operations.len();
        self.submissions.push_back(submission);
    }

    /// Takes what is still wanted, as long as there is room and it is of one day and one set of terms;
    /// none where nothing is wanted any more.
    fn take(&mut self, org: &OrgId, room: &mut Room) -> Option<(Batch, Vec<Caller>)> {
        let mut taken: Option<(Batch, Vec<Caller>)> = None;
        while let Some(next) = self.submissions.front() {
            let wanted = !next.answer.is_closed();
            if let Some((batch, _)) = &taken
                && wanted
                && !(room.has(&next.asked) && next.asked.goes_with(batch))
            {
                break;
            }
            let Some(Submission { asked, answer }) = self.submissions.pop_front() else {
                break;
            };
            let decisions = asked.operations.len();
            self.waiting -= decisions;
            if !wanted {
                continue;
            }
            room.use_for(&asked);
            let caller = Caller { decisions, answer };
            match &mut taken {
                Some((batch, callers)) => {
                    batch.operations.extend(asked.operations);
                    callers.push(caller);
                }
                None => taken = Some((asked.for_org(org.clone()), vec![caller])),
            }
        }
        taken
    }
}

impl Asked {
    /// Whether it can be in a batch behind what is there.
    fn goes_with(&self, batch: &Batch) -> bool {
        let same_terms = Arc::ptr_eq(&self.terms, &batch.terms) || self.terms == batch.terms;
        let decisions = self.operations.len() + batch.operations.len();
        self.day == batch.day && same_terms && decisions <= Batch::MOST_OPERATIONS
    }

    fn bytes(&self) -> usize {
        self.operations.iter().map(Operation::bytes).sum()
    }

    fn for_org(self, org: OrgId) -> Batch {
        let Self {
            day,
            terms,
            operations,
        } = self;
        Batch {
            org,
            day,
            terms,
            operations,
        }
    }
}

/// Who waits for a part of a batch.
struct Caller {
    /// How many of its operations.
    decisions: usize,
    answer: oneshot::Sender<Result<Answer, StoreError>>,
}

/// Gives each caller its part. One that went away meanwhile gets nothing.
fn give_answers(decided: Result<Timed<Decided>, StoreError>, batch: Batch, callers: Vec<Caller>) {
    let Timed { now, answer } = match decided {
        Ok(decided) => decided,
        Err(error) => {
            for caller in callers {
                let _ = caller.answer.send(Err(error.clone()));
            }
            return;
        }
    };
    match answer {
        Decided::Outcomes(outcomes) => give_parts(callers, outcomes, |answer| {
            Answer::Decided(Timed { now, answer })
        }),
        Decided::OnAnotherDay => give_parts(callers, batch.operations, |answer| {
            Answer::OnAnotherDay(Timed { now, answer })
        }),
    }
}

fn give_parts<T>(callers: Vec<Caller>, parts: Vec<T>, answer: impl Fn(Vec<T>) -> Answer) {
    let mut parts = parts.into_iter();
    for caller in callers {
        let part = parts.by_ref().take(caller.decisions).collect();
        let _ = caller.answer.send(Ok(answer(part)));
    }
}
