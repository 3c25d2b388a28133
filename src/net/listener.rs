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
    connection::{self, ConnectionEnd},
    connection_state::{ConnectionState, TrackedService},
    limiter::ConnectionLimiter,
    limits::Limits,
    lingering_close::LingeringStream,
    reset_guard::ResetGuard,
    socket::{Socket, Stream},
    tls::Certificates,
};
use crate::{
    auth::{self, Peer},
    grpc::heard::HeardBody,
    telemetry::{
        LogLimit,
        metrics::{CloseReason, ConnectionRefusal, Connections},
    },
};

/// Which HTTP a port protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// gRPC.
    Http2,
    /// Probes, metrics and the dashboard.
    Http1,
}

/// A port.
pub(crate) struct Listener {
    pub(crate) socket: Socket,
    pub(crate) protocol: Protocol,
    /// None: plaintext.
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) limits: Limits,
    pub(crate) connections: Connections,
    /// What it tells of whoever reaches it.
    pub(crate) port: auth::Port,
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
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

static ACCEPT_FAILURES: LogLimit = LogLimit::new();

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a port can serve: tonic's services, and axum's.
pub(crate) trait HttpService:
    tower_service::Service<
        Request<HeardBody<Incoming>>,
        Response = Response<Self::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// The body of an answer.
    type ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: tower_service::Service<
            Request<HeardBody<Incoming>>,
            Response = Response<B>,
            Error: Into<BoxError>,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = B;
}

impl Listener {
    /// Takes connections until `stop`, and serves them to their end.
    pub(crate) async fn serve(self, service: impl HttpService, stop: CancellationToken) {
        let Self { socket, .. } = &self;
        let port = Arc::new(ConnectionServer {
            port: self.port,
            protocol: self.protocol,
            certificates: self.certificates.clone(),
            limits: self.limits,
            stop: stop.clone(),
        });
        let mut connections = JoinSet::new();
        let mut limiter = ConnectionLimiter::of_at_most(self.limits.connections);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(died) => died.id(),
                    };
                    limiter.left(id);
                    continue;
                }
                accepted = socket.accept(), if !limiter.is_crammed() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    wait_for_sockets(&error).await;
                    continue;
                }
            };
            if !limiter.has_room() {
                self.connections.refused(ConnectionRefusal::TooMany);
                // Dropped: closed at once.
                continue;
            }
            let state = Arc::new(ConnectionState::new());
            let (port, service) = (Arc::clone(&port), service.clone());
            let task = connections.spawn({
                let (state, connections) = (Arc::clone(&state), self.connections.clone());
                async move {
                    let open = connections.opened();
                    let end = port.serve(stream, from, service, state).await;
                    match end {
                        ConnectionEnd::Closed(why) => open.closed(why),
                        ConnectionEnd::Handshake => {
                            connections.refused(ConnectionRefusal::Handshake)
                        }
                        ConnectionEnd::Slow => {
                            connections.refused(ConnectionRefusal::HandshakeTimeout)
                        }
                    }
                    tracing::debug!(?from, ?end, "a connection ended");
                }
            });
            limiter.came(task.id(), state);
        }
        // The socket is closed now, and nobody waits in its backlog.
        drop(self);
        while connections.join_next().await.is_some() {}
    }
}

/// The machine, or this process, has no more sockets; or the connection ended before it was taken.
async fn wait_for_sockets(error: &io::Error) {
    if let Some(left_out) = ACCEPT_FAILURES.admit(std::time::Instant::now()) {
        tracing::warn!(%error, left_out, "a connection can't be taken");
    }
    sleep(ACCEPT_RETRY_DELAY).await;
}

/// What all connections of a port have in common.
struct ConnectionServer {
    port: auth::Port,
    protocol: Protocol,
    certificates: Option<Arc<Certificates>>,
    limits: Limits,
    stop: CancellationToken,
}

impl ConnectionServer {
    async fn serve(
        &self,
        stream: Stream,
        from: Option<SocketAddr>,
        service: impl HttpService,
        state: Arc<ConnectionState>,
    ) -> ConnectionEnd {
        if let Either::Left(tcp) = &stream
            && tcp.set_nodelay(true).is_err()
        {
            return ConnectionEnd::Closed(CloseReason::Error);
        }
        let stream = LingeringStream::new(stream);
        let Some(certificates) = &self.certificates else {
            let peer = Peer::on(self.port, from);
            return self.speak(stream, peer, service, state).await;
        };
        let accepting = TlsAcceptor::from(certificates.current()).accept(stream);
        let accepted = tokio::select! {
            accepted = timeout(self.limits.handshake_time, accepting) => accepted,
            why = state.is_to_leave() => return ConnectionEnd::Closed(why),
            () = self.stop.cancelled() => return ConnectionEnd::Closed(CloseReason::Stopping),
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS");
                return ConnectionEnd::Handshake;
            }
            Err(_) => return ConnectionEnd::Slow,
        };
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let peer = match leaf {
            None => Ok(Peer::on(self.port, from)),
            Some(leaf) => Peer::from_certificate(self.port, from, leaf),
        };
        match peer {
            Ok(peer) => self.speak(stream, peer, service, state).await,
            Err(error) => {
                tracing::debug!(%error, "a client certificate is no good");
                ConnectionEnd::Handshake
            }
        }
    }

    async fn speak<IO>(
        &self,
        io: IO,
        peer: Peer,
        service: impl HttpService,
        state: Arc<ConnectionState>,
    ) -> ConnectionEnd
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.limits;
        let service = TrackedService {
            service,
            state: Arc::clone(&state),
            peer: Arc::new(peer),
        };
        match self.protocol {
            Protocol::Http2 => {
                let io = ResetGuard::new(io, limits.cancelled_per_second, Arc::clone(&state));
                let connection = http2_builder(limits).serve_connection(TokioIo::new(io), service);
                connection::serve(connection, &state, limits, &self.stop).await
            }
            Protocol::Http1 => {
                // Its headers have a time of their own.
                state.spoke();
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.handshake_time)
                    .auto_date_header(false)
                    .max_buf_size(HTTP1_BUFFER.max(limits.header_list_bytes as usize))
                    .serve_connection(TokioIo::new(io), service);
                connection::serve(connection, &state, limits, &self.stop).await
            }
        }
    }
}

/// The least that the client library takes.
const HTTP1_BUFFER: usize = 8 * 1024;

fn http2_builder(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let streams = limits.streams_per_connection;
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // The library panics where the clock is before 1970 or past 9999, and a decision may have counted by then.
        .auto_date_header(false)
        .max_concurrent_streams(streams)
        .max_header_list_size(limits.header_list_bytes)
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
