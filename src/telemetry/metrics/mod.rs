//! Metrics for Prometheus.
//!
//! One [`Metrics`] value is created at the start and handed down. Each series has an index known at compile time, so
//! that counting is an atomic addition or two. What is known elsewhere, such as whether the store is up, is read at the
//! scrape ([`MetricsSnapshot`]).
//!
//! No organization, project, model or id that a caller sends is ever a label value: [`labels`] lists the values, and the
//! names of pools are the policy's.

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
    /// Counts nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            families: Arc::new(MetricFamilies::new()),
        }
    }

    /// A request was answered with a verdict.
    pub fn answered(&self, rpc: Rpc, verdict: Verdict) {
        let index = rpc.index() * SERIES_OF_AN_RPC + verdict_index(verdict);
        self.families.requests.add(index, 1);
    }

    /// A request was answered without one: with an error, or OK where an RPC has none.
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

    /// A stream is open until this is dropped.
    #[must_use]
    pub fn stream_opened(&self) -> OpenStream {
        self.families.open_streams.fetch_add(1, Ordering::Relaxed);
        OpenStream {
            families: Arc::clone(&self.families),
        }
    }

    /// Adds a series for each pool of a policy. Other pools have none of their own.
    pub fn know_pools(&self, pools: &[PoolName]) {
        self.families.tokens.know(pools);
    }

    /// TokenUse were families as this, in a pool where the request was in one.
    pub fn tokens(&self, pool: Option<&PoolName>, kind: TokenUse, tokens: u64) {
        self.families.tokens.add(pool, kind, tokens);
    }

    /// A reservation was made, or ended.
    pub fn reservation(&self, transition: Transition) {
        self.families.reservations.add(transition.index(), 1);
    }

    /// A call to the store ended.
    pub fn store_called(&self, ended: StoreCallResult, duration: Duration, decisions: usize) {
        self.families
            .store_calls
            .observe_duration(ended.index(), duration, 1);
        self.families.batches.observe(0, decisions as u64, 1);
    }

    /// So many decisions, or snapshot, have no answer.
    pub fn store_failed(&self, failure: StoreFailure, times: usize) {
        self.families
            .store_failures
            .add(failure.index(), times as u64);
    }

    /// The first policy was loaded.
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

    /// Another policy is in force.
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

    /// A changed policy was refused, and the one before stays in force.
    pub fn policy_refused(&self) {
        self.families.reloads.add(ReloadResult::Refused.index(), 1);
    }

    /// The content of a watched file was refused at this time, or is no longer refused.
    pub fn file_refused(&self, of: WatchedFile, at: Option<DateTime<Utc>>) {
        locked(&self.families.refused_files)[of.index()] = at;
    }

    /// The files whose content is refused now, and since when.
    pub fn refused_files(&self) -> impl Iterator<Item = (WatchedFile, DateTime<Utc>)> + use<> {
        let refused = *locked(&self.families.refused_files);
        let files = WatchedFile::ALL.iter().zip(refused);
        files.filter_map(|(of, at)| Some((*of, at?)))
    }

    /// A call was denied.
    pub fn call_denied(&self, why: DenialReason) {
        self.families.denied.add(why.index(), 1);
    }

    /// When the certificate of a section of the settings, such as `tls`, expires.
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
    /// A connection was accepted, and is open until this is dropped.
    #[must_use]
    pub fn opened(&self) -> OpenConnection {
        self.families.connections.add(self.port.index(), 1);
        OpenConnection {
            connections: self.clone(),
        }
    }

    /// A connection was refused.
    pub fn refused(&self, why: ConnectionRefusal) {
        let index = self.port.index() * ConnectionRefusal::ALL.len() + why.index();
        self.families.connections_refused.add(index, 1);
    }
}

impl OpenConnection {
    /// It ended for this reason.
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
