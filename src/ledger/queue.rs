//! Decisions that wait together are decided together.
//!
//! An organization has one call to the store under way at a time. A decision that finds none goes at
//! once, alone: nothing ever waits for company. What arrives during a call waits for its end, and then
//! goes in the next one, all of it, in the order of arrival. Organizations do not wait for each other.
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

/// How many decisions may wait. With the longest names that there are, they take some 40 MB.
const MOST_WAITING: usize = 32 * 1024;

/// How many bytes of names go to the store in one call, at least one submission aside.
const MOST_BYTES: usize = 256 * 1024;

/// Where decisions wait for the store.
pub(super) struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn Store>,
    lanes: Mutex<Lanes>,
}

#[derive(Default)]
struct Lanes {
    /// The organizations with a call under way, and what waits for its end.
    by_org: HashMap<OrgId, Lane>,
    /// Decisions that wait, of all organizations.
    waiting: usize,
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
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let lanes = Mutex::default();
        Self {
            shared: Arc::new(Shared { store, lanes }),
        }
    }

    /// Decides: at once, or together with what else waits.
    ///
    /// # Errors
    ///
    /// There is no room to wait, or the store failed.
    pub(super) async fn decide(&self, org: &OrgId, asked: Asked) -> Result<Answer, LedgerError> {
        let (sender, answer) = oneshot::channel();
        let submission = Submission {
            asked,
            answer: sender,
        };
        if let Some(turn) = self.shared.enter(org, submission)? {
            // A store that need not wait answers here and now, and costs no task.
            let mut call = Box::pin(turn.take());
            if call.as_mut().now_or_never().is_none() {
                tokio::spawn(call);
            }
        }
        Ok(answer.await.map_err(|_| LedgerError::TaskDied)??)
    }
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a submission wait, and begins the organization's turn where none is under way.
    fn enter(
        self: &Arc<Self>,
        org: &OrgId,
        submission: Submission,
    ) -> Result<Option<Turn>, LedgerError> {
        let mut lanes = self.lanes();
        let decisions = submission.asked.operations.len();
        let room = MOST_WAITING - lanes.waiting;
        if let Some(lane) = lanes.by_org.get_mut(org) {
            if lane.waiting + decisions > room {
                return Err(LedgerError::Overloaded);
            }
            lane.push(submission);
            lanes.waiting += decisions;
            return Ok(None);
        }
        if decisions > room {
            return Err(LedgerError::Overloaded);
        }
        let mut lane = Lane::default();
        lane.push(submission);
        lanes.waiting += decisions;
        lanes.by_org.insert(org.clone(), lane);
        Ok(Some(Turn {
            shared: Arc::clone(self),
            org: org.clone(),
        }))
    }
}

/// An organization's turn at the store. When it ends, however it ends, the next one begins.
struct Turn {
    shared: Arc<Shared>,
    org: OrgId,
}

impl Turn {
    /// Decides what waits.
    async fn take(self) {
        let Some((batch, callers)) = self.next_batch() else {
            return;
        };
        let decided = self.shared.store.decide(&batch).await;
        drop(self);
        give_answers(decided, batch, callers);
    }

    /// Takes from the lane what goes in one call: what is still wanted, as long as the bounds allow it
    /// and it is of one day and one set of terms.
    fn next_batch(&self) -> Option<(Batch, Vec<Caller>)> {
        let mut lanes = self.shared.lanes();
        let Lanes { by_org, waiting } = &mut *lanes;
        let lane = by_org.get_mut(&self.org)?;
        let mut taken: Option<(Batch, Vec<Caller>)> = None;
        let mut room = MOST_BYTES;
        while let Some(next) = lane.submissions.front() {
            let (wanted, decisions) = (!next.answer.is_closed(), next.asked.operations.len());
            let bytes: usize = next.asked.operations.iter().map(Operation::bytes).sum();
            if let Some((batch, _)) = &taken
                && wanted
                && !(bytes <= room && next.asked.goes_with(batch))
            {
                break;
            }
            lane.waiting -= decisions;
            *waiting -= decisions;
            let Some(Submission { asked, answer }) = lane.submissions.pop_front() else {
                break;
            };
            if !wanted {
                continue;
            }
            room = room.saturating_sub(bytes);
            let caller = Caller { decisions, answer };
            match &mut taken {
                Some((batch, callers)) => {
                    batch.operations.extend(asked.operations);
                    callers.push(caller);
                }
                None => taken = Some((asked.for_org(self.org.clone()), vec![caller])),
            }
        }
        taken
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lanes = self.shared.lanes();
        let Lanes { by_org, waiting } = &mut *lanes;
        let Some(lane) = by_org.get(&self.org) else {
            return;
        };
        let next = Handle::try_current().ok().filter(|_| lane.waiting > 0);
        let Some(runtime) = next else {
            *waiting -= lane.waiting;
            by_org.remove(&self.org);
            return;
        };
        let turn = Self {
            shared: Arc::clone(&self.shared),
            org: self.org.clone(),
        };
        // Not within the lock: a runtime that is ending drops the turn at once.
        drop(lanes);
        runtime.spawn(turn.take());
    }
}

impl Lane {
    fn push(&mut self, submission: Submission) {
        self.waiting += submission.asked.operations.len();
        self.submissions.push_back(submission);
    }
}

impl Asked {
    /// Whether it can be in a batch behind what is there.
    fn goes_with(&self, batch: &Batch) -> bool {
        let same_terms = Arc::ptr_eq(&self.terms, &batch.terms) || self.terms == batch.terms;
        let decisions = self.operations.len() + batch.operations.len();
        self.day == batch.day && same_terms && decisions <= Batch::MOST_OPERATIONS
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
fn give_answers(
    decided: Result<Timed<Decided>, StoreError>,
    batch: Batch,
    callers: Vec<Caller>,
) {
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
