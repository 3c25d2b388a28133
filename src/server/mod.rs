//! Binds, runs and drains a service.

mod build;
mod grpc_routes;
mod health;
mod notifier;
mod reload;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tonic_health::server::HealthService;

use self::{
    build::{
        authenticator, check_http_api, grpc_routes, open_callers, open_listener, open_policy,
        open_store,
    },
    health::{LIVENESS, READINESS, follow_store, live_reporter, report},
    notifier::Notifier,
    reload::Files,
};
use crate::{
    envoy::EnvoySettings,
    files::watched::ReloadSignal,
    grpc::{InProcessService, QuotaServiceConfig, ReflectionFor},
    http::{self, HttpState, Readiness},
    ledger::{Ledger, LedgerConfig},
    net::{ListenAddress, Listener},
    reconcile::{ReconcileSettings, Reconciler, api::UsageApiLimits},
    settings::{Settings, StoreChoice},
    telemetry::{
        metrics::{Metrics, PortName},
        traces::Traces,
    },
};

/// How long connections may stay open after the last open call. Some clients never close theirs: those that sent
/// nothing, are gone, or hold a reflection stream open.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long sending the last traces may take.
const TRACE_FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Keep serving for the drain delay, as NOT_SERVING, so that load balancers can react.
    Draining,
    /// End as soon as the open calls do.
    AtOnce,
}

/// A service that is bound to its ports and not yet running.
pub struct Server {
    grpc: Listener,
    http: Listener,
    files: Files,
    service: QuotaServiceConfig,
    store_kind: Arc<str>,
    envoy: EnvoySettings,
    reconcile: Option<ReconcileSettings>,
    notifier: Notifier,
    reflection: ReflectionFor,
    http_api: Option<InProcessService>,
    drain_delay: Duration,
    grace_period: Duration,
}

