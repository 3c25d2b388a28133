//! One connection that is kept, shared by all callers, and replaced when it is no good any more.
//!
//! Connections come from deadpool-redis, which sets every timeout. They are not given back between
//! calls: each re-use out of the pool would cost a round trip of its own. A multiplexed connection
//! serves any number of callers at a time.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    PushInfo, PushKind, RedisConnectionInfo, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use tokio::sync::Mutex;

use super::{links::Answered, tls::explained};

/// How long Redis may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To connect and log in.
    pub connect: Duration,
    /// To answer a command.
    pub response: Duration,
}

/// Commands that may wait for their turn on the connection.
const COMMANDS_WAITING: usize = 1024;

pub(super) struct Link {
    /// No two links have the same.
    id: u64,
    pool: Pool,
    expected: Expected,
    replicas: Option<Replicas>,
    kept: ArcSwapOption<MultiplexedConnection>,
    /// One caller connects at a time. Holds how the last attempt failed, if it did.
    connecting: Mutex<Option<Failure>>,
    /// Set by the connection itself as soon as it ends. Seen before a command is sent, so that a
    /// connection which ended while nobody used it fails no call.
    ended: Arc<AtomicBool>,
}

/// What the server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Whatever it is.
    Anything,
    /// A master, by its own word: each new connection asks.
    Master,
}

/// How a command is sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Manner {
    /// To a node of a cluster that the keys are on their way to.
    pub(super) asking: bool,
    /// It writes: answered only once so many replicas have it as must.
    pub(super) writes: bool,
}

/// What an error says that means this.
pub(super) const TOO_FEW_REPLICAS: &str = "too few replicas have it";

/// How many replicas must have a write before it is answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replicas {
    count: u16,
    /// How long they may take.
    patience: Duration,
}

impl Replicas {
    /// None where the master's word is enough.
    pub(super) fn new(count: u16, timeouts: Timeouts) -> Option<Self> {
        // Less than an answer may take: that too few have it is an answer.
        let patience = (timeouts.response / 2).max(Duration::from_millis(1));
        (count > 0).then_some(Self { count, patience })
    }
}

/// Why a command has no answer.
pub(super) enum Failed {
    /// There was no connection to send it over.
    Connecting(RedisError),
    /// It was, or may have been, sent.
    Asking(RedisError),
}

/// An attempt to connect that failed.
pub(super) struct Failure {
    pub(super) began_at: Instant,
    pub(super) ended_at: Instant,
    pub(super) error: RedisError,
}

