//! `memory:`, the embedded store that forgets when the process ends.
//!
//! One mutex over plain maps; a decision is a short critical section that never awaits. The clock is
//! an argument, so that tests can cross midnight.

mod book;

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use self::book::Book;
use super::{
    Decided, Decision, Operation, Outcome, Recording, RowKey, Store, StoreError, Timed, UsageRows,
};
use crate::domain::{OrgId, PoolCounters, PoolName, UtcDay};

/// Where the store takes the time from.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The counters in this process' memory.
pub struct MemoryStore {
    clock: Clock,
    usage_retention_days: u32,
    books: Mutex<Books>,
}

/// What the mutex guards.
#[derive(Default)]
struct Books {
    by_org: HashMap<OrgId, Book>,
    /// The latest moment that was seen: a clock that steps back over midnight must not start a day anew.
    latest: DateTime<Utc>,
}

impl MemoryStore {
    /// An empty store. Usage rows are kept for `usage_retention_days` after their day.
    #[must_use]
    pub fn new(clock: Clock, usage_retention_days: u32) -> Self {
        Self {
            clock,
            usage_retention_days,
            books: Mutex::default(),
        }
    }

    fn with_books<T>(&self, read: impl FnOnce(&mut HashMap<OrgId, Book>, UtcDay) -> T) -> Timed<T> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        // Inside the lock, so that decisions and days are in one order.
        books.latest = books.latest.max((self.clock)());
        let now = books.latest;
        Timed {
            now,
            answer: read(&mut books.by_org, UtcDay::of(now)),
        }
    }

    fn decide_one(
        &self,
        books: &mut HashMap<OrgId, Book>,
        today: UtcDay,
        decision: Decision,
    ) -> Outcome {
        let Decision {
            org,
            terms,
            operation,
        } = decision;
        let known = books.get_mut(&org);
        let mut empty = Book::new(today);
        let book = match (known, &operation) {
            (Some(book), _) => book,
            (
                None,
                Operation::Reserve {
                    recording: Recording::Record,
                    ..
                },
            ) => books.entry(org).or_insert(empty),
            (None, _) => &mut empty,
        };
        book.turn_to(today, self.usage_retention_days);
        match operation {
            Operation::Reserve {
                request_id,
                fields,
                eligibility,
                recording,
            } => book.reserve(&terms, request_id, fields, eligibility, recording),
            Operation::Settle { request_id, tokens } => book.settle(&terms, &request_id, tokens),
            Operation::Release { request_id } => book.release(&terms, &request_id),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn decide(&self, day: UtcDay, batch: Vec<Decision>) -> Vec<Decided> {
        let outcomes = self.with_books(|books, today| -> Vec<Outcome> {
            let decide = |decision| match today == day {
                true => self.decide_one(books, today, decision),
                false => Outcome::AnotherDay,
            };
            batch.into_iter().map(decide).collect()
        });
        let now = outcomes.now;
        outcomes
            .answer
            .into_iter()
            .map(|answer| Ok(Timed { now, answer }))
            .collect()
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
    ) -> Result<Timed<Vec<PoolCounters>>, StoreError> {
        Ok(self.with_books(|books, _| {
            let counters = |pool| books.get(org).and_then(|book| book.pool(day, pool));
            pools
                .iter()
                .map(|pool| counters(pool).unwrap_or_default())
                .collect()
        }))
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timed<UsageRows>, StoreError> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.with_books(|books, _| {
            let rows = books.get(org).and_then(|book| book.usage(day));
            let rows = rows.map(|rows| rows.range((after, Bound::Unbounded)).take(limit));
            let copied = |(key, row): (&RowKey, &_)| (key.clone(), *row);
            rows.into_iter().flatten().map(copied).collect()
        }))
    }

    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        Ok(self.with_books(|_, _| ()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_clock_that_steps_back_over_midnight_starts_no_day_anew() {
        let seconds = Arc::new(AtomicI64::new(86_400));
        let clock = Arc::clone(&seconds);
        let at = |seconds| DateTime::from_timestamp(seconds, 0).expect("a moment");
        let now = move || at(clock.load(Ordering::SeqCst));
        let store = MemoryStore::new(Arc::new(now), 35);
        for (told, said) in [(86_400, 86_400), (86_399, 86_400), (86_401, 86_401)] {
            seconds.store(told, Ordering::SeqCst);
            let answer = store.probe().await.expect("memory answers");
            assert_eq!(answer.now, at(said));
        }
    }
}
