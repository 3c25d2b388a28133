//! The metric families with their labels and buckets, and the values that are read at a scrape.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicI64},
};

use chrono::{DateTime, Utc};

use super::{
    families::{CounterFamily, GaugeFamily, HistogramFamily, Labels, SeriesVisibility},
    labels::{
        CloseReason, Code, ConnectionRefusal, DenialReason, PortName, ReloadResult, Rpc,
        StoreCallResult, StoreFailure, Transition, VERDICTS, WatchedFile, verdict_names,
    },
    pools::PoolTokens,
};

/// Upper bounds in microseconds, up to the longest common `call_timeout`.
const REQUEST_BUCKETS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000,
];

/// A batch has at most 1,024 decisions, unless one request is larger by itself.
const BATCH_BUCKETS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];

/// Series of each RPC: one for each verdict, then one for each code.
pub(super) const SERIES_OF_AN_RPC: usize = VERDICTS.len() + Code::ALL.len();

/// All metrics that are counted.
#[derive(Debug)]
pub(super) struct MetricFamilies {
    pub(super) requests: CounterFamily,
    pub(super) request_durations: HistogramFamily,
    pub(super) open_streams: AtomicI64,
    pub(super) tokens: PoolTokens,
    pub(super) reservations: CounterFamily,
    pub(super) store_calls: HistogramFamily,
    pub(super) batches: HistogramFamily,
    pub(super) store_failures: CounterFamily,
    pub(super) policy: Mutex<Option<PolicyInfo>>,
    pub(super) reloads: CounterFamily,
    pub(super) connections: GaugeFamily,
    pub(super) connections_refused: CounterFamily,
    pub(super) connections_closed: CounterFamily,
    pub(super) denied: CounterFamily,
    pub(super) certificates: Mutex<BTreeMap<&'static str, DateTime<Utc>>>,
    pub(super) refused_files: Mutex<RefusedFiles>,
}

/// When the current content of each watched file was refused, if it was.
pub(super) type RefusedFiles = [Option<DateTime<Utc>>; WatchedFile::ALL.len()];

/// The policy in force.
#[derive(Debug, Clone)]
pub(super) struct PolicyInfo {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) organizations: usize,
    pub(super) at: DateTime<Utc>,
}

/// The values that are read at a scrape instead of counted.
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

impl MetricFamilies {
    pub(super) fn new() -> Self {
        let ports = || PortName::ALL.iter().map(|port| port.name());
        let of_rpc = |rpc: &Rpc| vec![("rpc", rpc.name())];
        let outcomes = StoreCallResult::ALL
            .iter()
            .map(|call| vec![("outcome", call.name())]);
        Self {
            requests: requests(),
            request_durations: HistogramFamily::of_durations(
                Rpc::ALL.iter().map(of_rpc),
                &REQUEST_BUCKETS,
            ),
            open_streams: AtomicI64::new(0),
            tokens: PoolTokens::new(),
            reservations: CounterFamily::by(
                "transition",
                Transition::ALL.iter().map(|it| it.name()),
            ),
            store_calls: HistogramFamily::of_durations(outcomes, &REQUEST_BUCKETS),
            batches: HistogramFamily::of_numbers(&BATCH_BUCKETS),
            store_failures: CounterFamily::by("kind", StoreFailure::ALL.iter().map(|it| it.name())),
            policy: Mutex::default(),
            reloads: CounterFamily::by("result", ReloadResult::ALL.iter().map(|it| it.name())),
            connections: GaugeFamily::by("port", ports()),
            connections_refused: by_port_and_why(ConnectionRefusal::ALL.iter().map(|it| it.name())),
            connections_closed: by_port_and_why(CloseReason::ALL.iter().map(|it| it.name())),
            denied: CounterFamily::by("why", DenialReason::ALL.iter().map(|it| it.name())),
            certificates: Mutex::default(),
            refused_files: Mutex::default(),
        }
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One series for each RPC and each result that it can have.
fn requests() -> CounterFamily {
    let series = Rpc::ALL.iter().flat_map(|rpc| {
        let verdicts = VERDICTS.into_iter().map(|verdict| {
            let shown = match rpc.has_verdict() {
                true => SeriesVisibility::Always,
                false => SeriesVisibility::Never,
            };
            (result_labels(*rpc, Code::Ok, verdict_names(verdict)), shown)
        });
        let codes = Code::ALL.iter().map(|code| {
            let shown = match code {
                Code::Ok if rpc.has_verdict() => SeriesVisibility::Never,
                code if code.is_documented() => SeriesVisibility::Always,
                _ => SeriesVisibility::OnceCounted,
            };
            (result_labels(*rpc, *code, ("", "")), shown)
        });
        verdicts.chain(codes)
    });
    CounterFamily::new(series)
}

fn result_labels(rpc: Rpc, code: Code, (verdict, reason): (&'static str, &'static str)) -> Labels {
    vec![
        ("rpc", rpc.name()),
        ("code", code.name()),
        ("verdict", verdict),
        ("reason", reason),
    ]
}

fn by_port_and_why(whys: impl Iterator<Item = &'static str> + Clone) -> CounterFamily {
    let ports = PortName::ALL.iter();
    let series = ports.flat_map(|port| {
        let whys = whys.clone();
        whys.map(|why| vec![("port", port.name()), ("why", why)])
    });
    CounterFamily::new(series.map(|labels| (labels, SeriesVisibility::Always)))
}
