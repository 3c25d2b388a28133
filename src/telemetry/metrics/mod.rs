//! Metrics for Prometheus.
//!
//! One [`Metrics`] value is created at the start and passed to all parts. Values of other parts, such as the store's
//! state, are read at the scrape ([`MetricsSnapshot`]).
//!
//! A label value never comes from a caller: [`labels`] lists the values, and the pools' names come from the policy.

mod families;
mod labels;
mod pools;
mod process;
mod registry;
mod scrape;
mod striped_counters;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use prometheus_client::{encoding::text, registry::Registry};

pub use self::labels::{
    CloseReason, Code, ConnectionRefusal, DenialReason, PortName, ReloadResult, Rpc,
    StoreCallResult, StoreFailure, TokenUse, Transition, WatchedFile, verdict_names,
};
pub use self::registry::MetricsSnapshot;
use self::{
    labels::{VERDICTS, verdict_index},
    registry::{MetricFamilies, PolicyInfo, SERIES_OF_AN_RPC, locked},
    scrape::Scrape,
};
use crate::domain::{PoolName, Verdict};

/// The content type of a scrape.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of the service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    families: Arc<MetricFamilies>,
}

/// Counts the connections of one port. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections {
    families: Arc<MetricFamilies>,
    port: PortName,
}

/// Counts a connection as open until dropped.
#[derive(Debug)]
pub struct OpenConnection {
    connections: Connections,
}

/// Counts a stream as open until dropped.
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
    /// Metrics that are all zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            families: Arc::new(MetricFamilies::new()),
        }
    }

    /// Counts a request that was answered with a verdict.
    pub fn answered(&self, rpc: Rpc, verdict: Verdict) {
        let index = rpc.index() * SERIES_OF_AN_RPC + verdict_index(verdict);
        self.families.requests.add(index, 1);
    }

    /// Counts a request that was answered without a verdict: with an error, or OK from an RPC that returns none.
    pub fn ended(&self, rpc: Rpc, code: Code) {
        let index = rpc.index() * SERIES_OF_AN_RPC + VERDICTS.len() + code.index();
        self.families.requests.add(index, 1);
    }

    /// Records the duration of `requests` requests, from arrival to answer.
    pub fn took(&self, rpc: Rpc, duration: Duration, requests: u64) {
        self.families
            .request_durations
            .observe_duration(rpc.index(), duration, requests);
    }

    /// Counts a stream as open until the returned value is dropped.
    #[must_use]
    pub fn stream_opened(&self) -> OpenStream {
        self.families.open_streams.fetch_add(1, Ordering::Relaxed);
        OpenStream {
            families: Arc::clone(&self.families),
        }
    }

    /// Adds a series for each pool of a policy. All other pools share one series.
    pub fn add_pools(&self, pools: &[PoolName]) {
        self.families.tokens.add_names(pools);
    }

    /// Counts tokens of a request, in its pool if it has one.
    pub fn tokens(&self, pool: Option<&PoolName>, kind: TokenUse, tokens: u64) {
        self.families.tokens.add(pool, kind, tokens);
    }

    /// Counts a state change of a reservation.
    pub fn reservation(&self, transition: Transition) {
        self.families.reservations.add(transition.index(), 1);
    }

    /// Records a call to the store that has ended.
    pub fn store_called(&self, ended: StoreCallResult, duration: Duration, decisions: usize) {
        self.families
            .store_calls
            .observe_duration(ended.index(), duration, 1);
        self.families.batches.observe(0, decisions as u64, 1);
    }

    /// Counts decisions or read-only queries that have failed.
    pub fn store_failed(&self, failure: StoreFailure, times: usize) {
        self.families
            .store_failures
            .add(failure.index(), times as u64);
    }

    /// Records the first policy.
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

    /// Counts a reload, and records the policy that is now in force.
    pub fn policy_applied(
        &self,
        name: &str,
        version: &str,
        organizations: usize,
        at: DateTime<Utc>,
    ) {
        self.policy_loaded(name, version, organizations, at);
        self.families.reloads.add(ReloadResult::Applied.index(), 1);
    }

    /// Counts a reload that was refused: the previous policy stays in force.
    pub fn policy_refused(&self) {
        self.families.reloads.add(ReloadResult::Refused.index(), 1);
    }

    /// Records when the content of a watched file was refused; none: it is no longer refused.
    pub fn file_refused(&self, of: WatchedFile, at: Option<DateTime<Utc>>) {
        locked(&self.families.refused_files)[of.index()] = at;
    }

    /// The files whose content is refused, with the time of the refusal.
    pub fn refused_files(&self) -> impl Iterator<Item = (WatchedFile, DateTime<Utc>)> + use<> {
        let refused = *locked(&self.families.refused_files);
        let files = WatchedFile::ALL.iter().zip(refused);
        files.filter_map(|(of, at)| Some((*of, at?)))
    }

    /// Counts a denied call.
    pub fn call_denied(&self, why: DenialReason) {
        self.families.denied.add(why.index(), 1);
    }

    /// Records when the certificate of a section of the settings, such as `tls`, expires.
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

    /// All metrics as OpenMetrics text ([`CONTENT_TYPE`]).
    ///
    /// # Panics
    ///
    /// Never: writing to a string does not fail.
    #[must_use]
    pub fn text(&self, snapshot: MetricsSnapshot) -> String {
        let mut registry = Registry::default();
        let families = Arc::clone(&self.families);
        registry.register_collector(Box::new(Scrape::new(families, snapshot)));
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }
}

impl Connections {
    /// Counts a connection as open until the returned value is dropped.
    #[must_use]
    pub fn opened(&self) -> OpenConnection {
        self.families.connections.add(self.port.index(), 1);
        OpenConnection {
            connections: self.clone(),
        }
    }

    /// Counts a refused connection.
    pub fn refused(&self, why: ConnectionRefusal) {
        let index = self.port.index() * ConnectionRefusal::ALL.len() + why.index();
        self.families.connections_refused.add(index, 1);
    }
}

impl OpenConnection {
    /// Counts the connection as closed for this reason.
    pub fn closed(self, why: CloseReason) {
        let Connections { families, port } = &self.connections;
        let index = port.index() * CloseReason::ALL.len() + why.index();
        families.connections_closed.add(index, 1);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let Connections { families, port } = &self.connections;
        families.connections.add(port.index(), -1);
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.families.open_streams.fetch_sub(1, Ordering::Relaxed);
    }
}
