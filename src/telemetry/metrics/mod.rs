//! What the service counts of itself, for Prometheus.
//!
//! One [`Metrics`] value is made at the start and handed down. Whoever counts knows the place of the series,
//! so that to count is an atomic addition or two. What is known elsewhere anyway, such as whether the store
//! is up, is not counted but read at the scrape ([`Readings`]).
//!
//! No organization, project, model or id that a caller sends is ever a label: [`labels`] has the values that
//! there are, and the names of pools are those of the policy.

mod cells;
mod counters;
mod labels;
mod pools;
mod process;
mod scrape;

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
    Closing, Code, Denied, Failure, Port, Refusal, Reload, Rpc, StoreCall, Tokens, Transition,
    WatchedFile, verdict_names,
};
use self::{
    counters::{Counters, Gauges, Histograms, Shown},
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
    counted: Arc<Counted>,
}

#[derive(Debug)]
struct Counted {
    requests: Counters,
    request_durations: Histograms,
    open_streams: AtomicI64,
    tokens: PoolTokens,
    reservations: Counters,
    store_calls: Histograms,
    batches: Histograms,
    store_failures: Counters,
    policy: Mutex<Option<PolicyInfo>>,
    reloads: Counters,
    connections: Gauges,
    connections_refused: Counters,
    connections_closed: Counters,
    denied: Counters,
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

/// What is not counted here, but known where a scrape is answered.
#[derive(Debug, Clone, Copy)]
pub struct Readings {
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
    counted: Arc<Counted>,
    port: Port,
}

/// A connection while it is open.
#[derive(Debug)]
pub struct Open {
    connections: Connections,
}

/// A stream while it is open.
#[derive(Debug)]
pub struct OpenStream {
    counted: Arc<Counted>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new() -> Self {
        let ports = || Port::ALL.iter().map(|port| port.name());
        let of_rpc = |rpc: &Rpc| vec![("rpc", rpc.name())];
        let outcomes = StoreCall::ALL
            .iter()
            .map(|call| vec![("outcome", call.name())]);
        let counted = Counted {
            requests: requests(),
            request_durations: Histograms::of_durations(
                Rpc::ALL.iter().map(of_rpc),
                &REQUEST_BUCKETS,
            ),
            open_streams: AtomicI64::new(0),
            tokens: PoolTokens::new(),
            reservations: Counters::by("transition", Transition::ALL.iter().map(|it| it.name())),
            store_calls: Histograms::of_durations(outcomes, &REQUEST_BUCKETS),
            batches: Histograms::of_numbers(&BATCH_BUCKETS),
            store_failures: Counters::by("kind", Failure::ALL.iter().map(|it| it.name())),
            policy: Mutex::default(),
            reloads: Counters::by("result", Reload::ALL.iter().map(|it| it.name())),
            connections: Gauges::by("port", ports()),
            connections_refused: by_port_and_why(Refusal::ALL.iter().map(|it| it.name())),
            connections_closed: by_port_and_why(Closing::ALL.iter().map(|it| it.name())),
            denied: Counters::by("why", Denied::ALL.iter().map(|it| it.name())),
            certificates: Mutex::default(),
            refused_files: Mutex::default(),
        };
        Self {
            counted: Arc::new(counted),
        }
    }

    /// A request was answered with a verdict.
    pub fn answered(&self, rpc: Rpc, verdict: Verdict) {
        let place = rpc.place() * SERIES_OF_AN_RPC + verdict_place(verdict);
        self.counted.requests.add(place, 1);
    }

    /// A request was answered without one: with an error, or OK where an RPC has none.
    pub fn ended(&self, rpc: Rpc, code: Code) {
        let place = rpc.place() * SERIES_OF_AN_RPC + VERDICTS.len() + code.place();
        self.counted.requests.add(place, 1);
    }

    /// So many requests each took so long, from their arrival to their answer.
    pub fn took(&self, rpc: Rpc, duration: Duration, requests: u64) {
        self.counted
            .request_durations
            .took(rpc.place(), duration, requests);
    }

    /// A stream is open until this is dropped.
    #[must_use]
    pub fn stream_opened(&self) -> OpenStream {
        self.counted.open_streams.fetch_add(1, Ordering::Relaxed);
        OpenStream {
            counted: Arc::clone(&self.counted),
        }
    }

    /// Takes in the pools that a policy has. Others have no series of their own.
    pub fn know_pools(&self, pools: &[PoolName]) {
        self.counted.tokens.know(pools);
    }

    /// Tokens were counted as this, in a pool where the request was in one.
    pub fn tokens(&self, pool: Option<&PoolName>, kind: Tokens, tokens: u64) {
        self.counted.tokens.add(pool, kind, tokens);
    }

