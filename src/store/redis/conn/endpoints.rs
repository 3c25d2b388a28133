//! How to reach the servers of a URL.

use redis::RedisError;

use super::{
    config::Timeouts,
    connection::{RedisConnection, RequiredRole, WaitReplicas},
    login::Login,
    tls::TlsClient,
    url::Host,
};

/// How to reach any server of a URL.
pub(crate) struct Endpoints {
    /// Over TLS, or in plain.
    pub(crate) tls: Option<TlsClient>,
    pub(crate) login: Login,
    pub(crate) timeouts: Timeouts,
    pub(crate) replicas: Option<WaitReplicas>,
}

impl Endpoints {
    /// A link to one of them; nothing is connected yet.
    pub(crate) fn link(
        &self,
        host: &Host,
        expected: RequiredRole,
    ) -> Result<RedisConnection, RedisError> {
        let (login, timeouts) = (self.login.clone(), self.timeouts);
        let tls = self.tls.clone();
        RedisConnection::new(host.clone(), tls, login, timeouts, expected, self.replicas)
    }
}
