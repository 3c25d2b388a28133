//! Policy and store put together: the use cases. What gRPC and HTTP call.
//!
//! A write is carried by a task of its own, so that it can't be abandoned half-way when its caller
//! goes away or runs out of time. The store's clock decides which day it is: the ledger only guesses
//! it, from what the store said last, and asks again where it guessed wrong.

mod answers;
mod asking;
mod clock;
mod making;
mod outage;
mod queue;
mod reading;
mod telling;

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use tokio::time::Instant;

pub use self::{
    answers::{
        LedgerError, Quota, Released, ReserveCall, Reserved, Settled, Usage, UsagePage, UsageRow,
    },
    outage::{Down, StoreState},
};
use self::{
    asking::{assess, groups, operation},
    clock::StoreClock,
    outage::{Outage, Purpose},
    queue::{Answer, Asked, Queue},
    telling::{Ask, failure},
};
use crate::{
    domain::{BilledReason, OrgId, RequestId, Tokens, UtcDay, Verdict},
    policy::Policy,
    store::{ClockStep, Operation, Outcome, Store, StoreError, Timestamped},
    telemetry::{
        LogLimit,
        metrics::{Metrics, StoreFailure},
        traces,
    },
};

/// The service's one way to decide and to count. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
    /// When its calls must have their answers; none: whenever the store has.
    answers_by: Option<Instant>,
}

struct Inner {
    store: Arc<dyn Store>,
    queue: Queue,
    policy: ArcSwap<Policy>,
    on_store_failure: OnStoreFailure,
    usage_retention_days: u32,
    clock: StoreClock,
    outage: Outage,
    metrics: Metrics,
}

/// What a Reserve answers when the store can't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// An error: the outcome is unknown.
    Error,
    /// BILLED `STORE_UNAVAILABLE`. Never FREE by guess.
    Billed,
}

static DEGRADED_ANSWERS: LogLimit = LogLimit::new();

/// Midnight can pass once while a call is under way; a clock that is set may do it once more.
const MAX_ROUNDS: usize = 4;

impl Ledger {
    /// The same ledger, whose calls are answered by then. A decision whose time is over before it was
    /// sent is not sent; one that was sent is carried to its end, and only its answer comes too late.
    #[must_use]
    pub fn by(&self, answers_by: Instant) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            answers_by: Some(answers_by),
        }
    }

    /// Decides by another policy from the next decision on.
    pub fn set_policy(&self, policy: Arc<Policy>) {
        self.inner.metrics.know_pools(policy.pools());
        self.inner.policy.store(policy);
    }

    /// The policy of the next decision.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        self.inner.policy.load_full()
    }

    /// Is this request free? Counts it.
    ///
    /// # Errors
    ///
    /// The id was used otherwise, or the store failed.
    pub async fn reserve(&self, call: ReserveCall) -> Result<Reserved, LedgerError> {
        let ask = Ask::of(&call);
        let (org, operation) = operation(call);
        let decided = self.decide_one(&org, operation).await;
        let reserved = self.inner.reserved(decided);
        self.inner.tell_reserved(ask, &org, &reserved);
        reserved
    }

    /// Decides many requests, and gives a result for each, in their order. Those of one organization
    /// are decided together, in their order too.
    pub async fn reserve_all(&self, calls: Vec<ReserveCall>) -> Vec<Result<Reserved, LedgerError>> {
        let mut results: Vec<_> = calls.iter().map(|_| Err(LedgerError::TaskDied)).collect();
        let mut asks: Vec<_> = calls.iter().map(Ask::of).collect();
        let groups = groups(calls).into_iter().map(|group| async move {
            let decisions = group.operations.len();
            let decided = self.inner.decide(&group.org, group.operations);
            let decided = self.in_time(decisions, decided).await;
            (group.org, group.at, decided)
        });
        for (org, at, decided) in join_all(groups).await {
            let mut reserved = |at: usize, decided| {
                let reserved = self.inner.reserved(decided);
                let ask = std::mem::take(&mut asks[at]);
                self.inner.tell_reserved(ask, &org, &reserved);
                results[at] = reserved;
            };
            match decided {
                Ok(Timestamped { now, answer }) => {
                    for (at, answer) in at.into_iter().zip(answer) {
                        reserved(at, Ok(Timestamped { now, answer }));
                    }
                }
                Err(error) => at
                    .into_iter()
                    .for_each(|at| reserved(at, Err(error.clone()))),
            }
        }
        results
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
        let operation = Operation::Settle { request_id, tokens };
        let Timestamped { now, answer } = self.decide_one(&org, operation).await?;
        match answer {
            Outcome::Settled {
                verdict,
                reserved_as,
                pool,
                replayed,
            } => {
                let settled = Settled {
                    verdict,
                    verdict_changed: verdict.is_free() != reserved_as.is_free(),
                    pool,
                    replayed,
                    resets_at: UtcDay::of(now).end(),
                };
                self.inner.tell_settled(began, &org, tokens, &settled);
                Ok(settled)
            }
            other => Err(self.inner.no_answer(other)),
        }
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
        let operation = Operation::Release { request_id };
        let Timestamped { now, answer } = self.decide_one(&org, operation).await?;
        match answer {
            Outcome::Released {
                tokens,
                pool,
                replayed,
            } => {
                let released = Released {
                    tokens,
                    pool,
                    replayed,
                    resets_at: UtcDay::of(now).end(),
                };
                self.inner.tell_released(began, &org, &released);
                Ok(released)
            }
            other => Err(self.inner.no_answer(other)),
        }
    }

    /// How often the store was found to have lost writes of today, and they were restored.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.inner.store.losses()
    }

    /// Why some of the store's servers refuse while others decide.
    #[must_use]
    pub fn partial_refusal(&self) -> Option<String> {
        self.inner.store.partial_refusal()
    }

    /// How often the wall clock was found to have stepped.
    #[must_use]
    pub fn clock_steps(&self) -> u64 {
        self.inner.store.clock_steps()
    }

    /// The wall clock's latest step, for an hour after it.
    #[must_use]
    pub fn latest_clock_step(&self) -> Option<ClockStep> {
        self.inner.store.latest_clock_step()
    }

    /// The decisions that wait for the store, and the calls to it that are under way.
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
        let Timestamped { now, answer: () } = self.inner.store.probe().await?;
        self.inner.clock.learn(now);
        Ok(())
    }

    async fn decide_one(
        &self,
        org: &OrgId,
        operation: Operation,
    ) -> Result<Timestamped<Outcome>, LedgerError> {
        let decided = self.in_time(1, self.inner.decide(org, vec![operation]));
        let Timestamped { now, mut answer } = decided.await?;
        let answer = answer.pop().expect("a store gives an outcome for each");
        Ok(Timestamped { now, answer })
    }

    /// Waits as long as there is time. What is dropped then is the waiting: the queue sees that nobody
    /// does, and what was sent has a task of its own. Where there is no answer, so many failures are
    /// counted.
    async fn in_time<T>(
        &self,
        failures: usize,
        answer: impl Future<Output = Result<T, LedgerError>>,
    ) -> Result<T, LedgerError> {
        let answered = match self.answers_by {
            None => answer.await,
            Some(answers_by) if answers_by <= Instant::now() => Err(LedgerError::OutOfTime),
            Some(answers_by) => {
                let answered = tokio::time::timeout_at(answers_by, answer).await;
                answered.unwrap_or(Err(LedgerError::OutOfTime))
            }
        };
        if let Err(error) = &answered
            && let Some(failure) = failure(error)
        {
            self.inner.metrics.store_failed(failure, failures);
        }
        answered
    }
}

