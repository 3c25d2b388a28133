//! What was measured: latencies and answers, counted at the cost of a few additions.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tonic::Code;

use super::wire::Answer;
use crate::{
    cli::{failure::code_name, tables},
    grpc::proto::Verdict,
};

/// Latencies are kept in microseconds, to three digits, up to this; a longer one counts as this.
const MAX_LATENCY: Duration = Duration::from_secs(60);

/// What one caller or one stream measured, or all of them.
pub(super) struct Tally {
    pub(super) latencies: Histogram<u64>,
    /// How many answers had this verdict and this reason. The few that occur are found without
    /// comparing texts; their names are made for the report.
    answers: BTreeMap<(i32, i32), u64>,
    /// How many requests failed with this code.
    errors: BTreeMap<i32, u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            // It grows with the longest latency, since a load may have 100,000 callers.
            latencies: Histogram::new(3).expect("three digits are few enough"),
            answers: BTreeMap::new(),
            errors: BTreeMap::new(),
        }
    }

    /// One request that was due and is over.
    pub(super) fn count(&mut self, due: Instant, now: Instant, outcome: Result<Answer, Code>) {
        let latency = now.saturating_duration_since(due).min(MAX_LATENCY);
        self.latencies
            .record((latency.as_micros() as u64).max(1))
            .expect("it grows as it must");
        match outcome {
            Ok(answer) => {
                let said = (answer.verdict, answer.billed_reason);
                *self.answers.entry(said).or_default() += 1;
            }
            Err(code) => *self.errors.entry(code.into()).or_default() += 1,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.latencies
            .add(&other.latencies)
            .expect("both grow as they must");
        for (said, count) in &other.answers {
            *self.answers.entry(*said).or_default() += count;
        }
        for (code, count) in &other.errors {
            *self.errors.entry(*code).or_default() += count;
        }
    }

    /// How many answers said so, by the verdict's or the reason's name.
    pub(super) fn verdicts(&self) -> BTreeMap<String, u64> {
        let mut named = BTreeMap::new();
        for (&(verdict, reason), count) in &self.answers {
            let name = match Verdict::try_from(verdict) {
                Ok(Verdict::Free) => "FREE".to_owned(),
                _ => tables::reason(reason),
            };
            *named.entry(name).or_default() += count;
        }
        named
    }

    /// How many requests failed so, by the code's name.
    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        let named = |(&code, &count)| (code_name(Code::from_i32(code)), count);
        self.errors.iter().map(named).collect()
    }

    /// Whether nobody was there to answer.
    pub(super) fn nobody_answered(&self) -> bool {
        let unavailable = i32::from(Code::Unavailable);
        self.answers.is_empty() && self.errors.keys().eq([&unavailable])
    }
}
