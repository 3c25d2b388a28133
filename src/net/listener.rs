//! A port: accepts and serves connections, with or without TLS.
//!
//! The accept loops of tonic and axum support no certificates that change at runtime, no limit of connections, no
//! handshake and idle timeouts, and no maximum age.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{BoxError, Router};
use http_body_util::BodyExt as _;
use hyper::{
    Request, Response,
    body::{Body, Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{either::Either, sync::CancellationToken};
use tower_service::Service;

use super::{
    calls::{CallExecutor, Calls},
    connection::{self, ConnectionState, OpenCall},
    limiter::ConnectionLimiter,
    limits::Limits,
    lingering_close::LingeringStream,
    reset_guard::ResetGuard,
    socket::{Socket, Stream},
    tls::Certificates,
};
use crate::{
    auth::{Peer, PortSecurity},
    telemetry::{
        log_limited,
        metrics::{CloseReason, ConnectionRefusal, Connections, PortName},
    },
};

/// What answers the requests of a port.
pub(crate) trait PortService: Clone + Send + Sync + 'static {
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;

    /// Whether requests of this path may take long, or a thread for long.
    fn is_long(&self, path: &str) -> bool;

    fn call(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send + use<Self>;
}

impl PortService for Router {
    type Body = axum::body::Body;

    /// HTTP/1 has one request at a time: it holds up no others.
    fn is_long(&self, _: &str) -> bool {
        false
    }

    fn call(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Self::Body>> + Send + use<> {
        let response = Service::call(&mut self.clone(), request);
        async { response.await.unwrap_or_else(|never| match never {}) }
    }
}

/// A port, bound but not serving yet.
pub(crate) struct Listener {
    pub(crate) socket: Socket,
    pub(crate) server: ConnectionServer,
}

/// Serves the connections of a port.
pub(crate) struct ConnectionServer {
    /// The gRPC port has HTTP/2, the other one HTTP/1.
    pub(crate) name: PortName,
    /// None for plaintext.
    pub(crate) certificates: Option<Certificates>,
    pub(crate) limits: Limits,
    pub(crate) connections: Connections,
    pub(crate) port: PortSecurity,
}

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// HTTP/2 flow control in bytes: bounds what a caller can make the service buffer. Larger windows are not faster
/// (docs/PERFORMANCE.md).
const CONNECTION_WINDOW: u32 = 256 * 1024;
const STREAM_WINDOW: u32 = 64 * 1024;
const SEND_BUFFER: usize = 64 * 1024;

/// The smallest buffer that hyper accepts.
const HTTP1_BUFFER: usize = 8 * 1024;

const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

impl Listener {
    /// Accepts connections until `stop`, and returns when all of them have ended.
    pub(crate) async fn serve(self, service: impl PortService, stop: CancellationToken) {
        let Self { socket, server } = self;
        let server = Arc::new(server);
        let mut tasks = JoinSet::new();
        let mut limiter = ConnectionLimiter::new(server.limits.connections);
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next_with_id() => {
                    limiter.remove(ended.map_or_else(|error| error.id(), |(id, ())| id));
                    continue;
                }
                accepted = socket.accept(), if !limiter.is_over_limit() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                // Mostly the process is out of file descriptors; or the connection ended before it was accepted.
                Err(error) => {
                    log_limited!(warn, %error, "a connection can't be taken");
                    sleep(ACCEPT_RETRY_DELAY).await;
                    continue;
                }
            };
            if !limiter.make_room() {
                server.connections.refused(ConnectionRefusal::TooMany);
                // Dropping the stream closes it.
                continue;
            }
            let state = Arc::new(ConnectionState::new());
            let task = tasks.spawn({
                let (server, state) = (Arc::clone(&server), Arc::clone(&state));
                let (service, stop) = (service.clone(), stop.clone());
                async move { server.serve(stream, from, service, state, &stop).await }
            });
            limiter.add(task.id(), state);
        }
        // So that no new connection waits in its backlog.
        drop(socket);
        while tasks.join_next().await.is_some() {}
    }
}

impl ConnectionServer {
    /// Serves a connection to its end, and counts it.
    async fn serve(
        &self,
        stream: Stream,
        from: Option<SocketAddr>,
        service: impl PortService,
        state: Arc<ConnectionState>,
        stop: &CancellationToken,
    ) {
        let open = self.connections.opened();
        let end = self.serve_stream(stream, from, service, state, stop).await;
        tracing::debug!(?from, ?end, "a connection ended");
        match end {
            Ok(why) => open.closed(why),
            Err(why) => self.connections.refused(why),
        }
    }

    async fn serve_stream(
        &self,
        stream: Stream,
        from: Option<SocketAddr>,
        service: impl PortService,
        state: Arc<ConnectionState>,
        stop: &CancellationToken,
    ) -> Result<CloseReason, ConnectionRefusal> {
        if let Either::Left(tcp) = &stream
            && tcp.set_nodelay(true).is_err()
        {
            return Ok(CloseReason::Error);
        }
        let stream = LingeringStream::new(stream);
        let Some(certificates) = &self.certificates else {
            let peer = Peer::on(self.port, from);
            return self.serve_http(stream, peer, service, state, stop).await;
        };
        let handshake = TlsAcceptor::from(certificates.load_full()).accept(stream);
        let accepted = tokio::select! {
            accepted = timeout(self.limits.handshake_time, handshake) => accepted,
            why = state.close_requested() => return Ok(why),
            () = stop.cancelled() => return Ok(CloseReason::Stopping),
        };
        let accepted = accepted.map_err(|_| ConnectionRefusal::HandshakeTimeout)?;
        let stream = accepted.map_err(|error| {
            tracing::debug!(%error, "the TLS handshake failed");
            ConnectionRefusal::Handshake
        })?;
        let (_, session) = stream.get_ref();
        let peer = match session.peer_certificates().and_then(<[_]>::first) {
            None => Peer::on(self.port, from),
            Some(leaf) => Peer::from_certificate(self.port, from, leaf).map_err(|error| {
                tracing::debug!(%error, "a client certificate is no good");
                ConnectionRefusal::Handshake
            })?,
        };
        self.serve_http(stream, peer, service, state, stop).await
    }

    async fn serve_http(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: Peer,
        service: impl PortService,
        state: Arc<ConnectionState>,
        stop: &CancellationToken,
    ) -> Result<CloseReason, ConnectionRefusal> {
        let limits = &self.limits;
        let (peer, calls) = (Arc::new(peer), Calls::default());
        let (executor, opened) = (calls.executor(), Arc::clone(&state));
        let service = service_fn(move |mut request: Request<Incoming>| {
            let open_call = OpenCall::new(&opened);
            request.extensions_mut().insert(Arc::clone(&peer));
            if service.is_long(request.uri().path()) {
                executor.set_next_is_long();
            }
            let response = service.call(request);
            async move {
                // The closure only owns it: the call counts as open until the body is dropped.
                let body = response.await.map(|body| {
                    body.inspect_err(move |_| {
                        let _ = &open_call;
                    })
                });
                Ok::<_, Infallible>(body)
            }
        });
        match self.name {
            PortName::Grpc => {
                let io = ResetGuard::new(io, limits.cancelled_per_second, Arc::clone(&state));
                let builder = http2_builder(limits, calls.executor());
                let connection = builder.serve_connection(TokioIo::new(io), service);
                connection::serve(connection, calls, &state, limits, stop).await
            }
            PortName::Http => {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.handshake_time)
                    .auto_date_header(false)
                    .max_buf_size(HTTP1_BUFFER.max(limits.header_list_bytes as usize))
                    .serve_connection(TokioIo::new(io), service);
                connection::serve(connection, calls, &state, limits, stop).await
            }
        }
    }
}

fn http2_builder(limits: &Limits, executor: CallExecutor) -> http2::Builder<CallExecutor> {
    let pending_resets = limits.streams_per_connection;
    let pending_resets = pending_resets.saturating_add(limits.cancelled_per_second);
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        // With a date header, hyper panics if the clock is before 1970 or past 9999, after the decision has counted.
        .auto_date_header(false)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_list_bytes)
        // All open calls may be cancelled before the service accepts them, and as many more as the token bucket holds.
        // At a lower limit, hyper would end the connection and all its calls.
        .max_pending_accept_reset_streams(pending_resets as usize)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}
