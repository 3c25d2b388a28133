//! Writes a scrape: every metric with its name and help text.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, atomic::Ordering},
};

use chrono::{DateTime, Utc};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder},
    metrics::MetricType,
};

use super::{
    families::CurrentValue,
    labels::WatchedFile,
    process,
    registry::{MetricFamilies, MetricsSnapshot, PolicyInfo, RefusedFiles, locked},
};

/// The metrics at the moment of a scrape.
#[derive(Debug)]
pub(super) struct Scrape {
    families: Arc<MetricFamilies>,
    snapshot: MetricsSnapshot,
}

struct ScrapeWriter<'e>(DescriptorEncoder<'e>);

impl ScrapeWriter<'_> {
    fn metric(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        let kind = metric.metric_type();
        metric.encode(self.0.encode_descriptor(name, help, None, kind)?)
    }

    #[allow(clippy::cast_precision_loss)]
    fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        self.metric(name, help, &CurrentValue::Gauge(value as f64))
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut writer = ScrapeWriter(encoder);
        self.requests(&mut writer)?;
        self.store(&mut writer)?;
        self.policy(&mut writer)?;
        self.files(&mut writer)?;
        self.connections(&mut writer)?;
        process::encode(&mut writer.0)
    }
}

impl Scrape {
    pub(super) fn new(families: Arc<MetricFamilies>, snapshot: MetricsSnapshot) -> Self {
        Self { families, snapshot }
    }

    fn requests(&self, writer: &mut ScrapeWriter<'_>) -> fmt::Result {
        let families = &self.families;
        writer.metric(
            "tollgate_requests",
            "Requests that were answered. Each request of a stream is one.",
            &families.requests,
        )?;
        writer.metric(
            "tollgate_request_duration_seconds",
            "Time from a request's arrival to its answer.",
            &families.request_durations,
        )?;
        writer.gauge(
            "tollgate_open_streams",
            "Calls of ReserveStream that are open.",
            families.open_streams.load(Ordering::Relaxed),
        )?;
        writer.metric(
            "tollgate_tokens",
            "Tokens as they were answered: reserved free or billed, settled so, or released. Without replays.",
            &families.tokens,
        )?;
        writer.metric(
            "tollgate_reservations",
            "Reservations with a request id that were made, settled and released. Without replays.",
            &families.reservations,
        )
    }

    fn store(&self, writer: &mut ScrapeWriter<'_>) -> fmt::Result {
        let (families, now) = (&self.families, self.snapshot);
        writer.metric(
            "tollgate_store_call_duration_seconds",
            "Time that a call to the store took, with all the decisions in it.",
            &families.store_calls,
        )?;
        writer.metric(
            "tollgate_store_batch_decisions",
            "Decisions that went to the store in one call.",
            &families.batches,
        )?;
        writer.gauge(
            "tollgate_store_calls_in_flight",
            "Calls to the store that are under way.",
            now.store_calls.try_into().unwrap_or(i64::MAX),
        )?;
        writer.gauge(
            "tollgate_queue_waiting",
            "Decisions that wait for the store.",
            now.waiting.try_into().unwrap_or(i64::MAX),
        )?;
        writer.metric(
            "tollgate_store_failures",
            "Decisions and reads that have no answer, by what was wrong.",
            &families.store_failures,
        )?;
        writer.gauge(
            "tollgate_store_up",
            "Whether the store would decide now.",
            now.store_up.into(),
        )?;
        #[allow(clippy::cast_precision_loss)]
        writer.metric(
            "tollgate_store_losses",
            "Times that the store was found to have lost writes of today, which were restored.",
            &CurrentValue::Counter(now.store_losses as f64),
        )?;
        #[allow(clippy::cast_precision_loss)]
        writer.metric(
            "tollgate_clock_steps",
            "Times that the wall clock was found to have been stepped by more than 5 s (embedded stores).",
            &CurrentValue::Counter(now.clock_steps as f64),
        )?;
        writer.gauge(
            "tollgate_ready",
            "Whether the service is SERVING.",
            now.ready.into(),
        )
    }

    fn policy(&self, writer: &mut ScrapeWriter<'_>) -> fmt::Result {
        let families = &self.families;
        let policy = locked(&families.policy).clone();
        if let Some(PolicyInfo {
            name,
            version,
            organizations,
            at,
        }) = policy
        {
            let labels = vec![("name", name), ("version", version)];
            writer.metric(
                "tollgate_policy",
                "The policy in force: its programme, and what its text is known by.",
                &InfoMetric(labels),
            )?;
            writer.gauge(
                "tollgate_policy_organizations",
                "Organizations that the policy knows.",
                organizations.try_into().unwrap_or(i64::MAX),
            )?;
            writer.gauge(
                "tollgate_policy_loaded_timestamp_seconds",
                "When the policy in force was taken, in seconds since 1970.",
                at.timestamp(),
            )?;
        }
        writer.metric(
            "tollgate_policy_reloads",
            "Policies that were read anew, and taken or refused.",
            &families.reloads,
        )?;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        writer.metric("tollgate_build", "The program.", &InfoMetric(version))
    }

    fn files(&self, writer: &mut ScrapeWriter<'_>) -> fmt::Result {
        let refused = *locked(&self.families.refused_files);
        writer.metric(
            "tollgate_file_refused",
            "Whether what is in the file's place is refused, and the last good one is in force.",
            &RefusedFilesMetric(refused),
        )
    }

    fn connections(&self, writer: &mut ScrapeWriter<'_>) -> fmt::Result {
        let families = &self.families;
        writer.metric(
            "tollgate_connections",
            "Connections that are open.",
            &families.connections,
        )?;
        writer.metric(
            "tollgate_connections_refused",
            "Connections that were not let in.",
            &families.connections_refused,
        )?;
        writer.metric(
            "tollgate_connections_closed",
            "Connections that ended, by why.",
            &families.connections_closed,
        )?;
        writer.metric(
            "tollgate_calls_denied",
            "Calls of callers who are not known, or may not do what they asked for.",
            &families.denied,
        )?;
        let certificates = locked(&families.certificates).clone();
        writer.metric(
            "tollgate_certificate_expiry_timestamp_seconds",
            "When a certificate of this service ends, in seconds since 1970.",
            &CertificateExpiryMetric(certificates),
        )
    }
}

/// A metric whose labels are its value.
struct InfoMetric(Vec<(&'static str, String)>);

impl EncodeMetric for InfoMetric {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_info(&self.0)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Info
    }
}

struct RefusedFilesMetric(RefusedFiles);

impl EncodeMetric for RefusedFilesMetric {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for of in WatchedFile::ALL {
            let labels = [("of", of.name())];
            let refused = i64::from(self.0[of.index()].is_some());
            encoder.encode_family(&labels)?.encode_gauge(&refused)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

struct CertificateExpiryMetric(BTreeMap<&'static str, DateTime<Utc>>);

impl EncodeMetric for CertificateExpiryMetric {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (of, at) in &self.0 {
            let labels = [("of", *of)];
            encoder
                .encode_family(&labels)?
                .encode_gauge(&at.timestamp())?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}
