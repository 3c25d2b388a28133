//! Rows of the usage history: what a project used of a model on a day; and the bound on their number
//! (docs/CONTRACT.md, "What is counted where").

use super::{
    ids::{ModelName, ProjectId},
    tokens::{CounterOverflow, Tokens},
    verdict::Verdict,
};

/// The counters of a row. A row counts each request of a known organization once, with its final verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageCounters {
    /// Tokens of free requests.
    pub free_tokens: Tokens,
    /// Tokens of billed requests.
    pub billed_tokens: Tokens,
    /// The number of free requests.
    pub free_requests: u64,
    /// The number of billed requests.
    pub billed_requests: u64,
}

impl UsageCounters {
    /// Counts a request as what it is.
    ///
    /// # Errors
    ///
    /// A counter would exceed 2^53 − 1. Nothing is counted then.
    pub fn count(&mut self, verdict: Verdict, tokens: Tokens) -> Result<(), CounterOverflow> {
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

    /// Whether all counters are 0. Empty rows are not listed.
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

/// The project and model of the row for requests without a row of their own.
const OTHER: &str = "(other)";

/// Which row counts a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowChoice {
    /// The row of its project and model.
    Own,
    /// The row `(other)`, `(other)`, since the day has its maximum of rows.
    Other,
}

/// The project and model of the row `(other)`, `(other)`.
pub fn other_row() -> (ProjectId, ModelName) {
    let project = ProjectId::parse(OTHER).expect("a legal name");
    (project, ModelName::parse(OTHER).expect("a legal name"))
}

/// The numbers of rows that an organization has on a day, without the row `(other)`, `(other)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCounts {
    /// All rows.
    pub rows: u64,
    /// Rows of models that no pool listed when the row was made.
    pub unlisted: u64,
}

impl RowCounts {
    /// Whether a new row may be made. Unlisted models have at most half of `max_rows`, so that invented names
    /// displace no listed model.
    pub fn admit(self, max_rows: u64, is_listed: bool) -> bool {
        self.rows < max_rows && (is_listed || self.unlisted < max_rows / 2)
    }

    /// Counts a new row.
    pub fn add(&mut self, is_listed: bool) {
        self.rows += 1;
        self.unlisted += u64::from(!is_listed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlisted_models_have_half_of_the_rows_and_listed_ones_what_is_left() {
        let mut counts = RowCounts::default();
        for is_listed in [false, false, false, true, true, true] {
            if counts.admit(4, is_listed) {
                counts.add(is_listed);
            }
        }
        let (rows, unlisted) = (4, 2);
        assert_eq!(counts, RowCounts { rows, unlisted });
        // Listed models may have all of them.
        let (rows, unlisted) = (3, 0);
        assert!(RowCounts { rows, unlisted }.admit(4, true));
        assert!(RowCounts { rows, unlisted }.admit(4, false));
    }
}
