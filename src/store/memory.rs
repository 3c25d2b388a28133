//! `memory:`, the embedded store whose counters end with the process. The store to read first.
//!
//! One mutex guards plain maps. A decision is a short critical section that never awaits. The clock is an
//! argument, so that tests can cross midnight.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    ops::Bound,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Batch, CallLimits, Clock, ClockStep, DayCounters, Decision, Operation, RowKey, Store,
    StoreError, Timestamped, UsageLimits, UsageRows,
    clock::StepDetector,
    engine,
    provider::{ProviderChanges, ProviderRows},
    records::{Records, RelativeDay},
};
use crate::domain::{
    DayComparison, ExternalChange, ExternalChanges, ModelName, OrgId, PoolCounters, PoolName,
    ProjectId, RequestId, Reservation, RowCounts, ShareId, Tokens, UsageCounters, UtcDay,
};

/// The counters in this process' memory.
pub struct MemoryStore {
    clock: Clock,
    limits: UsageLimits,
    state: Mutex<MemoryState>,
}

struct MemoryState {
    by_org: HashMap<OrgId, OrgState>,
    steps: StepDetector,
    /// Whether the wall clock has been steady long enough to remove old records.
    is_steady: bool,
}

impl MemoryState {
    /// The records of an organization on a day, which are added if there are none.
    fn records_of(&mut self, org: &OrgId, day: UtcDay, now: DateTime<Utc>) -> &mut DayRecords {
        let new = || OrgState::new(UtcDay::of(now));
        let org = self.by_org.entry(org.clone()).or_insert_with(new);
        org.days.entry(day).or_default()
    }
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(clock: Clock, limits: UsageLimits) -> Self {
        let state = MemoryState {
            by_org: HashMap::new(),
            steps: StepDetector::new(clock(), None),
            is_steady: false,
        };
        Self {
            clock,
            limits,
            state: Mutex::new(state),
        }
    }

