//! What the service counts of itself, for Prometheus.
//!
//! One [`Metrics`] value is made at the start and handed down. Whoever counts knows the place of the series,
//! so that to count is an atomic addition or two. What is known elsewhere anyway, such as whether the store
//! is up, is not families but read at the scrape ([`MetricsSnapshot`]).
//!
//! No organization, project, model or id that a caller sends is ever a label: [`labels`] has the values that
//! there are, and the names of pools are those of the policy.

mod families;
mod labels;
mod pools;
mod process;
mod scrape;
mod striped_counters;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use prometheus_client::{encoding::text, registry::Registry};

pub use self::labels::{
    CloseReason, Code, ConnectionRefusal, DenialReason, PortName, ReloadResult, Rpc,
    StoreCallResult, StoreFailure, TokenUse, Transition, WatchedFile, verdict_names,
};
use self::{
    families::{CounterFamily, GaugeFamily, HistogramFamily, SeriesVisibility},
    labels::{VERDICTS, verdict_place},
    pools::PoolTokens,
    scrape::Scrape,
};
use crate::domain::{PoolName, Verdict};

/// What an answer to a scrape says that it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in microseconds: an answer takes tens of microseconds to milliseconds, and never more than
/// `call_timeout`, mostly 1 s.
const REQUEST_BUCKETS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000,
];

/// A batch has at most 1,024 decisions, but for one that is larger by itself.
const BATCH_BUCKETS: [u64; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];

/// Where the series of an RPC stand: its verdicts, then its codes.
const SERIES_OF_AN_RPC: usize = VERDICTS.len() + Code::ALL.len();

/// What the service counts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    families: Arc<MetricFamilies>,
}

#[derive(Debug)]
struct MetricFamilies {
    requests: CounterFamily,
    request_durations: HistogramFamily,
    open_streams: AtomicI64,
    tokens: PoolTokens,
    reservations: CounterFamily,
    store_calls: HistogramFamily,
    batches: HistogramFamily,
    store_failures: CounterFamily,
    policy: Mutex<Option<PolicyInfo>>,
    reloads: CounterFamily,
    connections: GaugeFamily,
    connections_refused: CounterFamily,
    connections_closed: CounterFamily,
    denied: CounterFamily,
    certificates: Mutex<BTreeMap<&'static str, DateTime<Utc>>>,
    refused_files: Mutex<RefusedFiles>,
}

/// When the file at each place was refused, where what is there now is.
type RefusedFiles = [Option<DateTime<Utc>>; WatchedFile::ALL.len()];

#[derive(Debug, Clone)]
struct PolicyInfo {
    name: String,
    version: String,
    organizations: usize,
    at: DateTime<Utc>,
}

/// What is not families here, but known where a scrape is answered.
#[derive(Debug, Clone, Copy)]
pub struct MetricsSnapshot {
    /// Whether the service is SERVING.
    pub ready: bool,
    /// Whether the store would decide.
    pub store_up: bool,
    /// How often the store was found to have lost writes.
    pub store_losses: u64,
    /// How often the wall clock was found to have stepped.
    pub clock_steps: u64,
    /// Calls to the store under way.
    pub store_calls: usize,
    /// Decisions that wait for the store.
    pub waiting: usize,
}

/// The connections of one port, for whoever accepts them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections {
    families: Arc<MetricFamilies>,
    port: PortName,
}

/// A connection while it is open.
#[derive(Debug)]
pub struct OpenConnection {
    connections: Connections,
}

/// A stream while it is open.
#[derive(Debug)]
pub struct OpenStream {
    families: Arc<MetricFamilies>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing is families yet.
    #[must_use]
    pub fn new() -> Self {
        let ports = || PortName::ALL.iter().map(|port| port.name());
        let of_rpc = |rpc: &Rpc| vec![("rpc", rpc.name())];
        let outcomes = StoreCallResult::ALL
            .iter()
            .map(|call| vec![("outcome", call.name())]);
        let families = MetricFamilies {
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
        };
        Self {
            families: Arc::new(families),
        }
    }

    /// A request was answered with a verdict.
    pub fn answered(&self, rpc: Rpc, verdict: Verdict) {
        let place = rpc.place() * SERIES_OF_AN_RPC + verdict_place(verdict);
        self.families.requests.add(place, 1);
    }

    /// A request was answered without one: with an error, or OK where an RPC has none.
    pub fn ended(&self, rpc: Rpc, code: Code) {
        let place = rpc.place() * SERIES_OF_AN_RPC + VERDICTS.len() + code.place();
        self.families.requests.add(place, 1);
    }

    /// So many requests each took so long, from their arrival to their answer.
    pub fn took(&self, rpc: Rpc, duration: Duration, requests: u64) {
        self.families
            .request_durations
            .took(rpc.place(), duration, requests);
    }

    /// A stream is open until this is dropped.
    #[must_use]
    pub fn stream_opened(&self) -> OpenStream {
        self.families.open_streams.fetch_add(1, Ordering::Relaxed);
        OpenStream {
            families: Arc::clone(&self.families),
        }
    }

    /// Takes in the pools that a policy has. Others have no series of their own.
    pub fn know_pools(&self, pools: &[PoolName]) {
        self.families.tokens.know(pools);
    }

