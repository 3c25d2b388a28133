//! What a service starts with: its policy, its store, and its ports.

use std::{fs, sync::Arc};

use anyhow::{Context as _, anyhow};

use crate::{
    auth,
    files::pem,
    net::{Certificates, Limits, Listener, Protocol, Socket},
    policy::PolicySource,
    settings::{Settings, StoreChoice},
    store::{
        Store,
        clock::system_clock,
        file::FileStore,
        memory::MemoryStore,
        redis::{RedisConfig, RedisStore},
    },
    telemetry::metrics::{self, Metrics},
};

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

/// Binds a port, and reads its certificates.
pub(super) async fn open_listener(
    settings: &Settings,
    protocol: Protocol,
    limits: Limits,
    metrics: &Metrics,
) -> anyhow::Result<Listener> {
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
    let certificates = tls
        .clone()
        .map(|tls| Certificates::read(tls, alpn, metrics));
    let certificates = certificates.transpose()?.map(Arc::new);
    let bound = Socket::bind(address).await;
    let socket = bound.with_context(|| format!("{setting}: can't bind {address}"))?;
    Ok(Listener {
        port: auth::PortSecurity {
            encrypted: certificates.is_some(),
            loopback: socket.address()?.is_loopback(),
        },
        socket,
        protocol,
        certificates,
        limits,
        connections: metrics.connections(of),
    })
}
