//! What organizations used on past days, summed by project and by model, and the changes of their external usage, as this
//! replica last read them.
//!
//! What the ledger counted before yesterday does not change any more, so the sums of these days are kept for an hour.
//! Today, yesterday and the days of the last comparison with the provider, whose figures change until its report is
//! closed, are read again after some seconds. A day is read in a task of its own that goes on when the page is answered
//! without it: a day of very many rows is there at one of the next refreshes.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};

use super::day_changes::DayChanges;
use crate::{
    domain::{ModelName, OrgId, ProjectId, ProviderUsage, Tokens, UsageCounters, UtcDay},
    ledger::{Ledger, LedgerError, UsageDays, UsagePage, UsageRow},
};

/// How long the sums of days that may change are shown.
const OPEN_DAY_LIFETIME: Duration = Duration::from_secs(5);

/// How long those of other days are.
const CLOSED_DAY_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How many projects, and how many models, a day has at most: the largest. The others are one entry.
const MAX_NAMES: usize = 1_000;

/// How many names are kept at most, over all organizations and days: about 50 MB.
const MAX_KEPT_NAMES: usize = 250_000;

/// How many organizations are read at the same time.
const MAX_READS: usize = 2;

/// The rows of one call of the store.
const ROWS_PER_READ: usize = 1_000;

/// The days of organizations that were read.
pub(super) struct UsageHistory {
    state: Mutex<HistoryState>,
    reads: Semaphore,
}

#[derive(Default)]
struct HistoryState {
    days: HashMap<(OrgId, UtcDay), KeptDay>,
    /// The number of names in them.
    names: usize,
    /// Organizations that are being read: the receivers see the end.
    reading: HashMap<OrgId, watch::Receiver<Option<LedgerError>>>,
}

struct KeptDay {
    usage: Arc<DayUsage>,
    read_at: Instant,
    shown_at: Instant,
    lifetime: Duration,
}

/// What an organization used on a day.
#[derive(Debug, Default, Clone)]
pub(super) struct DayUsage {
    pub(super) total: UsageSums,
    pub(super) by_project: NamedUsage<ProjectId>,
    pub(super) by_model: NamedUsage<ModelName>,
    /// The changes of external usage; none: they could not be read.
    pub(super) changes: Option<DayChanges>,
}

/// Sums of rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct UsageSums {
    pub(super) counters: UsageCounters,
    /// What the provider counted; none if no row was compared.
    pub(super) provider: Option<ProviderUsage>,
}

/// What was used by name.
#[derive(Debug, Clone)]
pub(super) struct NamedUsage<N> {
    pub(super) named: HashMap<N, UsageSums>,
    /// By all others.
    pub(super) others: UsageSums,
}

/// What is known of the days that were asked for.
#[derive(Default)]
pub(super) struct KnownDays {
    pub(super) days: BTreeMap<UtcDay, Arc<DayUsage>>,
    /// Why the rest is missing; none: it is still being read.
    pub(super) error: Option<LedgerError>,
}

