//! Families of counters, gauges and histograms. Each series has an index that is known at compile time, so an update is
//! one or two atomic additions, without look-up, lock or allocation.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

use super::striped_counters::StripedCounters;

/// The labels of a series.
pub(super) type Labels = Vec<(&'static str, &'static str)>;

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;

/// The counters of one metric.
#[derive(Debug)]
pub(super) struct CounterFamily {
    series: Box<[(Labels, SeriesVisibility)]>,
    counts: StripedCounters,
}

/// When a series appears in a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SeriesVisibility {
    /// From the start, so that a rate sees the first event.
    Always,
    /// After its first event.
    OnceCounted,
    /// Never: the index is unused.
    Never,
}

impl CounterFamily {
    pub(super) fn new(series: impl IntoIterator<Item = (Labels, SeriesVisibility)>) -> Self {
        let series: Box<[_]> = series.into_iter().collect();
        let counts = StripedCounters::new(series.len());
        Self { series, counts }
    }

    /// One series for each value of one label.
    pub(super) fn by(key: &'static str, values: impl IntoIterator<Item = &'static str>) -> Self {
        let series = values.into_iter().map(|value| vec![(key, value)]);
        Self::new(series.map(|labels| (labels, SeriesVisibility::Always)))
    }

    pub(super) fn add(&self, index: usize, count: u64) {
        self.counts.add(index, count);
    }
}

impl EncodeMetric for CounterFamily {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (index, (labels, shown)) in self.series.iter().enumerate() {
            let count = self.counts.sum(index);
            let shown = match shown {
                SeriesVisibility::Always => true,
                SeriesVisibility::OnceCounted => count > 0,
                SeriesVisibility::Never => false,
            };
            if shown {
                let mut encoder = encoder.encode_family(labels)?;
                encoder.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// The gauges of one metric, one for each value of a label.
#[derive(Debug)]
pub(super) struct GaugeFamily {
    series: Box<[(Labels, AtomicI64)]>,
}

impl GaugeFamily {
    pub(super) fn by(key: &'static str, values: impl IntoIterator<Item = &'static str>) -> Self {
        let series = values.into_iter().map(|value| vec![(key, value)]);
        Self {
            series: series.map(|labels| (labels, AtomicI64::new(0))).collect(),
        }
    }

    pub(super) fn add(&self, index: usize, change: i64) {
        self.series[index].1.fetch_add(change, Ordering::Relaxed);
    }
}

impl EncodeMetric for GaugeFamily {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, value) in &self.series {
            let mut encoder = encoder.encode_family(labels)?;
            encoder.encode_gauge(&value.load(Ordering::Relaxed))?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// The histograms of one metric. All have the same buckets.
#[derive(Debug)]
pub(super) struct HistogramFamily {
    series: Box<[Labels]>,
    /// The upper bounds of the buckets; the last bucket has none.
    bounds: Box<[u64]>,
    /// For each series: its buckets, then the sum of its values.
    counts: StripedCounters,
    /// Counted units in one exported unit, such as nanoseconds in a second.
    per_unit: f64,
}

impl HistogramFamily {
    /// Histograms of durations, with upper bounds in microseconds.
    pub(super) fn of_durations(
        series: impl IntoIterator<Item = Labels>,
        bounds_in_micros: &[u64],
    ) -> Self {
        let bounds: Vec<u64> = bounds_in_micros.iter().map(|it| it * 1_000).collect();
        Self::new(series, &bounds, 1e9)
    }

    /// A histogram of whole numbers.
    pub(super) fn of_numbers(bounds: &[u64]) -> Self {
        Self::new([Vec::new()], bounds, 1.0)
    }

    fn new(series: impl IntoIterator<Item = Labels>, bounds: &[u64], per_unit: f64) -> Self {
        let series: Box<[_]> = series.into_iter().collect();
        Self {
            counts: StripedCounters::new(series.len() * (bounds.len() + 2)),
            series,
            bounds: bounds.into(),
            per_unit,
        }
    }

    /// Observes a duration several times.
    pub(super) fn observe_duration(&self, index: usize, duration: Duration, times: u64) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.observe(index, nanos, times);
    }

    pub(super) fn observe(&self, index: usize, value: u64, times: u64) {
        let (first, above) = (index * (self.bounds.len() + 2), self.bounds.len());
        let bucket = self.bounds.iter().position(|bound| value <= *bound);
        self.counts.add(first + bucket.unwrap_or(above), times);
        self.counts
            .add(first + above + 1, value.saturating_mul(times));
    }
}

impl EncodeMetric for HistogramFamily {
    #[allow(clippy::cast_precision_loss)]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let in_units = |value: u64| value as f64 / self.per_unit;
        let above = self.bounds.len();
        for (index, labels) in self.series.iter().enumerate() {
            let first = index * (above + 2);
            let bounds = self.bounds.iter().map(|most| in_units(*most));
            let bounds = bounds.chain([f64::INFINITY]).enumerate();
            let buckets = bounds.map(|(at, most)| (most, self.counts.sum(first + at)));
            let buckets: Vec<_> = buckets.collect();
            // Computed from the buckets that were read, so that the count never contradicts them.
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = in_units(self.counts.sum(first + above + 1));
            if labels.is_empty() {
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            } else {
                let mut encoder = encoder.encode_family(labels)?;
                encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// A value that is read at the scrape.
#[derive(Debug)]
pub(super) enum CurrentValue {
    Gauge(f64),
    Counter(f64),
}

impl EncodeMetric for CurrentValue {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Gauge(value) => encoder.encode_gauge(value),
            Self::Counter(value) => encoder.encode_counter::<NoLabelSet, f64, f64>(value, None),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self {
            Self::Gauge(_) => MetricType::Gauge,
            Self::Counter(_) => MetricType::Counter,
        }
    }
}
