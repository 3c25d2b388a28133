//! Policy and store put together: the use cases. What gRPC and HTTP call.
//!
//! A write is carried by a task of its own, so that it can't be abandoned half-way when its caller
//! goes away or runs out of time. The store's clock decides which day it is: the ledger only guesses
//! it, from what the store said last, and asks again where it guessed wrong.

mod answers;
mod clock;

use std::{future::Future, sync::Arc, time::Instant};

use arc_swap::ArcSwap;

pub use self::answers::{
    LedgerError, Quota, Released, ReserveCall, Reserved, Settled, Usage, UsagePage, UsageRow,
};
use self::clock::StoreClock;
use crate::{
    domain::{BilledReason, OrgId, RequestId, Tokens, UtcDay, Verdict},
    policy::{Assessment, Policy},
    store::{Decision, Operation, Outcome, PoolFigures, Recording, Store, StoreError, Timed},
    throttle::Throttle,
};

/// The service's one way to decide and to count. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    policy: ArcSwap<Policy>,
    on_store_failure: OnStoreFailure,
    usage_retention_days: u32,
    clock: StoreClock,
}

/// What a Reserve answers when the store can't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// An error: the outcome is unknown.
    Error,
    /// BILLED `STORE_UNAVAILABLE`. Never FREE by guess.
    Billed,
}

static DEGRADED_ANSWERS: Throttle = Throttle::new();

/// Midnight can pass once while a call is under way; a clock that is set may do it once more.
const MAX_ROUNDS: usize = 4;

impl Ledger {
    /// Puts policy and store together.
    #[must_use]
    pub fn new(
        policy: Arc<Policy>,
        store: Arc<dyn Store>,
        on_store_failure: OnStoreFailure,
        usage_retention_days: u32,
    ) -> Self {
        let (policy, clock) = (ArcSwap::new(policy), StoreClock::default());
        let inner = Inner {
            store,
            policy,
            on_store_failure,
            usage_retention_days,
            clock,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Decides by another policy from the next decision on.
    pub fn set_policy(&self, policy: Arc<Policy>) {
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
        let inner = Arc::clone(&self.inner);
        let answer = carried(async move { inner.reserve(call).await }).await;
        match (answer, self.inner.on_store_failure) {
            (Err(error), OnStoreFailure::Billed) if error.is_outage() => {
                if let Some(left_out) = DEGRADED_ANSWERS.admit(Instant::now()) {
                    tracing::warn!(%error, left_out, "calls are answered BILLED STORE_UNAVAILABLE");
                }
                Ok(Reserved {
                    verdict: Verdict::Billed(BilledReason::StoreUnavailable),
                    pool: None,
                    replayed: false,
                    resets_at: self.inner.clock.today().end(),
                })
            }
            (answer, _) => answer,
        }
    }

    /// Decides many, in their order: one result for each.
    pub async fn reserve_all(&self, calls: Vec<ReserveCall>) -> Vec<Result<Reserved, LedgerError>> {
        futures_util::future::join_all(calls.into_iter().map(|call| self.reserve(call))).await
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
        let inner = Arc::clone(&self.inner);
        carried(async move {
            let operation = Operation::Settle { request_id, tokens };
            let Timed { now, answer } = inner.decide_by_id(org, operation).await?;
            match answer {
                Outcome::Settled {
                    verdict,
                    reserved_as,
                    pool,
                    replayed,
                } => Ok(Settled {
                    verdict,
                    verdict_changed: verdict.is_free() != reserved_as.is_free(),
                    pool,
                    replayed,
                    resets_at: UtcDay::of(now).end(),
                }),
                other => Err(no_answer(other)),
            }
        })
        .await
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
        let inner = Arc::clone(&self.inner);
        carried(async move {
            let operation = Operation::Release { request_id };
            let Timed { now, answer } = inner.decide_by_id(org, operation).await?;
            match answer {
                Outcome::Released {
                    tokens,
                    pool,
                    replayed,
                } => Ok(Released {
                    tokens,
                    pool,
                    replayed,
                    resets_at: UtcDay::of(now).end(),
                }),
                other => Err(no_answer(other)),
            }
        })
        .await
    }

    /// What remains today of every pool of the policy.
    ///
    /// # Errors
    ///
    /// The organization is unknown, or the store failed.
    pub async fn quota(&self, org: &OrgId) -> Result<Quota, LedgerError> {
        let policy = self.policy();
        let mut day = self.inner.clock.today();
        for _ in 0..MAX_ROUNDS {
            let standing = policy
                .standing(org, day)
                .ok_or(LedgerError::UnknownOrganization)?;
            let counted = self.inner.store.pools(org, day, policy.pools()).await?;
            let today = self.inner.clock.learn(counted.now);
            if today == day {
                let pools = policy
                    .pools()
                    .iter()
                    .zip(counted.answer)
                    .map(|(pool, counters)| {
                        let figures =
                            PoolFigures::today(&standing.terms, pool.clone(), counters.used);
                        (figures, counters)
                    });
                let pools = pools.collect();
                return Ok(Quota {
                    standing,
                    day,
                    resets_at: day.end(),
                    pools,
                });
            }
            day = today;
        }
        Err(LedgerError::RestlessClock)
    }

    /// What was used on a day, by project and model.
    ///
    /// # Errors
    ///
    /// The organization is unknown and has no rows, the day is not kept, or the store failed.
    pub async fn usage(&self, org: &OrgId, page: UsagePage) -> Result<Usage, LedgerError> {
        let UsagePage { day, after, size } = page;
        let asked = day;
        let mut day = asked.unwrap_or_else(|| self.inner.clock.today());
        for _ in 0..MAX_ROUNDS {
            // One row more than the page, which tells whether there is a next one.
            let store = &self.inner.store;
            let read = store.usage(org, day, after.as_ref(), size + 1).await?;
            let today = self.inner.clock.learn(read.now);
            if asked.is_none() && today != day {
                day = today;
                continue;
            }
            let oldest = today.minus_days(self.inner.usage_retention_days);
            if day > today || day < oldest {
                return Err(LedgerError::DayNotKept { day, oldest, today });
            }
            let policy = self.policy();
            let rows = read.answer;
            if rows.is_empty() && after.is_none() && !policy.orgs().contains_key(org) {
                return Err(LedgerError::UnknownOrganization);
            }
            let more = rows.len() > size;
            let listed = rows.into_iter().take(size);
            let listed = listed.map(|((project, model), counters)| UsageRow {
                pool: policy.pool_of(&model).cloned(),
                project,
                model,
                counters,
            });
            let rows = listed.collect();
            return Ok(Usage { day, rows, more });
        }
        Err(LedgerError::RestlessClock)
    }

    /// Whether the store answers and would decide now.
    ///
    /// # Errors
    ///
    /// It doesn't.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let Timed { now, answer: () } = self.inner.store.probe().await?;
        self.inner.clock.learn(now);
        Ok(())
    }
}

impl Inner {
    async fn reserve(&self, call: ReserveCall) -> Result<Reserved, LedgerError> {
        let ReserveCall {
            org,
            fields,
            request_id,
            dry_run,
        } = call;
        let request_id = request_id.filter(|_| !dry_run);
        let mut day = self.clock.today();
        for _ in 0..MAX_ROUNDS {
            let assessed = self.policy.load().assess(&org, &fields, day);
            let Assessment {
                known,
                eligibility,
                terms,
            } = assessed;
            let recording = if known && !dry_run {
                Recording::Record
            } else {
                Recording::LookOnly
            };
            let operation = Operation::Reserve {
                request_id: request_id.clone(),
                fields: fields.clone(),
                eligibility,
                recording,
            };
            let decision = Decision {
                org: org.clone(),
                terms,
                operation,
            };
            let Timed { now, answer } = self.decide(day, decision).await?;
            match answer {
                Outcome::AnotherDay => day = UtcDay::of(now),
                Outcome::Reserved {
                    verdict,
                    pool,
                    replayed,
                } => {
                    let resets_at = UtcDay::of(now).end();
                    return Ok(Reserved {
                        verdict,
                        pool,
                        replayed,
                        resets_at,
                    });
                }
                other => return Err(no_answer(other)),
            }
        }
        Err(LedgerError::RestlessClock)
    }

