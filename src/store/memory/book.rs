//! What the memory store keeps of one organization.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
};

use super::super::{
    Operation, Outcome, RowKey,
    book::{self, Day, Records},
};
use crate::domain::{
    ModelName, PoolCounters, PoolName, ProjectId, RequestId, Reservation, RowCounts, Terms,
    UsageCounters, UtcDay,
};

/// What is kept of one organization.
pub(super) struct Book {
    /// The day of the decision.
    today: UtcDay,
    /// By day. The wall clock may have been ahead: days after today are kept like any other.
    days: BTreeMap<UtcDay, DayRecords>,
    /// The day on which nothing older is left to remove.
    removed_on: Option<UtcDay>,
}

/// What is kept of one day.
#[derive(Default)]
struct DayRecords {
    pools: HashMap<PoolName, PoolCounters>,
    rows: Rows,
    row_counts: RowCounts,
    reservations: HashMap<RequestId, Reservation>,
}

/// The usage rows of a day: those of a project are together, so that none is looked up by a copy of its
/// names.
type Rows = BTreeMap<ProjectId, BTreeMap<ModelName, UsageCounters>>;

impl Book {
    /// An empty one.
    pub(super) fn new(today: UtcDay) -> Self {
        Self {
            today,
            days: BTreeMap::new(),
            removed_on: None,
        }
    }

    /// A pool's counters on a day.
    pub(super) fn pool(&self, day: UtcDay, pool: &PoolName) -> Option<PoolCounters> {
        self.days.get(&day)?.pools.get(pool).copied()
    }

    /// The usage rows of a day that come after `after`, in their order.
    pub(super) fn usage(
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

    /// Names the day of the decisions that follow.
    pub(super) fn turn_to(&mut self, today: UtcDay) {
        self.today = today;
    }

    /// Removes pools and reservations from before yesterday, and usage rows that are past their retention.
    pub(super) fn remove_old(&mut self, usage_retention_days: u32) {
        let (today, yesterday) = (self.today, self.today.yesterday());
        if self.removed_on.replace(today) == Some(today) {
            return;
        }
        self.days
            .retain(|day, _| day.plus_days(usage_retention_days) >= today);
        for (_, records) in self.days.range_mut(..yesterday) {
            records.pools = HashMap::new();
            records.reservations = HashMap::new();
        }
    }

    /// Decides one operation on what the ones before it left.
    pub(super) fn decide(
        &mut self,
        terms: &Terms,
        max_rows: u64,
        operation: &Operation,
    ) -> Outcome {
        match book::decide(self, terms, max_rows, operation) {
            Ok(outcome) => outcome,
            Err(never) => match never {},
        }
    }

    fn records(&self, day: Day) -> Option<&DayRecords> {
        self.days.get(&day.date(self.today))
    }

    fn records_mut(&mut self, day: Day) -> &mut DayRecords {
        self.days.entry(day.date(self.today)).or_default()
    }
}

impl Records for Book {
    type Error = Infallible;

    fn pool(&mut self, day: Day, pool: &PoolName) -> Result<Option<PoolCounters>, Infallible> {
        let records = self.records(day);
        Ok(records.and_then(|records| records.pools.get(pool).copied()))
    }

    fn set_pool(&mut self, day: Day, pool: &PoolName, counters: PoolCounters) {
        let pools = &mut self.records_mut(day).pools;
        match pools.get_mut(pool) {
            Some(there) => *there = counters,
            None => drop(pools.insert(pool.clone(), counters)),
        }
    }

    fn row(
        &mut self,
        day: Day,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<Option<UsageCounters>, Infallible> {
        let rows = self.records(day).map(|records| &records.rows);
        let row = rows.and_then(|rows| rows.get(project)?.get(model));
        Ok(row.copied())
    }

    fn set_row(&mut self, day: Day, project: &ProjectId, model: &ModelName, row: UsageCounters) {
        let rows = &mut self.records_mut(day).rows;
        // Names are copied only where they are new.
        match rows.get_mut(project) {
            Some(rows) => match rows.get_mut(model) {
                Some(there) => *there = row,
                None => drop(rows.insert(model.clone(), row)),
            },
            None => drop(rows.insert(project.clone(), [(model.clone(), row)].into())),
        }
    }

    fn row_counts(&mut self) -> Result<RowCounts, Infallible> {
        let records = self.records(Day::Today);
        Ok(records
            .map(|records| records.row_counts)
            .unwrap_or_default())
    }

    fn set_row_counts(&mut self, counts: RowCounts) {
        self.records_mut(Day::Today).row_counts = counts;
    }

    fn reservation(&mut self, day: Day, id: &RequestId) -> Result<Option<Reservation>, Infallible> {
        let records = self.records(day);
        Ok(records.and_then(|records| records.reservations.get(id).cloned()))
    }

    fn set_reservation(&mut self, day: Day, id: &RequestId, reservation: Reservation) {
        let reservations = &mut self.records_mut(day).reservations;
        match reservations.get_mut(id) {
            Some(there) => *there = reservation,
            None => drop(reservations.insert(id.clone(), reservation)),
        }
    }
}
