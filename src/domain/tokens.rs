//! Amounts of tokens, exact up to 2^53 − 1 in every store.

use std::fmt;

use super::ids::{FieldFault, InvalidField};

/// An amount of tokens, 0 to [`Tokens::MAX`]. Sums neither wrap nor round: Lua's numbers are doubles, which
/// are exact up to 2^53 − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tokens(u64);

/// A counter would pass 2^53 − 1. Nothing was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a counter would pass 2^53 - 1")]
pub struct CounterOverflow;

impl Tokens {
    /// No tokens.
    pub const ZERO: Self = Self(0);
    /// The largest amount: 2^53 − 1.
    pub const MAX: Self = Self((1 << 53) - 1);
    /// The maximum of one request.
    pub const MAX_PER_REQUEST: Self = Self(1_000_000_000);

    /// An amount, if it is at most [`Tokens::MAX`].
    #[must_use]
    pub const fn new(amount: u64) -> Option<Self> {
        if amount <= Self::MAX.0 {
            Some(Self(amount))
        } else {
            None
        }
    }

    /// The `tokens` of a Reserve: 1 to 1,000,000,000.
    ///
    /// # Errors
    ///
    /// Names the field `tokens`.
    pub fn of_reserve(amount: u64) -> Result<Self, InvalidField> {
        Self::within(amount, 1)
    }

    /// The `tokens` of a Settle: 0 to 1,000,000,000.
    ///
    /// # Errors
    ///
    /// Names the field `tokens`.
    pub fn of_settle(amount: u64) -> Result<Self, InvalidField> {
        Self::within(amount, 0)
    }

    fn within(amount: u64, min: u64) -> Result<Self, InvalidField> {
        let max = Self::MAX_PER_REQUEST.0;
        if (min..=max).contains(&amount) {
            return Ok(Self(amount));
        }
        let fault = FieldFault::OutOfBounds {
            value: i128::from(amount),
            min,
            max,
        };
        Err(InvalidField {
            field: "tokens",
            fault,
        })
    }

    /// The amount.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sum.
    ///
    /// # Errors
    ///
    /// The sum would exceed [`Tokens::MAX`].
    pub fn plus(self, other: Self) -> Result<Self, CounterOverflow> {
        Self::new(self.0 + other.0).ok_or(CounterOverflow)
    }

    /// The difference; 0 if `other` is larger.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_takes_1_to_a_billion_and_settle_takes_0_too() {
        assert!(Tokens::of_reserve(0).is_err());
        assert!(Tokens::of_settle(0).is_ok());
        for parse in [Tokens::of_reserve, Tokens::of_settle] {
            assert!(parse(1).is_ok());
            assert!(parse(1_000_000_000).is_ok());
            assert!(parse(1_000_000_001).is_err());
            assert!(parse(u64::MAX).is_err());
        }
        assert_eq!(
            Tokens::of_reserve(0).expect_err("zero").to_string(),
            "tokens: is 0, allowed are 1 to 1000000000"
        );
    }

    #[test]
    fn a_sum_past_the_largest_amount_is_refused_not_wrapped() {
        let one = Tokens::new(1).expect("small");
        assert_eq!(Tokens::MAX.plus(one), Err(CounterOverflow));
        assert_eq!(Tokens::MAX.less(one).plus(one), Ok(Tokens::MAX));
        assert_eq!(Tokens::new(1 << 53), None);
    }
}
