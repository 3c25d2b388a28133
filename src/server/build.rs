//! Builds the parts of a service from the settings: policy, store, ports and gRPC services.

use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use tonic::{codec::CompressionEncoding::Gzip, service::Routes};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

use super::{grpc_routes::GrpcRoutes, health::WatchableHealth};
use crate::{
    auth::{self, Authenticator, CallerSet, Callers, PortSecurity},
    envoy::{self, EnvoySettings},
    files::{
        pem::PemFile,
        watched::{LoadError, Watched},
    },
    grpc::{self, CallLayer, QuotaServiceConfig, ReflectionFor},
    net::{ConnectionServer, Limits, Listener, Socket, WatchedCertificates},
    policy::PolicySource,
    settings::{Settings, StoreChoice},
    store::{
        Store,
        clock::system_clock,
        file::FileStore,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
    telemetry::metrics::{Metrics, PortName},
};

pub(super) fn open_policy(settings: &Settings) -> anyhow::Result<PolicySource> {
    let file = settings.policy.as_deref();
    PolicySource::open(file, settings.policy_bytes).map_err(|refusal| {
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
            let cert = client.and_then(|(file, _)| PemFile::read("redis.cert_file", file).ok());
            if let Some(at) = cert.and_then(|cert| cert.expires()) {
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
    grpc: PortSecurity,
    http: PortSecurity,
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

/// Checks who could call over HTTP.
///
/// # Errors
///
/// Everyone could, beyond this machine.
pub(super) fn check_http_api(settings: &Settings, http: PortSecurity) -> anyhow::Result<()> {
    if settings.http_api && settings.callers.is_none() && !http.loopback {
        bail!(
            "http_api: without a callers file, RPCs over HTTP are served on loopback only, and http_listen is {}: \
             name the callers with --callers FILE, or listen on loopback",
            settings.http_listen
        );
    }
    Ok(())
}

/// Binds a port, and loads its certificates.
pub(super) async fn open_listener(
    settings: &Settings,
    name: PortName,
    limits: Limits,
    metrics: &Metrics,
) -> anyhow::Result<(Listener, Option<WatchedCertificates>)> {
    let (setting, address, tls, alpn) = match name {
        PortName::Grpc => ("listen", &settings.listen, &settings.tls, "h2"),
        PortName::Http => {
            let (address, tls) = (&settings.http_listen, &settings.http_tls);
            ("http_listen", address, tls, "http/1.1")
        }
    };
    let tls = tls.clone().map(|tls| tls.open(alpn, metrics)).transpose()?;
    let bound = Socket::bind(address).await;
    let socket = bound.with_context(|| format!("{setting}: can't bind {address}"))?;
    let server = ConnectionServer {
        port: PortSecurity {
            encrypted: tls.is_some(),
            loopback: socket.address()?.is_loopback(),
        },
        name,
        certificates: tls.as_ref().map(|tls| Arc::clone(&tls.certificates)),
        limits,
        connections: metrics.connections(name),
    };
    Ok((Listener { socket, server }, tls))
}

/// The routes of the gRPC port.
pub(super) fn grpc_routes(
    config: &QuotaServiceConfig,
    envoy: &EnvoySettings,
    reflection_for: ReflectionFor,
    health: HealthService,
) -> anyhow::Result<GrpcRoutes> {
    let (bytes, call_timeout) = (config.message_bytes, config.call_timeout);
    let mut services = Routes::builder();
    envoy::add_services(&mut services, config, envoy);
    let health = HealthServer::new(WatchableHealth {
        inner: health,
        stopping: config.stopping.clone(),
    });
    let health = health
        .max_decoding_message_size(bytes)
        .accept_compressed(Gzip);
    let everyone = CallLayer::any_caller(Authenticator::Everyone, call_timeout);
    services.add_service(everyone.layer(health));
    if let Some(by) = reflection_for.authenticator(&config.authenticator) {
        let (v1, v1alpha) = (reflection().build_v1()?, reflection().build_v1alpha()?);
        let v1 = v1.max_decoding_message_size(bytes).accept_compressed(Gzip);
        let v1alpha = v1alpha
            .max_decoding_message_size(bytes)
            .accept_compressed(Gzip);
        let layer = CallLayer::any_caller(by, call_timeout);
        services
            .add_service(layer.clone().layer(v1))
            .add_service(layer.layer(v1alpha));
    }
    Ok(GrpcRoutes::new(
        grpc::service(config.clone()),
        services.routes(),
    ))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(grpc::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
