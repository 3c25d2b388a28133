//! The Redis client, for one server, sentinels or a cluster. Callers name a key, and need not know which it is.
//!
//! A command that may have run is not sent again here. It is sent again only after a reply that proves that
//! nothing ran.

pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod endpoint;
pub(crate) mod errors;
pub(crate) mod login;
pub(crate) mod message;
pub(crate) mod sentinel;
pub(crate) mod single_flight;
pub(crate) mod slots;
pub(crate) mod tls;
pub(crate) mod url;

use redis::{Cmd, Value, cluster_routing::Slot};

use self::{
    cluster::Cluster,
    config::{RedisConfig, SetupError, WaitReplicas},
    connection::{RedisConnection, Reply, RequiredRole, SendOptions},
    endpoint::Endpoints,
    errors::SendError,
    sentinel::Sentinel,
    tls::TlsClient,
    url::{Host, Topology},
};

pub(crate) enum RedisClient {
    One(RedisConnection),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

impl RedisClient {
    /// Does not connect yet.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, SetupError> {
        let RedisConfig { url, timeouts, .. } = config;
        let tls = url
            .is_encrypted()
            .then(|| TlsClient::new(config.tls.clone()));
        let servers = Endpoints {
            tls: tls.transpose()?,
            login: url.login.clone(),
            timeouts: *timeouts,
            wait_replicas: WaitReplicas::new(config.wait_replicas, *timeouts),
        };
        Ok(match &url.topology {
            Topology::One => {
                let connection = RedisConnection::new(&servers, &url.hosts[0], RequiredRole::Any);
                Self::One(connection?)
            }
            Topology::Sentinel(name) => {
                let sentinels = Endpoints {
                    tls: servers.tls.clone(),
                    login: config.sentinel_login.clone(),
                    timeouts: *timeouts,
                    wait_replicas: None,
                };
                let connections = url.hosts.iter();
                let connections = connections
                    .map(|host| RedisConnection::new(&sentinels, host, RequiredRole::Any));
                let connections = connections.collect::<Result<_, _>>()?;
                Self::Sentinel(Sentinel::new(name.clone(), connections, servers))
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
        match self {
            Self::One(_) | Self::Sentinel(_) => Ok(vec![format!("{prefix}{{0}}:probe")]),
            Self::Cluster(cluster) => {
                let tags = cluster.tags().await.map_err(SendError::NotSent)?;
                let keys = tags.iter().map(|tag| format!("{prefix}{{{tag}}}:probe"));
                Ok(keys.collect())
            }
        }
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
