//! The counters of a pool on one day, and the decisions: when is a request free, and what does it
//! count?
//!
//! Rules: docs/CONTRACT.md, "Reserve" 3, "Settle" and "What is counted where". A decision is made by
//! a `judge_*` function, which changes nothing; then [`PoolCounters::count`] and
//! [`PoolCounters::take_back`] carry it out. `src/store/redis/decide/` says the same in Lua, and
//! the property tests hold it to this file.

use super::{
    tokens::{CounterOverflow, Tokens},
    verdict::{BilledReason, Verdict},
};

/// What happens to a pool after a request did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// A later, smaller request that fits is free again.
    #[default]
    KeepOpen,
    /// The pool is closed until midnight.
    CloseUntilReset,
}

/// What the policy grants in a pool at the moment of a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolTerms {
    /// Free tokens a day.
    pub allowance: Tokens,
    /// What an overflow does.
    pub overflow: Overflow,
}

/// What one pool of one organization counted on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounters {
    /// Free tokens, settled and held.
    pub used: Tokens,
    /// How many requests are free.
    pub free_requests: u64,
    /// Tokens of eligible requests that are billed.
    pub billed_tokens: Tokens,
    /// How many eligible requests are billed.
    pub billed_requests: u64,
    /// Tokens of the FREE reservations that are neither settled nor released: a part of `used`.
    pub held: Tokens,
    /// Whether an overflow closed the pool. Means something only while the terms say
    /// [`Overflow::CloseUntilReset`].
    pub closed: bool,
}

impl PoolCounters {
    /// The verdict on an eligible request: free where the whole of it fits. Reaching the allowance
    /// exactly is not exceeding it.
    #[must_use]
    pub fn judge_reserve(&self, terms: PoolTerms, tokens: Tokens) -> Verdict {
        if self.is_closed(terms) {
            Verdict::Billed(BilledReason::PoolClosed)
        } else if fits(self.used, terms, tokens) {
            Verdict::Free
        } else {
            Verdict::Billed(BilledReason::AllowanceExceeded)
        }
    }

    /// The verdict on what a request really used, on the day of its reservation. `held` is the
    /// verdict of the reservation, which these counters still hold with `reserved` tokens.
    #[must_use]
    pub fn judge_settle(
        &self,
        terms: PoolTerms,
        held: Verdict,
        reserved: Tokens,
        actual: Tokens,
    ) -> Verdict {
        match held {
            Verdict::Free if actual <= reserved => Verdict::Free,
            Verdict::Free if fits(self.used.less(reserved), terms, actual) => Verdict::Free,
            Verdict::Free => Verdict::Billed(BilledReason::AllowanceExceeded),
            Verdict::Billed(BilledReason::AllowanceExceeded)
                if !self.is_closed(terms) && fits(self.used, terms, actual) =>
            {
                Verdict::Free
            }
            Verdict::Billed(_) => held,
        }
    }

    /// Counts a request as what it is. A verdict ALLOWANCE_EXCEEDED closes the pool where the terms
    /// say so. Ineligible requests count in no pool.
    ///
    /// # Errors
    ///
    /// [`CounterOverflow`] where a counter would pass 2^53 − 1; then nothing is counted.
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

    /// A reservation with an id was made, and will be settled or released. Only FREE tokens are held.
    pub fn hold(&mut self, verdict: Verdict, tokens: Tokens) {
        if verdict.is_free() {
            self.held = self.held.plus(tokens).unwrap_or(Tokens::MAX);
        }
    }

    /// A reservation was settled or released.
    pub fn end_hold(&mut self, verdict: Verdict, tokens: Tokens) {
        if verdict.is_free() {
            self.held = self.held.less(tokens);
        }
    }

    /// Whether every further Reserve of today is BILLED `POOL_CLOSED`.
    #[must_use]
    pub fn is_closed(&self, terms: PoolTerms) -> bool {
        self.closed && terms.overflow == Overflow::CloseUntilReset
    }
}

/// The verdict on what a request really used, once the day of its reservation is over: never free
/// without proof.
#[must_use]
pub fn judge_late_settle(held: Verdict, reserved: Tokens, actual: Tokens) -> Verdict {
    match held {
        Verdict::Free if actual > reserved => Verdict::Billed(BilledReason::DayClosed),
        Verdict::Free | Verdict::Billed(_) => held,
    }
}

/// `used + tokens <= allowance`, also where the allowance was cut below what is used.
fn fits(used: Tokens, terms: PoolTerms, tokens: Tokens) -> bool {
    used <= terms.allowance && tokens <= terms.allowance.less(used)
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
            overflow,
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
        assert_eq!(pool.judge_reserve(terms, tokens(30_000)), EXCEEDED);
        assert_eq!(pool.judge_reserve(terms, tokens(25_000)), Verdict::Free);
        assert_eq!(pool.judge_reserve(terms, tokens(25_001)), EXCEEDED);
    }

    #[test]
    fn sums_around_the_largest_amount_are_exact() {
        let max = Tokens::MAX.get();
        let terms = terms(max, Overflow::KeepOpen);
        assert_eq!(used(max - 1).judge_reserve(terms, tokens(1)), Verdict::Free);
        assert_eq!(used(max - 1).judge_reserve(terms, tokens(2)), EXCEEDED);
        assert_eq!(used(max).judge_reserve(terms, tokens(1)), EXCEEDED);
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
        assert_eq!(pool.judge_reserve(terms, tokens(1)), EXCEEDED);
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
            assert_eq!(pool.judge_reserve(terms, tokens(10)), then);
            // A release does not open it again.
            pool.take_back(EXCEEDED, tokens(11));
            assert_eq!(pool.judge_reserve(terms, tokens(10)), then);
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
