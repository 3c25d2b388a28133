//! Latencies and outcomes, and their report as a table or JSON.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tonic::Code;

use super::{cpu::Process, requests::PartialResponse};
use crate::{
    client::{
        failure::code_name,
        output::{self, fact, facts, grouped},
    },
    grpc::proto::Verdict,
};

/// Longer latencies count as this.
const MAX_LATENCY: Duration = Duration::from_secs(60);

/// The measurements of one caller, one stream, or all of them.
pub(super) struct Measurements {
    /// In microseconds, to three digits.
    pub(super) latencies: Histogram<u64>,
    /// How many requests had each outcome.
    outcomes: Vec<(Result<PartialResponse, Code>, u64)>,
}

impl Measurements {
    pub(super) fn new() -> Self {
        Self {
            // Grows on demand, since a load may have 100,000 callers.
            latencies: Histogram::new(3).expect("three digits are few enough"),
            outcomes: Vec::new(),
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
        self.add_outcome(outcome, 1);
    }

    fn add_outcome(&mut self, outcome: Result<PartialResponse, Code>, count: u64) {
        match self.outcomes.iter_mut().find(|(it, _)| *it == outcome) {
            Some((_, counted)) => *counted += count,
            None => self.outcomes.push((outcome, count)),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.latencies
            .add(&other.latencies)
            .expect("both grow as they must");
        for (outcome, count) in &other.outcomes {
            self.add_outcome(*outcome, *count);
        }
    }

    /// Whether every request failed with UNAVAILABLE.
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self.outcomes[..], [(Err(Code::Unavailable), _)])
    }
}

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seconds: f64,
    requests: u64,
    requests_per_second: f64,
    latency_us: Latency,
    /// Answers by the name of the verdict, or of the reason.
    verdicts: BTreeMap<String, u64>,
    /// Failed requests by the name of the status code.
    errors: BTreeMap<String, u64>,
    /// By the name of the process.
    cpu_us_per_request: BTreeMap<String, f64>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
}

impl Report {
    pub(super) fn new<'p>(
        measured: &Measurements,
        elapsed: Duration,
        cpu: impl Iterator<Item = (&'p Process, Duration)>,
    ) -> Self {
        let (seconds, latencies) = (elapsed.as_secs_f64(), &measured.latencies);
        let requests = latencies.len();
        let per_request = |time: Duration| time.as_secs_f64() * 1e6 / requests.max(1) as f64;
        let (mut verdicts, mut errors) = (BTreeMap::new(), BTreeMap::new());
        for (outcome, count) in &measured.outcomes {
            let (named, name) = match outcome {
                Ok(answer) if answer.verdict == i32::from(Verdict::Free) => {
                    (&mut verdicts, "FREE".to_owned())
                }
                Ok(answer) => (&mut verdicts, output::reason(answer.billed_reason)),
                Err(code) => (&mut errors, code_name(*code)),
            };
            *named.entry(name).or_default() += count;
        }
        Self {
            seconds,
            requests,
            requests_per_second: requests as f64 / seconds,
            latency_us: Latency {
                p50: latencies.value_at_quantile(0.5),
                p99: latencies.value_at_quantile(0.99),
                p99_9: latencies.value_at_quantile(0.999),
                max: latencies.max(),
            },
            verdicts,
            errors,
            cpu_us_per_request: cpu
                .map(|(process, time)| (process.name.clone(), per_request(time)))
                .collect(),
        }
    }

    pub(super) fn table(&self) -> String {
        let mut lines = facts();
        let mut row = |name: &str, value: String| fact(&mut lines, name, value);
        row(
            "requests",
            format!("{} in {:.1} s", grouped(self.requests), self.seconds),
        );
        row(
            "rate",
            format!("{} / s", grouped(self.requests_per_second as u64)),
        );
        let latency = &self.latency_us;
        for (name, micros) in [
            ("p50", latency.p50),
            ("p99", latency.p99),
            ("p99.9", latency.p99_9),
            ("max", latency.max),
        ] {
            row(name, format!("{} µs", grouped(micros)));
        }
        for (name, count) in &self.verdicts {
            row(name, grouped(*count));
        }
        for (name, count) in &self.errors {
            row(&format!("error {name}"), grouped(*count));
        }
        for (name, micros) in &self.cpu_us_per_request {
            row(
                &format!("CPU of {name}"),
                format!("{micros:.1} µs / request"),
            );
        }
        lines.trim_fmt()
    }
}
