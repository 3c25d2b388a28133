//! TLS to Redis (`rediss://`).

use std::{io, sync::Arc};

use redis::RedisError;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::url::Host;
use crate::{
    files::pem::PemError,
    tls::{TlsFault, TlsFiles, TlsNames, TlsSettings},
};

static TLS_NAMES: TlsNames = TlsNames {
    ca_file: "redis.ca_file",
    cert_file: "redis.cert_file",
    key_file: "redis.key_file",
    plaintext_address: "redis://",
};

/// Connects over TLS: the client library does not accept a certificate verifier.
#[derive(Clone)]
pub(crate) struct TlsClient {
    connector: TlsConnector,
    settings: TlsSettings,
}

impl TlsClient {
    /// Reads and checks the files, so a fault in them fails the start rather than each connection.
    pub(crate) fn new(files: TlsFiles) -> Result<Self, PemError> {
        let names = &TLS_NAMES;
        let settings = TlsSettings { names, files };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(settings.config()?)),
            settings,
        })
    }

    /// A server's certificate must match the URL's host name.
    pub(crate) async fn handshake(
        &self,
        host: &Host,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.name.to_string()).map_err(io::Error::other)?;
        self.connector.connect(name, stream).await
    }

    /// The message of a TLS error, which names the operator's settings; host names in brackets.
    pub(crate) fn message(&self, error: &RedisError) -> Option<String> {
        Some(match TlsFault::find(error, &self.settings)? {
            TlsFault::WrongName(words) => format!("{} [{words}]", TlsFault::WRONG_NAME),
            TlsFault::Other(words) => words,
        })
    }
}
