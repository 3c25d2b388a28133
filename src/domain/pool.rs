//! The counters of a pool on a day, and the decisions: when a request is free, and what it counts.
//!
//! Rules: docs/CONTRACT.md, "Reserve" 3, "Settle" and "What is counted where". A `judge_*` function makes a
//! decision and changes nothing; [`PoolCounters::count`] and [`PoolCounters::take_back`] carry it out.
//! `src/store/redis/script/rules.lua` has the same rules in Lua; property tests compare both with a model.

use strum::IntoStaticStr;

use super::{
    thresholds::{Threshold, Thresholds},
    tokens::{CounterOverflow, Tokens},
    verdict::{BilledReason, Verdict},
};

/// What happens to a pool when a request does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The pool stays open: a later request that fits is free.
    #[default]
    KeepOpen,
    /// The pool is closed until midnight.
    CloseUntilReset,
}

impl Overflow {
    /// The name in the policy file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeepOpen => "keep_open",
            Self::CloseUntilReset => "close_until_reset",
        }
    }
}

/// What the policy grants in a pool at the moment of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolTerms {
    /// The free tokens of a day.
    pub allowance: Tokens,
    /// The part of the allowance that no Reserve gets. Settle knows no margin: the provider knows none.
    pub margin: Tokens,
    /// What an overflow does to the pool.
    pub overflow: Overflow,
    /// At which parts of the allowance notices are due.
    pub thresholds: Thresholds,
}

impl PoolTerms {
    /// What Reserves get of the allowance.
    pub const fn reservable(self) -> Tokens {
        self.allowance.less(self.margin)
    }
}

/// Tokens that the provider counted today in a pool, and Tollgate did not. The larger figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExternalUsage {
    /// As an administrator set it.
    pub manual: Tokens,
    /// As a comparison with the provider found it.
    pub reconciled: Tokens,
}

/// Where a figure of external usage is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[allow(missing_docs)]
pub enum ExternalSource {
    Manual,
    Reconciled,
}

impl ExternalUsage {
    /// The figure that counts.
    pub fn tokens(self) -> Tokens {
        self.manual.max(self.reconciled)
    }

    /// Replaces a figure, and returns the one before.
    pub fn replace(&mut self, source: ExternalSource, tokens: Tokens) -> Tokens {
        let figure = match source {
            ExternalSource::Manual => &mut self.manual,
            ExternalSource::Reconciled => &mut self.reconciled,
        };
        std::mem::replace(figure, tokens)
    }
}

/// What a project may use of a pool today, and has used (docs/CONTRACT.md, "Shares").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareBalance {
    /// The most that it may use.
    pub share: Tokens,
    /// The FREE tokens that the share counted.
    pub used: Tokens,
}

impl ShareBalance {
    /// What the project could still use, if the pool has it.
    #[must_use]
    pub const fn remaining(self) -> Tokens {
        self.share.less(self.used)
    }
}

/// What one pool of one organization counted on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounters {
    /// Free tokens, settled and held.
    pub used: Tokens,
    /// The number of free requests.
    pub free_requests: u64,
    /// Tokens of eligible requests that are billed.
    pub billed_tokens: Tokens,
    /// The number of billed eligible requests.
    pub billed_requests: u64,
    /// Tokens of FREE reservations that are still held: a part of `used`.
    pub held: Tokens,
    /// What the provider counted besides.
    pub external: ExternalUsage,
    /// Whether an overflow closed the pool. Only in effect while the terms say
    /// [`Overflow::CloseUntilReset`].
    pub closed: bool,
    /// The most that was counted, free tokens and external usage, each time that it reached a further threshold. So it has
    /// reached the thresholds that the pool has reached today, also if less is counted now.
    pub peak: Tokens,
    /// The thresholds whose notices were delivered.
    pub notified: Thresholds,
}

impl PoolCounters {
    /// The verdict on an eligible request: free if all of it fits, also in the share of its project, if that has one.
    /// What Reserves get of the allowance may be reached exactly.
    pub fn judge_reserve(
        &self,
        terms: PoolTerms,
        share: Option<ShareBalance>,
        tokens: Tokens,
    ) -> Verdict {
        if self.is_closed(terms) {
            Verdict::Billed(BilledReason::PoolClosed)
        } else if !self.fits(self.used, terms.reservable(), tokens) {
            Verdict::Billed(BilledReason::AllowanceExceeded)
        } else if share.is_some_and(|share| tokens > share.remaining()) {
            Verdict::Billed(BilledReason::ShareExceeded)
        } else {
            Verdict::Free
        }
    }

    /// The verdict on the actual tokens, on the day of the reservation. `held` is the reservation's verdict;
    /// these counters still include its `reserved` tokens.
    pub fn judge_settle(
        &self,
        terms: PoolTerms,
        held: Verdict,
        reserved: Tokens,
        actual: Tokens,
    ) -> Verdict {
        match held {
            Verdict::Free if actual <= reserved => Verdict::Free,
            Verdict::Free if self.fits(self.used.less(reserved), terms.allowance, actual) => {
                Verdict::Free
            }
            Verdict::Free => Verdict::Billed(BilledReason::AllowanceExceeded),
            Verdict::Billed(BilledReason::AllowanceExceeded)
                if !self.is_closed(terms) && self.fits(self.used, terms.allowance, actual) =>
            {
                Verdict::Free
            }
            Verdict::Billed(_) => held,
        }
    }

