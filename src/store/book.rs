//! How a decision changes what is kept of an organization: the rules, once for every store that decides
//! in this process.
//!
//! A store lends its records as [`Records`]. A decision reads what it needs, is judged whole, and only
//! then writes: what fails has written nothing.

use super::{Operation, Outcome, PoolBalance};
use crate::domain::{
    CounterOverflow, Eligibility, ModelName, PoolCounters, PoolName, Progress, ProjectId, Refusal,
    RequestFields, RequestId, Reservation, RowChoice, RowCounts, State, Terms, Tokens,
    UsageCounters, UtcDay, Verdict, judge_late_settle, other_row,
};

/// The records of one organization.
pub(super) trait Records {
    /// Why a record can't be read.
    type Error;

    /// A pool's counters.
    fn pool(&mut self, day: Day, pool: &PoolName) -> Result<Option<PoolCounters>, Self::Error>;

    /// Replaces a pool's counters.
    fn set_pool(&mut self, day: Day, pool: &PoolName, counters: PoolCounters);

    /// A usage row.
    fn row(
        &mut self,
        day: Day,
        project: &ProjectId,
        model: &ModelName,
    ) -> Result<Option<UsageCounters>, Self::Error>;

    /// Replaces a usage row.
    fn set_row(&mut self, day: Day, project: &ProjectId, model: &ModelName, row: UsageCounters);

    /// How many usage rows today has.
    fn row_counts(&mut self) -> Result<RowCounts, Self::Error>;

    /// Replaces how many usage rows today has.
    fn set_row_counts(&mut self, counts: RowCounts);

    /// What an id stands for.
    fn reservation(&mut self, day: Day, id: &RequestId)
    -> Result<Option<Reservation>, Self::Error>;

    /// Remembers what an id stands for.
    fn set_reservation(&mut self, day: Day, id: &RequestId, reservation: Reservation);
}

/// The days on which an id is looked for, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Day {
    Today,
    Yesterday,
    /// The clock was there before it stepped back.
    Tomorrow,
}

impl Day {
    const ALL: [Self; 3] = [Self::Today, Self::Yesterday, Self::Tomorrow];

    /// Which day that is.
    pub(super) fn date(self, today: UtcDay) -> UtcDay {
        match self {
            Self::Today => today,
            Self::Yesterday => today.yesterday(),
            Self::Tomorrow => today.plus_days(1),
        }
    }
}

/// Decides one operation on what the ones before it left. A day has at most `max_rows` usage rows besides
/// the row `(other)`, `(other)`.
///
/// # Errors
///
/// A record can't be read. Nothing was written.
pub(super) fn decide<R: Records>(
    records: &mut R,
    terms: &Terms,
    max_rows: u64,
    operation: &Operation,
) -> Result<Outcome, R::Error> {
    let mut book = Book {
        records,
        terms,
        max_rows,
    };
    let decided = match operation {
        Operation::Reserve {
            request_id,
            fields,
            eligibility,
            is_listed,
            recording,
        } => match recording.writes() {
            true => book.reserve(request_id.as_ref(), fields, eligibility, *is_listed),
            false => book.look(request_id.as_ref(), fields, eligibility),
        },
        Operation::Settle { request_id, tokens } => book.settle(request_id, *tokens),
        Operation::Release { request_id } => book.release(request_id),
    };
    match decided {
        Ok(outcome) => Ok(outcome),
        Err(Stop::Refused(refusal)) => Ok(Outcome::Refused(refusal)),
        Err(Stop::Full(full)) => Ok(Outcome::CounterOverflow(full)),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// The records, and what their organization is granted.
struct Book<'b, R> {
    records: &'b mut R,
    terms: &'b Terms,
    max_rows: u64,
}

/// What ends a decision early. Nothing was written.
enum Stop<E> {
    Refused(Refusal),
    Full(CounterOverflow),
    Failed(E),
}

impl<E> From<Refusal> for Stop<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl<E> From<CounterOverflow> for Stop<E> {
    fn from(full: CounterOverflow) -> Self {
        Self::Full(full)
    }
}

/// A request as it is counted.
#[derive(Clone, Copy)]
struct Counted<'r> {
    fields: &'r RequestFields,
    pool: Option<&'r PoolName>,
    row: RowChoice,
    verdict: Verdict,
    tokens: Tokens,
    /// Whether it will be settled or released.
    is_held: bool,
}

