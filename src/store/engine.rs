//! The rules over records, for the embedded stores: what Reserve, Settle and Release read, decide and write
//! (docs/CONTRACT.md, "Reserve", "Settle", "Release"). `redis/script/rules.lua` has the same rules for Redis.
//!
//! A store gives access to one organization's records through [`Records`]. A decision reads, then decides,
//! then writes. If it fails, it has written nothing.

use chrono::{DateTime, Utc};

use super::{
    Operation, Outcome, PoolBalance, ThresholdCrossing,
    records::{Records, RelativeDay},
};
use crate::domain::{
    CounterOverflow, Eligibility, ExternalSource, PoolCounters, PoolName, Progress, Refusal,
    RequestFields, RequestId, Reservation, ReservationState, RowChoice, RowCounts, ShareBalance,
    ShareId, Terms, Threshold, Tokens, UtcDay, Verdict, judge_late_settle, other_row,
};

/// Decides one operation, and adds the thresholds that it crosses. A day has at most `max_rows` usage rows, plus the row
/// `(other)`, `(other)`.
///
/// # Errors
///
/// A record can't be read. Nothing was written.
pub(super) fn decide<R: Records>(
    records: &mut R,
    terms: &Terms,
    now: DateTime<Utc>,
    max_rows: u64,
    operation: &Operation,
    crossings: &mut Vec<ThresholdCrossing>,
) -> Result<Outcome, R::Error> {
    let known = crossings.len();
    let mut engine = Engine {
        records,
        terms,
        now,
        max_rows,
        has_run: false,
        crossings,
    };
    let decided = match operation {
        Operation::Reserve {
            request_id,
            fields,
            eligibility,
            is_listed,
            recording,
            has_run,
        } => {
            let is_listed = recording.writes().then_some(*is_listed);
            engine.has_run = *has_run;
            engine.reserve(request_id.as_ref(), fields, eligibility, is_listed)
        }
        Operation::Settle {
            request_id,
            tokens,
            outside_program,
        } => engine.settle(request_id, *tokens, *outside_program),
        Operation::Release { request_id } => engine.release(request_id),
        Operation::SetExternalUsage {
            pool,
            source,
            tokens,
        } => engine.set_external_usage(pool, *source, *tokens),
        Operation::ConfirmNotice {
            pool,
            day,
            threshold,
        } => engine.confirm_notice(pool, *day, *threshold),
    };
    match decided {
        Ok(outcome) => Ok(outcome),
        Err(abort) => {
            crossings.truncate(known);
            match abort {
                Abort::Answered(outcome) => Ok(outcome),
                Abort::Failed(error) => Err(error),
            }
        }
    }
}

/// The rules, applied to one organization's records under its current terms.
struct Engine<'r, R> {
    records: &'r mut R,
    terms: &'r Terms,
    now: DateTime<Utc>,
    max_rows: u64,
    /// Whether a Reserve is of a request that ran already.
    has_run: bool,
    crossings: &'r mut Vec<ThresholdCrossing>,
}

/// Ends a decision before its first write.
enum Abort<E> {
    Answered(Outcome),
    Failed(E),
}

impl<E> From<Refusal> for Abort<E> {
    fn from(refusal: Refusal) -> Self {
        Self::Answered(Outcome::Refused(refusal))
    }
}

impl<E> From<CounterOverflow> for Abort<E> {
    fn from(full: CounterOverflow) -> Self {
        Self::Answered(Outcome::CounterOverflow(full))
    }
}

/// A pool of the day after a reservation's, as it is to be written.
type CarriedPool = (RelativeDay, PoolName, PoolCounters);

/// What a request counts, and where.
#[derive(Clone, Copy)]
struct CountedRequest<'r> {
    fields: &'r RequestFields,
    pool: Option<&'r PoolName>,
    row: RowChoice,
    verdict: Verdict,
    tokens: Tokens,
    /// Whether it is a reservation, to be settled or released later.
    is_held: bool,
    /// Whether the share of its project counts it.
    in_share: bool,
}