    /// Counts a request. ALLOWANCE_EXCEEDED closes the pool if the terms say so. Ineligible requests, and those that
    /// ran outside the programme, count in no pool.
    ///
    /// # Errors
    ///
    /// A counter would exceed 2^53 − 1. Nothing is counted then.
    pub fn count(
        &mut self,
        terms: PoolTerms,
        verdict: Verdict,
        tokens: Tokens,
    ) -> Result<(), CounterOverflow> {
        match verdict {
            Verdict::Free => {
                self.used = self.used.plus(tokens)?;
                self.free_requests += 1;
            }
            Verdict::Billed(reason) if reason.counts_in_pool() => {
                self.billed_tokens = self.billed_tokens.plus(tokens)?;
                self.billed_requests += 1;
            }
            Verdict::Billed(_) => {}
        }
        self.closed |= terms.overflow == Overflow::CloseUntilReset
            && verdict == Verdict::Billed(BilledReason::AllowanceExceeded);
        Ok(())
    }

    /// Takes back what [`PoolCounters::count`] counted. A closed pool stays closed.
    pub fn take_back(&mut self, verdict: Verdict, tokens: Tokens) {
        match verdict {
            Verdict::Free => {
                self.used = self.used.less(tokens);
                self.free_requests = self.free_requests.saturating_sub(1);
            }
            Verdict::Billed(reason) if reason.counts_in_pool() => {
                self.billed_tokens = self.billed_tokens.less(tokens);
                self.billed_requests = self.billed_requests.saturating_sub(1);
            }
            Verdict::Billed(_) => {}
        }
    }

    /// Adds a reservation to the held tokens, if it is FREE.
    pub fn hold(&mut self, verdict: Verdict, tokens: Tokens) {
        if verdict.is_free() {
            self.held = self.held.plus(tokens).unwrap_or(Tokens::MAX);
        }
    }

    /// Removes a reservation, which was settled or released, from the held tokens.
    pub fn end_hold(&mut self, verdict: Verdict, tokens: Tokens) {
        if verdict.is_free() {
            self.held = self.held.less(tokens);
        }
    }

    /// Counts a reservation of the day before, which may end on this day.
    ///
    /// # Errors
    ///
    /// A counter would exceed 2^53 − 1. Nothing is counted then.
    pub fn carry(&mut self, tokens: Tokens) -> Result<(), CounterOverflow> {
        self.used = self.used.plus(tokens)?;
        Ok(())
    }

    /// Ends a carry: `kept` of the reserved tokens stay.
    pub fn end_carry(&mut self, reserved: Tokens, kept: Tokens) {
        self.used = self.used.less(reserved.less(kept));
    }

    /// Free tokens and external usage: what thresholds are compared with.
    pub fn counted(&self) -> Tokens {
        let counted = self.used.plus(self.external.tokens());
        counted.unwrap_or(Tokens::MAX)
    }

    /// Raises the peak, if a further threshold is reached.
    pub fn raise_peak(&mut self, terms: PoolTerms) {
        let counted = self.counted();
        let next = terms.thresholds.next(terms.allowance, self.peak);
        if next.is_some_and(|next| counted >= next) {
            self.peak = counted;
        }
    }

    /// Records that the notice of a threshold was delivered.
    pub fn confirm_notice(&mut self, threshold: Threshold) {
        self.notified.insert(threshold);
    }

    /// The thresholds that were reached today and whose notices were not delivered yet, the lowest first.
    pub fn unconfirmed(&self, terms: PoolTerms) -> impl Iterator<Item = Threshold> + use<> {
        let (reached, notified) = (
            terms.thresholds.reached(terms.allowance, self.peak),
            self.notified,
        );
        reached.filter(move |threshold| !notified.contains(*threshold))
    }

    /// Whether every further Reserve of today is BILLED `POOL_CLOSED`.
    pub fn is_closed(&self, terms: PoolTerms) -> bool {
        self.closed && terms.overflow == Overflow::CloseUntilReset
    }

    /// `used + external + tokens <= allowance`. No sum of three amounts passes 2^64.
    fn fits(&self, used: Tokens, allowance: Tokens, tokens: Tokens) -> bool {
        used.get() + self.external.tokens().get() + tokens.get() <= allowance.get()
    }
}

