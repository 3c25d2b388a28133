//! A connection that all callers share, and that is replaced when it fails.
//!
//! A multiplexed connection serves any number of callers concurrently. It is not returned to a pool between
//! calls: each checkout would cost a round trip.

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

use super::{
    config::WaitReplicas,
    endpoint::{Endpoints, EstablishedConnection, RedisEndpoint},
    errors::{SendError, connect_error},
    message::{is_server_error, message},
    single_flight::SingleFlight,
    url::Host,
};
use crate::store::StoreError;

/// Maximum number of queued commands.
const MAX_WAITING_COMMANDS: usize = 1024;

/// A server, and the connection to it, if there is one.
pub(crate) struct RedisConnection {
    /// Unique among the connections.
    id: u64,
    endpoint: RedisEndpoint,
    role: RequiredRole,
    wait_replicas: Option<WaitReplicas>,
    current: ArcSwapOption<EstablishedConnection>,
    connecting: SingleFlight,
    /// Set by the connection itself as soon as it ends. Checked before a command is sent, so a connection that
    /// ended while it was idle fails no call.
    ended: Arc<AtomicBool>,
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
    pub(crate) fn new(
        endpoints: &Endpoints,
        host: &Host,
        role: RequiredRole,
    ) -> Result<Self, RedisError> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let ended = Arc::new(AtomicBool::new(false));
        let on_push = Arc::clone(&ended);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(endpoints.timeouts.connect))
            .set_response_timeout(Some(endpoints.timeouts.response))
            .set_pipeline_buffer_size(MAX_WAITING_COMMANDS)
            .set_push_sender(move |push: PushInfo| -> Result<(), redis::aio::SendError> {
                if push.kind == PushKind::Disconnection {
                    on_push.store(true, Ordering::Release);
                }
                Ok(())
            });
        Ok(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            endpoint: RedisEndpoint::new(host.clone(), endpoints, config)?,
            role,
            wait_replicas: endpoints.wait_replicas,
            current: ArcSwapOption::empty(),
            connecting: SingleFlight::new(Duration::ZERO),
            ended,
        })
    }

    /// Sends one command. Drops the connection if it fails, and the next call makes a new one.
    pub(crate) async fn send(
        &self,
        command: &Cmd,
        options: SendOptions,
    ) -> Result<Reply, SendError> {
        let established = self.connection().await.map_err(SendError::NotSent)?;
        let mut connection = established.multiplexed.clone();
        let wait_replicas = self.wait_replicas.filter(|_| options.writes);
        let result = if options.asking || wait_replicas.is_some() {
            let pipeline = pipeline(command, options.asking, wait_replicas);
            let sent = connection.req_packed_commands(&pipeline, 0, pipeline.len());
            let replies = sent.await;
            replies.and_then(|replies| command_reply(replies, options.asking, wait_replicas))
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
                    self.drop_connection(&established);
                }
                Err(SendError::of_sent(error))
            }
        }
    }

    /// Drops a connection, unless another one has replaced it.
    fn drop_connection(&self, established: &Arc<EstablishedConnection>) {
        let current = self.current.load();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, established))
        {
            self.current.compare_and_swap(&current, None);
        }
    }

    /// Connects, unless there is a connection.
    pub(crate) async fn connect(&self) -> Result<(), StoreError> {
        self.connection().await.map(drop)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.usable().is_some()
    }

    async fn connection(&self) -> Result<Arc<EstablishedConnection>, StoreError> {
        if let Some(usable) = self.usable() {
            return Ok(usable);
        }
        let attempt = async {
            self.current.store(None);
            self.ended.store(false, Ordering::Release);
            let established = self.establish().await;
            let established = Arc::new(established.map_err(|error| connect_error(&error))?);
            self.current.store(Some(Arc::clone(&established)));
            Ok(established)
        };
        let connecting = self
            .connecting
            .run(Instant::now(), |_| self.usable(), attempt);
        connecting.await
    }

    async fn establish(&self) -> Result<EstablishedConnection, RedisError> {
        let host = &self.endpoint.host;
        let mut established = self.endpoint.connect().await.map_err(|error| {
            if is_server_error(&error) {
                return error;
            }
            let why = format!("{} [{host}]", self.endpoint.message(&error));
            (ErrorKind::Io, "connecting", why).into()
        })?;
        if self.role == RequiredRole::Master {
            let role = redis::cmd("ROLE");
            let role: Vec<Value> = role.query_async(&mut established.multiplexed).await?;
            if role.first() != Some(&Value::BulkString(b"master".to_vec())) {
                let why = format!("the server is a replica, and not the master [{host}]");
                return Err((ErrorKind::Client, "ROLE", why).into());
            }
        }
        Ok(established)
    }

    fn usable(&self) -> Option<Arc<EstablishedConnection>> {
        let current = self.current.load_full();
        current.filter(|_| !self.ended.load(Ordering::Acquire))
    }
}

/// ASKING and WAIT apply to the commands beside them, so all are one pipeline.
fn pipeline(command: &Cmd, asking: bool, wait_replicas: Option<WaitReplicas>) -> redis::Pipeline {
    let mut pipeline = redis::pipe();
    if asking {
        pipeline.cmd("ASKING");
    }
    pipeline.add_command(command.clone());
    if let Some(WaitReplicas { count, timeout }) = wait_replicas {
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        pipeline.cmd("WAIT").arg(count).arg(timeout);
    }
    pipeline
}

/// The message if too few replicas have a write.
pub(crate) const TOO_FEW_REPLICAS: &str = "too few replicas have it";

/// The reply to the command, from the replies to its [`pipeline`].
fn command_reply(
    replies: Vec<Value>,
    asking: bool,
    wait_replicas: Option<WaitReplicas>,
) -> Result<Value, RedisError> {
    let mut replies = replies.into_iter();
    let mut next = || replies.next().unwrap_or(Value::Nil).extract_error();
    let asking_reply = if asking { next() } else { Ok(Value::Nil) };
    let reply = match (next(), asking_reply) {
        // Without ASKING the node redirected the command.
        (Err(_), Err(asking_failed)) => return Err(asking_failed),
        (reply, _) => reply?,
    };
    let Some(WaitReplicas { count, .. }) = wait_replicas else {
        return Ok(reply);
    };
    match next() {
        Ok(Value::Int(have)) if have >= i64::from(count) => Ok(reply),
        have => {
            let have = have.map_or_else(|error| message(&error), |have| format!("{have:?}"));
            let why = format!("{TOO_FEW_REPLICAS}: {count} must have it: {have}");
            Err((ErrorKind::Client, "WAIT", why).into())
        }
    }
}

/// Whether the connection must be replaced: it is broken, stalled, or to a demoted master, which still answers.
pub(crate) fn must_be_replaced(error: &RedisError) -> bool {
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
        Err(SendError::OutcomeUnknown(error)) if error.is_connection_dropped() => {
            let again = send().await;
            again.map_err(|_| SendError::OutcomeUnknown(error))
        }
        result => result,
    }
}
