//! How a connection to a server comes about: by deadpool-redis, or, over TLS, by a connector of ours, since the client
//! library takes no verifier of certificates.

use std::{io, time::Duration};

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    message::{CONNECTION_RESET, message},
    tls::TlsClient,
    url::Host,
};

const OR_TLS: &str = ": if the port speaks TLS, use rediss://";

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
pub(super) struct KeptConnection {
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

    pub(super) async fn connect(&self, host: &Host) -> Result<KeptConnection, RedisError> {
        match self {
            Self::Plain(pool) => match pool.get().await {
                Ok(connection) => Ok(KeptConnection {
                    connection: Connection::take(connection),
                    _driver: None,
                }),
                Err(PoolError::Backend(error)) => Err(error),
                Err(PoolError::Timeout(_)) => Err(timed_out()),
                Err(error) => Err((ErrorKind::Client, "connecting", error.to_string()).into()),
            },
            Self::Tls(source) => source.connect(host).await,
        }
    }

    /// Why there is no connection.
    pub(super) fn message(&self, error: &RedisError) -> String {
        let words = message(error);
        match self {
            Self::Tls(login) => login.tls.message(error).unwrap_or(words),
            // TLS answers what is no TLS with an alert, or closes the connection.
            Self::Plain(_) if error.kind() == ErrorKind::Parse => {
                format!("the answer is not Redis' protocol{OR_TLS}")
            }
            Self::Plain(_) if words == CONNECTION_RESET => format!("{words}{OR_TLS}"),
            Self::Plain(_) => words,
        }
    }
}

impl TlsLogin {
    async fn connect(&self, host: &Host) -> Result<KeptConnection, RedisError> {
        let deadline = Instant::now() + self.timeout;
        let stream = TcpStream::connect((host.name.as_str(), host.port));
        let stream = timeout_at(deadline, stream).await;
        let stream = stream.map_err(|_| timed_out())??;
        stream.set_nodelay(true)?;
        let stream = timeout_at(deadline, self.tls.handshake(host, stream)).await;
        let stream = stream.map_err(|_| {
            let why =
                "no answer to the TLS handshake: if the port does not speak TLS, use redis://";
            RedisError::from((ErrorKind::Client, "TLS", why.to_owned()))
        })??;
        let config = self.config.clone();
        let made = MultiplexedConnection::new_with_config(&self.login, stream, config);
        let made = timeout_at(deadline, made).await;
        let (connection, driver) = made.map_err(|_| timed_out())??;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(KeptConnection {
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