/// The verdict on the actual tokens after the day of the reservation: free only up to what was reserved.
pub fn judge_late_settle(held: Verdict, reserved: Tokens, actual: Tokens) -> Verdict {
    match held {
        Verdict::Free if actual > reserved => Verdict::Billed(BilledReason::DayClosed),
        Verdict::Free | Verdict::Billed(_) => held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCEEDED: Verdict = Verdict::Billed(BilledReason::AllowanceExceeded);

    fn tokens(amount: u64) -> Tokens {
        Tokens::new(amount).expect("an amount")
    }

    fn terms(allowance: u64, overflow: Overflow) -> PoolTerms {
        PoolTerms {
            allowance: tokens(allowance),
            margin: Tokens::ZERO,
            overflow,
            thresholds: Thresholds::USUAL,
        }
    }

    fn used(amount: u64) -> PoolCounters {
        PoolCounters {
            used: tokens(amount),
            free_requests: 1,
            ..PoolCounters::default()
        }
    }

    #[test]
    fn a_request_that_would_exceed_the_allowance_is_billed_whole() {
        let (pool, terms) = (used(975_000), terms(1_000_000, Overflow::KeepOpen));
        assert_eq!(pool.judge_reserve(terms, None, tokens(30_000)), EXCEEDED);
        assert_eq!(
            pool.judge_reserve(terms, None, tokens(25_000)),
            Verdict::Free
        );
        assert_eq!(pool.judge_reserve(terms, None, tokens(25_001)), EXCEEDED);
    }

    #[test]
    fn a_margin_bounds_reserve_and_not_settle() {
        let margin = tokens(100);
        let terms = PoolTerms {
            margin,
            ..terms(1_000, Overflow::KeepOpen)
        };
        let pool = used(800);
        assert_eq!(pool.judge_reserve(terms, None, tokens(100)), Verdict::Free);
        assert_eq!(pool.judge_reserve(terms, None, tokens(101)), EXCEEDED);
        for (held, actual, verdict) in [
            (Verdict::Free, 300, Verdict::Free),
            (Verdict::Free, 301, EXCEEDED),
            (EXCEEDED, 200, Verdict::Free),
            (EXCEEDED, 201, EXCEEDED),
        ] {
            let settled = pool.judge_settle(terms, held, tokens(100), tokens(actual));
            assert_eq!(settled, verdict, "{held:?} {actual}");
        }
    }

    #[test]
    fn sums_around_the_largest_amount_are_exact() {
        let max = Tokens::MAX.get();
        let terms = terms(max, Overflow::KeepOpen);
        assert_eq!(
            used(max - 1).judge_reserve(terms, None, tokens(1)),
            Verdict::Free
        );
        assert_eq!(
            used(max - 1).judge_reserve(terms, None, tokens(2)),
            EXCEEDED
        );
        assert_eq!(used(max).judge_reserve(terms, None, tokens(1)), EXCEEDED);
        let mut full = PoolCounters {
            billed_tokens: Tokens::MAX,
            ..PoolCounters::default()
        };
        let before = full;
        assert_eq!(full.count(terms, EXCEEDED, tokens(1)), Err(CounterOverflow));
        assert_eq!(full, before);
    }

    #[test]
    fn an_allowance_cut_below_what_is_used_grants_nothing_more() {
        let (pool, terms) = (used(500), terms(100, Overflow::KeepOpen));
        assert_eq!(pool.judge_reserve(terms, None, tokens(1)), EXCEEDED);
        // What was granted stands, and may shrink.
        let settled = pool.judge_settle(terms, Verdict::Free, tokens(500), tokens(400));
        assert_eq!(settled, Verdict::Free);
        // Not even an empty request fits, so a billed one stays billed.
        assert_eq!(
            pool.judge_settle(terms, EXCEEDED, tokens(9), Tokens::ZERO),
            EXCEEDED
        );
    }

    #[test]
    fn an_overflow_closes_the_pool_only_where_the_terms_say_so() {
        for (overflow, then) in [
            (Overflow::KeepOpen, Verdict::Free),
            (
                Overflow::CloseUntilReset,
                Verdict::Billed(BilledReason::PoolClosed),
            ),
        ] {
            let (mut pool, terms) = (used(90), terms(100, overflow));
            pool.count(terms, EXCEEDED, tokens(11)).expect("counted");
            assert_eq!(pool.judge_reserve(terms, None, tokens(10)), then);
            // A release does not open it again.
            pool.take_back(EXCEEDED, tokens(11));
            assert_eq!(pool.judge_reserve(terms, None, tokens(10)), then);
        }
    }

    #[test]
    fn after_its_day_a_request_is_free_only_up_to_what_was_reserved() {
        let (held, closed) = (Verdict::Free, Verdict::Billed(BilledReason::DayClosed));
        assert_eq!(judge_late_settle(held, tokens(5), tokens(5)), Verdict::Free);
        assert_eq!(judge_late_settle(held, tokens(5), tokens(6)), closed);
        assert_eq!(
            judge_late_settle(EXCEEDED, tokens(5), Tokens::ZERO),
            EXCEEDED
        );
    }

    #[test]
    fn what_was_counted_is_taken_back_whole() {
        let terms = terms(100, Overflow::KeepOpen);
        for verdict in [
            Verdict::Free,
            EXCEEDED,
            Verdict::Billed(BilledReason::ModelNotCovered),
        ] {
            let mut pool = used(7);
            pool.count(terms, verdict, tokens(3)).expect("counted");
            pool.take_back(verdict, tokens(3));
            assert_eq!(pool, used(7));
        }
    }
}