impl<R: Records> Book<'_, R> {
    fn reserve(
        &mut self,
        request_id: Option<&RequestId>,
        fields: &RequestFields,
        eligibility: &Eligibility,
        is_listed: bool,
    ) -> Result<Outcome, Stop<R::Error>> {
        if let Some(replay) = self.replay(request_id, fields)? {
            return Ok(replay);
        }
        let (verdict, pool) = self.judge_reserve(fields, eligibility)?;
        let (row, counts) = self.choose_row(fields, is_listed)?;
        let counted = Counted {
            fields,
            pool,
            row,
            verdict,
            tokens: fields.tokens,
            is_held: request_id.is_some(),
        };
        self.replace(Day::Today, None, Some(counted))?;
        if let Some(counts) = counts {
            self.records.set_row_counts(counts);
        }
        if let Some(id) = request_id {
            let reservation = Reservation {
                fields: fields.clone(),
                verdict,
                pool: pool.cloned(),
                state: State::Held { row },
            };
            self.records.set_reservation(Day::Today, id, reservation);
        }
        self.reserved(verdict, pool, false)
    }

    /// What a Reserve would be answered. Writes nothing.
    fn look(
        &mut self,
        request_id: Option<&RequestId>,
        fields: &RequestFields,
        eligibility: &Eligibility,
    ) -> Result<Outcome, Stop<R::Error>> {
        if let Some(replay) = self.replay(request_id, fields)? {
            return Ok(replay);
        }
        let (verdict, pool) = self.judge_reserve(fields, eligibility)?;
        self.reserved(verdict, pool, false)
    }

    /// The first answer again, where the id is known.
    fn replay(
        &mut self,
        request_id: Option<&RequestId>,
        fields: &RequestFields,
    ) -> Result<Option<Outcome>, Stop<R::Error>> {
        let Some(id) = request_id else {
            return Ok(None);
        };
        let Some((_, reservation)) = self.find(id)? else {
            return Ok(None);
        };
        let verdict = reservation.reserve_again(fields)?;
        self.reserved(verdict, reservation.pool.as_ref(), true)
            .map(Some)
    }

    fn judge_reserve<'e>(
        &mut self,
        fields: &RequestFields,
        eligibility: &'e Eligibility,
    ) -> Result<(Verdict, Option<&'e PoolName>), Stop<R::Error>> {
        Ok(match eligibility {
            Eligibility::Ineligible(reason) => (Verdict::Billed(*reason), None),
            Eligibility::Eligible(pool) => {
                let counters = self.pool(Day::Today, pool)?;
                let verdict = counters.judge_reserve(self.terms.of_pool(pool), fields.tokens);
                (verdict, Some(pool))
            }
        })
    }

    /// Which row counts a request, and how many there then are, where a row is made for it.
    fn choose_row(
        &mut self,
        fields: &RequestFields,
        is_listed: bool,
    ) -> Result<(RowChoice, Option<RowCounts>), Stop<R::Error>> {
        let RequestFields { project, model, .. } = fields;
        let row = self.records.row(Day::Today, project, model);
        if row.map_err(Stop::Failed)?.is_some() {
            return Ok((RowChoice::Own, None));
        }
        let mut counts = self.records.row_counts().map_err(Stop::Failed)?;
        if !counts.admit(self.max_rows, is_listed) || is_other_row(fields) {
            return Ok((RowChoice::Other, None));
        }
        counts.add(is_listed);
        Ok((RowChoice::Own, Some(counts)))
    }

    fn settle(&mut self, id: &RequestId, actual: Tokens) -> Result<Outcome, Stop<R::Error>> {
        let (day, mut reservation) = self.find(id)?.ok_or(Refusal::UnknownRequestId)?;
        let held = reservation.verdict;
        let (verdict, replayed) = match reservation.settle(actual)? {
            Progress::Replay(verdict) => (verdict, true),
            Progress::Due(row) => {
                let was = held_by(&reservation, row);
                let verdict = self.judge_settle(day, was, actual)?;
                let is = Counted {
                    verdict,
                    tokens: actual,
                    is_held: false,
                    ..was
                };
                self.replace(day, Some(was), Some(is))?;
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

    fn judge_settle(
        &mut self,
        day: Day,
        held: Counted<'_>,
        actual: Tokens,
    ) -> Result<Verdict, Stop<R::Error>> {
        let (verdict, reserved) = (held.verdict, held.tokens);
        Ok(match (held.pool, day) {
            (Some(pool), Day::Today | Day::Tomorrow) => {
                let terms = self.terms.of_pool(pool);
                let counters = self.pool(day, pool)?;
                counters.judge_settle(terms, verdict, reserved, actual)
            }
            _ => judge_late_settle(verdict, reserved, actual),
        })
    }

    fn release(&mut self, id: &RequestId) -> Result<Outcome, Stop<R::Error>> {
        let (day, mut reservation) = self.find(id)?.ok_or(Refusal::UnknownRequestId)?;
        let tokens = reservation.fields.tokens;
        let replayed = match reservation.release()? {
            Progress::Replay(()) => true,
            Progress::Due(row) => {
                self.replace(day, Some(held_by(&reservation, row)), None)?;
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

    /// The id's reservation, and its day.
    fn find(&mut self, id: &RequestId) -> Result<Option<(Day, Reservation)>, Stop<R::Error>> {
        for day in Day::ALL {
            let found = self.records.reservation(day, id).map_err(Stop::Failed)?;
            if let Some(reservation) = found {
                return Ok(Some((day, reservation)));
            }
        }
        Ok(None)
    }

    fn pool(&mut self, day: Day, pool: &PoolName) -> Result<PoolCounters, Stop<R::Error>> {
        let counters = self.records.pool(day, pool).map_err(Stop::Failed)?;
        Ok(counters.unwrap_or_default())
    }

    /// Takes back what a request counted, and counts it as what it is now: both, or neither.
    fn replace(
        &mut self,
        day: Day,
        was: Option<Counted<'_>>,
        is: Option<Counted<'_>>,
    ) -> Result<(), Stop<R::Error>> {
        let Some(Counted {
            fields, pool, row, ..
        }) = was.or(is)
        else {
            return Ok(());
        };
        let other;
        let (project, model) = match row {
            RowChoice::Own => (&fields.project, &fields.model),
            RowChoice::Other => {
                other = other_row();
                (&other.0, &other.1)
            }
        };
        let row = self.records.row(day, project, model);
        let mut row = row.map_err(Stop::Failed)?.unwrap_or_default();
        let counters = match pool {
            Some(pool) => self.records.pool(day, pool).map_err(Stop::Failed)?,
            None => None,
        };
        // A past day's counters are corrected as long as they are kept: the clock may step back to it.
        let pool = pool.filter(|_| counters.is_some() || day != Day::Yesterday);
        let mut counters = counters.unwrap_or_default();
        if let Some(was) = was {
            row.take_back(was.verdict, was.tokens);
            counters.take_back(was.verdict, was.tokens);
            counters.end_hold(was.verdict, was.tokens);
        }
        if let Some(is) = is {
            row.count(is.verdict, is.tokens)?;
            if let Some(pool) = pool {
                let counted = counters.count(self.terms.of_pool(pool), is.verdict, is.tokens);
                // A counter of a past day holds up no Settle.
                counted.or_else(|full| (day == Day::Yesterday).then_some(()).ok_or(full))?;
            }
            if is.is_held {
                counters.hold(is.verdict, is.tokens);
            }
        }
        // After this point nothing fails.
        if let Some(pool) = pool {
            self.records.set_pool(day, pool, counters);
        }
        self.records.set_row(day, project, model, row);
        Ok(())
    }

    fn reserved(
        &mut self,
        verdict: Verdict,
        pool: Option<&PoolName>,
        replayed: bool,
    ) -> Result<Outcome, Stop<R::Error>> {
        let pool = self.figures_on(Day::Today, pool)?;
        Ok(Outcome::Reserved {
            verdict,
            pool,
            replayed,
        })
    }

    fn figures_on(
        &mut self,
        day: Day,
        pool: Option<&PoolName>,
    ) -> Result<Option<PoolBalance>, Stop<R::Error>> {
        let Some(pool) = pool else {
            return Ok(None);
        };
        Ok(Some(match day {
            Day::Today => {
                let counters = self.pool(Day::Today, pool)?;
                PoolBalance::today(self.terms, pool.clone(), &counters)
            }
            Day::Yesterday | Day::Tomorrow => PoolBalance::of_another_day(pool.clone()),
        }))
    }
}

/// What a held reservation counts.
fn held_by(reservation: &Reservation, row: RowChoice) -> Counted<'_> {
    Counted {
        fields: &reservation.fields,
        pool: reservation.pool.as_ref(),
        row,
        verdict: reservation.verdict,
        tokens: reservation.fields.tokens,
        is_held: true,
    }
}

/// Whether a caller's own names are those of the row `(other)`, `(other)`.
fn is_other_row(fields: &RequestFields) -> bool {
    let (project, model) = other_row();
    (&fields.project, &fields.model) == (&project, &model)
}
