//! An HTTP/1.1 client of one address: one connection for each request, TLS if the address is `https://`.
//!
//! It follows no redirect, repeats no request, and reads of an answer's body only what it is asked for. The caller bounds
//! the time. No error repeats the path or a header of the request.

use std::{error::Error, io, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Request, Response, Uri,
    header::{HOST, RETRY_AFTER, USER_AGENT},
    uri::Authority,
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    body::{Body, Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    files::pem::PemError,
    tls::{TlsFault, TlsFiles, TlsNames, TlsSettings},
};

/// Sends requests to one address.
pub(crate) struct HttpClient {
    /// Its scheme, host and port.
    address: Uri,
    settings: TlsSettings,
    tls: Arc<ClientConfig>,
}

/// The head of an answer, and its connection, which is closed when this is dropped.
pub(crate) struct HttpAnswer<'c> {
    client: &'c HttpClient,
    pub(crate) response: Response<Incoming>,
    _connection: AbortOnDropHandle<hyper::Result<()>>,
}

/// No connection, or it was cut: the reason in words.
#[derive(Debug)]
pub(crate) struct ConnectionFault(pub(crate) String);

/// Why there is no whole body.
#[derive(Debug)]
pub(crate) enum BodyFault {
    Connection(ConnectionFault),
    /// It has more bytes than allowed.
    TooLarge,
}

impl HttpClient {
    /// A client of this address, of which only scheme, host and port count. `names` are for explanations of TLS faults.
    ///
    /// # Errors
    ///
    /// The system's authorities can't be used.
    pub(crate) fn new(address: Uri, names: &'static TlsNames) -> Result<Self, PemError> {
        let files = TlsFiles::default();
        let settings = TlsSettings { names, files };
        let mut tls = settings.config()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            address,
            settings,
            tls: Arc::new(tls),
        })
    }

    /// Sends a request, whose URI is path and query, and returns the head of the answer.
    pub(crate) async fn send<B>(
        &self,
        request: Request<B>,
    ) -> Result<HttpAnswer<'_>, ConnectionFault>
    where
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let host = self.address.host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']);
        let is_tls = self.address.scheme_str() == Some("https");
        let port = self.address.port_u16();
        let port = port.unwrap_or(if is_tls { 443 } else { 80 });
        let tcp = TcpStream::connect((host, port)).await;
        let tcp = tcp.map_err(|error| self.fault(&error))?;
        if !is_tls {
            return self.send_over(tcp, request).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|error| self.fault(&error))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let tls = connector.connect(name, tcp).await;
        let tls = tls.map_err(|error| self.fault(&error))?;
        self.send_over(tls, request).await
    }

    async fn send_over<S, B>(
        &self,
        stream: S,
        mut request: Request<B>,
    ) -> Result<HttpAnswer<'_>, ConnectionFault>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.fault(&error))?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let authority = self.address.authority().map_or("", |it| it.as_str());
        let host = HeaderValue::from_str(authority).map_err(|error| self.fault(&error))?;
        let program = HeaderValue::from_static(concat!("tollgate/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().insert(HOST, host);
        request.headers_mut().insert(USER_AGENT, program);
        let response = sender.send_request(request).await;
        Ok(HttpAnswer {
            client: self,
            response: response.map_err(|error| self.fault(&error))?,
            _connection: connection,
        })
    }

    /// A connection that failed or was cut, in words.
    fn fault(&self, error: &(dyn Error + 'static)) -> ConnectionFault {
        let fault = TlsFault::find(error, &self.settings);
        ConnectionFault(fault.map_or_else(|| root_cause(error), TlsFault::sentence))
    }
}

impl HttpAnswer<'_> {
    /// The body, if it has at most `max` bytes.
    pub(crate) async fn body(self, max: usize) -> Result<Bytes, BodyFault> {
        let body = Limited::new(self.response.into_body(), max).collect().await;
        body.map(|body| body.to_bytes())
            .map_err(|error| match error.is::<LengthLimitError>() {
                true => BodyFault::TooLarge,
                false => BodyFault::Connection(self.client.fault(&*error)),
            })
    }
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut causes = std::iter::successors(Some(error), |&it| it.source());
    let io = causes.find_map(|cause| cause.downcast_ref::<io::Error>());
    io.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Checks that a host without a user has no port, or one that exists: the parser takes any, and then has none.
pub(crate) fn check_port(authority: &Authority) -> Result<(), &'static str> {
    let has_none = authority.as_str() == authority.host();
    let port = authority.port_u16().filter(|port| *port != 0);
    match has_none || port.is_some() {
        true => Ok(()),
        false => Err("must have no port, or one from 1 to 65535"),
    }
}

/// The pause in seconds that an answer asks for.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