impl Link {
    pub(super) fn new(
        address: ConnectionAddr,
        login: RedisConnectionInfo,
        timeouts: Timeouts,
        expected: Expected,
        replicas: Option<Replicas>,
    ) -> Result<Self, RedisError> {
        static LINKS: AtomicU64 = AtomicU64::new(0);
        let ended = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&ended);
        let settings = login
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        let tcp = TcpSettings::default().set_nodelay(true);
        let info = address.into_connection_info()?;
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeouts.connect))
            .set_response_timeout(Some(timeouts.response))
            .set_pipeline_buffer_size(COMMANDS_WAITING)
            .set_push_sender(move |push: PushInfo| -> Result<(), redis::aio::SendError> {
                if push.kind == PushKind::Disconnection {
                    tell.store(true, Ordering::Release);
                }
                Ok(())
            });
        let manager = Manager::new_with_config(info, config)?;
        let pool = Pool::builder(manager)
            .max_size(1)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(timeouts.connect))
            .create_timeout(Some(timeouts.connect))
            .recycle_timeout(Some(timeouts.connect))
            .build()
            .map_err(|error| {
                RedisError::from((ErrorKind::InvalidClientConfig, "pool", error.to_string()))
            })?;
        Ok(Self {
            id: LINKS.fetch_add(1, Ordering::Relaxed),
            pool,
            expected,
            replicas,
            kept: ArcSwapOption::empty(),
            connecting: Mutex::new(None),
            ended,
        })
    }

    /// Sends one command. A connection that proves to be no good is dropped, so that the next call
    /// gets a new one.
    pub(super) async fn ask(&self, command: &Cmd, manner: Manner) -> Result<Answered, Failed> {
        let kept = self.connection().await.map_err(Failed::Connecting)?;
        let mut connection = kept.as_ref().clone();
        let replicas = self.replicas.filter(|_| manner.writes);
        if !manner.asking && replicas.is_none() {
            let sent = connection.req_packed_command(command).await;
            return self.answered(&kept, sent);
        }
        // All on one connection, one behind the other: both are about what comes beside them.
        let mut all = redis::pipe();
        if manner.asking {
            all.cmd("ASKING");
        }
        all.add_command(command.clone());
        if let Some(replicas) = replicas {
            let patience = u64::try_from(replicas.patience.as_millis()).unwrap_or(u64::MAX);
            all.cmd("WAIT").arg(replicas.count).arg(patience);
        }
        let (offset, count) = (
            usize::from(manner.asking),
            1 + usize::from(replicas.is_some()),
        );
        let sent = connection.req_packed_commands(&all, offset, count).await;
        let sent = sent.and_then(|values| {
            let mut values = values.into_iter();
            let said = values.next().unwrap_or(Value::Nil).extract_error()?;
            match (replicas, values.next()) {
                (None, _) => Ok(said),
                (Some(replicas), Some(Value::Int(have))) if have >= i64::from(replicas.count) => {
                    Ok(said)
                }
                (Some(replicas), have) => {
                    let why = format!("{} replicas must have it: {have:?}", replicas.count);
                    Err((ErrorKind::Client, TOO_FEW_REPLICAS, why).into())
                }
            }
        });
        self.answered(&kept, sent)
    }

    fn answered(
        &self,
        kept: &Arc<MultiplexedConnection>,
        sent: Result<Value, RedisError>,
    ) -> Result<Answered, Failed> {
        let sent = sent.and_then(Value::extract_error);
        if let Err(error) = &sent
            && must_be_replaced(error)
        {
            let current = self.kept.load();
            if current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, kept))
            {
                self.kept.compare_and_swap(&current, None);
            }
        }
        let answered = sent.map(|value| Answered { value, by: self.id });
        answered.map_err(Failed::Asking)
    }

    /// Connects, where there is no connection.
    pub(super) async fn connect(&self) -> Result<(), RedisError> {
        self.connection().await.map(drop)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.usable().is_some()
    }

    async fn connection(&self) -> Result<Arc<MultiplexedConnection>, RedisError> {
        if let Some(kept) = self.usable() {
            return Ok(kept);
        }
        let asked_at = Instant::now();
        let mut last_failure = self.connecting.lock().await;
        if let Some(kept) = self.usable() {
            return Ok(kept);
        }
        // Who waited through a whole attempt shares its failure: where Redis hangs, the callers would
        // else wait for one timeout each, one after the other.
        if let Some(failure) = last_failure.as_ref()
            && failure.began_at >= asked_at
        {
            return Err(failure.error.clone());
        }
        self.kept.store(None);
        self.ended.store(false, Ordering::Release);
        let began_at = Instant::now();
        let connected = self.new_connection().await;
        *last_failure = connected.as_ref().err().map(|error| Failure {
            began_at,
            ended_at: Instant::now(),
            error: error.clone(),
        });
        let connection = Arc::new(connected?);
        self.kept.store(Some(Arc::clone(&connection)));
        Ok(connection)
    }

    async fn new_connection(&self) -> Result<MultiplexedConnection, RedisError> {
        let connected = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => explained(error),
            error => RedisError::from((ErrorKind::Client, "connecting", error.to_string())),
        });
        let mut connection = Connection::take(connected?);
        if self.expected == Expected::Master {
            let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
            let is_master = |role: &Value| *role == Value::BulkString(b"master".to_vec());
            if !role.first().is_some_and(is_master) {
                let why = "the server is a replica, and not the master".to_owned();
                return Err((ErrorKind::Client, "ROLE", why).into());
            }
        }
        Ok(connection)
    }

    fn usable(&self) -> Option<Arc<MultiplexedConnection>> {
        self.kept
            .load_full()
            .filter(|_| !self.ended.load(Ordering::Acquire))
    }
}

/// Whether the connection is no good any more: broken, stalled, or to a server that was demoted and
/// goes on answering.
pub(super) fn must_be_replaced(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// Asks again, once, where the connection was cut under the question: over a new one. A connection that
/// Redis cuts while it is idle may show it only to the next question. Only for what may run twice: the
/// first may have run, and its answer been lost. So a second failure leaves the first one standing.
pub(super) async fn again_if_cut<T, F>(ask: impl Fn() -> F) -> Result<T, Failed>
where
    F: Future<Output = Result<T, Failed>>,
{
    match ask().await {
        Err(Failed::Asking(error)) if error.is_connection_dropped() => {
            ask().await.map_err(|_| Failed::Asking(error))
        }
        answered => answered,
    }
}
