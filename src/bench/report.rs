//! What was measured, for people and for programs.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::tally::Tally;
use crate::cli::tables::{self, grouped};

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seconds: f64,
    requests: u64,
    requests_per_second: f64,
    latency_us: Latency,
    verdicts: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    /// By the process' name.
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
        measured: &Tally,
        elapsed: Duration,
        cpu: impl Iterator<Item = (&'p str, Duration)>,
    ) -> Self {
        let (seconds, latencies) = (elapsed.as_secs_f64(), &measured.latencies);
        let requests = latencies.len();
        let per_request = |time: Duration| time.as_secs_f64() * 1e6 / requests.max(1) as f64;
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
            verdicts: measured.verdicts(),
            errors: measured.errors(),
            cpu_us_per_request: cpu
                .map(|(name, time)| (name.to_owned(), per_request(time)))
                .collect(),
        }
    }

    pub(super) fn table(&self) -> String {
        let mut lines = tables::facts();
        let Latency {
            p50,
            p99,
            p99_9,
            max,
        } = &self.latency_us;
        let mut fact = |name: &str, value: String| tables::fact(&mut lines, name, value);
        fact(
            "requests",
            format!("{} in {:.1} s", grouped(self.requests), self.seconds),
        );
        fact(
            "rate",
            format!("{} / s", grouped(self.requests_per_second as u64)),
        );
        for (name, micros) in [("p50", p50), ("p99", p99), ("p99.9", p99_9), ("max", max)] {
            fact(name, format!("{} µs", grouped(*micros)));
        }
        for (name, count) in &self.verdicts {
            fact(name, grouped(*count));
        }
        for (name, count) in &self.errors {
            fact(&format!("error {name}"), grouped(*count));
        }
        for (name, micros) in &self.cpu_us_per_request {
            fact(
                &format!("CPU of {name}"),
                format!("{micros:.1} µs / request"),
            );
        }
        lines.trim_fmt()
    }
}