    /// Settle and Release: decided on a reservation, whatever the policy knows by now.
    async fn decide_by_id(
        &self,
        org: OrgId,
        operation: Operation,
    ) -> Result<Timed<Outcome>, LedgerError> {
        let mut day = self.clock.today();
        for _ in 0..MAX_ROUNDS {
            let terms = self.policy.load().terms(&org, day);
            let decision = Decision {
                org: org.clone(),
                terms,
                operation: operation.clone(),
            };
            let decided = self.decide(day, decision).await?;
            if decided.answer != Outcome::AnotherDay {
                return Ok(decided);
            }
            day = UtcDay::of(decided.now);
        }
        Err(LedgerError::RestlessClock)
    }

    async fn decide(&self, day: UtcDay, decision: Decision) -> Result<Timed<Outcome>, StoreError> {
        let decided = self.store.decide(day, vec![decision]).await.pop();
        let decided = decided.expect("a store gives one result for each decision")?;
        self.clock.learn(decided.now);
        Ok(decided)
    }
}

/// An outcome that is no answer to what was asked.
fn no_answer(outcome: Outcome) -> LedgerError {
    match outcome {
        Outcome::Refused(refusal) => LedgerError::Refused(refusal),
        Outcome::Full(full) => LedgerError::Full(full),
        Outcome::AnotherDay => LedgerError::RestlessClock,
        Outcome::Reserved { .. } | Outcome::Settled { .. } | Outcome::Released { .. } => {
            let reason = "an answer to another question".to_owned();
            LedgerError::Store(StoreError::Corrupt { reason })
        }
    }
}

/// Runs a write to its end, also when whoever waits for it goes away.
async fn carried<T: Send + 'static>(
    write: impl Future<Output = Result<T, LedgerError>> + Send + 'static,
) -> Result<T, LedgerError> {
    match tokio::spawn(write).await {
        Ok(answer) => answer,
        Err(_) => Err(LedgerError::TaskDied),
    }
}
