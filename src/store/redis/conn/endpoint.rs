//! Connects to a server: through deadpool-redis, or, over TLS, by a handshake of our own, since the client
//! library does not accept a certificate verifier.

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
    config::{Timeouts, WaitReplicas},
    login::Login,
    message::{CONNECTION_RESET, NO_SUCH_FILE, message},
    tls::TlsClient,
    url::Host,
};

const OR_TLS: &str = ": if the port speaks TLS, use rediss://";

/// What the servers of a URL have in common.
pub(crate) struct Endpoints {
    /// `None`: plain text.
    pub(crate) tls: Option<TlsClient>,
    pub(crate) login: Login,
    pub(crate) timeouts: Timeouts,
    pub(crate) wait_replicas: Option<WaitReplicas>,
}

/// One server, and how to connect to it.
pub(crate) struct RedisEndpoint {
    pub(crate) host: Host,
    transport: Transport,
    login: Login,
    config: AsyncConnectionConfig,
    timeout: Duration,
}

enum Transport {
    Plain(Box<ConnectionInfo>),
    Tls(Box<TlsClient>),
}

/// A connection, and the task that drives it, unless the client library spawned that.
pub(crate) struct EstablishedConnection {
    pub(crate) multiplexed: MultiplexedConnection,
    _driver: Option<AbortOnDropHandle<()>>,
}

impl RedisEndpoint {
    pub(crate) fn new(
        host: Host,
        endpoints: &Endpoints,
        config: AsyncConnectionConfig,
    ) -> Result<Self, RedisError> {
        let transport = match &endpoints.tls {
            None => Transport::Plain(Box::new(host.address().into_connection_info()?)),
            Some(tls) => Transport::Tls(Box::new(tls.clone())),
        };
        Ok(Self {
            host,
            transport,
            login: endpoints.login.clone(),
            config,
            timeout: endpoints.timeouts.connect,
        })
    }

    pub(crate) async fn connect(&self) -> Result<EstablishedConnection, RedisError> {
        let login = timeout(self.timeout, self.login.connection_info()).await;
        let login = login.map_err(|_| timed_out())??;
        let login = login
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        match &self.transport {
            // Boxed: the futures of the libraries are large.
            Transport::Plain(info) => Box::pin(self.connect_plain(info, login)).await,
            Transport::Tls(tls) => Box::pin(self.connect_tls(tls, login)).await,
        }
    }

    /// The login may change between connections, so each gets a pool of its own.
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
                multiplexed: Connection::take(connection),
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
    ) -> Result<EstablishedConnection, RedisError> {
        let deadline = Instant::now() + self.timeout;
        let stream = TcpStream::connect((self.host.name.as_str(), self.host.port));
        let stream = timeout_at(deadline, stream).await;
        let stream = stream.map_err(|_| timed_out())??;
        stream.set_nodelay(true)?;
        let stream = timeout_at(deadline, tls.handshake(&self.host, stream)).await;
        let stream = stream.map_err(|_| {
            let why =
                "no answer to the TLS handshake: if the port does not speak TLS, use redis://";
            RedisError::from((ErrorKind::Client, "TLS", why.to_owned()))
        })??;
        let config = self.config.clone();
        let connection = MultiplexedConnection::new_with_config(&login, stream, config);
        let connection = timeout_at(deadline, connection).await;
        let (multiplexed, driver) = connection.map_err(|_| timed_out())??;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(EstablishedConnection {
            multiplexed,
            _driver: Some(driver),
        })
    }

    /// Why connecting failed.
    pub(crate) fn message(&self, error: &RedisError) -> String {
        let words = message(error);
        match &self.transport {
            Transport::Tls(tls) => tls.message(error).unwrap_or(words),
            // A TLS port answers plain text with an alert, or closes the connection.
            Transport::Plain(_) if error.kind() == ErrorKind::Parse => {
                format!("the answer is not Redis' protocol{OR_TLS}")
            }
            Transport::Plain(info)
                if matches!(info.addr(), ConnectionAddr::Unix(_)) && words == NO_SUCH_FILE =>
            {
                "there is no such unix socket".to_owned()
            }
            Transport::Plain(info)
                if !matches!(info.addr(), ConnectionAddr::Unix(_)) && words == CONNECTION_RESET =>
            {
                format!("{words}{OR_TLS}")
            }
            Transport::Plain(_) => words,
        }
    }
}

fn timed_out() -> RedisError {
    io::Error::from(io::ErrorKind::TimedOut).into()
}
