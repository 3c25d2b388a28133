//! Calls the store: with its clock, the policy and the circuit breaker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    LedgerError,
    api::NoticeSink,
    assess::reassess,
    breaker::{Access, CircuitBreaker},
    comparisons::KnownComparisons,
    overview::Overview,
};
use crate::{
    domain::{OrgId, PoolCounters, PoolName, UtcDay},
    policy::Policy,
    store::{Batch, Decision, Outcome, Store, StoreError, Timestamped},
    telemetry::{
        metrics::{Metrics, StoreCallResult},
        traces::Span,
    },
    wall_clock,
};

/// Midnight can pass once during a call; a clock that is set can pass it again.
pub(super) const MAX_ROUNDS: usize = 4;

pub(super) struct Backend {
    pub(super) store: Arc<dyn Store>,
    pub(super) policy: ArcSwap<Policy>,
    pub(super) clock: StoreClock,
    pub(super) breaker: CircuitBreaker,
    pub(super) overview: Overview,
    pub(super) comparisons: KnownComparisons,
    pub(super) metrics: Metrics,
    pub(super) notices: Option<NoticeSink>,
}

/// An outcome for each operation of a batch.
pub(super) type BatchResult = Result<Timestamped<Vec<Outcome>>, LedgerError>;

/// Predicts the store's clock: this machine's clock plus the last known difference.
#[derive(Default)]
pub(super) struct StoreClock {
    ahead_ms: AtomicI64,
}

impl StoreClock {
    /// Updates the difference with the store's time, and returns the store's day.
    pub(super) fn update(&self, now: DateTime<Utc>) -> UtcDay {
        let ahead = now
            .signed_duration_since(wall_clock::now())
            .num_milliseconds();
        self.ahead_ms.store(ahead, Ordering::Relaxed);
        UtcDay::of(now)
    }

    /// The store's time, as far as is known.
    pub(super) fn now(&self) -> DateTime<Utc> {
        let ahead = TimeDelta::milliseconds(self.ahead_ms.load(Ordering::Relaxed));
        let now = wall_clock::now();
        now.checked_add_signed(ahead).unwrap_or(now)
    }

    /// The day on which the store probably is.
    pub(super) fn today(&self) -> UtcDay {
        UtcDay::of(self.now())
    }
}

impl Backend {
    /// Decides batches, and returns a result for each. If the store is on another day, it has written nothing of
    /// a batch, which is then assessed and decided again for that day. `spans` are those of the callers, each with
    /// the index of its batch.
    pub(super) async fn decide(
        &self,
        mut batches: Vec<Batch>,
        spans: &[(usize, Span)],
    ) -> Vec<BatchResult> {
        let mut results: Vec<BatchResult> = batches
            .iter()
            .map(|_| Err(LedgerError::ClockUnstable))
            .collect();
        let mut places: Vec<usize> = (0..batches.len()).collect();
        for _ in 0..MAX_ROUNDS {
            let replies = self.call(&batches, &places, spans).await;
            let mut day_changed = Vec::new();
            for ((batch, place), reply) in batches.into_iter().zip(places).zip(replies) {
                self.breaker.record(reply.as_ref().err());
                match reply {
                    Ok(Timestamped { now, answer }) => {
                        let day = self.clock.update(now);
                        match answer {
                            Decision::Outcomes {
                                outcomes,
                                crossings,
                            } => {
                                self.notice_crossings(&batch, now, crossings);
                                let answer = outcomes;
                                results[place] = Ok(Timestamped { now, answer });
                            }
                            Decision::DayChanged => day_changed.push((batch, place, day)),
                        }
                    }
                    Err(error) => results[place] = Err(error.into()),
                }
            }
            if day_changed.is_empty() {
                break;
            }
            let policy = self.policy.load();
            let again = day_changed
                .into_iter()
                .map(|(batch, place, day)| (reassess(&policy, day, batch), place));
            (batches, places) = again.unzip();
        }
        results
    }

    /// Calls the store once, with a metric and a span for the call.
    async fn call(
        &self,
        batches: &[Batch],
        places: &[usize],
        spans: &[(usize, Span)],
    ) -> Vec<Result<Timestamped<Decision>, StoreError>> {
        // Durations need a monotonic clock, spans the wall clock.
        let (since, began) = (Instant::now(), (!spans.is_empty()).then(SystemTime::now));
        let replies = self.store.decide(batches).await;
        let ended = match replies.iter().all(Result::is_ok) {
            true => StoreCallResult::Decided,
            false => StoreCallResult::Failed,
        };
        let decisions = batches.iter().map(|batch| batch.operations.len()).sum();
        self.metrics.store_called(ended, since.elapsed(), decisions);
        let Some(began) = began else {
            return replies;
        };
        for (place, span) in spans {
            if let Some(at) = places.iter().position(|it| it == place) {
                let failed = replies.get(at).is_some_and(Result::is_err);
                span.store_called(began, decisions, batches.len(), failed);
            }
        }
        replies
    }

    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let Timestamped { now, answer: () } = self.store.probe().await?;
        self.clock.update(now);
        Ok(())
    }

    /// Today's counters of an organization's pools. The circuit breaker neither blocks this nor learns of its failure.
    pub(super) async fn pools_today(
        &self,
        org: &OrgId,
        pools: &[PoolName],
    ) -> Result<Timestamped<Vec<PoolCounters>>, LedgerError> {
        let mut day = self.clock.today();
        for _ in 0..MAX_ROUNDS {
            let read = self.store.pools(org, day, pools, &[]).await?;
            let today = self.clock.update(read.now);
            if today == day {
                let (now, answer) = (read.now, read.answer.pools);
                return Ok(Timestamped { now, answer });
            }
            day = today;
        }
        Err(LedgerError::ClockUnstable)
    }

    /// Runs a query, unless the circuit breaker blocks it. Returns the store's day and the answer.
    pub(super) async fn read<T>(
        &self,
        query: impl Future<Output = Result<Timestamped<T>, StoreError>>,
    ) -> Result<(UtcDay, T), LedgerError> {
        self.breaker.admit(Access::Read).await?;
        let result = query.await;
        self.breaker.record(result.as_ref().err());
        let Timestamped { now, answer } = result?;
        Ok((self.clock.update(now), answer))
    }
}
