//! How a connection to a server comes about: by deadpool-redis, or, over TLS, by a connector of ours, since the client
//! library takes no verifier of certificates.

use std::{io, time::Duration};

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio_util::task::AbortOnDropHandle;

use super::{tls::TlsClient, url::Host, words::words};

/// Makes the connections of a link.
pub(super) enum Connector {
    Plain(Pool),
    Tls(Box<TlsLogin>),
}

pub(super) struct TlsLogin {
    tls: TlsClient,
    login: RedisConnectionInfo,
    config: AsyncConnectionConfig,
    timeout: Duration,
}

/// A connection, and the task that drives it, where the client library has not made it itself.
pub(super) struct Kept {
    pub(super) connection: MultiplexedConnection,
    _driver: Option<AbortOnDropHandle<()>>,
}

impl Connector {
    pub(super) fn new(
        host: &Host,
        tls: Option<TlsClient>,
        login: RedisConnectionInfo,
        config: AsyncConnectionConfig,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        Ok(match tls {
            None => Self::Plain(pool(host, login, config, timeout)?),
            Some(tls) => Self::Tls(Box::new(TlsLogin {
                tls,
                login,
                config,
                timeout,
            })),
        })
    }

    pub(super) async fn connect(&self, host: &Host) -> Result<Kept, RedisError> {
        match self {
            Self::Plain(pool) => match pool.get().await {
                Ok(connection) => Ok(Kept {
                    connection: Connection::take(connection),
                    _driver: None,
                }),
                Err(PoolError::Backend(error)) => Err(error),
                Err(PoolError::Timeout(_)) => Err(timed_out()),
                Err(error) => Err((ErrorKind::Client, "connecting", error.to_string()).into()),
            },
            Self::Tls(source) => {
                let connected = tokio::time::timeout(source.timeout, source.connect(host)).await;
                connected.unwrap_or_else(|_| Err(timed_out()))
            }
        }
    }

    /// Why there is no connection.
    pub(super) fn words(&self, error: &RedisError) -> String {
        match self {
            Self::Tls(source) => source.tls.words(error),
            // TLS answers what is no TLS with an alert, or not at all.
            Self::Plain(_) if error.kind() == ErrorKind::Parse => Some(
                "the answer is not Redis' protocol: if the port speaks TLS, use rediss://"
                    .to_owned(),
            ),
            Self::Plain(_) => None,
        }
        .unwrap_or_else(|| words(error))
    }
}

impl TlsLogin {
    async fn connect(&self, host: &Host) -> Result<Kept, RedisError> {
        let stream = self.tls.connect(host).await?;
        let config = self.config.clone();
        let made = MultiplexedConnection::new_with_config(&self.login, stream, config).await;
        let (connection, driver) = made?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Kept {
            connection,
            _driver: Some(driver),
        })
    }
}

/// Connections that deadpool makes, one at a time.
fn pool(
    host: &Host,
    login: RedisConnectionInfo,
    config: AsyncConnectionConfig,
    timeout: Duration,
) -> Result<Pool, RedisError> {
    let address = ConnectionAddr::Tcp(host.name.clone(), host.port);
    let tcp = TcpSettings::default().set_nodelay(true);
    let info = address.into_connection_info()?;
    let info = info.set_redis_settings(login).set_tcp_settings(tcp);
    Pool::builder(Manager::new_with_config(info, config)?)
        .max_size(1)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(timeout))
        .create_timeout(Some(timeout))
        .recycle_timeout(Some(timeout))
        .build()
        .map_err(|error| (ErrorKind::InvalidClientConfig, "pool", error.to_string()).into())
}

fn timed_out() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}
