//! One connection that is kept, shared by all callers, and replaced when it is no good any more.
//!
//! Connections come from a [`Connector`](super::connector). They are not given back between
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
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value,
    aio::ConnectionLike,
};
use tokio::sync::Mutex;

use super::{
    config::Timeouts,
    connector::{Connector, EstablishedConnection},
    login::Login,
    message::{is_server_error, message},
    tls::TlsClient,
    url::Host,
};
use crate::store::StoreError;

/// Commands that may wait for their turn on the connection.
const COMMANDS_WAITING: usize = 1024;

pub(crate) struct RedisConnection {
    /// No two links have the same.
    id: u64,
    host: Host,
    connector: Connector,
    expected: RequiredRole,
    replicas: Option<WaitReplicas>,
    kept: ArcSwapOption<EstablishedConnection>,
    /// One caller connects at a time. Holds how the last attempt failed, if it did.
    connecting: Mutex<Option<Failure<RedisError>>>,
    /// Set by the connection itself as soon as it ends. Seen before a command is sent, so that a
    /// connection which ended while nobody used it fails no call.
    ended: Arc<AtomicBool>,
}

/// What the server must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequiredRole {
    /// Whatever it is.
    Any,
    /// A master, by its own word: each new connection asks.
    Master,
}

/// How a command is sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SendOptions {
    /// To a node of a cluster that the keys are on their way to.
    pub(crate) asking: bool,
    /// It writes: answered only once so many replicas have it as must.
    pub(crate) writes: bool,
}

/// What an error says that means this.
pub(crate) const TOO_FEW_REPLICAS: &str = "too few replicas have it";

/// How many replicas must have a write before it is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WaitReplicas {
    count: u16,
    /// How long they may take.
    patience: Duration,
}

impl WaitReplicas {
    /// None where the master's word is enough.
    pub(crate) fn new(count: u16, timeouts: Timeouts) -> Option<Self> {
        // Less than an answer may take: that too few have it is an answer.
        let patience = (timeouts.response / 2).max(Duration::from_millis(1));
        (count > 0).then_some(Self { count, patience })
    }
}

/// Why a command has no answer.
pub(crate) enum Failed {
    /// No server was found to send it to, or what was found is no store. Nothing was sent that counts.
    Known(StoreError),
    /// There was no connection to send it over.
    Connecting(RedisError),
    /// It was, or may have been, sent.
    Asking(RedisError),
}

/// An answer, and which link gave it: what one server says of its own, such as where a scan goes on,
/// means nothing to another one.
pub(crate) struct Reply {
    pub(crate) value: Value,
    pub(crate) by: u64,
}

/// An attempt to connect that failed.
pub(crate) struct Failure<E> {
    pub(crate) began_at: Instant,
    pub(crate) ended_at: Instant,
    pub(crate) error: E,
}

impl RedisConnection {
    pub(crate) fn new(
        host: Host,
        tls: Option<TlsClient>,
        login: Login,
        timeouts: Timeouts,
        expected: RequiredRole,
        replicas: Option<WaitReplicas>,
    ) -> Result<Self, RedisError> {
        static LINKS: AtomicU64 = AtomicU64::new(0);
        let ended = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&ended);
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
        let connector = Connector::new(&host, tls, login, config, timeouts.connect)?;
        Ok(Self {
            id: LINKS.fetch_add(1, Ordering::Relaxed),
            host,
            connector,
            expected,
            replicas,
            kept: ArcSwapOption::empty(),
            connecting: Mutex::new(None),
            ended,
        })
    }

    /// Sends one command. A connection that proves to be no good is dropped, so that the next call
    /// gets a new one.
    pub(crate) async fn ask(&self, command: &Cmd, manner: SendOptions) -> Result<Reply, Failed> {
        let kept = self.connection().await.map_err(Failed::Connecting)?;
        let mut connection = kept.connection.clone();
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
        let sent = connection.req_packed_commands(&all, 0, all.len()).await;
        let sent = sent.and_then(|values| read_answers(values, manner.asking, replicas));
        self.answered(&kept, sent)
    }

    fn answered(
        &self,
        kept: &Arc<EstablishedConnection>,
        sent: Result<Value, RedisError>,
    ) -> Result<Reply, Failed> {
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
        let answered = sent.map(|value| Reply { value, by: self.id });
        answered.map_err(Failed::Asking)
    }

    /// Connects, where there is no connection.
    pub(crate) async fn connect(&self) -> Result<(), RedisError> {
        self.connection().await.map(drop)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.usable().is_some()
    }

    async fn connection(&self) -> Result<Arc<EstablishedConnection>, RedisError> {
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

    async fn new_connection(&self) -> Result<EstablishedConnection, RedisError> {
        let mut kept = self.connector.connect(&self.host).await.map_err(|error| {
            if is_server_error(&error) {
                return error;
            }
            let words = self.connector.message(&error);
            let why = format!("{words} [{}]", self.host);
            (ErrorKind::Io, "connecting", why).into()
        })?;
        if self.expected == RequiredRole::Master {
            let role = redis::cmd("ROLE");
            let role: Vec<Value> = role.query_async(&mut kept.connection).await?;
            let is_master = |role: &Value| *role == Value::BulkString(b"master".to_vec());
            if !role.first().is_some_and(is_master) {
                let why = format!(
                    "the server is a replica, and not the master [{}]",
                    self.host
                );
                return Err((ErrorKind::Client, "ROLE", why).into());
            }
        }
        Ok(kept)
    }

    fn usable(&self) -> Option<Arc<EstablishedConnection>> {
        self.kept
            .load_full()
            .filter(|_| !self.ended.load(Ordering::Acquire))
    }
}

/// The answer to the command between what is sent before and behind it.
fn read_answers(
    values: Vec<Value>,
    asking: bool,
    replicas: Option<WaitReplicas>,
) -> Result<Value, RedisError> {
    let mut values = values.into_iter();
    let asked = asking.then(|| values.next().unwrap_or(Value::Nil).extract_error());
    let said = values.next().unwrap_or(Value::Nil).extract_error();
    let said = match (said, asked) {
        // Without ASKING the node sent it away.
        (Err(_), Some(Err(not_asked))) => return Err(not_asked),
        (said, _) => said?,
    };
    let Some(replicas) = replicas else {
        return Ok(said);
    };
    match values.next().unwrap_or(Value::Nil).extract_error() {
        Ok(Value::Int(have)) if have >= i64::from(replicas.count) => Ok(said),
        have => {
            let have = have.map_or_else(|error| message(&error), |have| format!("{have:?}"));
            let why = format!(
                "{TOO_FEW_REPLICAS}: {} must have it: {have}",
                replicas.count
            );
            Err((ErrorKind::Client, "WAIT", why).into())
        }
    }
}

/// Whether the connection is no good any more: broken, stalled, or to a server that was demoted and
/// goes on answering.
pub(crate) fn must_be_replaced(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// Asks again, once, where the connection was cut under the question: over a new one. A connection that
/// Redis cuts while it is idle may show it only to the next question. Only for what may run twice: the
/// first may have run, and its answer been lost. So a second failure leaves the first one standing.
pub(crate) async fn retry_if_cut<T, F>(ask: impl Fn() -> F) -> Result<T, Failed>
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
