//! What a scrape is answered: every metric that there is, with its name and what it means.

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
    Counted, PolicyInfo, Readings, RefusedFiles, counters::Now, labels::WatchedFile, locked,
    process,
};

/// One answer to a scrape.
#[derive(Debug)]
pub(super) struct Scrape {
    counted: Arc<Counted>,
    readings: Readings,
}

/// The sections of a scrape.
struct Page<'e>(DescriptorEncoder<'e>);

impl Page<'_> {
    fn put(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        let kind = metric.metric_type();
        metric.encode(self.0.encode_descriptor(name, help, None, kind)?)
    }

    #[allow(clippy::cast_precision_loss)]
    fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        self.put(name, help, &Now::Gauge(value as f64))
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        self.requests(&mut page)?;
        self.store(&mut page)?;
        self.policy(&mut page)?;
        self.files(&mut page)?;
        self.connections(&mut page)?;
        process::encode(&mut page.0)
    }
}

impl Scrape {
    pub(super) fn of(counted: Arc<Counted>, readings: Readings) -> Self {
        Self { counted, readings }
    }

    fn requests(&self, page: &mut Page<'_>) -> fmt::Result {
        let counted = &self.counted;
        page.put(
            "tollgate_requests",
            "Requests that were answered. Each request of a stream is one.",
            &counted.requests,
        )?;
        page.put(
            "tollgate_request_duration_seconds",
            "Time from a request's arrival to its answer.",
            &counted.request_durations,
        )?;
        page.gauge(
            "tollgate_open_streams",
            "Calls of ReserveStream that are open.",
            counted.open_streams.load(Ordering::Relaxed),
        )?;
        page.put(
            "tollgate_tokens",
            "Tokens as they were answered: reserved free or billed, settled so, or released. Without replays.",
            &counted.tokens,
        )?;
        page.put(
            "tollgate_reservations",
            "Reservations with a request id that were made, settled and released. Without replays.",
            &counted.reservations,
        )
    }

    fn store(&self, page: &mut Page<'_>) -> fmt::Result {
        let (counted, now) = (&self.counted, self.readings);
        page.put(
            "tollgate_store_call_duration_seconds",
            "Time that a call to the store took, with all the decisions in it.",
            &counted.store_calls,
        )?;
        page.put(
            "tollgate_store_batch_decisions",
            "Decisions that went to the store in one call.",
            &counted.batches,
        )?;
        page.gauge(
            "tollgate_store_calls_in_flight",
            "Calls to the store that are under way.",
            now.store_calls.try_into().unwrap_or(i64::MAX),
        )?;
        page.gauge(
            "tollgate_queue_waiting",
            "Decisions that wait for the store.",
            now.waiting.try_into().unwrap_or(i64::MAX),
        )?;
        page.put(
            "tollgate_store_failures",
            "Decisions and readings that have no answer, by what was wrong.",
            &counted.store_failures,
        )?;
        page.gauge(
            "tollgate_store_up",
            "Whether the store would decide now.",
            now.store_up.into(),
        )?;
        #[allow(clippy::cast_precision_loss)]
        page.put(
            "tollgate_store_losses",
            "Times that the store was found to have lost writes of today, which were restored.",
            &Now::Counter(now.store_losses as f64),
        )?;
        #[allow(clippy::cast_precision_loss)]
        page.put(
            "tollgate_clock_steps",
            "Times that the wall clock was found to have been stepped by more than 5 s (embedded stores).",
            &Now::Counter(now.clock_steps as f64),
        )?;
        page.gauge(
            "tollgate_ready",
            "Whether the service is SERVING.",
            now.ready.into(),
        )
    }

    fn policy(&self, page: &mut Page<'_>) -> fmt::Result {
        let counted = &self.counted;
        let policy = locked(&counted.policy).clone();
        if let Some(PolicyInfo {
            name,
            version,
            organizations,
            at,
        }) = policy
        {
            let labels = vec![("name", name), ("version", version)];
            page.put(
                "tollgate_policy",
                "The policy in force: its programme, and what its text is known by.",
                &Info(labels),
            )?;
            page.gauge(
                "tollgate_policy_organizations",
                "Organizations that the policy knows.",
                organizations.try_into().unwrap_or(i64::MAX),
            )?;
            page.gauge(
                "tollgate_policy_loaded_timestamp_seconds",
                "When the policy in force was taken, in seconds since 1970.",
                at.timestamp(),
            )?;
        }
        page.put(
            "tollgate_policy_reloads",
            "Policies that were read anew, and taken or refused.",
            &counted.reloads,
        )?;
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        page.put("tollgate_build", "The program.", &Info(version))
    }

    fn files(&self, page: &mut Page<'_>) -> fmt::Result {
        let refused = *locked(&self.counted.refused_files);
        page.put(
            "tollgate_file_refused",
            "Whether what is in the file's place is refused, and the last good one is in force.",
            &Refused(refused),
        )
    }

    fn connections(&self, page: &mut Page<'_>) -> fmt::Result {
        let counted = &self.counted;
        page.put(
            "tollgate_connections",
            "Connections that are open.",
            &counted.connections,
        )?;
        page.put(
            "tollgate_connections_refused",
            "Connections that were not let in.",
            &counted.connections_refused,
        )?;
        page.put(
            "tollgate_connections_closed",
            "Connections that ended, by why.",
            &counted.connections_closed,
        )?;
        page.put(
            "tollgate_calls_denied",
            "Calls of callers who are not known, or may not do what they asked for.",
            &counted.denied,
        )?;
        let certificates = locked(&counted.certificates).clone();
        page.put(
            "tollgate_certificate_expiry_timestamp_seconds",
            "When a certificate of this service ends, in seconds since 1970.",
            &Expiries(certificates),
        )
    }
}

/// What is told in labels.
struct Info(Vec<(&'static str, String)>);

impl EncodeMetric for Info {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_info(&self.0)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Info
    }
}

struct Refused(RefusedFiles);

impl EncodeMetric for Refused {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for of in WatchedFile::ALL {
            let labels = [("of", of.name())];
            let refused = i64::from(self.0[of.place()].is_some());
            encoder.encode_family(&labels)?.encode_gauge(&refused)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

struct Expiries(BTreeMap<&'static str, DateTime<Utc>>);

impl EncodeMetric for Expiries {
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
