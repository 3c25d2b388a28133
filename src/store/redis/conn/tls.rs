//! TLS to Redis (`rediss://`): the trusted authorities, and the client's certificate.

use std::{io, path::PathBuf, sync::Arc};

use redis::RedisError;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::url::Host;
use crate::{
    files::pem::{self, PemError},
    tls::{PinnedVerifier, TlsFault, TlsSettings},
};

/// The TLS files, in PEM. A server's certificate must match the URL's host name.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The trusted authorities, or the servers' own certificates; `None`: the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain, its own certificate first; and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

const CA_FILE: &str = "redis.ca_file";
const CERT_FILE: &str = "redis.cert_file";
const KEY_FILE: &str = "redis.key_file";

/// Connects over TLS: the client library does not accept a certificate verifier.
#[derive(Clone)]
pub(crate) struct TlsClient {
    connector: TlsConnector,
    settings: TlsSettings,
}

impl TlsFiles {
    /// Reads and checks the files, so a fault in them fails the start rather than each connection.
    pub(crate) fn into_client(self) -> Result<TlsClient, PemError> {
        let Self { ca_file, client } = self;
        let settings = TlsSettings {
            ca_file: CA_FILE,
            has_ca_file: ca_file.is_some(),
            client_files: "redis.cert_file and redis.key_file",
            has_client_files: client.is_some(),
            plaintext_address: "redis://",
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions");
        let builder = match &ca_file {
            None => builder.with_root_certificates(system_authorities()),
            Some(path) => {
                let pem = pem::read(CA_FILE, path)?;
                let named = pem::certificates(CA_FILE, path, &pem)?;
                let verifier = PinnedVerifier::new(named);
                let verifier = verifier
                    .map_err(|error| PemError::foreign(CA_FILE, path, error.to_string()))?;
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let config = match &client {
            None => builder.with_no_client_auth(),
            Some((cert_file, key_file)) => {
                let (cert, key) = (
                    pem::read(CERT_FILE, cert_file)?,
                    pem::read(KEY_FILE, key_file)?,
                );
                let chain = pem::certificates(CERT_FILE, cert_file, &cert)?;
                let key = pem::key(KEY_FILE, key_file, &key)?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let fault = format!("is no key for {CERT_FILE}: {error}");
                    PemError::foreign(KEY_FILE, key_file, fault)
                })?
            }
        };
        Ok(TlsClient {
            connector: TlsConnector::from(Arc::new(config)),
            settings,
        })
    }
}

/// The system's authorities. Those that can't be parsed are left out.
fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl TlsClient {
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
        let fault = TlsFault::find(error)?;
        let words = fault.sentence(&self.settings);
        if !matches!(fault, TlsFault::WrongName { .. }) {
            return Some(words);
        }
        let unnamed = TlsFault::WrongName {
            expected: None,
            names: None,
        };
        Some(format!("{} [{words}]", unnamed.sentence(&self.settings)))
    }
}