impl UsageHistory {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            reads: Semaphore::new(MAX_READS),
        }
    }

    /// The usage of these days, of which missing ones are read for at most `timeout`.
    pub(super) async fn days(
        self: &Arc<Self>,
        ledger: &Ledger,
        org: &OrgId,
        days: &[UtcDay],
        timeout: Duration,
    ) -> KnownDays {
        let deadline = Instant::now() + timeout;
        let mut error = None;
        loop {
            let missing = self.missing(ledger, org, days);
            if missing.is_empty() || error.is_some() {
                break;
            }
            let mut end = self.read(ledger, org, missing);
            // Fails if the task has ended.
            let ended = timeout_at(deadline, end.wait_for(Option::is_some)).await;
            match ended {
                Err(_) => break,
                Ok(ended) => error = ended.ok().and_then(|it| it.clone()),
            }
        }
        let mut state = self.lock();
        let known = days.iter().filter_map(|day| {
            let kept = state.days.get_mut(&(org.clone(), *day))?;
            kept.shown_at = Instant::now();
            Some((*day, Arc::clone(&kept.usage)))
        });
        KnownDays {
            days: known.collect(),
            error,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HistoryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self, ledger: &Ledger, org: &OrgId, days: &[UtcDay]) -> Vec<UtcDay> {
        let state = self.lock();
        let is_missing = |day: &&UtcDay| {
            let kept = state.days.get(&(org.clone(), **day));
            // The day may have been compared only after it was read.
            let now = lifetime(ledger, org, **day);
            kept.is_none_or(|kept| kept.read_at.elapsed() >= kept.lifetime.min(now))
        };
        days.iter().filter(is_missing).copied().collect()
    }

    /// Reads these days, unless days of the organization are being read.
    fn read(
        self: &Arc<Self>,
        ledger: &Ledger,
        org: &OrgId,
        days: Vec<UtcDay>,
    ) -> watch::Receiver<Option<LedgerError>> {
        let mut state = self.lock();
        // A task that panicked has dropped its sender.
        if let Some(end) = state.reading.get(org)
            && end.has_changed().is_ok()
        {
            return end.clone();
        }
        let (sender, receiver) = watch::channel(None);
        state.reading.insert(org.clone(), receiver.clone());
        drop(state);
        let (history, ledger, org) = (Arc::clone(self), ledger.clone(), org.clone());
        tokio::spawn(async move {
            let read = history.read_days(&ledger, &org, days).await;
            history.lock().reading.remove(&org);
            if let Err(error) = read {
                sender.send_replace(Some(error));
            }
        });
        receiver
    }

    async fn read_days(
        &self,
        ledger: &Ledger,
        org: &OrgId,
        days: Vec<UtcDay>,
    ) -> Result<(), LedgerError> {
        let _permit = self.reads.acquire().await;
        for day in days {
            let read_at = Instant::now();
            let lifetime = lifetime(ledger, org, day);
            let mut usage = match read_day(ledger, org, day).await {
                Ok(usage) => usage,
                // It has become too old, or is not there yet by the store's clock.
                Err(LedgerError::DayNotKept { .. }) => DayUsage::default(),
                Err(error) => return Err(error),
            };
            usage.changes = DayChanges::read(ledger, org, day).await;
            let lifetime = match usage.changes {
                Some(_) => lifetime,
                None => OPEN_DAY_LIFETIME,
            };
            let kept = KeptDay {
                usage: Arc::new(usage),
                read_at,
                shown_at: read_at,
                lifetime,
            };
            self.lock().keep((org.clone(), day), kept);
        }
        Ok(())
    }
}

fn lifetime(ledger: &Ledger, org: &OrgId, day: UtcDay) -> Duration {
    let yesterday = UtcDay::of(ledger.now()).yesterday();
    let is_compared = || ledger.comparisons(org).iter().any(|(it, _)| *it == day);
    match day >= yesterday || is_compared() {
        true => OPEN_DAY_LIFETIME,
        false => CLOSED_DAY_LIFETIME,
    }
}

async fn read_day(ledger: &Ledger, org: &OrgId, day: UtcDay) -> Result<DayUsage, LedgerError> {
    let mut usage = DayUsage::default();
    let mut start = None;
    loop {
        let page = UsagePage {
            days: UsageDays::Day(day),
            start,
            size: ROWS_PER_READ,
        };
        let page = ledger.usage(org, page).await?;
        for row in page.rows {
            usage.add(row);
        }
        start = page.next;
        if start.is_none() {
            usage.by_project.shrink(MAX_NAMES);
            usage.by_model.shrink(MAX_NAMES);
            return Ok(usage);
        }
    }
}

impl HistoryState {
    /// Keeps a day. Makes room for it: what was shown least recently is dropped.
    fn keep(&mut self, key: (OrgId, UtcDay), day: KeptDay) {
        self.remove(&key);
        self.names += day.usage.names();
        self.days.insert(key, day);
        while self.names > MAX_KEPT_NAMES {
            let oldest = self.days.iter().min_by_key(|(_, day)| day.shown_at);
            let Some((key, _)) = oldest else {
                return;
            };
            let key = key.clone();
            self.remove(&key);
        }
    }

    fn remove(&mut self, key: &(OrgId, UtcDay)) {
        if let Some(day) = self.days.remove(key) {
            self.names -= day.usage.names();
        }
    }
}

impl DayUsage {
    fn add(&mut self, row: UsageRow) {
        let sums = UsageSums {
            counters: row.counters,
            provider: row.provider,
        };
        add(&mut self.total, &sums);
        self.by_project.add(row.project, &sums);
        self.by_model.add(row.model, &sums);
    }

    /// What it takes of [`MAX_KEPT_NAMES`]; a day without usage takes a place, too.
    fn names(&self) -> usize {
        let changes = self.changes.as_ref().map_or(0, DayChanges::names);
        1 + self.by_project.named.len() + self.by_model.named.len() + changes
    }
}

impl<N> Default for NamedUsage<N> {
    fn default() -> Self {
        Self {
            named: HashMap::new(),
            others: UsageSums::default(),
        }
    }
}

impl<N: Eq + Hash + Ord + Clone> NamedUsage<N> {
    fn add(&mut self, name: N, sums: &UsageSums) {
        add(self.named.entry(name).or_default(), sums);
        // Bounds the memory of a day with very many names.
        if self.named.len() >= 8 * MAX_NAMES {
            self.shrink(4 * MAX_NAMES);
        }
    }

