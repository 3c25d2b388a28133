//! The files of `rediss://`: which authority is trusted, and who this client is.

use std::{path::PathBuf, sync::Arc};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _,
    RedisError, TlsCertificates,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::pem::{self, PemFault};

/// The files of a connection over TLS, in PEM. Who the server is, is checked by the URL's host name.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The authorities that are trusted; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificates by which this client shows who it is, its own first; and its key. Both or none.
    pub client: Option<(PathBuf, PathBuf)>,
}

const CA_FILE: &str = "redis.ca_file";
const CERT_FILE: &str = "redis.cert_file";
const KEY_FILE: &str = "redis.key_file";

impl TlsFiles {
    /// Reads the files into an address over TLS. All are tried here, so that a fault in them is told at
    /// the start rather than by each connection.
    pub(super) fn into_address(self, name: &str, port: u16) -> Result<ConnectionAddr, PemFault> {
        let Self { ca_file, client } = self;
        let mut roots = RootCertStore::empty();
        let mut root_cert = None;
        if let Some(path) = &ca_file {
            let pem = pem::read(CA_FILE, path)?;
            for certificate in pem::certificates(CA_FILE, path, &pem)? {
                let added = roots.add(certificate);
                added.map_err(|error| PemFault::foreign(CA_FILE, path, error.to_string()))?;
            }
            root_cert = Some(pem);
        }
        let mut client_tls = None;
        if let Some((cert_file, key_file)) = &client {
            let (client_cert, client_key) = (
                pem::read(CERT_FILE, cert_file)?,
                pem::read(KEY_FILE, key_file)?,
            );
            let chain = pem::certificates(CERT_FILE, cert_file, &client_cert)?;
            let key = pem::key(KEY_FILE, key_file, &client_key)?;
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .and_then(|config| {
                    config
                        .with_root_certificates(roots)
                        .with_client_auth_cert(chain, key)
                })
                .map_err(|error| {
                    let fault = format!("is no key for {CERT_FILE}: {error}");
                    PemFault::foreign(KEY_FILE, key_file, fault)
                })?;
            client_tls = Some(ClientTlsConfig {
                client_cert,
                client_key,
            });
        }
        let address = ConnectionAddr::TcpTls {
            host: name.to_owned(),
            port,
            insecure: false,
            tls_params: None,
        };
        if ca_file.is_none() && client_tls.is_none() {
            return Ok(address);
        }
        let certificates = TlsCertificates {
            client_tls,
            root_cert,
        };
        // The library gives its form of them only within a client.
        with_certificates(address, certificates).map_err(|error| {
            let path = ca_file.or(client.map(|(cert_file, _)| cert_file));
            PemFault::foreign(CA_FILE, &path.unwrap_or_default(), error.to_string())
        })
    }
}

/// Why a connection over TLS did not come about, in words that name what the operator has set.
pub(super) fn explained(error: RedisError) -> RedisError {
    let said = error.to_string();
    let why = [
        (
            "UnknownIssuer",
            "the server's certificate is by no authority of redis.ca_file",
        ),
        (
            "not valid for name",
            "the server's certificate is not for the host by which it is reached",
        ),
        (
            "CertificateRequired",
            "the server asks for redis.cert_file and redis.key_file",
        ),
        (
            "UnknownCA",
            "the server does not trust the authority of redis.cert_file",
        ),
    ];
    let found = why.iter().find(|(sign, _)| said.contains(sign));
    found.map_or(error, |(_, why)| (ErrorKind::Io, *why, said).into())
}

fn with_certificates(
    address: ConnectionAddr,
    certificates: TlsCertificates,
) -> Result<ConnectionAddr, RedisError> {
    let info: ConnectionInfo = address.into_connection_info()?;
    let client = Client::build_with_tls(info, certificates)?;
    Ok(client.get_connection_info().addr().clone())
}
