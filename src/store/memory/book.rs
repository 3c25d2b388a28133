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
    ModelName, PoolCounters, PoolName, ProjectId, RequestId, Reservation, Terms, UsageCounters,
    UtcDay,
};

/// What is kept of one organization.
pub(super) struct Book {
    day: UtcDay,
    /// Of `day`.
    pools: HashMap<PoolName, PoolCounters>,
    /// By day; each day as long as the retention says.
    usage: BTreeMap<UtcDay, Rows>,
    /// Of `day`.
    reservations: HashMap<RequestId, Reservation>,
    /// Of the day before.
    past_reservations: HashMap<RequestId, Reservation>,
}

/// The usage rows of a day: those of a project are together, so that none is looked up by a copy of its
/// names.
type Rows = BTreeMap<ProjectId, BTreeMap<ModelName, UsageCounters>>;

impl Book {
    /// An empty one.
    pub(super) fn new(day: UtcDay) -> Self {
        Self {
            day,
            pools: HashMap::new(),
            usage: BTreeMap::new(),
            reservations: HashMap::new(),
            past_reservations: HashMap::new(),
        }
    }

    /// A pool's counters, where they are of this day.
    pub(super) fn pool(&self, day: UtcDay, pool: &PoolName) -> Option<PoolCounters> {
        self.pools.get(pool).filter(|_| self.day == day).copied()
    }

    /// The usage rows of a day that come after `after`, in their order.
    pub(super) fn usage(
        &self,
        day: UtcDay,
        after: Option<&RowKey>,
    ) -> impl Iterator<Item = (RowKey, UsageCounters)> {
        let projects = self.usage.get(&day).map(move |rows| match after {
            Some((project, _)) => rows.range::<ProjectId, _>(project..),
            None => rows.range::<ProjectId, _>(..),
        });
        let rows = projects.into_iter().flatten().flat_map(|(project, rows)| {
            rows.iter()
                .map(move |(model, row)| ((project.clone(), model.clone()), *row))
        });
        rows.filter(move |(key, row)| !row.is_empty() && Some(key) > after)
    }

    /// Drops what the days since the last decision ended.
    pub(super) fn turn_to(&mut self, today: UtcDay, usage_retention_days: u32) {
        if self.day == today {
            return;
        }
        let ended = std::mem::take(&mut self.reservations);
        self.past_reservations = if self.day == today.yesterday() {
            ended
        } else {
            HashMap::new()
        };
        self.pools.clear();
        self.usage
            .retain(|day, _| day.plus_days(usage_retention_days) >= today);
        self.day = today;
    }

    /// Decides one operation on what the ones before it left.
    pub(super) fn decide(&mut self, terms: &Terms, operation: &Operation) -> Outcome {
        match book::decide(self, terms, operation) {
            Ok(outcome) => outcome,
            Err(never) => match never {},
        }
    }

    fn date(&self, day: Day) -> UtcDay {
        match day {
            Day::Today => self.day,
            Day::Yesterday => self.day.yesterday(),
        }
    }

    fn reservations(&mut self, day: Day) -> &mut HashMap<RequestId, Reservation> {
        match day {
            Day::Today => &mut self.reservations,
            Day::Yesterday => &mut self.past_reservations,
        }
    }
}

impl Records for Book {
    type Error = Infallible;

    fn pool(&mut self, pool: &PoolName) -> Result<PoolCounters, Infallible> {
        Ok(self.pools.get(pool).copied().unwrap_or_default())
    }

    fn set_pool(&mut self, pool: &PoolName, counters: PoolCounters) {
        match self.pools.get_mut(pool) {
            Some(there) => *there = counters,
            None => drop(self.pools.insert(pool.clone(), counters)),
        }
    }

    fn row(
        &mut self,
        day: Day,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<UsageCounters, Infallible> {
        let rows = self.usage.get(&self.date(day));
        let row = rows.and_then(|rows| rows.get(project)?.get(model));
        Ok(row.copied().unwrap_or_default())
    }

    fn set_row(&mut self, day: Day, project: &ProjectId, model: &ModelName, row: UsageCounters) {
        let rows = self.usage.entry(self.date(day)).or_default();
        // Names are copied only where they are new.
        match rows.get_mut(project) {
            Some(rows) => match rows.get_mut(model) {
                Some(there) => *there = row,
                None => drop(rows.insert(model.clone(), row)),
            },
            None => drop(rows.insert(project.clone(), [(model.clone(), row)].into())),
        }
    }

    fn reservation(&mut self, day: Day, id: &RequestId) -> Result<Option<Reservation>, Infallible> {
        Ok(self.reservations(day).get(id).cloned())
    }

    fn set_reservation(&mut self, day: Day, id: &RequestId, reservation: Reservation) {
        match self.reservations(day).get_mut(id) {
            Some(there) => *there = reservation,
            None => drop(self.reservations(day).insert(id.clone(), reservation)),
        }
    }
}