    /// A reservation was made, or ended.
    pub fn reservation(&self, transition: Transition) {
        self.counted.reservations.add(transition.place(), 1);
    }

    /// A call to the store with so many decisions ended.
    pub fn store_called(&self, ended: StoreCall, duration: Duration, decisions: usize) {
        self.counted.store_calls.took(ended.place(), duration, 1);
        self.counted.batches.observe(0, decisions as u64, 1);
    }

    /// So many decisions, or readings, have no answer.
    pub fn store_failed(&self, failure: Failure, times: usize) {
        self.counted
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
        *locked(&self.counted.policy) = Some(PolicyInfo {
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
        self.counted.reloads.add(Reload::Applied.place(), 1);
    }

    /// A policy was read anew and not taken; the one before stays.
    pub fn policy_refused(&self) {
        self.counted.reloads.add(Reload::Refused.place(), 1);
    }

    /// What is in this file's place was refused then, and the last good one is in force; none: it is not refused.
    pub fn file_refused(&self, of: WatchedFile, at: Option<DateTime<Utc>>) {
        locked(&self.counted.refused_files)[of.place()] = at;
    }

    /// The files that are refused now, and when they were.
    pub fn refused_files(&self) -> impl Iterator<Item = (WatchedFile, DateTime<Utc>)> + use<> {
        let refused = *locked(&self.counted.refused_files);
        let files = WatchedFile::ALL.iter().zip(refused);
        files.filter_map(|(of, at)| Some((*of, at?)))
    }

    /// A call was not let in.
    pub fn call_denied(&self, why: Denied) {
        self.counted.denied.add(why.place(), 1);
    }

    /// A certificate of ours, of `tls`, say, is valid until then.
    pub fn certificate_expires(&self, of: &'static str, at: DateTime<Utc>) {
        locked(&self.counted.certificates).insert(of, at);
    }

    /// The connections of a port.
    #[must_use]
    pub fn connections(&self, port: Port) -> Connections {
        Connections {
            counted: Arc::clone(&self.counted),
            port,
        }
    }

    /// Everything, as OpenMetrics text ([`CONTENT_TYPE`]).
    ///
    /// # Panics
    ///
    /// Never: a string takes whatever is written to it.
    #[must_use]
    pub fn text(&self, readings: Readings) -> String {
        let mut registry = Registry::default();
        let counted = Arc::clone(&self.counted);
        registry.register_collector(Box::new(Scrape::of(counted, readings)));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("a string takes whatever is written to it");
        text
    }
}

impl Connections {
    /// A connection was let in, and is open until this is dropped.
    #[must_use]
    pub fn opened(&self) -> Open {
        self.counted.connections.add(self.port.place(), 1);
        Open {
            connections: self.clone(),
        }
    }

    /// A connection was not let in.
    pub fn refused(&self, why: Refusal) {
        let place = self.port.place() * Refusal::ALL.len() + why.place();
        self.counted.connections_refused.add(place, 1);
    }
}

impl Open {
    /// It ended for this reason.
    pub fn closed(self, why: Closing) {
        let Connections { counted, port } = &self.connections;
        let place = port.place() * Closing::ALL.len() + why.place();
        counted.connections_closed.add(place, 1);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Connections { counted, port } = &self.connections;
        counted.connections.add(port.place(), -1);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.counted.open_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every answer that an RPC may have.
fn requests() -> Counters {
    let series = Rpc::ALL.iter().flat_map(|rpc| {
        let verdicts = VERDICTS.into_iter().map(|verdict| {
            let shown = match rpc.has_verdict() {
                true => Shown::Always,
                false => Shown::Never,
            };
            (answer(*rpc, Code::Ok, verdict_names(verdict)), shown)
        });
        let codes = Code::ALL.iter().map(|code| {
            let shown = match code {
                Code::Ok if rpc.has_verdict() => Shown::Never,
                code if code.is_foreseen() => Shown::Always,
                _ => Shown::OnceCounted,
            };
            (answer(*rpc, *code, ("", "")), shown)
        });
        verdicts.chain(codes)
    });
    Counters::new(series)
}

fn answer(
    rpc: Rpc,
    code: Code,
    (verdict, reason): (&'static str, &'static str),
) -> counters::Labels {
    vec![
        ("rpc", rpc.name()),
        ("code", code.name()),
        ("verdict", verdict),
        ("reason", reason),
    ]
}

fn by_port_and_why(whys: impl Iterator<Item = &'static str> + Clone) -> Counters {
    let ports = Port::ALL.iter();
    let series = ports.flat_map(|port| {
        let whys = whys.clone();
        whys.map(|why| vec![("port", port.name()), ("why", why)])
    });
    Counters::new(series.map(|labels| (labels, Shown::Always)))
}
