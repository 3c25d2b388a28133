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

use self::book::Book;
use super::{
    Batch, CallLimits, Clock, ClockStep, Decided, Operation, Outcome, RowKey, Store, StoreError,
    Timed, UsageLimits, UsageRows, clock::StepDetector,
};
use crate::domain::{OrgId, PoolCounters, PoolName, UtcDay};

/// The counters in this process' memory.
pub struct MemoryStore {
    clock: Clock,
    limits: UsageLimits,
    books: Mutex<Books>,
}

/// What the mutex guards.
struct Books {
    by_org: HashMap<OrgId, Book>,
    steps: StepDetector,
    /// Whether the clock has been steady for long enough to remove what is old.
    is_steady: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Clock, limits: UsageLimits) -> Self {
        let books = Books {
            by_org: HashMap::new(),
            steps: StepDetector::new(clock(), None),
            is_steady: false,
        };
        Self {
            clock,
            limits,
            books: Mutex::new(books),
        }
    }

    fn with_books<T>(&self, work: impl FnOnce(&mut Books, UtcDay) -> T) -> Timed<T> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        // Inside the lock, so that decisions and days are in one order.
        let reading = (self.clock)();
        books.steps.observe(reading);
        books.is_steady = books.steps.is_steady(reading);
        let now = reading.wall;
        Timed {
            now,
            answer: work(&mut books, UtcDay::of(now)),
        }
    }

    fn decide_all(&self, books: &mut Books, today: UtcDay, batch: &Batch) -> Vec<Outcome> {
        let writes = |operation: &Operation| match operation {
            Operation::Reserve { recording, .. } => recording.writes(),
            Operation::Settle { .. } | Operation::Release { .. } => false,
        };
        // Only what is counted opens a book.
        if !books.by_org.contains_key(&batch.org) && batch.operations.iter().any(writes) {
            books.by_org.insert(batch.org.clone(), Book::new(today));
        }
        let mut empty = Book::new(today);
        let book = books.by_org.get_mut(&batch.org).unwrap_or(&mut empty);
        book.turn_to(today);
        if books.is_steady {
            book.remove_old(self.limits.retention_days);
        }
        let decide = |operation| book.decide(&batch.terms, self.limits.max_rows, operation);
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

    fn call_limits(&self) -> CallLimits {
        CallLimits::UNLIMITED
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
    ) -> Result<Timed<Vec<PoolCounters>>, StoreError> {
        Ok(self.with_books(|books, _| {
            let book = books.by_org.get(org);
            let counters = |pool| book.and_then(|book| book.pool(day, pool));
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
            let rows = books.by_org.get(org).map(|book| book.usage(day, after));
            rows.into_iter().flatten().take(limit).collect()
        }))
    }

    fn clock_steps(&self) -> u64 {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.steps.steps()
    }

    fn latest_clock_step(&self) -> Option<ClockStep> {
        let books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        books.steps.latest_step((self.clock)())
    }

    async fn probe(&self) -> Result<Timed<()>, StoreError> {
        Ok(self.with_books(|_, _| ()))
    }
}
