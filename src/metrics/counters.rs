//! Counters, gauges and histograms of plain atomics. Each series stands at a place that is known when the
//! program is built, so that to count is an addition or two: no look-up, no lock, no allocation.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};

/// A series' labels.
pub(super) type Labels = Vec<(&'static str, &'static str)>;

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, u64>> = None;

/// The counters of one name.
#[derive(Debug)]
pub(super) struct Counters {
    series: Box<[Series]>,
}

#[derive(Debug)]
struct Series {
    labels: Labels,
    shown: Shown,
    count: AtomicU64,
}

/// When a series is there to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// From the start: a rate then sees the first one too.
    Always,
    /// Once it has happened.
    OnceCounted,
    /// Never: nothing is counted at this place.
    Never,
}

impl Counters {
    pub(super) fn new(series: impl IntoIterator<Item = (Labels, Shown)>) -> Self {
        let series = series.into_iter().map(|(labels, shown)| Series {
            labels,
            shown,
            count: AtomicU64::new(0),
        });
        Self {
            series: series.collect(),
        }
    }

    /// One series for each value of one label.
    pub(super) fn by(key: &'static str, values: impl IntoIterator<Item = &'static str>) -> Self {
        let series = values.into_iter().map(|value| vec![(key, value)]);
        Self::new(series.map(|labels| (labels, Shown::Always)))
    }

    pub(super) fn add(&self, place: usize, count: u64) {
        self.series[place].count.fetch_add(count, Ordering::Relaxed);
    }
}

impl EncodeMetric for Counters {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for series in &self.series {
            let count = series.count.load(Ordering::Relaxed);
            let shown = match series.shown {
                Shown::Always => true,
                Shown::OnceCounted => count > 0,
                Shown::Never => false,
            };
            if shown {
                let mut encoder = encoder.encode_family(&series.labels)?;
                encoder.encode_counter(&count, NO_EXEMPLAR)?;
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

/// Gauges that go up and down, one for each value of a label.
#[derive(Debug)]
pub(super) struct Gauges {
    series: Box<[(Labels, AtomicI64)]>,
}

impl Gauges {
    pub(super) fn by(key: &'static str, values: impl IntoIterator<Item = &'static str>) -> Self {
        let series = values.into_iter().map(|value| vec![(key, value)]);
        Self {
            series: series.map(|labels| (labels, AtomicI64::new(0))).collect(),
        }
    }

    pub(super) fn add(&self, place: usize, change: i64) {
        self.series[place].1.fetch_add(change, Ordering::Relaxed);
    }
}

impl EncodeMetric for Gauges {
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

/// Histograms of one name, with the same buckets.
#[derive(Debug)]
pub(super) struct Histograms {
    series: Box<[(Labels, Histogram)]>,
    /// How many of what is counted make one of what is told: nanoseconds are told in seconds.
    per_unit: f64,
}

#[derive(Debug)]
struct Histogram {
    /// The upper bounds, and how many were at most that, and above the one before.
    buckets: Box<[(u64, AtomicU64)]>,
    above: AtomicU64,
    sum: AtomicU64,
}

impl Histograms {
    /// Of durations, with these upper bounds in microseconds.
    pub(super) fn of_durations(
        series: impl IntoIterator<Item = Labels>,
        bounds_in_micros: &[u64],
    ) -> Self {
        let bounds: Vec<u64> = bounds_in_micros.iter().map(|it| it * 1_000).collect();
        Self::new(series, &bounds, 1e9)
    }

    /// Of whole numbers.
    pub(super) fn of_numbers(bounds: &[u64]) -> Self {
        Self::new([Vec::new()], bounds, 1.0)
    }

    fn new(series: impl IntoIterator<Item = Labels>, bounds: &[u64], per_unit: f64) -> Self {
        let histogram = || Histogram {
            buckets: bounds.iter().map(|it| (*it, AtomicU64::new(0))).collect(),
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        };
        let series = series.into_iter().map(|labels| (labels, histogram()));
        Self {
            series: series.collect(),
            per_unit,
        }
    }

    /// Takes in a duration, so many times.
    pub(super) fn took(&self, place: usize, duration: Duration, times: u64) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.observe(place, nanos, times);
    }

    pub(super) fn observe(&self, place: usize, value: u64, times: u64) {
        let histogram = &self.series[place].1;
        let bucket = histogram.buckets.iter().find(|(most, _)| value <= *most);
        let bucket = bucket.map_or(&histogram.above, |(_, count)| count);
        bucket.fetch_add(times, Ordering::Relaxed);
        let sum = value.saturating_mul(times);
        histogram.sum.fetch_add(sum, Ordering::Relaxed);
    }
}

impl EncodeMetric for Histograms {
    #[allow(clippy::cast_precision_loss)]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, histogram) in &self.series {
            let told = |value: u64| value as f64 / self.per_unit;
            let buckets = histogram.buckets.iter();
            let buckets = buckets.map(|(most, count)| (told(*most), count));
            let buckets = buckets.chain([(f64::INFINITY, &histogram.above)]);
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            let buckets: Vec<_> = buckets.map(|(most, count)| (most, read(count))).collect();
            // From what was just read, so that the last bucket never contradicts it.
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = told(read(&histogram.sum));
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
pub(super) enum Now {
    Gauge(f64),
    Counter(f64),
}

impl EncodeMetric for Now {
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
