//! What the routes of the HTTP port need.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    auth::Authenticator,
    grpc::InProcessService,
    ledger::{GaugedOrganizations, Ledger},
    policy::PolicyStatus,
    telemetry::metrics::Metrics,
};

/// Whether the service can decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// The service decides.
    Ready,
    /// The reason why it does not.
    NotReady(String),
}

/// What the routes show.
#[derive(Clone)]
pub struct HttpState {
    /// Knows quotas and the store.
    pub ledger: Ledger,
    /// The kind of the store: `file`, `redis+cluster`, ….
    pub store_kind: Arc<str>,
    /// How long the dashboard waits for the store.
    pub call_timeout: Duration,
    /// The state that gRPC health reports too.
    pub ready: watch::Receiver<Readiness>,
    /// The policy in force.
    pub policy: watch::Receiver<PolicyStatus>,
    /// For `/metrics`, and for the refused files.
    pub metrics: Metrics,
    /// The organizations that have gauges.
    pub gauged: Arc<GaugedOrganizations>,
    /// Decides who may read quotas. Probes and metrics need no authentication.
    pub authenticator: Authenticator,
    /// Makes the RPCs that arrive as JSON; none: they are not served.
    pub api: Option<InProcessService>,
}

impl AsRef<Authenticator> for HttpState {
    fn as_ref(&self) -> &Authenticator {
        &self.authenticator
    }
}