impl<R: Records> Engine<'_, R> {
    /// `is_listed`: whether a pool of the policy lists the model; `None` writes nothing.
    fn reserve(
        &mut self,
        request_id: Option<&RequestId>,
        fields: &RequestFields,
        eligibility: &Eligibility,
        is_listed: Option<bool>,
    ) -> Result<Outcome, Abort<R::Error>> {
        if let Some(id) = request_id
            && let Some((_, reservation)) = self.find(id)?
        {
            let verdict = reservation.reserve_again(fields)?;
            return self.reserved(verdict, reservation.pool.as_ref(), true);
        }
        let pool = match eligibility {
            Eligibility::Ineligible(_) => None,
            Eligibility::Eligible(pool) => Some(pool),
        };
        let (verdict, in_share) = self.judge_reserve(fields, eligibility)?;
        let Some(is_listed) = is_listed else {
            return self.reserved(verdict, pool, false);
        };
        let (row, counts) = self.choose_row(fields, is_listed)?;
        let counted = CountedRequest {
            fields,
            pool,
            row,
            verdict,
            tokens: fields.tokens,
            is_held: request_id.is_some(),
            in_share,
        };
        let is_carried = counted.is_held && verdict.is_free() && self.terms.carries(self.now);
        let carried = match pool.filter(|_| is_carried) {
            Some(pool) => {
                let mut counters = self.pool(RelativeDay::Tomorrow, pool)?;
                counters.carry(fields.tokens)?;
                Some((RelativeDay::Tomorrow, pool.clone(), counters))
            }
            None => None,
        };
        self.replace(RelativeDay::Today, None, Some(counted))?;
        self.set_carried(carried);
        if let Some(counts) = counts {
            self.records.set_row_counts(counts);
        }
        if let Some(id) = request_id {
            let reservation = Reservation {
                fields: fields.clone(),
                verdict,
                pool: pool.cloned(),
                state: ReservationState::Held {
                    row,
                    is_carried,
                    in_share,
                },
            };
            self.records
                .set_reservation(RelativeDay::Today, id, reservation);
        }
        self.reserved(verdict, pool, false)
    }

    /// The verdict on a request, and whether its project has a share.
    fn judge_reserve(
        &mut self,
        fields: &RequestFields,
        eligibility: &Eligibility,
    ) -> Result<(Verdict, bool), Abort<R::Error>> {
        let pool = match eligibility {
            Eligibility::Ineligible(reason) => return Ok((Verdict::Billed(*reason), false)),
            Eligibility::Eligible(pool) => pool,
        };
        let share = self.terms.share(pool, &fields.project);
        let share = match share.filter(|_| !self.has_run) {
            Some((id, share)) => {
                let used = self.records.share(RelativeDay::Today, id);
                let used = used.map_err(Abort::Failed)?.unwrap_or_default();
                Some(ShareBalance { share, used })
            }
            None => None,
        };
        let (counters, terms) = (
            self.pool(RelativeDay::Today, pool)?,
            self.terms.of_pool(pool),
        );
        let verdict = counters.judge_reserve(terms, share, fields.tokens);
        Ok((verdict, share.is_some()))
    }

    /// The usage row that counts a request; and the new number of rows, if the row is new.
    fn choose_row(
        &mut self,
        fields: &RequestFields,
        is_listed: bool,
    ) -> Result<(RowChoice, Option<RowCounts>), Abort<R::Error>> {
        let RequestFields { project, model, .. } = fields;
        let row = self.records.row(RelativeDay::Today, project, model);
        if row.map_err(Abort::Failed)?.is_some() {
            return Ok((RowChoice::Own, None));
        }
        let mut counts = self.records.row_counts().map_err(Abort::Failed)?;
        let other = other_row();
        if !counts.admit(self.max_rows, is_listed) || (project, model) == (&other.0, &other.1) {
            return Ok((RowChoice::Other, None));
        }
        counts.add(is_listed);
        Ok((RowChoice::Own, Some(counts)))
    }

    fn settle(
        &mut self,
        id: &RequestId,
        actual: Tokens,
        outside_program: bool,
    ) -> Result<Outcome, Abort<R::Error>> {
        let (day, mut reservation) = self.find(id)?.ok_or(Refusal::UnknownRequestId)?;
        let held = reservation.verdict;
        let (verdict, replayed) = match reservation.settle(actual, outside_program)? {
            Progress::Replay(verdict) => (verdict, true),
            Progress::Due(row) => {
                let was = held_request(&reservation, row);
                let verdict = match (was.pool, day) {
                    _ if outside_program => Verdict::RAN_OUTSIDE_PROGRAM,
                    (Some(pool), RelativeDay::Today | RelativeDay::Tomorrow) => {
                        let (counters, terms) = (self.pool(day, pool)?, self.terms.of_pool(pool));
                        counters.judge_settle(terms, held, was.tokens, actual)
                    }
                    _ => judge_late_settle(held, was.tokens, actual),
                };
                let is = CountedRequest {
                    verdict,
                    tokens: actual,
                    is_held: false,
                    ..was
                };
                let is_late = day == RelativeDay::Yesterday && verdict.is_free();
                let kept = if is_late { actual } else { Tokens::ZERO };
                let carried = self.taken_off(day, &reservation, kept)?;
                self.replace(day, Some(was), Some(is))?;
                self.set_carried(carried);
                (verdict, false)
            }
        };
        let pool = self.balance_on(day, reservation.pool.as_ref())?;
        if !replayed {
            let tokens = actual;
            reservation.state = ReservationState::Settled { tokens, verdict };
            self.records.set_reservation(day, id, reservation);
        }
        Ok(Outcome::Settled {
            verdict,
            reserved_as: held,
            pool,
            replayed,
        })
    }

    fn release(&mut self, id: &RequestId) -> Result<Outcome, Abort<R::Error>> {
        let (day, mut reservation) = self.find(id)?.ok_or(Refusal::UnknownRequestId)?;
        let tokens = reservation.fields.tokens;
        let replayed = match reservation.release()? {
            Progress::Replay(()) => true,
            Progress::Due(row) => {
                let carried = self.taken_off(day, &reservation, Tokens::ZERO)?;
                self.replace(day, Some(held_request(&reservation, row)), None)?;
                self.set_carried(carried);
                false
            }
        };
        let pool = self.balance_on(day, reservation.pool.as_ref())?;
        if !replayed {
            reservation.state = ReservationState::Released;
            self.records.set_reservation(day, id, reservation);
        }
        Ok(Outcome::Released {
            tokens,
            pool,
            replayed,
        })
    }

    fn set_external_usage(
        &mut self,
        pool: &PoolName,
        source: ExternalSource,
        tokens: Tokens,
    ) -> Result<Outcome, Abort<R::Error>> {
        let mut counters = self.pool(RelativeDay::Today, pool)?;
        let before = counters.external.replace(source, tokens);
        let counters = self.set_pool(RelativeDay::Today, pool, counters);
        let pool = PoolBalance::today(self.terms, pool.clone(), &counters);
        Ok(Outcome::ExternalUsageSet { before, pool })
    }

    fn confirm_notice(
        &mut self,
        pool: &PoolName,
        day: UtcDay,
        threshold: Threshold,
    ) -> Result<Outcome, Abort<R::Error>> {
        if day == UtcDay::of(self.now) {
            let mut counters = self.pool(RelativeDay::Today, pool)?;
            counters.confirm_notice(threshold);
            self.records.set_pool(RelativeDay::Today, pool, counters);
        }
        Ok(Outcome::NoticeConfirmed)
    }

    /// Writes a pool, and returns it as it is written: with its peak raised.
    fn set_pool(
        &mut self,
        day: RelativeDay,
        pool: &PoolName,
        mut counters: PoolCounters,
    ) -> PoolCounters {
        self.raise_peak(day, pool, &mut counters);
        self.records.set_pool(day, pool, counters);
        counters
    }

    /// Raises today's peak of a pool if it counts as much as a further threshold. To be called before less is counted,
    /// and before it is written.
    fn raise_peak(&mut self, day: RelativeDay, pool: &PoolName, counters: &mut PoolCounters) {
        let before = counters.peak;
        if day == RelativeDay::Today {
            counters.raise_peak(self.terms.of_pool(pool));
        }
        if counters.peak > before {
            self.crossings.push(ThresholdCrossing {
                pool: pool.clone(),
                before,
                used: counters.used,
                external: counters.external.tokens(),
            });
        }
    }

    /// The reservation of an id, and its day.
    fn find(
        &mut self,
        id: &RequestId,
    ) -> Result<Option<(RelativeDay, Reservation)>, Abort<R::Error>> {
        for day in RelativeDay::OF_IDS {
            let found = self.records.reservation(day, id).map_err(Abort::Failed)?;
            if let Some(reservation) = found {
                return Ok(Some((day, reservation)));
            }
        }
        Ok(None)
    }

    fn pool(&mut self, day: RelativeDay, pool: &PoolName) -> Result<PoolCounters, Abort<R::Error>> {
        let counters = self.records.pool(day, pool).map_err(Abort::Failed)?;
        Ok(counters.unwrap_or_default())
    }

    /// The pool that a reservation is carried into, once `kept` of its tokens stay there. None if it is not carried.
    fn taken_off(
        &mut self,
        day: RelativeDay,
        reservation: &Reservation,
        kept: Tokens,
    ) -> Result<Option<CarriedPool>, Abort<R::Error>> {
        let ReservationState::Held {
            is_carried: true, ..
        } = reservation.state
        else {
            return Ok(None);
        };
        let Some(pool) = reservation.pool.as_ref() else {
            return Ok(None);
        };
        let next = day.next();
        let mut counters = self.pool(next, pool)?;
        self.raise_peak(next, pool, &mut counters);
        counters.end_carry(reservation.fields.tokens, kept);
        Ok(Some((next, pool.clone(), counters)))
    }

    fn set_carried(&mut self, carried: Option<CarriedPool>) {
        if let Some((day, pool, counters)) = carried {
            self.set_pool(day, &pool, counters);
        }
    }

    /// Takes back what a request counted and counts it anew: both, or neither.
    fn replace(
        &mut self,
        day: RelativeDay,
        was: Option<CountedRequest<'_>>,
        is: Option<CountedRequest<'_>>,
    ) -> Result<(), Abort<R::Error>> {
        let Some(CountedRequest {
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
        let mut row = row.map_err(Abort::Failed)?.unwrap_or_default();
        let counters = match pool {
            Some(pool) => self.records.pool(day, pool).map_err(Abort::Failed)?,
            None => None,
        };
        // Yesterday's counters are corrected while they are kept: the clock may step back.
        let pool = pool.filter(|_| counters.is_some() || day != RelativeDay::Yesterday);
        let mut counters = counters.unwrap_or_default();
        if let Some(was) = was {
            row.take_back(was.verdict, was.tokens);
            counters.take_back(was.verdict, was.tokens);
            counters.end_hold(was.verdict, was.tokens);
        }
        let share = self.share_after(day, was, is)?;
        if let Some(is) = is {
            row.count(is.verdict, is.tokens)?;
            if let Some(pool) = pool {
                let counted = counters.count(self.terms.of_pool(pool), is.verdict, is.tokens);
                // A counter of yesterday that would overflow fails no Settle.
                counted
                    .or_else(|full| (day == RelativeDay::Yesterday).then_some(()).ok_or(full))?;
            }
            if is.is_held {
                counters.hold(is.verdict, is.tokens);
            }
        }
        // After this point nothing may fail.
        if let Some(pool) = pool {
            self.set_pool(day, pool, counters);
        }
        if let Some((share, used)) = share {
            self.records.set_share(day, &share, used);
        }
        self.records.set_row(day, project, model, row);
        Ok(())
    }

    /// The share that counts a request, and its FREE tokens once the request is replaced. Of yesterday only if it is
    /// still there.
    fn share_after(
        &mut self,
        day: RelativeDay,
        was: Option<CountedRequest<'_>>,
        is: Option<CountedRequest<'_>>,
    ) -> Result<Option<(ShareId, Tokens)>, Abort<R::Error>> {
        let free = |it: CountedRequest<'_>| it.verdict.is_free().then_some(it.tokens);
        let (taken_back, counted) = (was.and_then(free), is.and_then(free));
        let share = was
            .or(is)
            .filter(|it| it.in_share && taken_back.or(counted).is_some());
        let Some((pool, fields)) = share.and_then(|it| Some((it.pool?, it.fields))) else {
            return Ok(None);
        };
        let id = ShareId {
            pool: pool.clone(),
            project: fields.project.clone(),
        };
        let used = self.records.share(day, &id).map_err(Abort::Failed)?;
        if used.is_none() && day == RelativeDay::Yesterday {
            return Ok(None);
        }
        let rest = used
            .unwrap_or_default()
            .less(taken_back.unwrap_or_default());
        Ok(Some((id, rest.plus(counted.unwrap_or_default())?)))
    }

    fn reserved(
        &mut self,
        verdict: Verdict,
        pool: Option<&PoolName>,
        replayed: bool,
    ) -> Result<Outcome, Abort<R::Error>> {
        let pool = self.balance_on(RelativeDay::Today, pool)?;
        Ok(Outcome::Reserved {
            verdict,
            pool,
            replayed,
        })
    }

    fn balance_on(
        &mut self,
        day: RelativeDay,
        pool: Option<&PoolName>,
    ) -> Result<Option<PoolBalance>, Abort<R::Error>> {
        Ok(match (pool, day) {
            (None, _) => None,
            (Some(pool), RelativeDay::Today) => {
                let counters = self.pool(day, pool)?;
                Some(PoolBalance::today(self.terms, pool.clone(), &counters))
            }
            (Some(pool), _) => Some(PoolBalance::of_another_day(pool.clone())),
        })
    }
}

/// What a reservation counts while it is held.
fn held_request(reservation: &Reservation, row: RowChoice) -> CountedRequest<'_> {
    CountedRequest {
        fields: &reservation.fields,
        pool: reservation.pool.as_ref(),
        row,
        verdict: reservation.verdict,
        tokens: reservation.fields.tokens,
        is_held: true,
        in_share: matches!(
            reservation.state,
            ReservationState::Held { in_share: true, .. }
        ),
    }
}
