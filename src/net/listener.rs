//! A port that is served: connections are taken, encrypted, served and ended.
//!
//! This is the accept loop that tonic and axum have too, and they leave no room for: certificates that change
//! while it runs, a bound on connections, on how long they take to begin, idle, and live.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http_body::Body;
use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken};

use super::{
    activity::{Activity, Counted},
    bounds::Bounds,
    connection::{self, End},
    crowd::Crowd,
    linger::Lingering,
    paced::Paced,
    socket::{Socket, Stream},
    tls::Certificates,
};
use crate::{
    auth::{self, Peer},
    telemetry::{
        Throttle,
        metrics::{Closing, Connections, Refusal},
    },
};

/// Which HTTP a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// gRPC.
    Http2,
    /// Probes, metrics and the dashboard.
    Http1,
}

/// A port.
pub(crate) struct Listener {
    pub(crate) socket: Socket,
    pub(crate) speaks: Speaks,
    /// None: plaintext.
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) bounds: Bounds,
    pub(crate) connections: Connections,
    /// What it tells of whoever reaches it.
    pub(crate) port: auth::PortSecurity,
}

/// A reset stream costs the server more than its caller, so how many the caller may provoke is bounded.
const MAX_LOCAL_RESETS: usize = 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection may have on its way to us, and one of its calls. More makes nothing faster
/// (docs/PERFORMANCE.md), and is what a caller can make the service keep.
const CONNECTION_WINDOW: u32 = 256 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const SEND_BUFFER: usize = 64 * 1024;

/// After the machine had no more sockets.
const BREATH: Duration = Duration::from_millis(50);

static TROUBLE: Throttle = Throttle::new();

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a port can serve: tonic's services, and axum's.
pub(crate) trait Serves:
    tower_service::Service<
        Request<Incoming>,
        Response = Response<Self::Answer>,
        Error: Into<Failure>,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// The body of an answer.
    type Answer: Body<Data: Send, Error: Into<Failure>> + Send + 'static;
}

impl<S, B> Serves for S
where
    S: tower_service::Service<
            Request<Incoming>,
            Response = Response<B>,
            Error: Into<Failure>,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data: Send, Error: Into<Failure>> + Send + 'static,
{
    type Answer = B;
}

impl Listener {
    /// Takes connections until `stop`, and serves them to their end.
    pub(crate) async fn serve(self, service: impl Serves, stop: CancellationToken) {
        let Self { socket, .. } = &self;
        let port = Arc::new(Serving {
            port: self.port,
            speaks: self.speaks,
            certificates: self.certificates.clone(),
            bounds: self.bounds,
            stop: stop.clone(),
        });
        let mut connections = JoinSet::new();
        let mut crowd = Crowd::of_at_most(self.bounds.connections);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(died) => died.id(),
                    };
                    crowd.left(id);
                    continue;
                }
                accepted = socket.accept(), if !crowd.is_crammed() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    wait_for_sockets(&error).await;
                    continue;
                }
            };
            if !crowd.has_room() {
                self.connections.refused(Refusal::TooMany);
                // Dropped: closed at once.
                continue;
            }
            let activity = Arc::new(Activity::new());
            let (port, service) = (Arc::clone(&port), service.clone());
            let task = connections.spawn({
                let (activity, connections) = (Arc::clone(&activity), self.connections.clone());
                async move {
                    let open = connections.opened();
                    let end = port.serve(stream, from, service, activity).await;
                    match end {
                        End::Closed(why) => open.closed(why),
                        End::Handshake => connections.refused(Refusal::Handshake),
                        End::Slow => connections.refused(Refusal::HandshakeTimeout),
                    }
                    tracing::debug!(?from, ?end, "a connection ended");
                }
            });
            crowd.came(task.id(), activity);
        }
        // The socket is closed now, and nobody waits in its backlog.
        drop(self);
        while connections.join_next().await.is_some() {}
    }
}

/// The machine, or this process, has no more sockets; or the connection ended before it was taken.
async fn wait_for_sockets(error: &io::Error) {
    if let Some(left_out) = TROUBLE.admit(std::time::Instant::now()) {
        tracing::warn!(%error, left_out, "a connection can't be taken");
    }
    sleep(BREATH).await;
}

/// What all connections of a port have in common.
struct Serving {
    port: auth::PortSecurity,
    speaks: Speaks,
    certificates: Option<Arc<Certificates>>,
    bounds: Bounds,
    stop: CancellationToken,
}

impl Serving {
    async fn serve(
        &self,
        stream: Stream,
        from: Option<SocketAddr>,
        service: impl Serves,
        activity: Arc<Activity>,
    ) -> End {
        if let Either::Left(tcp) = &stream
            && tcp.set_nodelay(true).is_err()
        {
            return End::Closed(Closing::Error);
        }
        let stream = Lingering::new(stream);
        let Some(certificates) = &self.certificates else {
            let peer = Peer::on(self.port, from);
            return self.speak(stream, peer, service, activity).await;
        };
        let accepting = TlsAcceptor::from(certificates.current()).accept(stream);
        let accepted = tokio::select! {
            accepted = timeout(self.bounds.handshake_time, accepting) => accepted,
            why = activity.is_to_leave() => return End::Closed(why),
            () = self.stop.cancelled() => return End::Closed(Closing::Stopping),
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS");
                return End::Handshake;
            }
            Err(_) => return End::Slow,
        };
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let peer = match leaf {
            None => Ok(Peer::on(self.port, from)),
            Some(leaf) => Peer::from_certificate(self.port, from, leaf),
        };
        match peer {
            Ok(peer) => self.speak(stream, peer, service, activity).await,
            Err(error) => {
                tracing::debug!(%error, "a client certificate is no good");
                End::Handshake
            }
        }
    }

    async fn speak<IO>(
        &self,
        io: IO,
        peer: Peer,
        service: impl Serves,
        activity: Arc<Activity>,
    ) -> End
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let bounds = &self.bounds;
        let service = Counted {
            service,
            activity: Arc::clone(&activity),
            peer: Arc::new(peer),
        };
        match self.speaks {
            Speaks::Http2 => {
                let io = Paced::new(io, bounds.cancelled_per_second, Arc::clone(&activity));
                let connection = http2_builder(bounds).serve_connection(TokioIo::new(io), service);
                connection::serve(connection, &activity, bounds, &self.stop).await
            }
            Speaks::Http1 => {
                // Its headers have a time of their own.
                activity.spoke();
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(bounds.handshake_time)
                    .auto_date_header(false)
                    .max_buf_size(HTTP1_BUFFER.max(bounds.header_list_bytes as usize))
                    .serve_connection(TokioIo::new(io), service);
                connection::serve(connection, &activity, bounds, &self.stop).await
            }
        }
    }
}

/// The least that the client library takes.
const HTTP1_BUFFER: usize = 8 * 1024;

fn http2_builder(bounds: &Bounds) -> http2::Builder<TokioExecutor> {
    let streams = bounds.streams_per_connection;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // The library panics where the clock is before 1970 or past 9999, and a decision may have counted by then.
        .auto_date_header(false)
        .max_concurrent_streams(streams)
        .max_header_list_size(bounds.header_list_bytes)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        // How many calls the caller may have cancelled before the service has seen them: all that are open.
        // One more ends the connection, and with it the calls of everyone who shares it.
        .max_pending_accept_reset_streams(streams as usize)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}
