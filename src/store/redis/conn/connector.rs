//! How a connection to a server comes about: by deadpool-redis, or, over TLS, by a connector of ours, since the client
//! library takes no verifier of certificates.

use std::{io, time::Duration};

use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, aio::MultiplexedConnection,
    io::tcp::TcpSettings,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    login::Login,
    message::{CONNECTION_RESET, NO_SUCH_FILE, message},
    tls::TlsClient,
    url::Host,
};

const OR_TLS: &str = ": if the port speaks TLS, use rediss://";

/// Makes the connections of a link.
pub(crate) struct Connector {
    way: Route,
    login: Login,
    config: AsyncConnectionConfig,
    timeout: Duration,
}

enum Route {
    Plain(Box<ConnectionInfo>),
    Tls(Box<TlsClient>),
}

/// A connection, and the task that drives it, where the client library has not made it itself.
pub(crate) struct EstablishedConnection {
    pub(crate) connection: MultiplexedConnection,
    _driver: Option<AbortOnDropHandle<()>>,
}

impl Connector {
    pub(crate) fn new(
        host: &Host,
        tls: Option<TlsClient>,
        login: Login,
        config: AsyncConnectionConfig,
        timeout: Duration,
    ) -> Result<Self, RedisError> {
        let way = match tls {
            None => Route::Plain(Box::new(host.address().into_connection_info()?)),
            Some(tls) => Route::Tls(Box::new(tls)),
        };
        Ok(Self {
            way,
            login,
            config,
            timeout,
        })
    }

    pub(crate) async fn connect(&self, host: &Host) -> Result<EstablishedConnection, RedisError> {
        let login = timeout(self.timeout, self.login.connection_info()).await;
        let login = login.map_err(|_| timed_out())??;
        let login = login
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        match &self.way {
            // Boxed: the futures of the libraries are large.
            Route::Plain(info) => Box::pin(self.connect_plain(info, login)).await,
            Route::Tls(tls) => Box::pin(self.connect_tls(tls, login, host)).await,
        }
    }

    /// Over a connection that deadpool makes. The login may be another one each time, so the pool is made anew.
    async fn connect_plain(
        &self,
        info: &ConnectionInfo,
        login: RedisConnectionInfo,
    ) -> Result<EstablishedConnection, RedisError> {
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.clone();
        let info = info.set_redis_settings(login).set_tcp_settings(tcp);
        let timeout = Some(self.timeout);
        let pool = Pool::builder(Manager::new_with_config(info, self.config.clone())?)
            .max_size(1)
            .runtime(Runtime::Tokio1)
            .wait_timeout(timeout)
            .create_timeout(timeout)
            .recycle_timeout(timeout)
            .build();
        let pool = pool.map_err(|error| {
            RedisError::from((ErrorKind::InvalidClientConfig, "pool", error.to_string()))
        })?;
        match pool.get().await {
            Ok(connection) => Ok(EstablishedConnection {
                connection: Connection::take(connection),
                _driver: None,
            }),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Timeout(_)) => Err(timed_out()),
            Err(error) => Err((ErrorKind::Client, "connecting", error.to_string()).into()),
        }
    }

    async fn connect_tls(
        &self,
        tls: &TlsClient,
        login: RedisConnectionInfo,
        host: &Host,
    ) -> Result<EstablishedConnection, RedisError> {
        let deadline = Instant::now() + self.timeout;
        let stream = TcpStream::connect((host.name.as_str(), host.port));
        let stream = timeout_at(deadline, stream).await;
        let stream = stream.map_err(|_| timed_out())??;
        stream.set_nodelay(true)?;
        let stream = timeout_at(deadline, tls.handshake(host, stream)).await;
        let stream = stream.map_err(|_| {
            let why =
                "no answer to the TLS handshake: if the port does not speak TLS, use redis://";
            RedisError::from((ErrorKind::Client, "TLS", why.to_owned()))
        })??;
        let config = self.config.clone();
        let made = MultiplexedConnection::new_with_config(&login, stream, config);
        let made = timeout_at(deadline, made).await;
        let (connection, driver) = made.map_err(|_| timed_out())??;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(EstablishedConnection {
            connection,
            _driver: Some(driver),
        })
    }

    /// Why there is no connection.
    pub(crate) fn message(&self, error: &RedisError) -> String {
        let words = message(error);
        match &self.way {
            Route::Tls(tls) => tls.message(error).unwrap_or(words),
            // TLS answers what is no TLS with an alert, or closes the connection.
            Route::Plain(_) if error.kind() == ErrorKind::Parse => {
                format!("the answer is not Redis' protocol{OR_TLS}")
            }
            Route::Plain(info) if matches!(info.addr(), ConnectionAddr::Unix(_)) => {
                match words.as_str() {
                    NO_SUCH_FILE => "there is no such unix socket".to_owned(),
                    _ => words,
                }
            }
            Route::Plain(_) if words == CONNECTION_RESET => format!("{words}{OR_TLS}"),
            Route::Plain(_) => words,
        }
    }
}

fn timed_out() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}
