//! Every metric that is counted: its name, help text, labels and buckets.
//!
//! Each series whose labels are known exists from the start, so that a rate sees the first event. Its handle is taken
//! then, so an update is an atomic addition; only error codes and pools are looked up.

use std::{collections::BTreeMap, sync::atomic::AtomicU64};

use arc_swap::ArcSwap;
use enum_map::{Enum as _, EnumArray, EnumMap};
use prometheus_client::{
    collector::Collector,
    metrics::{TypedMetric, family::Family, gauge::Gauge, info::Info},
    registry::{Metric, Registry},
};

#[cfg(target_os = "linux")]
use super::collectors::ProcessMetrics;
use super::{
    collectors::{FileStates, ReconcileGauges},
    histogram::AtomicHistogram,
    labels::{
        CloseReason, Code, ConnectionRefusal, DenialReason, EnvoyCheck, EnvoyOutcome,
        NotificationResult, PortName, ReloadResult, Rpc, StoreCallResult, StoreFailure, TokenUse,
        Transition, verdict_names,
    },
    striped_atomic::Counter,
};
use crate::domain::{PoolName, Verdict};

/// A batch has at most 1,024 decisions, unless one request is larger by itself.
const BATCH_BUCKETS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0,
];

/// A label's key and its value.
type Label<V = String> = (&'static str, V);

/// An RPC and a result that it can have.
type RequestLabels = [Label<&'static str>; 4];

/// The metrics, by the values of their labels.
#[derive(Debug)]
pub(super) struct MetricFamilies {
    pub(super) registry: Registry,
    pub(super) requests: Family<RequestLabels, Counter>,
    /// The series of `requests` that have a verdict. Those of other RPCs are not registered.
    pub(super) verdicts: EnumMap<Rpc, EnumMap<Verdict, Counter>>,
    pub(super) request_durations: EnumMap<Rpc, AtomicHistogram>,
    pub(super) open_streams: Gauge<f64, AtomicU64>,
    pub(super) tokens: Family<Vec<Label>, Counter>,
    /// The pools of all policies so far. A pool that leaves the policy keeps its series: a new one would look like a
    /// counter reset.
    pub(super) pool_tokens: ArcSwap<BTreeMap<PoolName, EnumMap<TokenUse, Counter>>>,
    /// Tokens of requests outside these pools.
    pub(super) other_tokens: EnumMap<TokenUse, Counter>,
    pub(super) reservations: EnumMap<Transition, Counter>,
    pub(super) store_calls: EnumMap<StoreCallResult, AtomicHistogram>,
    pub(super) batches: AtomicHistogram,
    pub(super) store_failures: EnumMap<StoreFailure, Counter>,
    pub(super) envoy: EnvoyCounters,
    pub(super) notifications: NotificationMetrics,
    pub(super) reloads: EnumMap<ReloadResult, Counter>,
    pub(super) connections: EnumMap<PortName, Gauge>,
    pub(super) connections_refused: EnumMap<PortName, EnumMap<ConnectionRefusal, Counter>>,
    pub(super) connections_closed: EnumMap<PortName, EnumMap<CloseReason, Counter>>,
    pub(super) denied: EnumMap<DenialReason, Counter>,
    pub(super) files: FileStates,
    pub(super) reconcile: ReconcileGauges,
}

impl Default for MetricFamilies {
    fn default() -> Self {
        let mut metrics = Registrar::default();
        let (requests, verdicts) = request_series(&mut metrics);
        let tokens = token_family(&mut metrics);
        metrics.register_process();
        Self {
            requests,
            verdicts,
            request_durations: metrics.series(
                "tollgate_request_duration_seconds",
                "Time from a request's arrival to its answer",
                "rpc",
            ),
            open_streams: metrics.register(
                "tollgate_open_streams",
                "Calls of ReserveStream that are open",
                Gauge::default(),
            ),
            pool_tokens: ArcSwap::default(),
            other_tokens: by_label(&tokens, &[("pool", String::new())], "kind"),
            tokens,
            reservations: metrics.series(
                "tollgate_reservations",
                "Reservations with a request id that were made, settled and released. Without replays",
                "transition",
            ),
            store_calls: metrics.series(
                "tollgate_store_call_duration_seconds",
                "Time that a call to the store took, with all the decisions in it",
                "outcome",
            ),
            batches: batch_histogram(&mut metrics),
            store_failures: metrics.series(
                "tollgate_store_failures",
                "Decisions and reads that have no answer, by what was wrong",
                "kind",
            ),
            envoy: EnvoyCounters::register(&mut metrics),
            notifications: NotificationMetrics::register(&mut metrics),
            reloads: metrics.series(
                "tollgate_policy_reloads",
                "Policies that were read anew, and taken or refused",
                "result",
            ),
            connections: metrics.series(
                "tollgate_connections",
                "Connections that are open",
                "port",
            ),
            connections_refused: metrics.counters_by_port(
                "tollgate_connections_refused",
                "Connections that were not let in",
            ),
            connections_closed: metrics.counters_by_port(
                "tollgate_connections_closed",
                "Connections that ended, by why",
            ),
            denied: metrics.series(
                "tollgate_calls_denied",
                "Calls of callers who are not known, or may not do what they asked for",
                "why",
            ),
            files: metrics.collector(),
            reconcile: metrics.collector(),
            registry: metrics.0,
        }
    }
}

/// What Envoy's front counts.
#[derive(Debug)]
pub(super) struct EnvoyCounters {
    pub(super) checks: EnumMap<EnvoyCheck, Counter>,
    pub(super) outcomes: EnumMap<EnvoyOutcome, Counter>,
}

impl EnvoyCounters {
    fn register(metrics: &mut Registrar) -> Self {
        Self {
            checks: metrics.series(
                "tollgate_envoy_checks",
                "Requests that Envoy asked about, by the answer",
                "answer",
            ),
            outcomes: metrics.series(
                "tollgate_envoy_outcomes",
                "Reservations of Envoy's requests that have ended, by what became of them",
                "outcome",
            ),
        }
    }
}

/// Notifications of thresholds.
#[derive(Debug)]
pub(super) struct NotificationMetrics {
    pub(super) results: EnumMap<NotificationResult, Counter>,
    pub(super) waiting: Gauge,
}

impl NotificationMetrics {
    fn register(metrics: &mut Registrar) -> Self {
        Self {
            results: metrics.series(
                "tollgate_notifications",
                "Attempts to deliver a notification, and notifications that were left out, by the result",
                "result",
            ),
            waiting: metrics.register(
                "tollgate_notifications_waiting",
                "Notifications that are to be delivered or confirmed",
                Gauge::default(),
            ),
        }
    }
}

fn batch_histogram(metrics: &mut Registrar) -> AtomicHistogram {
    metrics.register(
        "tollgate_store_batch_decisions",
        "Decisions that went to the store in one call",
        AtomicHistogram::of_numbers(BATCH_BUCKETS),
    )
}

fn token_family(metrics: &mut Registrar) -> Family<Vec<Label>, Counter> {
    metrics.family(
        "tollgate_tokens",
        "Tokens as they were answered: reserved free or billed, settled so, or released. Without replays",
    )
}

/// Makes the documented series of requests, and takes those that have a verdict.
fn request_series(
    metrics: &mut Registrar,
) -> (
    Family<RequestLabels, Counter>,
    EnumMap<Rpc, EnumMap<Verdict, Counter>>,
) {
    let requests: Family<RequestLabels, Counter> = metrics.family(
        "tollgate_requests",
        "Requests that were answered. Each request of a stream is one",
    );
    let verdicts = EnumMap::from_fn(|rpc: Rpc| {
        for code in (0..Code::LENGTH).map(Code::from_usize) {
            if rpc.is_always_served()
                && code.is_documented()
                && (code != Code::Ok || !rpc.has_verdict())
            {
                requests.get_or_create_owned(&request_labels(rpc, code, ("", "")));
            }
        }
        EnumMap::from_fn(|verdict| {
            let labels = request_labels(rpc, Code::Ok, verdict_names(verdict));
            match rpc.has_verdict() {
                true => requests.get_or_create_owned(&labels),
                false => Counter::default(),
            }
        })
    });
    (requests, verdicts)
}

pub(super) fn request_labels(
    rpc: Rpc,
    code: Code,
    (verdict, reason): (&'static str, &'static str),
) -> RequestLabels {
    [
        ("rpc", rpc.into()),
        ("code", code.into()),
        ("verdict", verdict),
        ("reason", reason),
    ]
}

/// The series of a label's values, beside other labels.
pub(super) fn by_label<L, M>(
    family: &Family<Vec<Label>, M>,
    others: &[Label],
    key: &'static str,
) -> EnumMap<L, M>
where
    L: EnumArray<M> + Into<&'static str>,
    M: Clone,
{
    EnumMap::from_fn(|value: L| {
        let label = (key, value.into().to_owned());
        family.get_or_create_owned(&[others, &[label]].concat())
    })
}

/// Registers metrics. The registry adds the full stop of a help text.
#[derive(Default)]
struct Registrar(Registry);

impl Registrar {
    fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn family<F: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> F {
        self.register(name, help, F::default())
    }

    /// Registers what is not counted.
    fn register_process(&mut self) {
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        self.0.register("tollgate_build", "The program", version);
        #[cfg(target_os = "linux")]
        self.0.register_collector(Box::new(ProcessMetrics));
    }

    /// Registers values that are read at the scrape.
    fn collector<C: Collector + Clone + Default>(&mut self) -> C {
        let values = C::default();
        self.0.register_collector(Box::new(values.clone()));
        values
    }

    fn series<L, M>(&mut self, name: &str, help: &str, key: &'static str) -> EnumMap<L, M>
    where
        L: EnumArray<M> + Into<&'static str>,
        M: Metric + TypedMetric + Clone + Default,
    {
        let family: Family<_, _> = self.family(name, help);
        by_label(&family, &[], key)
    }

    fn counters_by_port<L>(
        &mut self,
        name: &str,
        help: &str,
    ) -> EnumMap<PortName, EnumMap<L, Counter>>
    where
        L: EnumArray<Counter> + Into<&'static str>,
    {
        let family = self.family(name, help);
        EnumMap::from_fn(|port: PortName| {
            let port = <&str>::from(port).to_owned();
            by_label(&family, &[("port", port)], "why")
        })
    }
}
