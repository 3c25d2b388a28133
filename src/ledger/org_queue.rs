//! What waits of one organization, and how much of it goes in a call.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;

use super::queue::{Answer, Asked, MOST_BYTES, MOST_DECISIONS};
use crate::{
    domain::OrgId,
    store::{Batch, Decided, Operation, StoreError, Timed},
    telemetry::traces,
};

#[derive(Default)]
pub(super) struct Lane {
    submissions: VecDeque<Submission>,
    /// Decisions that wait in them.
    pub(super) waiting: usize,
}

/// What one caller wants decided, and where it waits for it.
pub(super) struct Submission {
    pub(super) asked: Asked,
    pub(super) answer: oneshot::Sender<Result<Answer, StoreError>>,
    /// The span of its call, where that is traced.
    pub(super) span: Option<traces::Span>,
}

/// What a call may still take.
pub(super) struct Room {
    decisions: usize,
    bytes: usize,
}

impl Room {
    pub(super) fn of_a_call() -> Self {
        Self {
            decisions: MOST_DECISIONS,
            bytes: MOST_BYTES,
        }
    }

    pub(super) fn is_used_up(&self) -> bool {
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
    pub(super) fn push(&mut self, submission: Submission) {
        self.waiting += submission.asked.operations.len();
        self.submissions.push_back(submission);
    }

    /// Takes what is still wanted, as long as there is room and it is of one day and one set of terms;
    /// none where nothing is wanted any more.
    pub(super) fn take(&mut self, org: &OrgId, room: &mut Room) -> Option<(Batch, Vec<Caller>)> {
        let mut taken: Option<(Batch, Vec<Caller>)> = None;
        while let Some(next) = self.submissions.front() {
            let wanted = !next.answer.is_closed();
            if let Some((batch, _)) = &taken
                && wanted
                && !(room.has(&next.asked) && next.asked.goes_with(batch))
            {
                break;
            }
            let Some(next) = self.submissions.pop_front() else {
                break;
            };
            let Submission {
                asked,
                answer,
                span,
            } = next;
            let decisions = asked.operations.len();
            self.waiting -= decisions;
            if !wanted {
                continue;
            }
            room.use_for(&asked);
            let caller = Caller {
                decisions,
                span,
                answer,
            };
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

    pub(super) fn for_org(self, org: OrgId) -> Batch {
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
pub(super) struct Caller {
    /// How many of its operations.
    decisions: usize,
    pub(super) span: Option<traces::Span>,
    answer: oneshot::Sender<Result<Answer, StoreError>>,
}

/// Gives each caller its part. One that went away meanwhile gets nothing.
pub(super) fn give_answers(
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
