//! Binds, wires, runs and drains: everything between settings and a running service.

mod admission;
mod linger;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::Utc;
use futures_util::TryStreamExt as _;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::Instant};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tonic::transport::server::TcpIncoming;
use tonic_health::{ServingStatus, server::HealthReporter};

use self::linger::Lingering;
use crate::{
    callers::{Admission, Peer, Port},
    grpc::{
        self,
        access::{Authorized, ReflectionFor},
    },
    http::{self, Readiness},
    ledger::{Ledger, StoreState},
    policy::{self, Policy},
    settings::{Settings, StoreChoice},
    store::{
        Store, StoreError,
        file::FileStore,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
};

/// The health name that is SERVING while the process runs.
const LIVENESS: &str = "liveness";

/// The health names that are SERVING while the store would decide.
const READINESS: [&str; 3] = ["readiness", "", "tollgate.v1.QuotaService"];

/// Bounds of one HTTP/2 connection. A reset stream costs the server more than its caller, so how many
/// the caller may provoke is bounded too.
const MAX_STREAMS_PER_CONNECTION: u32 = 1024;
const MAX_LOCAL_RESETS: usize = 1024;
/// How many calls the caller may have cancelled before the service has seen them: all that are open. One
/// more ends the connection, and with it the calls of everyone who shares it.
const MAX_UNSEEN_RESETS: usize = MAX_STREAMS_PER_CONNECTION as usize;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// After the last open call: how long connections have to close by themselves. Some never would: one
/// that never spoke, one whose other end is gone, one with a reflection stream held open.
const LINGER: Duration = Duration::from_secs(1);

/// A listener that serves, in a task of its own.
type Listener = JoinHandle<anyhow::Result<()>>;

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Go on serving for the drain delay, as NOT_SERVING, so that load balancers can follow.
    Draining,
    /// Nobody has to follow: end as soon as the open calls do.
    AtOnce,
}

/// A service that is bound to its ports and not yet running.
pub struct Server {
    grpc: TcpListener,
    http: TcpListener,
    ledger: Ledger,
    admission: Admission,
    reflection: ReflectionFor,
    grpc_port: Port,
    http_port: Port,
    call_timeout: Duration,
    drain_delay: Duration,
    grace_period: Duration,
}

