//! Metrics that are read at the scrape instead of counted.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use chrono::{DateTime, Utc};
use enum_map::EnumMap;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
};

use super::labels::{ReconcileState, WatchedFile};

/// State of other parts at the moment of a scrape.
#[derive(Debug, Clone, Copy)]
pub struct MetricsSnapshot {
    /// Whether the service is SERVING.
    pub ready: bool,
    /// Whether the store can decide.
    pub store_up: bool,
    /// Detected losses of writes in the store.
    pub store_losses: u64,
    /// Detected steps of the wall clock.
    pub clock_steps: u64,
    /// Calls to the store that are in flight.
    pub store_calls: usize,
    /// Decisions that wait for the store.
    pub waiting: usize,
}

/// What is in force of the watched files, and what of them is refused.
#[derive(Debug, Clone, Default)]
pub(super) struct FileStates(Arc<Mutex<FileState>>);

#[derive(Debug, Default)]
pub(super) struct FileState {
    pub(super) policy: Option<PolicyInfo>,
    /// When the current content of each watched file was refused, if it was.
    pub(super) refused: EnumMap<WatchedFile, Option<DateTime<Utc>>>,
    /// When the certificates expire, by their section of the settings.
    pub(super) certificates: BTreeMap<&'static str, DateTime<Utc>>,
}

#[derive(Debug)]
pub(super) struct PolicyInfo {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) organizations: usize,
    pub(super) at: DateTime<Utc>,
}

/// The background reconcile of this replica.
#[derive(Debug, Clone, Default)]
pub(super) struct ReconcileGauges(Arc<Mutex<ReconcileRole>>);

/// What this replica does for the background reconcile.
#[derive(Debug, Default)]
pub(super) struct ReconcileRole {
    /// It compares if it has the lease.
    pub(super) is_enabled: bool,
    /// While it has the lease.
    pub(super) figures: Option<ReconcileFigures>,
}

/// What the background reconcile of this replica found last, over all organizations.
#[derive(Debug, Clone)]
pub struct ReconcileFigures {
    /// Tokens by kind of drift; empty before the first comparison.
    pub drift_tokens: Vec<(&'static str, u64)>,
    /// The number of organizations.
    pub orgs: EnumMap<ReconcileState, u64>,
    /// When the organization was compared whose last comparison is the oldest.
    pub compared_at: Instant,
}

/// The values that the kernel lets this process read of itself, under Prometheus' standard names.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct ProcessMetrics;

fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

impl Collector for MetricsSnapshot {
    #[allow(clippy::cast_precision_loss)]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, value) in [
            (
                "tollgate_store_calls_in_flight",
                "Calls to the store that are under way.",
                self.store_calls as f64,
            ),
            (
                "tollgate_queue_waiting",
                "Decisions that wait for the store.",
                self.waiting as f64,
            ),
            (
                "tollgate_store_up",
                "Whether the store would decide now.",
                self.store_up.into(),
            ),
            (
                "tollgate_ready",
                "Whether the service is SERVING.",
                self.ready.into(),
            ),
        ] {
            encode(&mut encoder, name, help, &ConstGauge::new(value))?;
        }
        encode(
            &mut encoder,
            "tollgate_store_losses",
            "Times that the store was found to have lost writes of today, which were restored.",
            &ConstCounter::new(self.store_losses as f64),
        )?;
        encode(
            &mut encoder,
            "tollgate_clock_steps",
            "Times that the wall clock was found to have been stepped by more than 5 s (embedded stores).",
            &ConstCounter::new(self.clock_steps as f64),
        )
    }
}

impl FileStates {
    pub(super) fn lock(&self) -> MutexGuard<'_, FileState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for FileStates {
    #[allow(clippy::cast_precision_loss)]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = self.lock();
        if let Some(policy) = &state.policy {
            encode(
                &mut encoder,
                "tollgate_policy",
                "The policy in force: its programme, and what its text is known by.",
                &Info::new([
                    ("name", policy.name.clone()),
                    ("version", policy.version.clone()),
                ]),
            )?;
            encode(
                &mut encoder,
                "tollgate_policy_organizations",
                "Organizations that the policy knows.",
                &ConstGauge::new(policy.organizations as f64),
            )?;
            encode(
                &mut encoder,
                "tollgate_policy_loaded_timestamp_seconds",
                "When the policy in force was taken, in seconds since 1970.",
                &ConstGauge::new(policy.at.timestamp() as f64),
            )?;
        }
        let refused = state.refused.iter();
        encode_gauges(
            &mut encoder,
            "tollgate_file_refused",
            "Whether what is in the file's place is refused, and the last good one is in force.",
            "of",
            refused.map(|(of, at)| (of.into(), at.is_some().into())),
        )?;
        let certificates = state.certificates.iter();
        encode_gauges(
            &mut encoder,
            "tollgate_certificate_expiry_timestamp_seconds",
            "When a certificate of this service ends, in seconds since 1970.",
            "of",
            certificates.map(|(of, at)| (*of, at.timestamp())),
        )
    }
}

