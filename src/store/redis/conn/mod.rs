//! The ways to Redis: one server, a master that sentinels watch, or a cluster. Whoever asks names a key,
//! and need not know which it is.
//!
//! None of them sends again what may have run. What they do send again was refused with an answer that
//! proves that nothing ran.

pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod connector;
pub(crate) mod endpoints;
pub(crate) mod errors;
pub(crate) mod login;
pub(crate) mod message;
pub(crate) mod sentinel;
pub(crate) mod slots;
pub(crate) mod tls;
pub(crate) mod url;

use redis::{Cmd, Value};

use self::{
    cluster::Cluster,
    config::{RedisConfig, SetupError},
    connection::{Failed, RedisConnection, Reply, RequiredRole, SendOptions, WaitReplicas},
    endpoints::Endpoints,
    errors::not_in_a_cluster,
    sentinel::Sentinel,
    url::Topology,
};

pub(crate) enum RedisClient {
    One(RedisConnection),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

impl RedisClient {
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, SetupError> {
        let RedisConfig {
            url,
            tls,
            sentinel_login,
            timeouts,
            wait_replicas,
            ..
        } = config;
        let first = &url.hosts[0];
        let tls = url.is_encrypted().then(|| tls.clone().into_client());
        let servers = Endpoints {
            tls: tls.transpose()?,
            login: url.login.clone(),
            timeouts: *timeouts,
            replicas: WaitReplicas::new(*wait_replicas, *timeouts),
        };
        Ok(match &url.topology {
            Topology::One => Self::One(servers.link(first, RequiredRole::Any)?),
            Topology::Sentinel(name) => {
                let sentinels = Endpoints {
                    tls: servers.tls.clone(),
                    login: sentinel_login.clone(),
                    timeouts: *timeouts,
                    replicas: None,
                };
                let links = url.hosts.iter();
                let links = links.map(|host| sentinels.link(host, RequiredRole::Any));
                let links = links.collect::<Result<_, _>>()?;
                Self::Sentinel(Sentinel::new(name.clone(), links, servers))
            }
            Topology::Cluster => Self::Cluster(Cluster::new(servers, url.hosts.clone())),
        })
    }

    /// Sends one command that reads to the server that has this key.
    pub(crate) async fn read(&self, key: &str, command: &Cmd) -> Result<Value, Failed> {
        Ok(self.ask(key, command, SendOptions::default()).await?.value)
    }

    /// Sends one command to the server that has this key, and tells who answered.
    pub(crate) async fn ask(
        &self,
        key: &str,
        command: &Cmd,
        manner: SendOptions,
    ) -> Result<Reply, Failed> {
        match self {
            Self::One(link) => link.ask(command, manner).await.map_err(not_in_a_cluster),
            Self::Sentinel(sentinel) => {
                let answered = sentinel.ask(command, manner).await;
                answered.map_err(not_in_a_cluster)
            }
            Self::Cluster(cluster) => cluster.ask(key, command, manner).await,
        }
    }

    /// Goes over to another server where one decides in its place; whoever asks it notices by itself where
    /// it refuses or is gone, and not where it goes on answering.
    pub(crate) async fn refresh(&self) {
        if let Self::Sentinel(sentinel) = self {
            sentinel.refresh().await;
        }
    }

    /// A key on each server that decides. Nothing is ever written there.
    pub(crate) async fn probe_keys(&self, prefix: &str) -> Result<Vec<String>, Failed> {
        match self {
            Self::One(_) | Self::Sentinel(_) => Ok(vec![format!("{prefix}{{0}}:probe")]),
            Self::Cluster(cluster) => {
                let tags = cluster.tags().await.map_err(Failed::Known)?;
                let keys = tags.iter().map(|tag| format!("{prefix}{{{tag}}}:probe"));
                Ok(keys.collect())
            }
        }
    }

    /// Whether the organizations are spread over servers, so that no command may be about two of them.
    pub(crate) fn is_sharded(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}
