//! A port: accepts and serves connections, with or without TLS.
//!
//! The accept loops of tonic and axum support no certificates that change at runtime, no limit of connections, no
//! handshake and idle timeouts, and no maximum age.

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
use tokio_util::{either::Either, io::InspectReader, sync::CancellationToken};

use super::{
    connection::{self, ConnectionEnd},
    connection_state::{ConnectionState, TrackedService},
    limiter::ConnectionLimiter,
    limits::Limits,
    lingering_close::LingeringStream,
    socket::{Socket, Stream},
    tls::Certificates,
};
use crate::{
    auth::{self, Peer},
    telemetry::{
        LogLimit,
        metrics::{CloseReason, ConnectionRefusal, Connections},
    },
};

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// For gRPC.
    Http2,
    /// For probes, metrics and the dashboard.
    Http1,
}

/// A port, bound but not serving yet.
pub(crate) struct Listener {
    pub(crate) socket: Socket,
    pub(crate) protocol: Protocol,
    /// None for plaintext.
    pub(crate) certificates: Option<Arc<Certificates>>,
    pub(crate) limits: Limits,
    pub(crate) connections: Connections,
    pub(crate) port: auth::PortSecurity,
}

/// The preface of HTTP/2 and the header of its first frame (RFC 9113, 3.4 and 4.1).
const HTTP2_BEGINNING_BYTES: usize = 24 + 9;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// HTTP/2 flow control in bytes: bounds what a caller can make the service buffer. Larger windows are not faster
/// (docs/PERFORMANCE.md).
const CONNECTION_WINDOW: u32 = 256 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const SEND_BUFFER: usize = 64 * 1024;

/// Wait after a failed accept: mostly the process is out of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

static ACCEPT_FAILURES: LogLimit = LogLimit::new();

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A service that a port can serve: tonic's or axum's.
pub(crate) trait HttpService:
    tower_service::Service<
        Request<Incoming>,
        Response = Response<Self::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// The body of a response.
    type ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: tower_service::Service<
            Request<Incoming>,
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
    /// Accepts connections until `stop`, and returns when all of them have ended.
    pub(crate) async fn serve(self, service: impl HttpService, stop: CancellationToken) {
        let Self { socket, .. } = &self;
        let server = Arc::new(ConnectionServer {
            port: self.port,
            protocol: self.protocol,
            certificates: self.certificates.clone(),
            limits: self.limits,
            stop: stop.clone(),
        });
        let mut connections = JoinSet::new();
        let mut limiter = ConnectionLimiter::new(self.limits.connections);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => error.id(),
                    };
                    limiter.remove(id);
                    continue;
                }
                accepted = socket.accept(), if !limiter.is_over_limit() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    wait_after_accept_error(&error).await;
                    continue;
                }
            };
            if !limiter.make_room() {
                self.connections.refused(ConnectionRefusal::TooMany);
                // Dropping the stream closes it.
                continue;
            }
            let state = Arc::new(ConnectionState::new());
            let (server, service) = (Arc::clone(&server), service.clone());
            let task = connections.spawn({
                let (state, connections) = (Arc::clone(&state), self.connections.clone());
                async move {
                    let open = connections.opened();
                    let end = server.serve(stream, from, service, state).await;
                    match end {
                        ConnectionEnd::Closed(why) => open.closed(why),
                        ConnectionEnd::Handshake => {
                            connections.refused(ConnectionRefusal::Handshake)
                        }
                        ConnectionEnd::HandshakeTimeout => {
                            connections.refused(ConnectionRefusal::HandshakeTimeout)
                        }
                    }
                    tracing::debug!(?from, ?end, "a connection ended");
                }
            });
            limiter.add(task.id(), state);
        }
        // Closes the socket, so that no new connection waits in its backlog.
        drop(self);
        while connections.join_next().await.is_some() {}
    }
}

/// Logs a failed accept (out of file descriptors, or a connection that ended before it was accepted) and waits.
async fn wait_after_accept_error(error: &io::Error) {
    if let Some(left_out) = ACCEPT_FAILURES.admit(std::time::Instant::now()) {
        tracing::warn!(%error, left_out, "a connection can't be taken");
    }
    sleep(ACCEPT_RETRY_DELAY).await;
}

/// Serves the connections of a port.
struct ConnectionServer {
    port: auth::PortSecurity,
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
            return self.serve_http(stream, peer, service, state).await;
        };
        let handshake = TlsAcceptor::from(certificates.current()).accept(stream);
        let accepted = tokio::select! {
            accepted = timeout(self.limits.handshake_time, handshake) => accepted,
            why = state.close_requested() => return ConnectionEnd::Closed(why),
            () = self.stop.cancelled() => return ConnectionEnd::Closed(CloseReason::Stopping),
        };
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the TLS handshake failed");
                return ConnectionEnd::Handshake;
            }
            Err(_) => return ConnectionEnd::HandshakeTimeout,
        };
        let (_, session) = stream.get_ref();
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let peer = match leaf {
            None => Ok(Peer::on(self.port, from)),
            Some(leaf) => Peer::from_certificate(self.port, from, leaf),
        };
        match peer {
            Ok(peer) => self.serve_http(stream, peer, service, state).await,
            Err(error) => {
                tracing::debug!(%error, "a client certificate is no good");
                ConnectionEnd::Handshake
            }
        }
    }

    async fn serve_http<IO>(
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
                let mut received = 0;
                let begun = Arc::clone(&state);
                let io = InspectReader::new(io, move |bytes: &[u8]| {
                    received += bytes.len();
                    if received >= HTTP2_BEGINNING_BYTES {
                        begun.set_begun();
                    }
                });
                let connection = http2_builder(limits).serve_connection(TokioIo::new(io), service);
                connection::serve(connection, &state, limits, &self.stop).await
            }
            Protocol::Http1 => {
                // hyper's header timeout takes the place of the handshake timeout.
                state.set_begun();
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

/// The smallest buffer that hyper accepts.
const HTTP1_BUFFER: usize = 8 * 1024;

/// h2's bounds of cancelled calls stay as they are (docs/decisions/cancelled-calls.md).
fn http2_builder(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // With a date header, hyper panics if the clock is before 1970 or past 9999, after the decision has counted.
        .auto_date_header(false)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_list_bytes)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}
