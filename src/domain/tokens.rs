//! Amounts of tokens, exact up to 2^53 − 1 in every store.

use std::fmt;

use super::ids::InvalidField;

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
    /// The maximum external usage of a pool on a day.
    pub const MAX_EXTERNAL: Self = Self(1_000_000_000_000);

    /// An amount, if it is at most [`Tokens::MAX`].
    pub const fn new(amount: u64) -> Option<Self> {
        match amount <= Self::MAX.0 {
            true => Some(Self(amount)),
            false => None,
        }
    }

    /// The `tokens` of a Reserve: 1 to 1,000,000,000.
    ///
    /// # Errors
    ///
    /// Names the field `tokens`.
    pub fn of_reserve(amount: u64) -> Result<Self, InvalidField> {
        Self::within(amount, 1, Self::MAX_PER_REQUEST)
    }

    /// The `tokens` of a Settle: 0 to 1,000,000,000.
    ///
    /// # Errors
    ///
    /// Names the field `tokens`.
    pub fn of_settle(amount: u64) -> Result<Self, InvalidField> {
        Self::within(amount, 0, Self::MAX_PER_REQUEST)
    }

    /// The `tokens` of a SetExternalUsage: 0 to 1,000,000,000,000.
    ///
    /// # Errors
    ///
    /// Names the field `tokens`.
    pub fn of_external_usage(amount: u64) -> Result<Self, InvalidField> {
        Self::within(amount, 0, Self::MAX_EXTERNAL)
    }

    fn within(amount: u64, min: u64, max: Self) -> Result<Self, InvalidField> {
        let max = max.0;
        if (min..=max).contains(&amount) {
            return Ok(Self(amount));
        }
        Err(InvalidField {
            field: "tokens",
            fault: format!("is {amount}, allowed are {min} to {max}"),
        })
    }

    /// The amount.
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
