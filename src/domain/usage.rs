//! A row of the usage history: what one project used of one model on one day.

use super::{
    tokens::{CounterFull, Tokens},
    verdict::Verdict,
};

/// What a row counts. Every request of a known organization is in one, ineligible ones too; each
/// counts once, as what it finally was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageCounters {
    /// Tokens of free requests.
    pub free_tokens: Tokens,
    /// Tokens of billed requests.
    pub billed_tokens: Tokens,
    /// How many requests were free.
    pub free_requests: u64,
    /// How many requests were billed.
    pub billed_requests: u64,
}

impl UsageCounters {
    /// Counts a request as what it is.
    ///
    /// # Errors
    ///
    /// [`CounterFull`] where a counter would pass 2^53 − 1; then nothing is counted.
    pub fn count(&mut self, verdict: Verdict, tokens: Tokens) -> Result<(), CounterFull> {
        let (sum, requests) = self.side(verdict);
        *sum = sum.plus(tokens)?;
        *requests += 1;
        Ok(())
    }

    /// Takes back what [`UsageCounters::count`] counted.
    pub fn take_back(&mut self, verdict: Verdict, tokens: Tokens) {
        let (sum, requests) = self.side(verdict);
        *sum = sum.less(tokens);
        *requests = requests.saturating_sub(1);
    }

    /// Whether nothing is left in the row, so that it is listed no more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn side(&mut self, verdict: Verdict) -> (&mut Tokens, &mut u64) {
        match verdict {
            Verdict::Free => (&mut self.free_tokens, &mut self.free_requests),
            Verdict::Billed(_) => (&mut self.billed_tokens, &mut self.billed_requests),
        }
    }
}
