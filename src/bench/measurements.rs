//! Latencies and outcomes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tonic::Code;

use super::codec::PartialResponse;
use crate::{
    client::{failure::code_name, output},
    grpc::proto::Verdict,
};

/// Longer latencies count as this.
const MAX_LATENCY: Duration = Duration::from_secs(60);

/// The measurements of one caller, one stream, or all of them.
pub(super) struct Measurements {
    /// In microseconds, to three digits.
    pub(super) latencies: Histogram<u64>,
    /// Answers by the proto's numbers of verdict and reason.
    answers: BTreeMap<(i32, i32), u64>,
    /// Failed requests by status code.
    errors: BTreeMap<i32, u64>,
}

impl Measurements {
    pub(super) fn new() -> Self {
        Self {
            // Grows on demand, since a load may have 100,000 callers.
            latencies: Histogram::new(3).expect("three digits are few enough"),
            answers: BTreeMap::new(),
            errors: BTreeMap::new(),
        }
    }

    /// Counts one finished request.
    pub(super) fn count(
        &mut self,
        due: Instant,
        now: Instant,
        outcome: Result<PartialResponse, Code>,
    ) {
        let latency = now.saturating_duration_since(due).min(MAX_LATENCY);
        self.latencies
            .record((latency.as_micros() as u64).max(1))
            .expect("it grows as it must");
        match outcome {
            Ok(answer) => {
                let key = (answer.verdict, answer.billed_reason);
                *self.answers.entry(key).or_default() += 1;
            }
            Err(code) => *self.errors.entry(code.into()).or_default() += 1,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.latencies
            .add(&other.latencies)
            .expect("both grow as they must");
        for (key, count) in &other.answers {
            *self.answers.entry(*key).or_default() += count;
        }
        for (code, count) in &other.errors {
            *self.errors.entry(*code).or_default() += count;
        }
    }

    /// Answers by the name of the verdict, or of the reason.
    pub(super) fn verdicts(&self) -> BTreeMap<String, u64> {
        let mut named = BTreeMap::new();
        for (&(verdict, reason), count) in &self.answers {
            let name = match Verdict::try_from(verdict) {
                Ok(Verdict::Free) => "FREE".to_owned(),
                _ => output::reason(reason),
            };
            *named.entry(name).or_default() += count;
        }
        named
    }

    /// Failed requests by the name of the code.
    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        let named = |(&code, &count)| (code_name(Code::from_i32(code)), count);
        self.errors.iter().map(named).collect()
    }

    /// Whether every request failed with UNAVAILABLE.
    pub(super) fn is_unavailable(&self) -> bool {
        let unavailable = i32::from(Code::Unavailable);
        self.answers.is_empty() && self.errors.keys().eq([&unavailable])
    }
}
