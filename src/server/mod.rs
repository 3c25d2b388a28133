//! Binds, wires, runs and drains: everything between settings and a running service.

mod build;
mod callers;
mod counting;
mod health;
mod readiness;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    codec::CompressionEncoding::Gzip,
    service::{Routes, RoutesBuilder},
};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use self::{
    build::{open_listener, open_policy, open_store},
    counting::{count_first_policy, count_policies},
    health::WatchableHealth,
    readiness::{LIVENESS, READINESS, follow_store, report},
};
use crate::{
    auth::Authenticator,
    files::watched::ReloadSignal,
    grpc::{
        self,
        access::{Authorized, ReflectionFor},
        deadline::InTime,
        malformed::MalformedIsInvalid,
        quota::Wiring,
    },
    http::{self, Readiness},
    ledger::Ledger,
    net::{Limits, ListenAddress, Listener, Protocol},
    policy::{PolicySource, PolicyStatus},
    settings::{Settings, StoreChoice, warn_of_unknown_variables},
    telemetry::{metrics::Metrics, traces::Traces},
};

/// After the last open call: how long connections have to close by themselves. Some never would: one
/// that never spoke, one whose other end is gone, one with a reflection stream held open.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the last traces may take to be sent, where the grace period leaves so much.
const TRACE_FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Go on serving for the drain delay, as NOT_SERVING, so that load balancers can follow.
    Draining,
    /// Nobody has to follow: end as soon as the open calls do.
    AtOnce,
}

/// A service that is bound to its ports and not yet running.
pub struct Server {
    grpc: Listener,
    http: Listener,
    policy: PolicySource,
    parts: Parts,
    drain_delay: Duration,
    grace_period: Duration,
}

/// What both ports serve with.
struct Parts {
    ledger: Ledger,
    limits: Limits,
    metrics: Metrics,
    traces: Option<Traces>,
    authenticator: Authenticator,
    /// The file of the callers.
    callers: Option<PathBuf>,
    reflection: ReflectionFor,
    call_timeout: Duration,
}

impl Server {
    /// Reads the policy, prepares the store and binds both ports.
    ///
    /// # Errors
    ///
    /// One clear sentence: what can't be read, used or bound.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        warn_of_unknown_variables();
        for password in &settings.unused_passwords {
            password.warn();
        }
        let policy = open_policy(settings)?;
        let callers = callers::load(settings)?;
        let metrics = Metrics::new();
        let (store, store_name) = open_store(settings, &metrics)?;
        let days = settings.usage_limits.retention_days;
        let limits = settings.limits.fitted_to_open_files();
        let ledger = Ledger::new(policy.policy(), store, settings.on_store_failure, days)
            .with_metrics(metrics.clone())
            .with_most_waiting(settings.waiting_decisions);
        let traces = settings.otlp_endpoint.as_ref();
        let traces = traces.map(|endpoint| Traces::to(endpoint, settings.trace_ratio));
        let traces = traces.transpose().context("otlp_endpoint")?;
        let grpc = open_listener(settings, Protocol::Http2, limits, &metrics).await?;
        let http = open_listener(settings, Protocol::Http1, limits, &metrics).await?;
        let authenticator = callers::of(callers, grpc.port, http.port)?;
        let server = Self {
            grpc,
            http,
            policy,
            parts: Parts {
                ledger,
                limits,
                metrics,
                traces,
                authenticator,
                callers: settings.callers.clone(),
                reflection: settings.reflection,
                call_timeout: settings.call_timeout,
            },
            drain_delay: settings.drain_delay,
            grace_period: settings.grace_period,
        };
        tracing::info!(
            listen = %server.grpc_addr()?,
            http_listen = %server.http_addr()?,
            store = %store_name,
            policy = %server.policy.name(),
            policy_version = %server.policy.status().borrow().version,
            organizations = server.policy.policy().orgs().len(),
            version = env!("CARGO_PKG_VERSION"),
            "tollgate serves tollgate.v1.QuotaService"
        );
        server.policy.log_warnings();
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
        Ok(server)
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

