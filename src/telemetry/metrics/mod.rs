//! Metrics for Prometheus.
//!
//! One [`Metrics`] value is created at the start and passed to all parts. Values of other parts, such as the store's
//! state, are read at the scrape ([`MetricsSnapshot`]).
//!
//! A label value never comes from a caller: [`labels`] lists the values, and the names of pools and organizations come from
//! the policy.

mod collectors;
mod histogram;
mod labels;
mod pool_gauges;
mod registry;
mod striped_atomic;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use prometheus_client::{encoding::text, registry::Registry};

pub use self::collectors::{MetricsSnapshot, ReconcileFigures};
pub use self::labels::{
    CloseReason, Code, ConnectionRefusal, DenialReason, EnvoyCheck, EnvoyOutcome,
    NotificationResult, PoolTokenKind, PortName, ReconcileState, ReloadResult, Rpc,
    StoreCallResult, StoreFailure, TokenUse, Transition, WatchedFile, verdict_names,
};
pub use self::pool_gauges::{PoolGauges, PoolTokens, PoolsAbove};
use self::{
    collectors::PolicyInfo,
    registry::{MetricFamilies, by_label, request_labels},
};
use crate::domain::{PoolName, Verdict};

/// The content type of a scrape.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of the service, at first all zero. Cheap to clone.
#[derive(Debug, Clone, Default)]
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
pub struct OpenConnection(Connections);

/// Counts a stream as open until dropped.
#[derive(Debug)]
pub struct OpenStream(Metrics);

impl Metrics {
    /// Counts a request that was answered with a verdict.
    pub fn answered(&self, rpc: Rpc, verdict: Verdict) {
        self.families.verdicts[rpc][verdict].inc();
    }

    /// Counts a request that was answered without a verdict: with an error, or OK from an RPC that returns none.
    pub fn ended(&self, rpc: Rpc, code: Code) {
        let labels = request_labels(rpc, code, ("", ""));
        self.families.requests.get_or_create(&labels).inc();
    }

    /// Records the duration of `requests` requests, from arrival to answer.
    pub fn took(&self, rpc: Rpc, duration: Duration, requests: u64) {
        self.families.request_durations[rpc].observe(duration.as_secs_f64(), requests);
    }

    /// Counts a stream as open until the returned value is dropped.
    #[must_use]
    pub fn stream_opened(&self) -> OpenStream {
        self.families.open_streams.inc();
        OpenStream(self.clone())
    }

    /// Adds a series for each pool of a policy. All other pools share one series. No other function adds a label value.
    pub fn add_pools(&self, pools: &[PoolName]) {
        let families = &*self.families;
        families.pool_tokens.rcu(|known| {
            let mut known = BTreeMap::clone(known);
            for pool in pools {
                let series = || by_label(&families.tokens, &[("pool", pool.to_string())], "kind");
                known.entry(pool.clone()).or_insert_with(series);
            }
            known
        });
    }

    /// Counts tokens of a request, in its pool if it has one.
    pub fn tokens(&self, pool: Option<&PoolName>, kind: TokenUse, tokens: u64) {
        let pools = self.families.pool_tokens.load();
        let series = pool.and_then(|pool| pools.get(pool));
        series.unwrap_or(&self.families.other_tokens)[kind].inc_by(tokens);
    }

    /// Counts a state change of a reservation.
    pub fn reservation(&self, transition: Transition) {
        self.families.reservations[transition].inc();
    }

    /// Records a call to the store that has ended.
    #[allow(clippy::cast_precision_loss)]
    pub fn store_called(&self, ended: StoreCallResult, duration: Duration, decisions: usize) {
        self.families.store_calls[ended].observe(duration.as_secs_f64(), 1);
        self.families.batches.observe(decisions as f64, 1);
    }

    /// Counts a decision or a read-only query that has failed.
    pub fn store_failed(&self, failure: StoreFailure) {
        self.families.store_failures[failure].inc();
    }

    /// Counts a Check of Envoy.
    pub fn envoy_checked(&self, answer: EnvoyCheck) {
        self.families.envoy.checks[answer].inc();
    }

