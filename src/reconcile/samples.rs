//! The ledger's side: its rows, and samples of what it had `settle_lag` ago.
//!
//! The provider reports usage late, so what ended within `settle_lag` can't be compared. Its buckets are whole days and
//! can't be split by age. So a figure of the ledger may be anything between what it was then and what it is now.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::domain::{PoolName, UtcDay};

/// A sample is not kept if the one before is younger than this part of the lag, so their number is bounded.
const SAMPLES_PER_LAG: u32 = 8;

/// A settled sample may be older than the lag by the distance of samples and this many times from poll to poll: one poll
/// may be late.
const LATE_POLLS: u32 = 2;

/// A row of the ledger's usage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// The day.
    pub day: UtcDay,
    /// The project, as the gateway names it.
    pub project: String,
    /// The model, as it was asked for.
    pub model: String,
    /// FREE tokens.
    pub free_tokens: u64,
    /// BILLED tokens.
    pub billed_tokens: u64,
}

/// What the ledger had of one day, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSample {
    /// The day of that moment.
    pub day: UtcDay,
    /// The usage of that day.
    pub rows: Vec<LedgerRow>,
    /// What each pool had used.
    pub used: BTreeMap<PoolName, u64>,
}

/// The samples of one organization, the oldest first.
#[derive(Debug)]
pub struct SampleHistory {
    lag: Duration,
    every: Duration,
    /// From one poll to the next.
    spacing: Duration,
    samples: VecDeque<(Instant, Arc<LedgerSample>)>,
    /// Since when there has been no settled sample.
    missing_since: Option<Instant>,
    is_reported: bool,
}

impl LedgerSample {
    /// Of a day of which nothing is known.
    pub fn empty(day: UtcDay) -> Self {
        Self {
            day,
            rows: Vec::new(),
            used: BTreeMap::new(),
        }
    }

    /// What a pool had used of a day; nothing, if the day had not begun.
    pub fn used_on(&self, day: UtcDay, pool: &PoolName) -> u64 {
        match self.day == day {
            true => self.used.get(pool).copied().unwrap_or_default(),
            false => 0,
        }
    }
}

impl SampleHistory {
    /// No samples yet. `every` is the least time between two polls, each of which adds a sample.
    pub fn new(lag: Duration, every: Duration) -> Self {
        Self {
            lag,
            every,
            spacing: every,
            samples: VecDeque::new(),
            missing_since: None,
            is_reported: false,
        }
    }

    /// Sets the time from one poll to the next, without pauses after failures. With many organizations it is longer than
    /// `every`.
    pub fn set_spacing(&mut self, spacing: Duration) {
        self.spacing = spacing;
    }

    /// Adds what was read before this moment. Forgets what is not needed any more, also while nothing is compared.
    pub fn add(&mut self, read_at: Instant, sample: LedgerSample) {
        let distance = self.lag / SAMPLES_PER_LAG;
        let last = self.samples.back();
        if last.is_none_or(|(at, _)| *at + distance <= read_at) {
            self.samples.push_back((read_at, Arc::new(sample)));
        }
        self.forget(read_at);
    }

    /// Forgets the samples before the newest one that is as old as the lag.
    fn forget(&mut self, now: Instant) {
        let is_settled = |(at, _): &(Instant, Arc<LedgerSample>)| *at + self.lag <= now;
        while self.samples.get(1).is_some_and(is_settled) {
            self.samples.pop_front();
        }
    }

    /// The newest sample that is as old as the lag, or a little older. One that is much older does not say what the ledger
    /// had then. The times of polls are allowed for, up to the lag: a gap without polls does not count as one.
    pub fn settled(&mut self, now: Instant) -> Option<Arc<LedgerSample>> {
        self.forget(now);
        let spacing = self.spacing.min(self.lag).max(self.every);
        let max_age = self.lag + self.lag / SAMPLES_PER_LAG + spacing * LATE_POLLS;
        let oldest = self.samples.front();
        let oldest = oldest.filter(|(at, _)| (*at + self.lag..=*at + max_age).contains(&now));
        let settled = oldest.map(|(_, sample)| Arc::clone(sample));
        match settled {
            Some(_) => (self.missing_since, self.is_reported) = (None, false),
            None => _ = self.missing_since.get_or_insert(now),
        }
        settled
    }

    /// Whether there has been no settled sample for longer than it takes to get one: the lag and two polls. Only once,
    /// until there was one.
    pub fn is_newly_missing(&mut self, now: Instant) -> bool {
        let longest = self.lag + self.spacing * LATE_POLLS;
        let is_missing = self.missing_since.is_some_and(|it| it + longest < now);
        let is_new = is_missing && !self.is_reported;
        self.is_reported |= is_missing;
        is_new
    }
}
