//! One connection that is kept, shared by all callers, and replaced when it is no good any more.
//!
//! Connections come from deadpool-redis, which sets every timeout. They are not given back between
//! calls: each re-use out of the pool would cost a round trip of its own. A multiplexed connection
//! serves any number of callers at a time.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime};
use redis::{
    AsyncConnectionConfig, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    PushInfo, PushKind, RedisError, ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use tokio::sync::Mutex;

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
    pool: Pool,
    kept: ArcSwapOption<MultiplexedConnection>,
    /// One caller connects at a time. Holds how the last attempt failed, if it did.
    connecting: Mutex<Option<Failure>>,
    /// Set by the connection itself as soon as it ends. Seen before a command is sent, so that a
    /// connection which ended while nobody used it fails no call.
    ended: Arc<AtomicBool>,
}

/// Why a command has no answer.
pub(super) enum Failed {
    /// There was no connection to send it over.
    Connecting(RedisError),
    /// It was, or may have been, sent.
    Asking(RedisError),
}

/// An attempt to connect that failed.
struct Failure {
    began_at: Instant,
    error: RedisError,
}

impl Link {
    pub(super) fn new(info: ConnectionInfo, timeouts: Timeouts) -> Result<Self, RedisError> {
        let ended = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&ended);
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        let tcp = TcpSettings::default().set_nodelay(true);
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
        let manager = Manager::new_with_config(info.into_connection_info()?, config)?;
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
            pool,
            kept: ArcSwapOption::empty(),
            connecting: Mutex::new(None),
            ended,
        })
    }

    /// Sends one command. A connection that proves to be no good is dropped, so that the next call
    /// gets a new one.
    pub(super) async fn send(&self, command: &redis::Cmd) -> Result<Value, Failed> {
        let kept = self.connection().await.map_err(Failed::Connecting)?;
        let sent = kept.as_ref().clone().req_packed_command(command).await;
        let sent = sent.and_then(Value::extract_error);
        if let Err(error) = &sent
            && must_be_replaced(error)
        {
            let current = self.kept.load();
            if current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, &kept))
            {
                self.kept.compare_and_swap(&current, None);
            }
        }
        sent.map_err(Failed::Asking)
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
        let connected = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            error => RedisError::from((ErrorKind::Client, "connecting", error.to_string())),
        });
        *last_failure = connected.as_ref().err().map(|error| Failure {
            began_at,
            error: error.clone(),
        });
        let connection = Arc::new(Connection::take(connected?));
        self.kept.store(Some(Arc::clone(&connection)));
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
fn must_be_replaced(error: &RedisError) -> bool {
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
