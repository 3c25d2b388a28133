//! The files of `rediss://`: which authority is trusted, and who this client is.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _,
    RedisError, TlsCertificates,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

/// The files of a connection over TLS, in PEM. Who the server is, is checked by the URL's host name.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The authorities that are trusted; none: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificates by which this client shows who it is, its own first; and its key. Both or none.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// It can't be read.
    #[error("{setting}: {} can't be read", path.display())]
    Unreadable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{setting}: {} {fault}", path.display())]
    Foreign {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
}

const CA_FILE: &str = "redis.ca_file";
const CERT_FILE: &str = "redis.cert_file";
const KEY_FILE: &str = "redis.key_file";

impl TlsFiles {
    /// Reads the files into an address over TLS. All are tried here, so that a fault in them is told at
    /// the start rather than by each connection.
    pub(super) fn into_address(self, name: &str, port: u16) -> Result<ConnectionAddr, TlsFault> {
        let Self { ca_file, client } = self;
        let mut roots = RootCertStore::empty();
        let mut root_cert = None;
        if let Some(path) = &ca_file {
            let pem = read(CA_FILE, path)?;
            for certificate in certificates(CA_FILE, path, &pem)? {
                let added = roots.add(certificate);
                added.map_err(|error| foreign(CA_FILE, path, error.to_string()))?;
            }
            root_cert = Some(pem);
        }
        let mut client_tls = None;
        if let Some((cert_file, key_file)) = &client {
            let (client_cert, client_key) =
                (read(CERT_FILE, cert_file)?, read(KEY_FILE, key_file)?);
            let chain = certificates(CERT_FILE, cert_file, &client_cert)?;
            let key = PrivateKeyDer::from_pem_slice(&client_key).map_err(|_| {
                foreign(KEY_FILE, key_file, "holds no private key in PEM".to_owned())
            })?;
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
                .and_then(|config| {
                    config
                        .with_root_certificates(roots)
                        .with_client_auth_cert(chain, key)
                })
                .map_err(|error| {
                    let fault = format!("is no key for {CERT_FILE}: {error}");
                    foreign(KEY_FILE, key_file, fault)
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
            foreign(CA_FILE, &path.unwrap_or_default(), error.to_string())
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

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsFault> {
    fs::read(path).map_err(|source| TlsFault::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    })
}

/// At least one: an empty list of authorities would trust nobody, and say so only at each connection.
fn certificates(
    setting: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        Ok(_) => Err(foreign(
            setting,
            path,
            "holds no certificate in PEM".to_owned(),
        )),
        Err(error) => Err(foreign(setting, path, format!("is no PEM: {error}"))),
    }
}

fn foreign(setting: &'static str, path: &Path, fault: String) -> TlsFault {
    TlsFault::Foreign {
        setting,
        path: path.to_owned(),
        fault,
    }
}