impl Server {
    /// Reads the policy, prepares the store and binds both ports.
    ///
    /// # Errors
    ///
    /// One clear sentence: what can't be read, used or bound.
    pub async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let policy = load_policy(settings)?;
        let callers = admission::load(settings)?;
        let (store, store_name) = open_store(settings)?;
        let days = settings.usage_retention_days;
        let organizations = policy.orgs().len();
        let ledger = Ledger::new(Arc::new(policy), store, settings.on_store_failure, days);
        let grpc = bind("listen", &settings.listen).await?;
        let http = bind("http_listen", &settings.http_listen).await?;
        // Neither port speaks TLS.
        let grpc_port = Port::at(grpc.local_addr()?.ip(), false);
        let http_port = Port::at(http.local_addr()?.ip(), false);
        let admission = admission::of(callers, grpc_port, http_port)?;
        let server = Self {
            grpc,
            http,
            ledger,
            admission,
            reflection: settings.reflection,
            grpc_port,
            http_port,
            call_timeout: settings.call_timeout,
            drain_delay: settings.drain_delay,
            grace_period: settings.grace_period,
        };
        let policy_name = match &settings.policy {
            Some(path) => path.display().to_string(),
            None => policy::BUILTIN_NAME.to_owned(),
        };
        tracing::info!(
            listen = %server.grpc_addr()?,
            http_listen = %server.http_addr()?,
            store = %store_name,
            policy = %policy_name,
            organizations,
            version = env!("CARGO_PKG_VERSION"),
            "tollgate serves tollgate.v1.QuotaService"
        );
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
    pub fn grpc_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.grpc.local_addr()?)
    }

    /// Where HTTP is served.
    ///
    /// # Errors
    ///
    /// The socket has no address.
    pub fn http_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.http.local_addr()?)
    }

    /// Serves until `stop` says so, then ends cleanly within the grace period.
    ///
    /// # Errors
    ///
    /// A listener failed.
    pub async fn run(self, stop: impl Future<Output = Stop>) -> anyhow::Result<()> {
        let Self {
            grpc,
            http,
            ledger,
            admission,
            reflection,
            grpc_port,
            http_port,
            call_timeout,
            drain_delay,
            grace_period,
        } = self;
        let (mut reporter, health) = tonic_health::server::health_reporter();
        let not_yet = Readiness::NotReady("the store has not answered yet".to_owned());
        let (ready, is_ready) = watch::channel(not_yet);
        report(&reporter, false).await;
        reporter
            .set_service_status(LIVENESS, ServingStatus::Serving)
            .await;
        // As long as calls are answered, which is longer than readiness follows.
        let _watcher = AbortOnDropHandle::new(tokio::spawn({
            let ledger = ledger.clone();
            async move { ledger.watch_store().await }
        }));
        let following = follow_store(ledger.store_state(), reporter.clone(), ready.clone());
        let following = tokio::spawn(following);
        let end = CancellationToken::new();
        let open_calls = TaskTracker::new();

        let (mut reflected_v1, mut reflected_v1alpha) = (None, None);
        if let Some(by) = reflection.admission(&admission) {
            let (v1, v1alpha) = (reflected().build_v1()?, reflected().build_v1alpha()?);
            reflected_v1 = Some(Authorized::any_caller(v1, by.clone()));
            reflected_v1alpha = Some(Authorized::any_caller(v1alpha, by));
        }
        let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
        let incoming = incoming.map_ok(move |stream| Lingering::new(stream, grpc_port));
        let grpc_server = tonic::transport::Server::builder()
            .max_concurrent_streams(Some(MAX_STREAMS_PER_CONNECTION))
            .http2_max_local_error_reset_streams(Some(MAX_LOCAL_RESETS))
            .http2_max_pending_accept_reset_streams(Some(MAX_UNSEEN_RESETS))
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_service(health)
            .add_optional_service(reflected_v1)
            .add_optional_service(reflected_v1alpha)
            .add_service(grpc::quota::service(
                ledger.clone(),
                call_timeout,
                open_calls.clone(),
                end.clone(),
                admission.clone(),
            ))
            .serve_with_incoming_shutdown(incoming, end.clone().cancelled_owned());
        let mut grpc_server: Listener =
            tokio::spawn(async move { grpc_server.await.context("the gRPC listener failed") });
        let router = http::router(ledger, call_timeout, is_ready, admission);
        // Of its other ends nothing more is known than how the port is reached.
        let anybody = Peer::anybody(http_port);
        let router = router.layer(axum::Extension(Arc::new(anybody)));
        let end_of_http = end.clone().cancelled_owned();
        let mut http_server: Listener = tokio::spawn(async move {
            let server = axum::serve(http, router).with_graceful_shutdown(end_of_http);
            server.await.context("the HTTP listener failed")
        });

        let stop = tokio::select! {
            stop = stop => stop,
            ended = &mut grpc_server => return ended?,
            ended = &mut http_server => return ended?,
        };
        let deadline = Instant::now() + grace_period;
        following.abort();
        // Until it has ended, it could still say SERVING again.
        let _ = following.await;
        ready.send_replace(Readiness::NotReady("the service is stopping".to_owned()));
        report(&reporter, false).await;
        if stop == Stop::Draining {
            tracing::info!(?drain_delay, "stopping: NOT_SERVING");
            tokio::time::sleep_until((Instant::now() + drain_delay).min(deadline)).await;
        }
        end.cancel();
        // A health watch has no end of its own, and would hold up the open calls' end for ever.
        for name in READINESS.into_iter().chain([LIVENESS]) {
            reporter.clear_service_status(name).await;
        }
        end_of_calls(grpc_server, http_server, open_calls, deadline).await?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Waits for the open calls, and then a moment for the connections; at the deadline for nothing more.
async fn end_of_calls(
    grpc_server: Listener,
    http_server: Listener,
    open_calls: TaskTracker,
    deadline: Instant,
) -> anyhow::Result<()> {
    let both = async { (grpc_server.await, http_server.await) };
    let calls_ended = async {
        open_calls.close();
        open_calls.wait().await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        (grpc, http) = both => grpc?.and(http?)?,
        () = calls_ended => tracing::info!("connections without an open call are closed"),
        () = tokio::time::sleep_until(deadline) => {
            tracing::warn!("the grace period is over: calls that are still open are cut off");
        }
    }
    Ok(())
}

fn load_policy(settings: &Settings) -> anyhow::Result<Policy> {
    let Some(path) = &settings.policy else {
        return Ok(Policy::builtin());
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("the policy {name} can't be read"))?;
    Policy::parse(&name, &text).with_context(|| format!("the policy {name} is refused"))
}

fn open_store(settings: &Settings) -> anyhow::Result<(Arc<dyn Store>, String)> {
    Ok(match &settings.store {
        StoreChoice::Memory => {
            let store = MemoryStore::new(Arc::new(Utc::now), settings.usage_retention_days);
            (Arc::new(store), "memory:".to_owned())
        }
        StoreChoice::File(path) => {
            let name = format!("file:{}", path.display());
            let store = FileStore::open(path, Arc::new(Utc::now), settings.usage_retention_days)
                .with_context(|| format!("the store {name} can't be used"))?;
            (Arc::new(store), name)
        }
        StoreChoice::Redis(config) => {
            let name = config.url.to_string();
            let store = RedisStore::new(RedisConfig::clone(config))
                .with_context(|| format!("the store {name} can't be used"))?;
            (Arc::new(store), name)
        }
    })
}

async fn bind(setting: &str, address: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{setting}: can't bind {address}"))
}

/// Keeps readiness true to whether the store would decide, and tells the log of each change.
async fn follow_store(
    mut state: watch::Receiver<StoreState>,
    reporter: HealthReporter,
    ready: watch::Sender<Readiness>,
) {
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            StoreState::Unknown => {}
            StoreState::Up => {
                tracing::info!("the store answers: SERVING");
                ready.send_replace(Readiness::Ready);
                report(&reporter, true).await;
            }
            StoreState::Down(down) => {
                let error = &down.error;
                match error {
                    StoreError::Refused { .. } => {
                        tracing::warn!(%error, "the store refuses: NOT_SERVING");
                    }
                    StoreError::Unfit { .. } => {
                        tracing::error!(%error, "the store is unfit: NOT_SERVING");
                    }
                    _ => tracing::warn!(%error, "the store does not answer: NOT_SERVING"),
                }
                ready.send_replace(Readiness::NotReady(down.to_string()));
                report(&reporter, false).await;
            }
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

async fn report(reporter: &HealthReporter, ready: bool) {
    let status = if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for name in READINESS {
        reporter.set_service_status(name, status).await;
    }
}

fn reflected() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(grpc::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