impl Inner {
    /// Decides operations of one organization together, on the day that it is for the store; at once
    /// not, where the store is known to be down.
    async fn decide(
        &self,
        org: &OrgId,
        mut operations: Vec<Operation>,
    ) -> Result<Timestamped<Vec<Outcome>>, LedgerError> {
        self.outage.enter(Purpose::Decide).await?;
        let mut day = self.clock.today();
        for _ in 0..MAX_ROUNDS {
            let terms = assess(&self.policy.load(), org, day, &mut operations);
            let asked = Asked {
                day,
                terms,
                operations,
            };
            let answer = self.queue.decide(org, asked).await;
            self.note(&answer);
            match answer? {
                Answer::Decided(decided) => {
                    self.clock.learn(decided.now);
                    return Ok(decided);
                }
                Answer::DayChanged(Timestamped { now, answer }) => {
                    day = self.clock.learn(now);
                    operations = answer;
                }
            }
        }
        Err(LedgerError::RestlessClock)
    }

    /// What became of a call tells something of the store.
    fn note<T>(&self, answer: &Result<T, LedgerError>) {
        match answer {
            Ok(_) => self.outage.called(None),
            Err(LedgerError::Store(error)) => self.outage.called(Some(error)),
            Err(_) => {}
        }
    }

    /// The answer to a Reserve; a degraded one where the store can't be asked and the operator wants it.
    fn reserved(
        &self,
        decided: Result<Timestamped<Outcome>, LedgerError>,
    ) -> Result<Reserved, LedgerError> {
        let Timestamped { now, answer } = match decided {
            Ok(decided) => decided,
            Err(error) if error.is_outage() && self.on_store_failure == OnStoreFailure::Billed => {
                if let Some(left_out) = DEGRADED_ANSWERS.admit(Instant::now().into_std()) {
                    let trace_id = traces::trace_id();
                    tracing::warn!(%error, left_out, trace_id, "calls are answered BILLED STORE_UNAVAILABLE");
                }
                return Ok(Reserved {
                    verdict: Verdict::Billed(BilledReason::StoreUnavailable),
                    pool: None,
                    replayed: false,
                    resets_at: self.clock.today().end(),
                });
            }
            Err(error) => return Err(error),
        };
        match answer {
            Outcome::Reserved {
                verdict,
                pool,
                replayed,
            } => Ok(Reserved {
                verdict,
                pool,
                replayed,
                resets_at: UtcDay::of(now).end(),
            }),
            other => Err(self.no_answer(other)),
        }
    }

    /// An outcome that is no answer to what was asked.
    fn no_answer(&self, outcome: Outcome) -> LedgerError {
        let (error, failure) = match outcome {
            Outcome::Refused(refusal) => return LedgerError::Refused(refusal),
            Outcome::CounterOverflow(full) => (LedgerError::Full(full), StoreFailure::Full),
            Outcome::Reserved { .. } | Outcome::Settled { .. } | Outcome::Released { .. } => {
                let reason = "an answer to another question".to_owned();
                let error = StoreError::Corrupt { reason };
                (LedgerError::Store(error), StoreFailure::Corrupt)
            }
        };
        self.metrics.store_failed(failure, 1);
        error
    }
}
