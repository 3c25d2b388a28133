//! The Redis client, for one server, sentinels or a cluster. Callers name a key, and need not know which it is.
//!
//! A command that may have run is not sent again here. It is sent again only after a reply that proves that
//! nothing ran.

pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod errors;
pub(crate) mod login;
pub(crate) mod sentinel;
pub(crate) mod single_flight;
pub(crate) mod slots;
pub(crate) mod tls;
pub(crate) mod url;

use std::sync::Arc;

use redis::{Cmd, Value, cluster_routing::Slot};

use self::{
    cluster::Cluster,
    config::RedisConfig,
    connection::{Endpoints, RedisConnection, Reply, RequiredRole, SendOptions},
    errors::SendError,
    login::Login,
    sentinel::Sentinel,
    tls::TlsClient,
    url::{Host, Topology},
};
use crate::files::pem::PemError;

pub(crate) enum RedisClient {
    One(RedisConnection),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

impl RedisClient {
    /// Does not connect yet.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, PemError> {
        let RedisConfig { url, timeouts, .. } = config;
        let tls = url.is_encrypted.then(|| TlsClient::new(config.tls.clone()));
        let tls = tls.transpose()?;
        let endpoints = |login: &Login, wait_replicas| {
            Arc::new(Endpoints {
                tls: tls.clone(),
                login: login.clone(),
                timeouts: *timeouts,
                wait_replicas,
            })
        };
        let servers = endpoints(&url.login, config.wait_replicas);
        let connection = |endpoints, host| RedisConnection::new(endpoints, host, RequiredRole::Any);
        Ok(match &url.topology {
            Topology::One => Self::One(connection(&servers, &url.hosts[0])),
            Topology::Sentinel(name) => {
                let sentinels = endpoints(&config.sentinel_login, 0);
                let hosts = url.hosts.iter();
                let sentinels = hosts.map(|host| connection(&sentinels, host)).collect();
                Self::Sentinel(Sentinel::new(name.clone(), sentinels, servers))
            }
            Topology::Cluster => Self::Cluster(Cluster::new(servers, url.hosts.clone())),
        })
    }

    /// Sends one command to the server that has this key.
    pub(crate) async fn send(
        &self,
        key: &str,
        command: &Cmd,
        options: SendOptions,
    ) -> Result<Reply, SendError> {
        let reply = match self {
            Self::One(connection) => connection.send(command, options).await,
            Self::Sentinel(sentinel) => sentinel.send(command, options).await,
            Self::Cluster(cluster) => return cluster.send(key, command, options).await,
        };
        reply.map_err(SendError::outside_a_cluster)
    }

    /// Sends one command that only reads.
    pub(crate) async fn read(&self, key: &str, command: &Cmd) -> Result<Value, SendError> {
        Ok(self.send(key, command, SendOptions::default()).await?.value)
    }

    /// Switches to the master that the sentinels name now. A call notices that its master is gone or refuses, but
    /// not that a master which still answers was replaced.
    pub(crate) async fn refresh(&self) {
        if let Self::Sentinel(sentinel) = self {
            sentinel.refresh().await;
        }
    }

    /// A key on each server that decides. Nothing is written to it.
    pub(crate) async fn probe_keys(&self, prefix: &str) -> Result<Vec<String>, SendError> {
        let tags = match self {
            Self::One(_) | Self::Sentinel(_) => vec!["0".to_owned()],
            Self::Cluster(cluster) => cluster.tags().await.map_err(SendError::NotSent)?,
        };
        let keys = tags.iter().map(|tag| format!("{prefix}{{{tag}}}:probe"));
        Ok(keys.collect())
    }

    /// The master of a cluster that has this key.
    pub(crate) fn master(&self, key: &str) -> Option<Host> {
        match self {
            Self::One(_) | Self::Sentinel(_) => None,
            Self::Cluster(cluster) => cluster.master(Slot::for_key(key)),
        }
    }

    /// Whether organizations are spread over servers, so a command may be about only one of them.
    pub(crate) fn is_sharded(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}
