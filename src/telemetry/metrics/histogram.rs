//! A histogram without a lock, which the library's takes for each value.

use std::{fmt, iter, sync::Arc};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

use super::striped_atomic::Counter;

/// Upper bounds in seconds, up to the longest common `call_timeout`.
const REQUEST_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

/// Cheap to clone: a clone counts into the same buckets.
#[derive(Debug, Clone)]
pub(super) struct AtomicHistogram {
    /// The upper bounds of the buckets; the last bucket has none.
    bounds: &'static [f64],
    counts: Arc<[Counter]>,
    sum: Counter,
    /// The parts of a unit in which the sum counts, such as nanoseconds.
    parts: f64,
}

impl AtomicHistogram {
    /// A histogram of whole numbers.
    pub(super) fn of_numbers(bounds: &'static [f64]) -> Self {
        Self::new(bounds, 1.0)
    }

    fn new(bounds: &'static [f64], parts: f64) -> Self {
        let counts = iter::repeat_with(Counter::default);
        Self {
            bounds,
            counts: counts.take(bounds.len() + 1).collect(),
            sum: Counter::default(),
            parts,
        }
    }

    /// Observes a value several times.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub(super) fn observe(&self, value: f64, times: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].inc_by(times);
        self.sum.inc_by((value * self.parts) as u64 * times);
    }
}

impl Default for AtomicHistogram {
    /// Of the durations of requests.
    fn default() -> Self {
        Self::new(REQUEST_BUCKETS, 1e9)
    }
}

impl EncodeMetric for AtomicHistogram {
    #[allow(clippy::cast_precision_loss)]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let counts = self.counts.iter().map(Counter::get);
        let buckets: Vec<_> = bounds.zip(counts).collect();
        // Computed from the buckets that were read, so that the count never contradicts them.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum.get() as f64 / self.parts;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for AtomicHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}