    fn with_state<T>(
        &self,
        work: impl FnOnce(&mut MemoryState, DateTime<Utc>) -> T,
    ) -> Timestamped<T> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that days follow the order of the decisions.
        let reading = (self.clock)();
        state.steps.observe(reading);
        state.is_steady = state.steps.is_steady(reading);
        let now = reading.wall;
        let answer = work(&mut state, now);
        Timestamped { now, answer }
    }

    fn decide_all(&self, state: &mut MemoryState, now: DateTime<Utc>, batch: &Batch) -> Decision {
        let today = UtcDay::of(now);
        let writes = |operation: &Operation| match operation {
            Operation::Reserve { recording, .. } => recording.writes(),
            Operation::SetExternalUsage { .. } | Operation::ConfirmNotice { .. } => true,
            Operation::Settle { .. } | Operation::Release { .. } => false,
        };
        // Only a write adds an organization.
        if !state.by_org.contains_key(&batch.org) && batch.operations.iter().any(writes) {
            state.by_org.insert(batch.org.clone(), OrgState::new(today));
        }
        let mut empty = OrgState::new(today);
        let org = state.by_org.get_mut(&batch.org).unwrap_or(&mut empty);
        org.today = today;
        if state.is_steady {
            org.remove_old(self.limits.retention_days);
        }
        let mut crossings = Vec::new();
        let decide = |operation| {
            let max_rows = self.limits.max_rows;
            let decided =
                engine::decide(org, &batch.terms, now, max_rows, operation, &mut crossings);
            decided.unwrap_or_else(|never| match never {})
        };
        let outcomes = batch.operations.iter().map(decide).collect();
        Decision::Outcomes {
            outcomes,
            crossings,
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timestamped<Decision>, StoreError>> {
        let decided = self.with_state(|state, now| {
            let decide = |batch: &Batch| match batch.day == UtcDay::of(now) {
                true => self.decide_all(state, now, batch),
                false => Decision::DayChanged,
            };
            batches.iter().map(decide).collect::<Vec<_>>()
        });
        let now = decided.now;
        let timed = |answer| Ok(Timestamped { now, answer });
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
        shares: &[ShareId],
    ) -> Result<Timestamped<DayCounters>, StoreError> {
        Ok(self.with_state(|state, _| {
            let records = state.by_org.get(org).and_then(|org| org.days.get(&day));
            let counters = |pool| Some(*records?.pools.get(pool)?);
            let used = |share| Some(*records?.shares.get(share)?);
            DayCounters {
                pools: pools
                    .iter()
                    .map(|it| counters(it).unwrap_or_default())
                    .collect(),
                shares: shares
                    .iter()
                    .map(|it| used(it).unwrap_or_default())
                    .collect(),
            }
        }))
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError> {
        Ok(self.with_state(|state, _| {
            let rows = state.by_org.get(org).map(|org| org.usage(day, after));
            rows.into_iter().flatten().take(limit).collect()
        }))
    }

    async fn keep_external_change(
        &self,
        org: &OrgId,
        change: &ExternalChange,
    ) -> Result<(), StoreError> {
        let day = UtcDay::of(change.at);
        self.with_state(|state, now| {
            let records = state.records_of(org, day, now);
            records.external_changes.add(change.clone());
        });
        Ok(())
    }

    async fn record_comparison(
        &self,
        org: &OrgId,
        day: UtcDay,
        changes: &ProviderChanges,
        comparison: Option<&DayComparison>,
    ) -> Result<(), StoreError> {
        self.with_state(|state, now| {
            let records = state.records_of(org, day, now);
            records.comparison = comparison.cloned().or(records.comparison.take());
            for (key, usage) in changes {
                match usage {
                    Some(usage) => _ = records.provider.insert(key.clone(), *usage),
                    None => _ = records.provider.remove(key),
                }
            }
        });
        Ok(())
    }

    async fn external_changes(
        &self,
        org: &OrgId,
        day: UtcDay,
    ) -> Result<Timestamped<ExternalChanges>, StoreError> {
        Ok(self.with_state(|state, _| {
            let records = state.by_org.get(org).and_then(|org| org.days.get(&day));
            records.map_or_else(ExternalChanges::default, |it| it.external_changes.clone())
        }))
    }

    async fn provider_usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<ProviderRows, StoreError> {
        let rows = self.with_state(|state, _| {
            let records = state.by_org.get(org).and_then(|org| org.days.get(&day));
            let after = after.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = records.map(|it| it.provider.range((after, Bound::Unbounded)));
            let rows = rows.into_iter().flatten().take(limit);
            rows.map(|(key, usage)| (key.clone(), *usage)).collect()
        });
        Ok(rows.answer)
    }

    async fn comparisons(
        &self,
        org: &OrgId,
        days: &[UtcDay],
    ) -> Result<Vec<Option<DayComparison>>, StoreError> {
        let found = self.with_state(|state, _| {
            let org = state.by_org.get(org);
            let found = |day| org?.days.get(day)?.comparison.clone();
            days.iter().map(found).collect()
        });
        Ok(found.answer)
    }

    fn clock_steps(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.steps.steps()
    }

    fn latest_clock_step(&self) -> Option<ClockStep> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.steps.latest_step((self.clock)())
    }

    async fn probe(&self) -> Result<Timestamped<()>, StoreError> {
        Ok(self.with_state(|_, _| ()))
    }
}

/// The records of one organization.
struct OrgState {
    /// The day of the decision.
    today: UtcDay,
    /// The wall clock may have been ahead: days after today are kept like any other.
    days: BTreeMap<UtcDay, DayRecords>,
    /// The last day on which old records were removed.
    removed_on: Option<UtcDay>,
}

#[derive(Default)]
struct DayRecords {
    pools: HashMap<PoolName, PoolCounters>,
    shares: HashMap<ShareId, Tokens>,
    rows: Rows,
    row_counts: RowCounts,
    reservations: HashMap<RequestId, Reservation>,
    external_changes: ExternalChanges,
    provider: ProviderRows,
    comparison: Option<DayComparison>,
}

/// Usage rows by project, then model: a look-up needs no copy of the names.
type Rows = BTreeMap<ProjectId, BTreeMap<ModelName, UsageCounters>>;

impl OrgState {
    fn new(today: UtcDay) -> Self {
        Self {
            today,
            days: BTreeMap::new(),
            removed_on: None,
        }
    }

    /// The usage rows of a day that come after `after`, in order.
    fn usage(
        &self,
        day: UtcDay,
        after: Option<&RowKey>,
    ) -> impl Iterator<Item = (RowKey, UsageCounters)> {
        let projects = self.days.get(&day).map(move |records| match after {
            Some((project, _)) => records.rows.range::<ProjectId, _>(project..),
            None => records.rows.range::<ProjectId, _>(..),
        });
        let rows = projects.into_iter().flatten().flat_map(|(project, rows)| {
            rows.iter()
                .map(move |(model, row)| ((project.clone(), model.clone()), *row))
        });
        rows.filter(move |(key, row)| !row.is_empty() && Some(key) > after)
    }

    /// Removes pools and reservations from before yesterday, and usage rows and changes that are past their retention.
    fn remove_old(&mut self, usage_retention_days: u32) {
        let (today, yesterday) = (self.today, self.today.yesterday());
        if self.removed_on.replace(today) == Some(today) {
            return;
        }
        self.days
            .retain(|day, _| day.plus_days(usage_retention_days) >= today);
        for (_, records) in self.days.range_mut(..yesterday) {
            records.pools = HashMap::new();
            records.shares = HashMap::new();
            records.reservations = HashMap::new();
        }
    }

    fn records(&self, day: RelativeDay) -> Option<&DayRecords> {
        self.days.get(&day.date(self.today))
    }

    fn records_mut(&mut self, day: RelativeDay) -> &mut DayRecords {
        self.days.entry(day.date(self.today)).or_default()
    }
}

impl Records for OrgState {
    type Error = Infallible;

    fn pool(
        &mut self,
        day: RelativeDay,
        pool: &PoolName,
    ) -> Result<Option<PoolCounters>, Infallible> {
        let records = self.records(day);
        Ok(records.and_then(|records| records.pools.get(pool).copied()))
    }

    fn set_pool(&mut self, day: RelativeDay, pool: &PoolName, counters: PoolCounters) {
        let pools = &mut self.records_mut(day).pools;
        pools.insert(pool.clone(), counters);
    }

    fn share(&mut self, day: RelativeDay, share: &ShareId) -> Result<Option<Tokens>, Infallible> {
        let records = self.records(day);
        Ok(records.and_then(|records| records.shares.get(share).copied()))
    }

    fn set_share(&mut self, day: RelativeDay, share: &ShareId, used: Tokens) {
        let shares = &mut self.records_mut(day).shares;
        match shares.get_mut(share) {
            Some(there) => *there = used,
            None => _ = shares.insert(share.clone(), used),
        }
    }

    fn row(
        &mut self,
        day: RelativeDay,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<Option<UsageCounters>, Infallible> {
        let rows = self.records(day).map(|records| &records.rows);
        let row = rows.and_then(|rows| rows.get(project)?.get(model));
        Ok(row.copied())
    }

    fn set_row(
        &mut self,
        day: RelativeDay,
        project: &ProjectId,
        model: &ModelName,
        row: UsageCounters,
    ) {
        let rows = &mut self.records_mut(day).rows;
        // Only the names of a new row are copied.
        match rows.get_mut(project).and_then(|rows| rows.get_mut(model)) {
            Some(there) => *there = row,
            None => {
                let rows = rows.entry(project.clone()).or_default();
                rows.insert(model.clone(), row);
            }
        }
    }

    fn row_counts(&mut self) -> Result<RowCounts, Infallible> {
        let records = self.records(RelativeDay::Today);
        Ok(records.map_or_else(RowCounts::default, |records| records.row_counts))
    }

    fn set_row_counts(&mut self, counts: RowCounts) {
        self.records_mut(RelativeDay::Today).row_counts = counts;
    }

    fn reservation(
        &mut self,
        day: RelativeDay,
        id: &RequestId,
    ) -> Result<Option<Reservation>, Infallible> {
        let records = self.records(day);
        Ok(records.and_then(|records| records.reservations.get(id).cloned()))
    }

    fn set_reservation(&mut self, day: RelativeDay, id: &RequestId, reservation: Reservation) {
        let reservations = &mut self.records_mut(day).reservations;
        reservations.insert(id.clone(), reservation);
    }
}
