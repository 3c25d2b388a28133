//! A connection that all callers share, and that is replaced when it fails.
//!
//! A multiplexed connection serves any number of callers concurrently. It is not returned to a pool between
//! calls: each checkout would cost a round trip. deadpool-redis opens it, or, over TLS, a handshake of our own, since
//! the client library does not accept a certificate verifier.

use std::{
    future::Future,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use deadpool_redis::{Connection, Manager, Pool, PoolError};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, IntoConnectionInfo, PushInfo, PushKind,
    RedisConnectionInfo, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use tokio::{
    net::TcpStream,
    time::{timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    config::Timeouts,
    errors::{CONNECTION_RESET, SendError, connect_error, message},
    login::Login,
    single_flight::SingleFlight,
    tls::TlsClient,
    url::Host,
};
use crate::store::StoreError;

/// Maximum number of queued commands.
const MAX_WAITING_COMMANDS: usize = 1024;

/// What the connections to the servers of a URL have in common.
pub(crate) struct Endpoints {
    /// `None`: plain text.
    pub(crate) tls: Option<TlsClient>,
    pub(crate) login: Login,
    pub(crate) timeouts: Timeouts,
    /// How many replicas must have a write before it succeeds.
    pub(crate) wait_replicas: u16,
}

/// A server, and the connection to it, if there is one.
pub(crate) struct RedisConnection {
    /// Unique among the connections.
    id: u64,
    pub(crate) host: Host,
    endpoints: Arc<Endpoints>,
    role: RequiredRole,
    current: ArcSwapOption<EstablishedConnection>,
    connecting: SingleFlight,
}

struct EstablishedConnection {
    multiplexed: MultiplexedConnection,
    /// Set when the connection ends or fails. Checked before a command is sent, so a connection that ended while it
    /// was idle fails no call.
    is_ended: Arc<AtomicBool>,
    /// The task that drives the connection, unless the client library spawned it.
    _driver: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequiredRole {
    Any,
    /// A master: each new connection checks it (`ROLE`).
    Master,
}

/// How a command is sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SendOptions {
    /// Sends ASKING first, to a node of a cluster that the slot is moving to.
    pub(crate) asking: bool,
    /// The command writes: it succeeds once enough replicas have the write (WAIT).
    pub(crate) writes: bool,
}

/// A server's reply, and its connection: a scan's cursor is valid only at the same server.
pub(crate) struct Reply {
    pub(crate) value: Value,
    pub(crate) connection_id: u64,
}

impl RedisConnection {
    /// Does not connect yet.
    pub(crate) fn new(endpoints: &Arc<Endpoints>, host: &Host, role: RequiredRole) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            host: host.clone(),
            endpoints: Arc::clone(endpoints),
            role,
            current: ArcSwapOption::empty(),
            connecting: SingleFlight::new(Duration::ZERO),
        }
    }

    /// Sends one command. If it fails for the connection, the next call makes a new one.
    pub(crate) async fn send(
        &self,
        command: &Cmd,
        options: SendOptions,
    ) -> Result<Reply, SendError> {
        let established = self.established().await.map_err(SendError::NotSent)?;
        let mut connection = established.multiplexed.clone();
        let replicas = if options.writes {
            self.endpoints.wait_replicas
        } else {
            0
        };
        let result = if options.asking || replicas > 0 {
            self.send_pipeline(connection, command, options.asking, replicas)
                .await
        } else {
            connection.req_packed_command(command).await
        };
        match result.and_then(Value::extract_error) {
            Ok(value) => Ok(Reply {
                value,
                connection_id: self.id,
            }),
            Err(error) => {
                if must_be_replaced(&error) {
                    established.is_ended.store(true, Ordering::Release);
                }
                Err(SendError::of_sent(error))
            }
        }
    }

    /// Sends ASKING before the command, and WAIT after it: they apply to the commands beside them.
    async fn send_pipeline(
        &self,
        mut connection: MultiplexedConnection,
        command: &Cmd,
        asking: bool,
        replicas: u16,
    ) -> Result<Value, RedisError> {
        let mut pipeline = redis::pipe();
        if asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(command.clone());
        if replicas > 0 {
            // Shorter than the response timeout: the reply to WAIT must arrive before that.
            let timeout = (self.endpoints.timeouts.response / 2).as_millis().max(1);
            let timeout = u64::try_from(timeout).unwrap_or(u64::MAX);
            pipeline.cmd("WAIT").arg(replicas).arg(timeout);
        }
        let replies = connection.req_packed_commands(&pipeline, 0, pipeline.len());
        let mut replies = replies.await?.into_iter();
        let mut next = || replies.next().unwrap_or(Value::Nil).extract_error();
        let asking_failed = if asking { next().err() } else { None };
        // Without ASKING the node redirected the command.
        let reply = next().map_err(|error| asking_failed.unwrap_or(error))?;
        if replicas == 0 {
            return Ok(reply);
        }
        let have = match next() {
            Ok(Value::Int(have)) if have >= i64::from(replicas) => return Ok(reply),
            Ok(have) => format!("{have:?}"),
            Err(error) => message(&error),
        };
        let why = format!("{TOO_FEW_REPLICAS}: {replicas} must have it: {have}");
        Err((ErrorKind::Client, "WAIT", why).into())
    }

    /// Connects, unless there is a connection.
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        self.established().await.map(drop)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.usable().is_some()
    }

    fn usable(&self) -> Option<Arc<EstablishedConnection>> {
        let current = self.current.load_full();
        current.filter(|current| !current.is_ended.load(Ordering::Acquire))
    }

    async fn established(&self) -> Result<Arc<EstablishedConnection>, StoreError> {
        if let Some(usable) = self.usable() {
            return Ok(usable);
        }
        let attempt = async {
            self.current.store(None);
            let established = Arc::new(self.establish().await?);
            self.current.store(Some(Arc::clone(&established)));
            Ok(established)
        };
        let connecting = self
            .connecting
            .run(Instant::now(), |_| self.usable(), attempt);
        connecting.await
    }

    async fn establish(&self) -> Result<EstablishedConnection, StoreError> {
        let host = &self.host;
        let explain = |error: &_| format!("{} [{host}]", self.connect_message(error));
        let mut established = self
            .open()
            .await
            .map_err(|error| connect_error(&error, explain))?;
        if self.role == RequiredRole::Master {
            let role = redis::cmd("ROLE");
            let role = role.query_async(&mut established.multiplexed).await;
            let role: Vec<Value> = role.map_err(|error| connect_error(&error, message))?;
            if role.first() != Some(&Value::BulkString(b"master".to_vec())) {
                let reason = format!("the server is a replica, and not the master [{host}]");
                return Err(StoreError::Unreachable { reason });
            }
        }
        Ok(established)
    }

    /// Connects and logs in.
    async fn open(&self) -> Result<EstablishedConnection, RedisError> {
        let Endpoints {
            tls,
            login,
            timeouts,
            ..
        } = &*self.endpoints;
        let is_ended = Arc::new(AtomicBool::new(false));
        let on_push = Arc::clone(&is_ended);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeouts.connect))
            .set_response_timeout(Some(timeouts.response))
            .set_pipeline_buffer_size(MAX_WAITING_COMMANDS)
            .set_push_sender(move |push: PushInfo| -> Result<(), redis::aio::SendError> {
                if push.kind == PushKind::Disconnection {
                    on_push.store(true, Ordering::Release);
                }
                Ok(())
            });
        let login = timeout(timeouts.connect, login.connection_info()).await;
        let login = login.map_err(io::Error::from)??;
        // Boxed: the futures of the libraries are large.
        let (multiplexed, driver) = match tls {
            None => (Box::pin(self.open_plain(login, config)).await?, None),
            Some(tls) => {
                let opened = Box::pin(self.open_tls(tls, login, config)).await?;
                (opened.0, Some(opened.1))
            }
        };
        Ok(EstablishedConnection {
            multiplexed,
            is_ended,
            _driver: driver,
        })
    }

    /// The login may change between connections, so each gets a pool of its own.
    async fn open_plain(
        &self,
        login: RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        let info = self.host.address().into_connection_info()?;
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = info.set_redis_settings(login).set_tcp_settings(tcp);
        let pool = Pool::builder(Manager::new_with_config(info, config)?).max_size(1);
        let pool = pool.build().expect("only a pool with timeouts can fail");
        match pool.get().await {
            Ok(connection) => Ok(Connection::take(connection)),
            Err(PoolError::Backend(error)) => Err(error),
            Err(error) => Err((ErrorKind::Client, "connecting", error.to_string()).into()),
        }
    }

    async fn open_tls(
        &self,
        tls: &TlsClient,
        login: RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<(MultiplexedConnection, AbortOnDropHandle<()>), RedisError> {
        let deadline = tokio::time::Instant::now() + self.endpoints.timeouts.connect;
        let stream = TcpStream::connect((&*self.host.name, self.host.port));
        let stream = timeout_at(deadline, stream)
            .await
            .map_err(io::Error::from)??;
        stream.set_nodelay(true)?;
        let stream = timeout_at(deadline, tls.handshake(&self.host, stream)).await;
        let stream = stream.map_err(|_| {
            let why =
                "no answer to the TLS handshake: if the port does not speak TLS, use redis://";
            RedisError::from((ErrorKind::Client, "TLS", why.to_owned()))
        })??;
        let connection = MultiplexedConnection::new_with_config(&login, stream, config);
        let connection = timeout_at(deadline, connection).await;
        let (multiplexed, driver) = connection.map_err(io::Error::from)??;
        Ok((multiplexed, AbortOnDropHandle::new(tokio::spawn(driver))))
    }

    /// Why connecting failed.
    fn connect_message(&self, error: &RedisError) -> String {
        const OR_TLS: &str = ": if the port speaks TLS, use rediss://";
        let words = message(error);
        match &self.endpoints.tls {
            Some(tls) => tls.message(error).unwrap_or(words),
            // A TLS port answers plain text with an alert, or closes the connection.
            None if error.kind() == ErrorKind::Parse => {
                format!("the answer is not Redis' protocol{OR_TLS}")
            }
            None if words == CONNECTION_RESET && !self.host.is_socket() => {
                format!("{words}{OR_TLS}")
            }
            None => words,
        }
    }
}

/// The message if too few replicas have a write.
pub(crate) const TOO_FEW_REPLICAS: &str = "too few replicas have it";

/// Whether the connection must be replaced: it is broken, stalled, or to a demoted master, which still answers.
fn must_be_replaced(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// Sends a second time, over a new connection, if the connection was cut during the command: if Redis cut it
/// while it was idle, that may show only then. Only for idempotent commands, since the first may have run. If the
/// second fails too, the first failure is returned.
pub(crate) async fn retry_if_cut<T, F>(send: impl Fn() -> F) -> Result<T, SendError>
where
    F: Future<Output = Result<T, SendError>>,
{
    match send().await {
        Err(failed) if failed.is_cut() => send().await.map_err(|_| failed),
        result => result,
    }
}