impl ReconcileGauges {
    pub(super) fn lock(&self) -> MutexGuard<'_, ReconcileRole> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for ReconcileGauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let role = self.lock();
        let figures = role.figures.as_ref();
        let holder = role.is_enabled.then(|| figures.is_some().into());
        encode_optional(
            &mut encoder,
            "tollgate_reconcile_holder",
            "Whether this replica compares with the provider: it has the lease.",
            holder,
        )?;
        let drift = figures.iter().flat_map(|it| it.drift_tokens.iter());
        encode_gauges(
            &mut encoder,
            "tollgate_drift_tokens",
            "What the ledger and the provider differ in, by kind, at the last comparison of each organization.",
            "kind",
            drift.map(|(kind, tokens)| (*kind, i64::try_from(*tokens).unwrap_or(i64::MAX))),
        )?;
        let orgs = figures.iter().flat_map(|it| it.orgs.iter());
        encode_gauges(
            &mut encoder,
            "tollgate_reconcile_orgs",
            "Organizations that are compared with the provider, by how the last comparison ended.",
            "state",
            orgs.map(|(state, orgs)| (state.into(), i64::try_from(*orgs).unwrap_or(i64::MAX))),
        )?;
        encode_optional(
            &mut encoder,
            "tollgate_reconcile_age_seconds",
            "Time since the oldest of the organizations' last comparisons with the provider.",
            figures.map(|it| it.compared_at.elapsed().as_secs_f64()),
        )
    }
}

/// Encodes a gauge that may have no value.
fn encode_optional(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: Option<f64>,
) -> fmt::Result {
    let encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    match value {
        Some(value) => ConstGauge::new(value).encode(encoder),
        None => Ok(()),
    }
}

/// Encodes a metric's gauges, each with the value of its label.
fn encode_gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    key: &'static str,
    gauges: impl Iterator<Item = (&'static str, i64)>,
) -> fmt::Result {
    let mut encoder = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (of, value) in gauges {
        encoder.encode_family(&[(key, of)])?.encode_gauge(&value)?;
    }
    Ok(())
}

#[cfg(target_os = "linux")]
impl Collector for ProcessMetrics {
    #[allow(clippy::cast_precision_loss)]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        use procfs::process::{LimitValue, Process};

        let Ok(process) = Process::myself() else {
            return Ok(());
        };
        let (stat, limits) = (process.stat().ok(), process.limits().ok());
        let (stat, ticks) = (stat.as_ref(), procfs::ticks_per_second() as f64);
        if let Some(stat) = stat {
            encode(
                &mut encoder,
                "process_cpu_seconds",
                "CPU time that the process has used, user and system.",
                &ConstCounter::new((stat.utime + stat.stime) as f64 / ticks),
            )?;
        }
        let booted_at = procfs::boot_time_secs().ok();
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory that the process holds.",
                stat.map(|stat| (stat.rss * procfs::page_size()) as f64),
            ),
            (
                "process_threads",
                "Threads of the process.",
                stat.map(|stat| stat.num_threads as f64),
            ),
            (
                "process_start_time_seconds",
                "When the process started, in seconds since 1970.",
                stat.zip(booted_at)
                    .map(|(stat, booted_at)| booted_at as f64 + stat.starttime as f64 / ticks),
            ),
            (
                "process_open_fds",
                "Files and sockets that the process has open.",
                process.fd_count().ok().map(|count| count as f64),
            ),
            (
                "process_max_fds",
                "Files and sockets that the process may have open.",
                limits.map(|limits| match limits.max_open_files.soft_limit {
                    LimitValue::Value(most) => most as f64,
                    LimitValue::Unlimited => f64::INFINITY,
                }),
            ),
        ] {
            if let Some(value) = value {
                encode(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}
