//! The ways to Redis: one server, a master that sentinels watch, or a cluster. Whoever asks names a key,
//! and need not know which it is.
//!
//! None of them sends again what may have run. What they do send again was refused with an answer that
//! proves that nothing ran.

use redis::{Cmd, RedisError, Value, cluster_routing::Slot};

use super::{
    RedisConfig, SetupError, Timeouts,
    cluster::Cluster,
    errors::not_in_a_cluster,
    link::{Expected, Failed, Link, Manner, Replicas},
    login::Login,
    sentinel::Sentinel,
    tls::TlsClient,
    url::{Host, Topology},
};

pub(super) enum Links {
    One(Link),
    Sentinel(Sentinel),
    Cluster(Cluster),
}

/// An answer, and which link gave it: what one server says of its own, such as where a scan goes on,
/// means nothing to another one.
pub(super) struct Answered {
    pub(super) value: Value,
    pub(super) by: u64,
}

/// How to reach any server of a URL.
pub(super) struct Servers {
    /// Over TLS, or in plain.
    tls: Option<TlsClient>,
    login: Login,
    pub(super) timeouts: Timeouts,
    replicas: Option<Replicas>,
}

impl Links {
    pub(super) fn new(config: &RedisConfig) -> Result<Self, SetupError> {
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
        let servers = Servers {
            tls: tls.transpose()?,
            login: url.login.clone(),
            timeouts: *timeouts,
            replicas: Replicas::new(*wait_replicas, *timeouts),
        };
        Ok(match &url.topology {
            Topology::One => Self::One(servers.link(first, Expected::Anything)?),
            Topology::Sentinel(name) => {
                let sentinels = Servers {
                    tls: servers.tls.clone(),
                    login: sentinel_login.clone(),
                    timeouts: *timeouts,
                    replicas: None,
                };
                let links = url.hosts.iter();
                let links = links.map(|host| sentinels.link(host, Expected::Anything));
                let links = links.collect::<Result<_, _>>()?;
                Self::Sentinel(Sentinel::new(name.clone(), links, servers))
            }
            Topology::Cluster => Self::Cluster(Cluster::new(servers, url.hosts.clone())),
        })
    }

    /// Sends one command that reads to the server that has this key.
    pub(super) async fn read(&self, key: &str, command: &Cmd) -> Result<Value, Failed> {
        Ok(self.ask(key, command, Manner::default()).await?.value)
    }

    /// Sends one command to the server that has this key, and tells who answered.
    pub(super) async fn ask(
        &self,
        key: &str,
        command: &Cmd,
        manner: Manner,
    ) -> Result<Answered, Failed> {
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
    pub(super) async fn follow(&self) {
        if let Self::Sentinel(sentinel) = self {
            sentinel.follow().await;
        }
    }

    /// A key on each server that decides. Nothing is ever written there.
    pub(super) async fn probe_keys(&self, prefix: &str) -> Result<Vec<String>, Failed> {
        match self {
            Self::One(_) | Self::Sentinel(_) => Ok(vec![format!("{prefix}{{0}}:probe")]),
            Self::Cluster(cluster) => {
                let tags = cluster.tags().await.map_err(Failed::Known)?;
                let keys = tags.iter().map(|tag| format!("{prefix}{{{tag}}}:probe"));
                Ok(keys.collect())
            }
        }
    }

    /// The master of a cluster that has this key.
    pub(super) fn master(&self, key: &str) -> Option<Host> {
        match self {
            Self::One(_) | Self::Sentinel(_) => None,
            Self::Cluster(cluster) => cluster.master(Slot::for_key(key)),
        }
    }

    /// Whether the organizations are spread over servers, so that no command may be about two of them.
    pub(super) fn are_many(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

impl Servers {
    /// A link to one of them; nothing is connected yet.
    pub(super) fn link(&self, host: &Host, expected: Expected) -> Result<Link, RedisError> {
        let (login, timeouts) = (self.login.clone(), self.timeouts);
        let tls = self.tls.clone();
        Link::new(host.clone(), tls, login, timeouts, expected, self.replicas)
    }
}
