//! How a decision changes what is kept of an organization: the rules, once for every store that decides
//! in this process.
//!
//! A store lends its records as [`Records`]. A decision reads what it needs, is judged whole, and only
//! then writes: what fails has written nothing.

use super::{Operation, Outcome, PoolFigures, Recording};
use crate::domain::{
    CounterFull, Eligibility, ModelName, PoolCounters, PoolName, Progress, ProjectId, Refusal,
    RequestFields, RequestId, Reservation, State, Terms, Tokens, UsageCounters, Verdict,
    judge_late_settle,
};

/// The records of one organization.
pub(super) trait Records {
    /// Why a record can't be read.
    type Error;

    /// A pool's counters of today; empty ones where there are none.
    fn pool(&mut self, pool: &PoolName) -> Result<PoolCounters, Self::Error>;

    /// Replaces a pool's counters of today.
    fn set_pool(&mut self, pool: &PoolName, counters: PoolCounters);

    /// A usage row; an empty one where there is none.
    fn row(
        &mut self,
        day: Day,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<UsageCounters, Self::Error>;

    /// Replaces a usage row.
    fn set_row(&mut self, day: Day, project: &ProjectId, model: &ModelName, row: UsageCounters);

    /// What an id stands for.
    fn reservation(&mut self, day: Day, id: &RequestId)
    -> Result<Option<Reservation>, Self::Error>;

    /// Remembers what an id stands for.
    fn set_reservation(&mut self, day: Day, id: &RequestId, reservation: Reservation);
}

/// The days on which an id is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Day {
    Today,
    Yesterday,
}

/// Decides one operation on what the ones before it left.
///
/// # Errors
///
/// A record can't be read. Nothing was written.
pub(super) fn decide<R: Records>(
    records: &mut R,
    terms: &Terms,
    operation: &Operation,
) -> Result<Outcome, R::Error> {
    let mut book = Book { records, terms };
    let decided = match operation {
        Operation::Reserve {
            request_id,
            fields,
            eligibility,
            recording,
        } => book.reserve(request_id.as_ref(), fields, eligibility, *recording),
        Operation::Settle { request_id, tokens } => book.settle(request_id, *tokens),
        Operation::Release { request_id } => book.release(request_id),
    };
    match decided {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Refused(refusal)) => Ok(Outcome::Refused(refusal)),
        Err(Stop::Full(full)) => Ok(Outcome::Full(full)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// The records, and what their organization is granted.
struct Book<'b, R> {
    records: &'b mut R,
    terms: &'b Terms,
}

/// What ends a decision early. Nothing was written.
enum Stop<E> {
    Refused(Refusal),
    Full(CounterFull),
    Failed(E),
}

impl<E> From<Refusal> for Stop<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<E> From<CounterFull> for Stop<E> {
    fn from(full: CounterFull) -> Self {
        Self::Full(full)
    }
}

/// A request as it is counted.
#[derive(Clone, Copy)]
struct Counted<'r> {
    fields: &'r RequestFields,
    pool: Option<&'r PoolName>,
    verdict: Verdict,
}