    /// Serves until `stop` says so, then ends cleanly within the grace period. Whoever gives the reload makes
    /// it read its files again.
    ///
    /// # Errors
    ///
    /// A listener failed.
    pub async fn run(
        self,
        reload: ReloadSignal,
        stop: impl Future<Output = Shutdown>,
    ) -> anyhow::Result<()> {
        let Self {
            grpc,
            http,
            policy,
            parts,
            drain_delay,
            grace_period,
        } = self;
        let mut reporter = HealthReporter::new();
        let not_yet = Readiness::NotReady("the store has not answered yet".to_owned());
        let (ready, is_ready) = watch::channel(not_yet);
        report(&reporter, false).await;
        reporter
            .set_service_status(LIVENESS, ServingStatus::Serving)
            .await;
        let (end, open_calls) = (CancellationToken::new(), TaskTracker::new());
        let health = HealthService::from_health_reporter(reporter.clone());
        let services = parts
            .services(health, &end, &open_calls)?
            .routes()
            .prepare();
        let router = parts.router(is_ready, policy.status());
        // As long as calls are answered, which is longer than readiness follows. Begun before the first call.
        let mut followers = parts.follow(policy, [&grpc, &http], reload);
        let following = follow_store(parts.ledger.store_state(), reporter.clone(), ready.clone());
        let mut following = tokio::spawn(following);
        let services = InTime::new(services, parts.call_timeout);
        let mut grpc_port = tokio::spawn(grpc.serve(services, end.clone()));
        let mut http_port = tokio::spawn(http.serve(router, end.clone()));

        let stop = tokio::select! {
            stop = stop => stop,
            ended = &mut grpc_port => return ended.context("the gRPC port is served no more"),
            ended = &mut http_port => return ended.context("the HTTP port is served no more"),
            // These have no end. Without one of them readiness would stay as it is, whatever the store does.
            ended = &mut following => return ended.context("readiness follows the store no more"),
            Some(ended) = followers.join_next() => {
                return ended.context("the store and the files are followed no more");
            }
        };
        let deadline = Instant::now() + grace_period;
        following.abort();
        // Until it has ended, it could still say SERVING again.
        let _ = following.await;
        ready.send_replace(Readiness::NotReady("the service is stopping".to_owned()));
        report(&reporter, false).await;
        if stop == Shutdown::Draining {
            tracing::info!(?drain_delay, "stopping: NOT_SERVING");
            tokio::time::sleep_until((Instant::now() + drain_delay).min(deadline)).await;
        }
        end.cancel();
        // A health watch has no end of its own, and would hold up the open calls' end for ever.
        for name in READINESS.into_iter().chain([LIVENESS]) {
            reporter.clear_service_status(name).await;
        }
        end_of_calls(grpc_port, http_port, open_calls, deadline).await?;
        drop(followers);
        if let Some(traces) = parts.traces {
            let left = deadline.saturating_duration_since(Instant::now());
            traces.end(left.min(TRACE_FLUSH_TIMEOUT)).await;
        }
        tracing::info!("stopped");
        Ok(())
    }
}

impl Parts {
    /// What the gRPC port serves.
    fn services(
        &self,
        health: HealthService,
        end: &CancellationToken,
        open_calls: &TaskTracker,
    ) -> anyhow::Result<RoutesBuilder> {
        let mut services = Routes::builder();
        services.add_service(grpc::quota::service(Wiring {
            ledger: self.ledger.clone(),
            call_timeout: self.call_timeout,
            message_bytes: self.limits.message_bytes,
            open_calls: open_calls.clone(),
            stopping: end.clone(),
            metrics: self.metrics.clone(),
            traces: self.traces.clone(),
            authenticator: self.authenticator.clone(),
        }));
        let bytes = self.limits.message_bytes;
        let health = HealthServer::new(WatchableHealth {
            inner: health,
            stopping: end.clone(),
        });
        let health = health
            .max_decoding_message_size(bytes)
            .accept_compressed(Gzip);
        services.add_service(MalformedIsInvalid(health));
        if let Some(by) = self.reflection.authenticator(&self.authenticator) {
            let (v1, v1alpha) = (reflected().build_v1()?, reflected().build_v1alpha()?);
            let v1 = v1.max_decoding_message_size(bytes).accept_compressed(Gzip);
            let v1alpha = v1alpha
                .max_decoding_message_size(bytes)
                .accept_compressed(Gzip);
            services
                .add_service(Authorized::any_caller(v1, by.clone()))
                .add_service(Authorized::any_caller(v1alpha, by));
        }
        Ok(services)
    }

    /// What the HTTP port serves.
    fn router(
        &self,
        is_ready: watch::Receiver<Readiness>,
        policy: watch::Receiver<PolicyStatus>,
    ) -> axum::Router {
        let (metrics, authenticator) = (self.metrics.clone(), self.authenticator.clone());
        let ledger = self.ledger.clone();
        http::router(
            ledger,
            self.call_timeout,
            is_ready,
            policy,
            metrics,
            authenticator,
        )
    }

    /// Follows the store and the files, until what this gives is dropped.
    fn follow(
        &self,
        policy: PolicySource,
        listeners: [&Listener; 2],
        reload: ReloadSignal,
    ) -> JoinSet<()> {
        let mut followers = JoinSet::new();
        followers.spawn(self.ledger.watch_store());
        for certificates in listeners
            .into_iter()
            .filter_map(|it| it.certificates.clone())
        {
            followers.spawn(certificates.follow(reload.clone()));
        }
        if let Some((path, caller_set)) = self.callers.clone().zip(self.authenticator.caller_set())
        {
            followers.spawn(callers::follow(
                path,
                caller_set,
                reload.clone(),
                self.metrics.clone(),
            ));
        }
        count_first_policy(&self.ledger, &policy.status().borrow(), &self.metrics);
        let counting = count_policies(self.ledger.clone(), policy.status(), self.metrics.clone());
        followers.spawn(counting);
        let ledger = self.ledger.clone();
        followers.spawn(policy.follow(reload, move |policy| ledger.set_policy(policy)));
        followers
    }
}

/// Waits for the open calls, and then a moment for the connections; at the deadline for nothing more.
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
            // A caller who had not heard of the end yet may have called meanwhile.
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

fn reflected() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(grpc::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