impl Server {
    /// Reads the policy, prepares the store and binds both ports.
    ///
    /// # Errors
    ///
    /// A file can't be read, the store can't be used, or a port can't be bound.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        settings.log_warnings();
        let policy = open_policy(settings)?;
        let (callers, watched_callers) = open_callers(settings)?.unzip();
        let metrics = Metrics::default();
        let (store, store_name) = open_store(settings, &metrics)?;
        let limits = settings.limits.fitted_to_open_files();
        let notifier = Notifier::new(settings.notify_url.as_ref(), &metrics);
        let notifier = notifier.context("notify.url")?;
        let ledger = Ledger::new(LedgerConfig {
            notices: Some(notifier.sink()),
            policy: policy.policy(),
            store,
            on_store_failure: settings.on_store_failure,
            usage_retention_days: settings.usage_limits.retention_days,
            max_waiting: settings.waiting_decisions,
            metrics: metrics.clone(),
            reconciled: settings
                .reconcile
                .iter()
                .flat_map(|it| it.orgs.keys().cloned())
                .collect(),
        });
        let traces = settings.otlp_endpoint.as_ref();
        let traces = traces.map(|endpoint| Traces::to(endpoint, settings.trace_ratio));
        let traces = traces.transpose().context("otlp_endpoint")?;
        let (grpc, grpc_tls) = open_listener(settings, PortName::Grpc, limits, &metrics).await?;
        let (http, http_tls) = open_listener(settings, PortName::Http, limits, &metrics).await?;
        let authenticator = authenticator(callers, grpc.server.port, http.server.port)?;
        check_http_api(settings, http.server.port)?;
        let service = QuotaServiceConfig {
            ledger,
            call_timeout: settings.call_timeout,
            message_bytes: limits.message_bytes,
            estimate_bytes: limits.estimate_bytes,
            open_calls: TaskTracker::new(),
            stopping: CancellationToken::new(),
            metrics,
            traces,
            authenticator,
        };
        let http_api = settings.http_api;
        let http_api = http_api.then(|| InProcessService::new(service.clone()));
        let server = Self {
            grpc,
            http,
            files: Files {
                policy,
                callers: watched_callers,
                certificates: grpc_tls.into_iter().chain(http_tls).collect(),
                gauged: Arc::new(settings.gauged.clone()),
            },
            service,
            // What follows may name a host, which not everyone may know.
            store_kind: store_name.split(':').next().unwrap_or_default().into(),
            envoy: settings.envoy.clone(),
            reconcile: settings.reconcile.clone(),
            notifier,
            reflection: settings.reflection,
            http_api,
            drain_delay: settings.drain_delay,
            grace_period: settings.grace_period,
        };
        server.log_start(settings, &store_name)?;
        Ok(server)
    }

    fn log_start(&self, settings: &Settings, store: &str) -> anyhow::Result<()> {
        let policy = &self.files.policy;
        policy.log_warnings();
        for warning in self.envoy.warnings() {
            tracing::warn!("{warning}");
        }
        if settings.policy.is_none() {
            tracing::warn!(
                "the built-in policy knows only the demo organization org-demo (tier 3, all projects \
                 share); name your own with --policy FILE"
            );
        }
        if matches!(settings.store, StoreChoice::Memory) {
            tracing::warn!(
                "the counters are in memory and are forgotten when this process ends; keep them with \
                 --store file:PATH, share them with --store redis://HOST:PORT"
            );
        }
        // Last: what waits for this line finds the warnings.
        tracing::info!(
            listen = %self.grpc_addr()?,
            http_listen = %self.http_addr()?,
            store,
            policy = policy.name(),
            policy_version = %policy.status().borrow().version,
            organizations = policy.policy().orgs.len(),
            version = env!("CARGO_PKG_VERSION"),
            "tollgate serves tollgate.v1.QuotaService"
        );
        Ok(())
    }

    /// Where gRPC is served.
    ///
    /// # Errors
    ///
    /// The socket has no address.
    pub fn grpc_addr(&self) -> anyhow::Result<ListenAddress> {
        Ok(self.grpc.socket.address()?)
    }

    /// Where HTTP is served.
    ///
    /// # Errors
    ///
    /// The socket has no address.
    pub fn http_addr(&self) -> anyhow::Result<ListenAddress> {
        Ok(self.http.socket.address()?)
    }

    /// Serves until `stop` completes, then drains within the grace period. The signal reloads the files.
    ///
    /// # Errors
    ///
    /// A listener failed.
    pub async fn run(
        self,
        signal: ReloadSignal,
        stop: impl Future<Output = Shutdown>,
    ) -> anyhow::Result<()> {
        let service = self.service;
        let mut reporter = live_reporter().await;
        let not_yet = Readiness::NotReady("the store has not answered yet".to_owned());
        let (ready, is_ready) = watch::channel(not_yet);
        let health = HealthService::from_health_reporter(reporter.clone());
        let grpc = grpc_routes(&service, &self.envoy, self.reflection, health)?;
        let http = http::router(HttpState {
            ledger: service.ledger.clone(),
            store_kind: self.store_kind,
            call_timeout: service.call_timeout,
            ready: is_ready,
            policy: self.files.policy.status(),
            metrics: service.metrics.clone(),
            gauged: Arc::clone(&self.files.gauged),
            authenticator: service.authenticator.clone(),
            api: self.http_api,
        });
        // They start before the first call, and run until the last one ends: longer than readiness is set by the store.
        let mut followers = self.files.follow(&service, &signal);
        let reconcile = self.reconcile.map(|it| start_reconcile(it, &service));
        let notifier = self.notifier.start(service.ledger.clone());
        let store_state = service.ledger.store_state();
        let follow = follow_store(store_state, reporter.clone(), ready.clone());
        let mut readiness = tokio::spawn(follow);
        let mut grpc_port = tokio::spawn(self.grpc.serve(grpc, service.stopping.clone()));
        let mut http_port = tokio::spawn(self.http.serve(http, service.stopping.clone()));

        let stop = tokio::select! {
            stop = stop => stop,
            ended = &mut grpc_port => return ended.context("the gRPC port is no longer served"),
            ended = &mut http_port => return ended.context("the HTTP port is no longer served"),
            // Without these tasks, readiness would no longer depend on the store.
            ended = &mut readiness => return ended.context("readiness no longer follows the store"),
            Some(ended) = followers.join_next() => {
                return ended.context("the store and the files are no longer watched");
            }
        };
        let deadline = Instant::now() + self.grace_period;
        readiness.abort();
        // Until it has ended, it could report SERVING again.
        let _ = readiness.await;
        ready.send_replace(Readiness::NotReady("the service is stopping".to_owned()));
        report(&reporter, false).await;
        if stop == Shutdown::Draining {
            let drain_delay = self.drain_delay;
            tracing::info!(?drain_delay, "stopping: NOT_SERVING");
            tokio::time::sleep_until((Instant::now() + drain_delay).min(deadline)).await;
        }
        service.stopping.cancel();
        // Ends open health watches, which would keep calls open.
        for name in READINESS.into_iter().chain([LIVENESS]) {
            reporter.clear_service_status(name).await;
        }
        end_of_calls(grpc_port, http_port, service.open_calls, deadline).await?;
        end_of_reconcile(reconcile, deadline).await;
        notifier.end(deadline).await;
        drop(followers);
        if let Some(traces) = service.traces {
            let left = deadline.saturating_duration_since(Instant::now());
            traces.end(left.min(TRACE_FLUSH_TIMEOUT)).await;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Starts the background reconcile. If it panics, the service goes on without it: no verdict depends on it.
fn start_reconcile(
    settings: ReconcileSettings,
    service: &QuotaServiceConfig,
) -> AbortOnDropHandle<()> {
    let (ledger, metrics) = (service.ledger.clone(), service.metrics.clone());
    let reconciler = Reconciler::new(settings, ledger, metrics, UsageApiLimits::default());
    let run = AssertUnwindSafe(reconciler.run(service.stopping.clone())).catch_unwind();
    AbortOnDropHandle::new(tokio::spawn(async move {
        if run.await.is_err() {
            tracing::error!(
                "the background reconcile has panicked: this replica compares nothing until it restarts"
            );
        }
    }))
}

/// Waits until the background reconcile has ended: it lowers what is only likely, for which the store is watched.
async fn end_of_reconcile(reconcile: Option<AbortOnDropHandle<()>>, deadline: Instant) {
    if let Some(task) = reconcile
        && timeout_at(deadline, task).await.is_err()
    {
        tracing::warn!("the grace period is over: likely external usage may stay until midnight");
    }
}

/// Waits until the open calls have ended, then a moment for the connections, both until the deadline.
async fn end_of_calls(
    grpc_port: JoinHandle<()>,
    http_port: JoinHandle<()>,
    open_calls: TaskTracker,
    deadline: Instant,
) -> anyhow::Result<()> {
    let both = async { (grpc_port.await, http_port.await) };
    let calls_ended = async {
        open_calls.close();
        loop {
            open_calls.wait().await;
            tokio::time::sleep(LINGER_TIMEOUT).await;
            // A caller that had not received GOAWAY yet may have called meanwhile.
            if open_calls.is_empty() {
                break;
            }
        }
    };
    tokio::select! {
        (grpc, http) = both => grpc.and(http)?,
        () = calls_ended => tracing::info!("connections without an open call are closed"),
        () = tokio::time::sleep_until(deadline) => {
            tracing::warn!("the grace period is over: calls that are still open are cut off");
        }
    }
    Ok(())
}