impl<R: Records> Book<'_, R> {
    fn reserve(
        &mut self,
        request_id: Option<&RequestId>,
        fields: &RequestFields,
        eligibility: &Eligibility,
        recording: Recording,
    ) -> Result<Outcome, Stop<R::Error>> {
        if let Some(id) = request_id
            && let Some((_, reservation)) = self.find(id)?
        {
            let verdict = reservation.reserve_again(fields)?;
            return Ok(Outcome::Reserved {
                verdict,
                pool: self.figures(reservation.pool.as_ref())?,
                replayed: true,
            });
        }
        let (verdict, pool) = match eligibility {
            Eligibility::Ineligible(reason) => (Verdict::Billed(*reason), None),
            Eligibility::Eligible(pool) => {
                let counters = self.pool(pool)?;
                let verdict = counters.judge_reserve(self.terms.of_pool(pool), fields.tokens);
                (verdict, Some(pool))
            }
        };
        if recording.writes() {
            let counted = Counted {
                fields,
                pool,
                verdict,
            };
            self.replace(Day::Today, None, Some((counted, fields.tokens)))?;
            if let Some(id) = request_id {
                let reservation = Reservation {
                    fields: fields.clone(),
                    verdict,
                    pool: pool.cloned(),
                    state: State::Held,
                };
                self.records.set_reservation(Day::Today, id, reservation);
            }
        }
        Ok(Outcome::Reserved {
            verdict,
            pool: self.figures(pool)?,
            replayed: false,
        })
    }

    fn settle(&mut self, id: &RequestId, actual: Tokens) -> Result<Outcome, Stop<R::Error>> {
        let (day, mut reservation) = self.find(id)?.ok_or(Refusal::UnknownRequestId)?;
        let held = reservation.verdict;
        let (verdict, replayed) = match reservation.settle(actual)? {
            Progress::Replay(verdict) => (verdict, true),
            Progress::Due => {
                let Reservation { fields, pool, .. } = &reservation;
                let verdict = match pool {
                    Some(pool) if day == Day::Today => self.pool(pool)?.judge_settle(
                        self.terms.of_pool(pool),
                        held,
                        fields.tokens,
                        actual,
                    ),
                    _ => judge_late_settle(held, fields.tokens, actual),
                };
                let was = Counted {
                    fields,
                    pool: pool.as_ref(),
                    verdict: held,
                };
                let is = Counted { verdict, ..was };
                self.replace(day, Some((was, fields.tokens)), Some((is, actual)))?;
                (verdict, false)
            }
        };
        let pool = self.figures_on(day, reservation.pool.as_ref())?;
        if !replayed {
            let tokens = actual;
            reservation.state = State::Settled { tokens, verdict };
            self.records.set_reservation(day, id, reservation);
        }
        Ok(Outcome::Settled {
            verdict,
            reserved_as: held,
            pool,
            replayed,
        })
    }

    fn release(&mut self, id: &RequestId) -> Result<Outcome, Stop<R::Error>> {
        let (day, mut reservation) = self.find(id)?.ok_or(Refusal::UnknownRequestId)?;
        let tokens = reservation.fields.tokens;
        let replayed = match reservation.release()? {
            Progress::Replay(()) => true,
            Progress::Due => {
                let was = Counted {
                    fields: &reservation.fields,
                    pool: reservation.pool.as_ref(),
                    verdict: reservation.verdict,
                };
                self.replace(day, Some((was, tokens)), None)?;
                false
            }
        };
        let pool = self.figures_on(day, reservation.pool.as_ref())?;
        if !replayed {
            reservation.state = State::Released;
            self.records.set_reservation(day, id, reservation);
        }
        Ok(Outcome::Released {
            tokens,
            pool,
            replayed,
        })
    }

    /// The id's reservation: today's, else yesterday's.
    fn find(&mut self, id: &RequestId) -> Result<Option<(Day, Reservation)>, Stop<R::Error>> {
        for day in [Day::Today, Day::Yesterday] {
            let found = self.records.reservation(day, id).map_err(Stop::Failed)?;
            if let Some(reservation) = found {
                return Ok(Some((day, reservation)));
            }
        }
        Ok(None)
    }

    fn pool(&mut self, pool: &PoolName) -> Result<PoolCounters, Stop<R::Error>> {
        self.records.pool(pool).map_err(Stop::Failed)
    }

    /// Takes back what a request counted, and counts it as what it is now: both, or neither.
    fn replace(
        &mut self,
        day: Day,
        was: Option<(Counted<'_>, Tokens)>,
        is: Option<(Counted<'_>, Tokens)>,
    ) -> Result<(), Stop<R::Error>> {
        let Some((Counted { fields, pool, .. }, _)) = was.or(is) else {
            return Ok(());
        };
        let RequestFields { project, model, .. } = fields;
        // Only today's pools have counters.
        let pool = pool.filter(|_| day == Day::Today);
        let mut row = self
            .records
            .row(day, project, model)
            .map_err(Stop::Failed)?;
        let mut counters = match pool {
            Some(pool) => self.pool(pool)?,
            None => PoolCounters::default(),
        };
        if let Some((was, tokens)) = was {
            row.take_back(was.verdict, tokens);
            counters.take_back(was.verdict, tokens);
        }
        if let Some((is, tokens)) = is {
            row.count(is.verdict, tokens)?;
            if let Some(pool) = pool {
                counters.count(self.terms.of_pool(pool), is.verdict, tokens)?;
            }
        }
        // After this point nothing fails.
        if let Some(pool) = pool {
            self.records.set_pool(pool, counters);
        }
        self.records.set_row(day, project, model, row);
        Ok(())
    }

    fn figures(&mut self, pool: Option<&PoolName>) -> Result<Option<PoolFigures>, Stop<R::Error>> {
        let Some(pool) = pool else {
            return Ok(None);
        };
        let used = self.pool(pool)?.used;
        Ok(Some(PoolFigures::today(self.terms, pool.clone(), used)))
    }

    fn figures_on(
        &mut self,
        day: Day,
        pool: Option<&PoolName>,
    ) -> Result<Option<PoolFigures>, Stop<R::Error>> {
        match day {
            Day::Today => self.figures(pool),
            Day::Yesterday => Ok(pool.cloned().map(PoolFigures::of_past_day)),
        }
    }
}
