//! The report of a run, as a table or JSON.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::measurements::Measurements;
use crate::client::output::{fact, facts, grouped};

/// Latencies in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    seconds: f64,
    requests: u64,
    requests_per_second: f64,
    latency_us: Latency,
    verdicts: BTreeMap<String, u64>,
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
        let mut lines = facts();
        let Latency {
            p50,
            p99,
            p99_9,
            max,
        } = &self.latency_us;
        let mut row = |name: &str, value: String| fact(&mut lines, name, value);
        row(
            "requests",
            format!("{} in {:.1} s", grouped(self.requests), self.seconds),
        );
        row(
            "rate",
            format!("{} / s", grouped(self.requests_per_second as u64)),
        );
        for (name, micros) in [("p50", p50), ("p99", p99), ("p99.9", p99_9), ("max", max)] {
            row(name, format!("{} µs", grouped(*micros)));
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
