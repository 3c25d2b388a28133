//! Builds the parts of a service from the settings: policy, store, ports and gRPC services.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    codec::CompressionEncoding::Gzip,
    service::{Routes, RoutesBuilder},
};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

use super::health::WatchableHealth;
use crate::{
    auth::{self, Authenticator, CallerSet, Callers},
    files::{
        pem,
        watched::{LoadError, Watched},
    },
    grpc::{self, CallLayer, QuotaServiceConfig, ReflectionFor},
    http::{self, Readiness},
    ledger::Ledger,
    net::{CertificateReloader, Limits, Listener, Protocol, Socket},
    policy::{PolicySource, PolicyStatus},
    settings::{Settings, StoreChoice},
    store::{
        Store,
        clock::system_clock,
        file::FileStore,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
    telemetry::{
        metrics::{self, Metrics},
        traces::Traces,
    },
};

/// The parts that both ports use.
pub(super) struct Parts {
    pub(super) ledger: Ledger,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    pub(super) traces: Option<Traces>,
    pub(super) authenticator: Authenticator,
    pub(super) reflection: ReflectionFor,
    pub(super) call_timeout: Duration,
}

/// How long sending the last traces may take.
const TRACE_FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) fn open_policy(settings: &Settings) -> anyhow::Result<PolicySource> {
    let file = settings.policy.as_deref();
    PolicySource::open(file).map_err(|refusal| {
        let name = file.map(|file| file.display().to_string());
        anyhow!("the policy {} {refusal}", name.unwrap_or_default())
    })
}

pub(super) fn open_store(
    settings: &Settings,
    metrics: &Metrics,
) -> anyhow::Result<(Arc<dyn Store>, String)> {
    Ok(match &settings.store {
        StoreChoice::Memory => {
            let store = MemoryStore::new(system_clock(), settings.usage_limits);
            (Arc::new(store), "memory:".to_owned())
        }
        StoreChoice::File(path) => {
            let name = format!("file:{}", path.display());
            let store = FileStore::open(path, system_clock(), settings.usage_limits)
                .with_context(|| format!("the store {name} can't be used"))?;
            (Arc::new(store), name)
        }
        StoreChoice::Redis(config) => {
            let name = config.url.to_string();
            let store = RedisStore::new(RedisConfig::clone(config))
                .with_context(|| format!("the store {name} can't be used"))?;
            let client = config.tls.client.as_ref();
            let cert = client.and_then(|(cert_file, _)| fs::read(cert_file).ok());
            if let Some(at) = cert.and_then(|cert| pem::expires(&cert)) {
                metrics.certificate_expires("redis", at);
            }
            (Arc::new(store), name)
        }
    })
}

/// Reads the callers file, if there is one.
pub(super) fn open_callers(
    settings: &Settings,
) -> anyhow::Result<Option<(Callers, Watched<Callers, LoadError>)>> {
    let Some(path) = &settings.callers else {
        return Ok(None);
    };
    let name = path.display().to_string();
    let load = {
        let name = name.clone();
        move |bytes: &[u8]| Ok(Callers::parse(&name, bytes)?)
    };
    let opened = Watched::open_file(path, auth::MAX_BYTES, load);
    let opened = opened.map_err(|error| anyhow!("the callers file {name} {error}"))?;
    Ok(Some(opened))
}

/// The authenticator of these callers. Without a callers file everyone may call; if a port is not on loopback, the log
/// warns of that.
///
/// # Errors
///
/// The callers have tokens, which the gRPC port must not accept.
pub(super) fn authenticator(
    callers: Option<Callers>,
    grpc: auth::PortSecurity,
    http: auth::PortSecurity,
) -> anyhow::Result<Authenticator> {
    let Some(callers) = callers else {
        if !(grpc.loopback && http.loopback) {
            tracing::warn!(
                "there is no callers file, and a port is not on loopback: everyone who reaches the gRPC port may \
                 reserve, settle and release for any organization, and everyone who reaches the HTTP port may \
                 read quotas; name the callers with --callers FILE"
            );
        }
        return Ok(Authenticator::Everyone);
    };
    let count = callers.iter().len();
    let caller_set = CallerSet::new(callers, grpc).context("the callers file is refused")?;
    tracing::info!(callers = count, "only known callers are answered");
    Ok(Authenticator::Callers(Arc::new(caller_set)))
}

/// Binds a port, and loads its certificates.
pub(super) async fn open_listener(
    settings: &Settings,
    protocol: Protocol,
    limits: Limits,
    metrics: &Metrics,
) -> anyhow::Result<(Listener, Option<CertificateReloader>)> {
    let (setting, address, tls, alpn, of) = match protocol {
        Protocol::Http2 => {
            let (address, tls) = (&settings.listen, &settings.tls);
            ("listen", address, tls, "h2", metrics::PortName::Grpc)
        }
        Protocol::Http1 => {
            let (address, tls) = (&settings.http_listen, &settings.http_tls);
            (
                "http_listen",
                address,
                tls,
                "http/1.1",
                metrics::PortName::Http,
            )
        }
    };
    let tls = tls.clone();
    let reloader = tls.map(|tls| CertificateReloader::open(tls, alpn, metrics));
    let reloader = reloader.transpose()?;
    let bound = Socket::bind(address).await;
    let socket = bound.with_context(|| format!("{setting}: can't bind {address}"))?;
    let listener = Listener {
        port: auth::PortSecurity {
            encrypted: reloader.is_some(),
            loopback: socket.address()?.is_loopback(),
        },
        socket,
        protocol,
        certificates: reloader.as_ref().map(CertificateReloader::certificates),
        limits,
        connections: metrics.connections(of),
    };
    Ok((listener, reloader))
}

impl Parts {
    /// Sends the last traces, until the deadline at the latest.
    pub(super) async fn flush_traces(self, deadline: Instant) {
        if let Some(traces) = self.traces {
            let left = deadline.saturating_duration_since(Instant::now());
            traces.end(left.min(TRACE_FLUSH_TIMEOUT)).await;
        }
    }

    /// The services of the gRPC port.
    pub(super) fn services(
        &self,
        health: HealthService,
        end: &CancellationToken,
        open_calls: &TaskTracker,
    ) -> anyhow::Result<RoutesBuilder> {
        let mut services = Routes::builder();
        services.add_service(grpc::service(QuotaServiceConfig {
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
        let everyone = CallLayer::any_caller(Authenticator::Everyone, self.call_timeout);
        services.add_service(everyone.layer(health));
        if let Some(by) = self.reflection.authenticator(&self.authenticator) {
            let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
            let v1 = v1.max_decoding_message_size(bytes).accept_compressed(Gzip);
            let v1alpha = v1alpha
                .max_decoding_message_size(bytes)
                .accept_compressed(Gzip);
            let layer = CallLayer::any_caller(by, self.call_timeout);
            services
                .add_service(layer.clone().layer(v1))
                .add_service(layer.layer(v1alpha));
        }
        Ok(services)
    }

    /// The routes of the HTTP port.
    pub(super) fn router(
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
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(grpc::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
