//! The gRPC service on the test's own ports, which report connection details like the real listener.

use std::{
    fs, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tollgate::{
    auth::{Authenticator, Peer, PortSecurity},
    grpc::{self, QuotaServiceConfig},
    ledger::Ledger,
    telemetry::metrics::Metrics,
};
use tonic::{
    metadata::AsciiMetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{
        Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, server::Connected,
    },
};

use super::ENCRYPTED;
use crate::support::certificates::{Authority, Files};

/// The name in the service's certificate.
pub(super) const HOST: &str = "localhost";

/// A served port, until this is dropped.
pub(super) struct TestPort {
    pub(super) address: SocketAddr,
    /// The authority of its certificate; `None` for plaintext.
    ca: Option<String>,
    _serving: AbortOnDropHandle<()>,
}

/// A channel whose calls carry these `authorization` headers.
pub(super) type AuthorizedChannel = InterceptedService<Channel, Headers>;

#[derive(Clone)]
pub(super) struct Headers(Vec<AsciiMetadataValue>);

impl Interceptor for Headers {
    fn call(&mut self, mut call: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        for header in &self.0 {
            call.metadata_mut().append("authorization", header.clone());
        }
        Ok(call)
    }
}

impl TestPort {
    pub(super) fn is_encrypted(&self) -> bool {
        self.ca.is_some()
    }

    /// A channel with these credentials.
    pub(super) fn channel(
        &self,
        certificate: Option<&Files>,
        headers: &[&str],
    ) -> AuthorizedChannel {
        let scheme = if self.is_encrypted() { "https" } else { "http" };
        let mut endpoint =
            Endpoint::from_shared(format!("{scheme}://{HOST}:{}", self.address.port())).unwrap();
        if let Some(ca) = &self.ca {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            if let Some(Files { cert, key }) = certificate {
                let [cert, key] = [cert, key].map(|file| fs::read(file).unwrap());
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        let headers = headers.iter().map(|it| it.parse().unwrap()).collect();
        InterceptedService::new(endpoint.connect_lazy(), Headers(headers))
    }
}

/// A connection with known peer details.
struct Connection<S> {
    stream: S,
    peer: Arc<Peer>,
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.peer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves without TLS, on a port with this security.
pub(super) async fn plaintext(
    ledger: Ledger,
    authenticator: Authenticator,
    port: PortSecurity,
) -> TestPort {
    let accept = move |stream: TcpStream, from| async move {
        let peer = Arc::new(Peer::on(port, from));
        Ok(Connection { stream, peer })
    };
    serve(ledger, authenticator, None, accept).await
}

/// Serves without connection details.
pub(super) async fn bare(ledger: Ledger, authenticator: Authenticator) -> TestPort {
    serve(ledger, authenticator, None, async |stream: TcpStream, _| {
        Ok(stream)
    })
    .await
}

/// Serves over TLS, to clients with a certificate of this authority or none.
pub(super) async fn tls(
    ledger: Ledger,
    authenticator: Authenticator,
    authority: &Authority,
    files: &Files,
) -> TestPort {
    let ca = fs::read_to_string(authority.file()).unwrap();
    let mut roots = RootCertStore::empty();
    let authorities = CertificateDer::pem_slice_iter(ca.as_bytes());
    roots.add_parsable_certificates(authorities.map(Result::unwrap));
    let provider = Arc::new(default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build();
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(
            chain.map(Result::unwrap).collect(),
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let accept = move |stream: TcpStream, from| {
        let accepting = acceptor.accept(stream);
        async move {
            let stream = accepting.await?;
            let peer = match stream.get_ref().1.peer_certificates() {
                Some([leaf, ..]) => Peer::from_certificate(ENCRYPTED, from, leaf).unwrap(),
                _ => Peer::on(ENCRYPTED, from),
            };
            let peer = Arc::new(peer);
            Ok(Connection { stream, peer })
        }
    };
    serve(ledger, authenticator, Some(ca), accept).await
}

async fn serve<C, F>(
    ledger: Ledger,
    authenticator: Authenticator,
    ca: Option<String>,
    accept: impl Fn(TcpStream, SocketAddr) -> F + Send + 'static,
) -> TestPort
where
    C: Connected + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<C>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, accepted) = mpsc::channel(64);
    let accepting = async move {
        loop {
            let (stream, from) = listener.accept().await.unwrap();
            let (accept, connections) = (accept(stream, from), connections.clone());
            tokio::spawn(async move {
                // A failed handshake ends the connection.
                if let Ok(connection) = accept.await {
                    let _ = connections.send(connection).await;
                }
            });
        }
    };
    let incoming = stream::unfold(accepted, async |mut accepted| {
        let connection = accepted.recv().await?;
        Some((io::Result::Ok(connection), accepted))
    });
    let quota = grpc::service(QuotaServiceConfig {
        ledger,
        call_timeout: Duration::from_secs(30),
        message_bytes: 64 * 1024,
        estimate_bytes: 2 << 20,
        open_calls: TaskTracker::new(),
        stopping: CancellationToken::new(),
        metrics: Metrics::default(),
        traces: None,
        authenticator,
    });
    let serving = async move {
        let server = Server::builder().add_service(quota);
        let serving = server.serve_with_incoming(Box::pin(incoming));
        tokio::select! {
            served = serving => served.unwrap(),
            () = accepting => {}
        }
    };
    TestPort {
        address,
        ca,
        _serving: AbortOnDropHandle::new(tokio::spawn(serving)),
    }
}