    /// TokenUse were families as this, in a pool where the request was in one.
    pub fn tokens(&self, pool: Option<&PoolName>, kind: TokenUse, tokens: u64) {
        self.families.tokens.add(pool, kind, tokens);
    }

    /// A reservation was made, or ended.
    pub fn reservation(&self, transition: Transition) {
        self.families.reservations.add(transition.place(), 1);
    }

    /// A call to the store with so many decisions ended.
    pub fn store_called(&self, ended: StoreCallResult, duration: Duration, decisions: usize) {
        self.families.store_calls.took(ended.place(), duration, 1);
        self.families.batches.observe(0, decisions as u64, 1);
    }

    /// So many decisions, or snapshot, have no answer.
    pub fn store_failed(&self, failure: StoreFailure, times: usize) {
        self.families
            .store_failures
            .add(failure.place(), times as u64);
    }

    /// The policy of the start.
    pub fn policy_loaded(
        &self,
        name: &str,
        version: &str,
        organizations: usize,
        at: DateTime<Utc>,
    ) {
        *locked(&self.families.policy) = Some(PolicyInfo {
            name: name.to_owned(),
            version: version.to_owned(),
            organizations,
            at,
        });
    }

    /// Another policy holds from now on.
    pub fn policy_applied(
        &self,
        name: &str,
        version: &str,
        organizations: usize,
        at: DateTime<Utc>,
    ) {
        self.policy_loaded(name, version, organizations, at);
        self.families.reloads.add(ReloadResult::Applied.place(), 1);
    }

    /// A policy was read anew and not taken; the one before stays.
    pub fn policy_refused(&self) {
        self.families.reloads.add(ReloadResult::Refused.place(), 1);
    }

    /// What is in this file's place was refused then, and the last good one is in force; none: it is not refused.
    pub fn file_refused(&self, of: WatchedFile, at: Option<DateTime<Utc>>) {
        locked(&self.families.refused_files)[of.place()] = at;
    }

    /// The files that are refused now, and when they were.
    pub fn refused_files(&self) -> impl Iterator<Item = (WatchedFile, DateTime<Utc>)> + use<> {
        let refused = *locked(&self.families.refused_files);
        let files = WatchedFile::ALL.iter().zip(refused);
        files.filter_map(|(of, at)| Some((*of, at?)))
    }

    /// A call was not let in.
    pub fn call_denied(&self, why: DenialReason) {
        self.families.denied.add(why.place(), 1);
    }

    /// A certificate of ours, of `tls`, say, is valid until then.
    pub fn certificate_expires(&self, of: &'static str, at: DateTime<Utc>) {
        locked(&self.families.certificates).insert(of, at);
    }

    /// The connections of a port.
    #[must_use]
    pub fn connections(&self, port: PortName) -> Connections {
        Connections {
            families: Arc::clone(&self.families),
            port,
        }
    }

    /// Everything, as OpenMetrics text ([`CONTENT_TYPE`]).
    ///
    /// # Panics
    ///
    /// Never: a string takes whatever is written to it.
    #[must_use]
    pub fn text(&self, snapshot: MetricsSnapshot) -> String {
        let mut registry = Registry::default();
        let families = Arc::clone(&self.families);
        registry.register_collector(Box::new(Scrape::of(families, snapshot)));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes whatever is written to it");
        text
    }
}

impl Connections {
    /// A connection was let in, and is open until this is dropped.
    #[must_use]
    pub fn opened(&self) -> OpenConnection {
        self.families.connections.add(self.port.place(), 1);
        OpenConnection {
            connections: self.clone(),
        }
    }

    /// A connection was not let in.
    pub fn refused(&self, why: ConnectionRefusal) {
        let place = self.port.place() * ConnectionRefusal::ALL.len() + why.place();
        self.families.connections_refused.add(place, 1);
    }
}

impl OpenConnection {
    /// It ended for this reason.
    pub fn closed(self, why: CloseReason) {
        let Connections { families, port } = &self.connections;
        let place = port.place() * CloseReason::ALL.len() + why.place();
        families.connections_closed.add(place, 1);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let Connections { families, port } = &self.connections;
        families.connections.add(port.place(), -1);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.families.open_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every answer that an RPC may have.
fn requests() -> CounterFamily {
    let series = Rpc::ALL.iter().flat_map(|rpc| {
        let verdicts = VERDICTS.into_iter().map(|verdict| {
            let shown = match rpc.has_verdict() {
                true => SeriesVisibility::Always,
                false => SeriesVisibility::Never,
            };
            (answer(*rpc, Code::Ok, verdict_names(verdict)), shown)
        });
        let codes = Code::ALL.iter().map(|code| {
            let shown = match code {
                Code::Ok if rpc.has_verdict() => SeriesVisibility::Never,
                code if code.is_foreseen() => SeriesVisibility::Always,
                _ => SeriesVisibility::OnceCounted,
            };
            (answer(*rpc, *code, ("", "")), shown)
        });
        verdicts.chain(codes)
    });
    CounterFamily::new(series)
}

fn answer(
    rpc: Rpc,
    code: Code,
    (verdict, reason): (&'static str, &'static str),
) -> families::Labels {
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
