//! `memory:`, the embedded store that forgets when the process ends.
//!
//! One mutex over plain maps; a decision is a short critical section that never awaits. The clock is
//! an argument, so that tests can cross midnight.

mod book;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use self::book::Book;
use super::{
    Batch, Clock, Decided, Operation, Outcome, RowKey, Store, StoreError, Timed, UsageRows,
};
use crate::domain::{OrgId, PoolCounters, PoolName, UtcDay};

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

    fn decide_all(
        &self,
        books: &mut HashMap<OrgId, Book>,
        today: UtcDay,
        batch: &Batch,
    ) -> Vec<Outcome> {
        let writes = |operation: &Operation| match operation {
            Operation::Reserve { recording, .. } => recording.writes(),
            Operation::Settle { .. } | Operation::Release { .. } => false,
        };
        // Only what is counted opens a book.
        if !books.contains_key(&batch.org) && batch.operations.iter().any(writes) {
            books.insert(batch.org.clone(), Book::new(today));
        }
        let mut empty = Book::new(today);
        let book = books.get_mut(&batch.org).unwrap_or(&mut empty);
        book.turn_to(today, self.usage_retention_days);
        let decide = |operation| book.decide(&batch.terms, operation);
        batch.operations.iter().map(decide).collect()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timed<Decided>, StoreError>> {
        let decided = self.with_books(|books, today| {
            let decide = |batch: &Batch| match batch.day == today {
                true => Decided::Outcomes(self.decide_all(books, today, batch)),
                false => Decided::OnAnotherDay,
            };
            batches.iter().map(decide).collect::<Vec<_>>()
        });
        let now = decided.now;
        let timed = |answer| Ok(Timed { now, answer });
        decided.answer.into_iter().map(timed).collect()
    }

    fn calls_at_once(&self) -> Option<usize> {
        None
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
        Ok(self.with_books(|books, _| {
            let rows = books.get(org).map(|book| book.usage(day, after));
            rows.into_iter().flatten().take(limit).collect()
        }))
    }

    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        Ok(self.with_books(|_, _| ()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

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
