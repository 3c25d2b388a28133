//! What the memory store keeps of one organization, and how a decision changes it.

use std::collections::{BTreeMap, HashMap};

use super::super::{Operation, Outcome, PoolFigures, Recording, RowKey};
use crate::domain::{
    CounterFull, Eligibility, ModelName, PoolCounters, PoolName, Progress, ProjectId, Refusal,
    RequestFields, RequestId, Reservation, State, Terms, Tokens, UsageCounters, UtcDay, Verdict,
    judge_late_settle,
};

/// What is kept of one organization.
pub(super) struct Book {
    day: UtcDay,
    /// Of `day`.
    pools: HashMap<PoolName, PoolCounters>,
    /// By day; each day as long as the retention says.
    usage: BTreeMap<UtcDay, Rows>,
    /// Of `day` and of the day before.
    reservations: [HashMap<RequestId, Reservation>; 2],
}

/// The usage rows of a day: those of a project are together, so that none is looked up by a copy of its
/// names.
type Rows = BTreeMap<ProjectId, BTreeMap<ModelName, UsageCounters>>;

/// Which day's reservations: the index in [`Book::reservations`].
const TODAY: usize = 0;
const YESTERDAY: usize = 1;

impl Book {
    /// An empty one.
    pub(super) fn new(day: UtcDay) -> Self {
        Self {
            day,
            pools: HashMap::new(),
            usage: BTreeMap::new(),
            reservations: Default::default(),
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
        let ended = std::mem::take(&mut self.reservations[TODAY]);
        self.reservations[YESTERDAY] = if self.day == today.yesterday() {
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
        match operation {
            Operation::Reserve {
                request_id,
                fields,
                eligibility,
                recording,
            } => self.reserve(terms, request_id.as_ref(), fields, eligibility, *recording),
            Operation::Settle { request_id, tokens } => self.settle(terms, request_id, *tokens),
            Operation::Release { request_id } => self.release(terms, request_id),
        }
    }

    fn reserve(
        &mut self,
        terms: &Terms,
        request_id: Option<&RequestId>,
        fields: &RequestFields,
        eligibility: &Eligibility,
        recording: Recording,
    ) -> Outcome {
        if let Some((_, reservation)) = request_id.and_then(|id| self.find(id)) {
            return match reservation.reserve_again(fields) {
                Err(refusal) => Outcome::Refused(refusal),
                Ok(verdict) => Outcome::Reserved {
                    verdict,
                    pool: self.figures(terms, reservation.pool.as_ref()),
                    replayed: true,
                },
            };
        }
        let (verdict, pool) = match eligibility {
            Eligibility::Ineligible(reason) => (Verdict::Billed(*reason), None),
            Eligibility::Eligible(pool) => {
                let counters = self.pools.get(pool).copied().unwrap_or_default();
                let verdict = counters.judge_reserve(terms.of_pool(pool), fields.tokens);
                (verdict, Some(pool))
            }
        };
        if recording.writes() {
            let counted = Counted {
                fields,
                pool,
                verdict,
            };
            if let Err(full) = self.replace(TODAY, terms, None, Some((counted, fields.tokens))) {
                return Outcome::Full(full);
            }
            if let Some(id) = request_id {
                let reservation = Reservation {
                    fields: fields.clone(),
                    verdict,
                    pool: pool.cloned(),
                    state: State::Held,
                };
                self.reservations[TODAY].insert(id.clone(), reservation);
            }
        }
        Outcome::Reserved {
            verdict,
            pool: self.figures(terms, pool),
            replayed: false,
        }
    }

    fn settle(&mut self, terms: &Terms, id: &RequestId, actual: Tokens) -> Outcome {
        let Some((day, reservation)) = self.find(id) else {
            return Outcome::Refused(Refusal::UnknownRequestId);
        };
        let Reservation {
            fields,
            verdict: held,
            pool,
            ..
        } = reservation.clone();
        let (verdict, replayed) = match reservation.settle(actual) {
            Err(refusal) => return Outcome::Refused(refusal),
            Ok(Progress::Replay(verdict)) => (verdict, true),
            Ok(Progress::Due) => {
                let counters = pool.as_ref().and_then(|pool| self.pools.get(pool));
                let counters = counters.copied().unwrap_or_default();
                let verdict = match &pool {
                    Some(pool) if day == TODAY => {
                        counters.judge_settle(terms.of_pool(pool), held, fields.tokens, actual)
                    }
                    _ => judge_late_settle(held, fields.tokens, actual),
                };
                let was = Counted {
                    fields: &fields,
                    pool: pool.as_ref(),
                    verdict: held,
                };
                let is = Counted { verdict, ..was };
                let (was, is) = (Some((was, fields.tokens)), Some((is, actual)));
                if let Err(full) = self.replace(day, terms, was, is) {
                    return Outcome::Full(full);
                }
                let tokens = actual;
                self.mark(day, id, State::Settled { tokens, verdict });
                (verdict, false)
            }
        };
        Outcome::Settled {
            verdict,
            reserved_as: held,
            pool: self.figures_on(day, terms, pool),
            replayed,
        }
    }

    fn release(&mut self, terms: &Terms, id: &RequestId) -> Outcome {
        let Some((day, reservation)) = self.find(id) else {
            return Outcome::Refused(Refusal::UnknownRequestId);
        };
        let Reservation {
            fields,
            verdict,
            pool,
            ..
        } = reservation.clone();
        let replayed = match reservation.release() {
            Err(refusal) => return Outcome::Refused(refusal),
            Ok(Progress::Replay(())) => true,
            Ok(Progress::Due) => {
                let was = Counted {
                    fields: &fields,
                    pool: pool.as_ref(),
                    verdict,
                };
                if let Err(full) = self.replace(day, terms, Some((was, fields.tokens)), None) {
                    return Outcome::Full(full);
                }
                self.mark(day, id, State::Released);
                false
            }
        };
        Outcome::Released {
            tokens: fields.tokens,
            pool: self.figures_on(day, terms, pool),
            replayed,
        }
    }

    /// The id's reservation: today's, else yesterday's.
    fn find(&self, id: &RequestId) -> Option<(usize, &Reservation)> {
        [TODAY, YESTERDAY]
            .into_iter()
            .find_map(|day| Some((day, self.reservations[day].get(id)?)))
    }

    fn mark(&mut self, day: usize, id: &RequestId, state: State) {
        if let Some(reservation) = self.reservations[day].get_mut(id) {
            reservation.state = state;
        }
    }

    /// Takes back what a request counted, and counts it as what it is now: both, or neither.
    fn replace(
        &mut self,
        day: usize,
        terms: &Terms,
        was: Option<(Counted<'_>, Tokens)>,
        is: Option<(Counted<'_>, Tokens)>,
    ) -> Result<(), CounterFull> {
        let Some((Counted { fields, pool, .. }, _)) = was.or(is) else {
            return Ok(());
        };
        // Only today's pools have counters.
        let pool = pool.filter(|_| day == TODAY);
        let date = if day == TODAY {
            self.day
        } else {
            self.day.yesterday()
        };
        let row_there = self.usage.get_mut(&date);
        let row_there = row_there.and_then(|rows| rows.get_mut(&fields.project));
        let row_there = row_there.and_then(|rows| rows.get_mut(&fields.model));
        let pool_there = pool.and_then(|pool| self.pools.get_mut(pool));
        let mut row = row_there.as_deref().copied().unwrap_or_default();
        let mut counters = pool_there.as_deref().copied().unwrap_or_default();
        if let Some((was, tokens)) = was {
            row.take_back(was.verdict, tokens);
            counters.take_back(was.verdict, tokens);
        }
        if let Some((is, tokens)) = is {
            row.count(is.verdict, tokens)?;
            if let Some(pool) = pool {
                counters.count(terms.of_pool(pool), is.verdict, tokens)?;
            }
        }
        // After this point nothing fails.
        match (pool_there, pool) {
            (Some(there), _) => *there = counters,
            (None, Some(pool)) => drop(self.pools.insert(pool.clone(), counters)),
            (None, None) => {}
        }
        if let Some(there) = row_there {
            *there = row;
        } else {
            let rows = self.usage.entry(date).or_default();
            let rows = rows.entry(fields.project.clone()).or_default();
            rows.insert(fields.model.clone(), row);
        }
        Ok(())
    }

    fn figures(&self, terms: &Terms, pool: Option<&PoolName>) -> Option<PoolFigures> {
        let pool = pool?;
        let used = self.pools.get(pool).map(|counters| counters.used);
        Some(PoolFigures::today(
            terms,
            pool.clone(),
            used.unwrap_or_default(),
        ))
    }

    fn figures_on(&self, day: usize, terms: &Terms, pool: Option<PoolName>) -> Option<PoolFigures> {
        if day == TODAY {
            self.figures(terms, pool.as_ref())
        } else {
            pool.map(PoolFigures::of_past_day)
        }
    }
}

/// A request as it is counted.
#[derive(Clone, Copy)]
struct Counted<'r> {
    fields: &'r RequestFields,
    pool: Option<&'r PoolName>,
    verdict: Verdict,
}