    /// Counts a reservation of Envoy's front that has ended.
    pub fn envoy_ended(&self, outcome: EnvoyOutcome) {
        self.families.envoy.outcomes[outcome].inc();
    }

    /// Counts an attempt to deliver a notification, or a notification that was left out.
    pub fn notified(&self, result: NotificationResult) {
        self.families.notifications.results[result].inc();
    }

    /// Sets how many notifications are to be delivered or confirmed.
    pub fn notifications_waiting(&self, waiting: usize) {
        let waiting = i64::try_from(waiting).unwrap_or(i64::MAX);
        self.families.notifications.waiting.set(waiting);
    }

    /// Records the policy that is now in force.
    pub fn policy_loaded(
        &self,
        name: &str,
        version: &str,
        organizations: usize,
        at: DateTime<Utc>,
    ) {
        self.families.files.lock().policy = Some(PolicyInfo {
            name: name.to_owned(),
            version: version.to_owned(),
            organizations,
            at,
        });
    }

    /// Counts reloads of the policy.
    pub fn policy_reloaded(&self, result: ReloadResult, times: u64) {
        self.families.reloads[result].inc_by(times);
    }

    /// Records when the content of a watched file was refused; none: it is no longer refused.
    pub fn file_refused(&self, of: WatchedFile, at: Option<DateTime<Utc>>) {
        self.families.files.lock().refused[of] = at;
    }

    /// The files whose content is refused, with the time of the refusal.
    pub fn refused_files(&self) -> impl Iterator<Item = (WatchedFile, DateTime<Utc>)> + use<> {
        let refused = self.families.files.lock().refused;
        refused.into_iter().filter_map(|(of, at)| Some((of, at?)))
    }

    /// Records that this replica compares with the provider whenever it has the lease.
    pub fn enable_reconcile(&self) {
        self.families.reconcile.lock().is_enabled = true;
    }

    /// Replaces the figures of the background reconcile; none: this replica does not have the lease.
    pub fn set_reconcile_figures(&self, figures: Option<ReconcileFigures>) {
        self.families.reconcile.lock().figures = figures;
    }

    /// The figures of the background reconcile; none: this replica does not compare.
    pub fn reconcile_figures(&self) -> Option<ReconcileFigures> {
        self.families.reconcile.lock().figures.clone()
    }

    /// How many organizations the background reconcile of this replica has in a state.
    pub fn reconcile_orgs(&self, state: ReconcileState) -> u64 {
        let role = self.families.reconcile.lock();
        role.figures.as_ref().map_or(0, |it| it.orgs[state])
    }

    /// Counts a denied call.
    pub fn call_denied(&self, why: DenialReason) {
        self.families.denied[why].inc();
    }

    /// Records when the certificate of a section of the settings, such as `tls`, expires.
    pub fn certificate_expires(&self, of: &'static str, at: DateTime<Utc>) {
        self.families.files.lock().certificates.insert(of, at);
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
    #[must_use]
    pub fn text(&self, snapshot: MetricsSnapshot, pools: PoolGauges) -> String {
        let mut read_now = Registry::default();
        read_now.register_collector(Box::new(snapshot));
        read_now.register_collector(Box::new(pools));
        let mut text = String::new();
        text::encode_registry(&mut text, &self.families.registry)
            .and_then(|()| text::encode(&mut text, &read_now))
            .expect("writing to a string does not fail");
        text
    }
}

impl Connections {
    /// Counts a connection as open until the returned value is dropped.
    #[must_use]
    pub fn opened(&self) -> OpenConnection {
        self.families.connections[self.port].inc();
        OpenConnection(self.clone())
    }

    /// Counts a refused connection.
    pub fn refused(&self, why: ConnectionRefusal) {
        self.families.connections_refused[self.port][why].inc();
    }
}

impl OpenConnection {
    /// Counts the connection as closed for this reason.
    pub fn closed(self, why: CloseReason) {
        let Connections { families, port } = &self.0;
        families.connections_closed[*port][why].inc();
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let Connections { families, port } = &self.0;
        families.connections[*port].dec();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.families.open_streams.dec();
    }
}
