//! The counters of a pool on a day, and the decisions: when a request is free, and what it counts.
//!
//! Rules: docs/CONTRACT.md, "Reserve" 3, "Settle" and "What is counted where". A `judge_*` function makes a
//! decision and changes nothing; [`PoolCounters::count`] and [`PoolCounters::take_back`] carry it out.
//! `src/store/redis/script/rules.lua` has the same rules in Lua; property tests compare both with a model.

use super::{
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
    /// What an overflow does to the pool.
    pub overflow: Overflow,
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
    /// Whether an overflow closed the pool. Only in effect while the terms say
    /// [`Overflow::CloseUntilReset`].
    pub closed: bool,
}

impl PoolCounters {
    /// The verdict on an eligible request: free if all of it fits. The allowance may be reached exactly.
    pub fn judge_reserve(&self, terms: PoolTerms, tokens: Tokens) -> Verdict {
        if self.is_closed(terms) {
            Verdict::Billed(BilledReason::PoolClosed)
        } else if fits(self.used, terms, tokens) {
            Verdict::Free
        } else {
            Verdict::Billed(BilledReason::AllowanceExceeded)
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

    /// Counts a request. ALLOWANCE_EXCEEDED closes the pool if the terms say so. Ineligible requests count in
    /// no pool.
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

    /// Whether every further Reserve of today is BILLED `POOL_CLOSED`.
    pub fn is_closed(&self, terms: PoolTerms) -> bool {
        self.closed && terms.overflow == Overflow::CloseUntilReset
    }
}

/// The verdict on the actual tokens after the day of the reservation: free only up to what was reserved.
pub fn judge_late_settle(held: Verdict, reserved: Tokens, actual: Tokens) -> Verdict {
    match held {
        Verdict::Free if actual > reserved => Verdict::Billed(BilledReason::DayClosed),
        Verdict::Free | Verdict::Billed(_) => held,
    }
}

/// `used + tokens <= allowance`, without overflow; false if the allowance was cut below `used`.
fn fits(used: Tokens, terms: PoolTerms, tokens: Tokens) -> bool {
    used <= terms.allowance && tokens <= terms.allowance.less(used)
}