    /// Adds what another day has.
    pub(super) fn merge(&mut self, other: &Self) {
        for (name, sums) in &other.named {
            add(self.named.entry(name.clone()).or_default(), sums);
        }
        add(&mut self.others, &other.others);
    }

    /// Keeps the largest names.
    fn shrink(&mut self, max: usize) {
        if self.named.len() <= max {
            return;
        }
        let mut named: Vec<(N, UsageSums)> = self.named.drain().collect();
        named.sort_by(|(one, of_one), (other, of_other)| {
            rank(of_other).cmp(&rank(of_one)).then(one.cmp(other))
        });
        for (_, sums) in named.drain(max..) {
            add(&mut self.others, &sums);
        }
        self.named = named.into_iter().collect();
    }
}

/// Free and billed tokens of the ledger.
pub(super) fn tokens(sums: &UsageSums) -> u64 {
    sums.counters.free_tokens.get() + sums.counters.billed_tokens.get()
}

/// By what the largest rows are chosen: the tokens of the ledger or of the provider, where they are more. So what only
/// the provider has is not hidden.
pub(super) fn rank(sums: &UsageSums) -> u64 {
    let provider = sums.provider.unwrap_or_default();
    let provider = provider.free_tokens.get() + provider.billed_tokens.get();
    tokens(sums).max(provider)
}

/// Adds for display: a sum stops at the largest number of tokens.
pub(super) fn add(sum: &mut UsageSums, other: &UsageSums) {
    let plus = |sum: Tokens, other: Tokens| sum.plus(other).unwrap_or(Tokens::MAX);
    let (counters, others) = (&mut sum.counters, &other.counters);
    counters.free_tokens = plus(counters.free_tokens, others.free_tokens);
    counters.billed_tokens = plus(counters.billed_tokens, others.billed_tokens);
    counters.free_requests += others.free_requests;
    counters.billed_requests += others.billed_requests;
    if let Some(others) = other.provider {
        let provider = sum.provider.get_or_insert_default();
        provider.free_tokens = plus(provider.free_tokens, others.free_tokens);
        provider.billed_tokens = plus(provider.billed_tokens, others.billed_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(free: u64, billed: u64) -> UsageSums {
        let tokens = |amount| Tokens::new(amount).expect("an amount");
        let counters = UsageCounters {
            free_tokens: tokens(free),
            billed_tokens: tokens(billed),
            free_requests: 1,
            billed_requests: 0,
        };
        UsageSums {
            counters,
            provider: None,
        }
    }

    #[test]
    fn a_day_keeps_the_names_with_the_most_tokens_of_either_side_and_the_sum_of_the_others() {
        let mut usage = NamedUsage::<u32>::default();
        for name in 0..10_000 {
            usage.add(name, &sums(u64::from(name), 1));
        }
        // Only the provider has it.
        let provider = Some(ProviderUsage {
            free_tokens: Tokens::ZERO,
            billed_tokens: Tokens::new(10_000).expect("an amount"),
        });
        let counters = UsageCounters::default();
        usage.add(10_000, &UsageSums { counters, provider });
        usage.shrink(4);
        let mut names: Vec<u32> = usage.named.keys().copied().collect();
        names.sort_unstable();
        assert_eq!(names, [9_997, 9_998, 9_999, 10_000]);
        let free: u64 = (0..9_997).sum();
        assert_eq!(usage.others.counters.free_tokens.get(), free);
        assert_eq!(usage.others.counters.free_requests, 9_997);
    }

    #[test]
    fn the_days_shown_least_recently_are_dropped_first() {
        let mut state = HistoryState::default();
        let day = |at: u32| UtcDay::parse("2026-11-01").expect("a day").plus_days(at);
        let org = OrgId::parse("acme").expect("a name");
        let start = Instant::now();
        for at in 0..300 {
            let mut usage = DayUsage::default();
            for model in 0..999 {
                let model = ModelName::parse(format!("m{model}")).expect("a name");
                usage.by_model.add(model, &sums(1, 1));
            }
            let kept = KeptDay {
                usage: Arc::new(usage),
                read_at: start,
                shown_at: start + Duration::from_secs(u64::from(at)),
                lifetime: CLOSED_DAY_LIFETIME,
            };
            state.keep((org.clone(), day(at)), kept);
        }
        assert_eq!((state.names, state.days.len()), (MAX_KEPT_NAMES, 250));
        assert!(!state.days.contains_key(&(org.clone(), day(49))));
        assert!(state.days.contains_key(&(org, day(50))));
    }
}
