//! TLS of a listener: its certificate, and whose clients' certificates it takes; read anew when the files change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use tokio::task::spawn_blocking;

use crate::{
    files::{
        pem::{self, PemError},
        watched::{FileWatcher, ReloadSignal},
    },
    telemetry::metrics::{Metrics, WatchedFile},
};

/// The section `[tls]` or `[http_tls]` of the settings. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// Which section it is, with the names of its settings.
    pub names: &'static TlsNames,
    /// The certificate that the service shows, and those between it and its authority.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// The authorities of clients' certificates; none: clients are not asked for one.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client may come without one all the same.
    pub client_certificates: ClientCertificates,
}

/// What settings of TLS are called in one section.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsNames {
    /// The section.
    pub section: &'static str,
    /// What its files are in the metrics.
    pub followed: WatchedFile,
    /// Its `cert_file`.
    pub cert_file: &'static str,
    /// Its `key_file`.
    pub key_file: &'static str,
    /// Its `client_ca_file`.
    pub client_ca_file: &'static str,
}

/// `[tls]`.
pub static GRPC_TLS: TlsNames = TlsNames {
    section: "tls",
    followed: WatchedFile::Tls,
    cert_file: "tls.cert_file",
    key_file: "tls.key_file",
    client_ca_file: "tls.client_ca_file",
};

/// `[http_tls]`.
pub static HTTP_TLS: TlsNames = TlsNames {
    section: "http_tls",
    followed: WatchedFile::HttpTls,
    cert_file: "http_tls.cert_file",
    key_file: "http_tls.key_file",
    client_ca_file: "http_tls.client_ca_file",
};

/// Whether clients must show a certificate, where there is an authority for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Whoever has none is not let in.
    Required,
    /// One that is shown must be good; who shows none is anonymous, or known by a token.
    Optional,
}

/// What a listener shows now.
pub(crate) struct Certificates {
    files: ListenerTls,
    alpn: &'static str,
    metrics: Metrics,
    read: ArcSwap<ReadFiles>,
}

/// Files as they were read, and what became of them.
struct ReadFiles {
    bytes: [Vec<u8>; 3],
    config: Arc<ServerConfig>,
}

impl Certificates {
    /// Reads the files.
    pub(crate) fn read(
        files: ListenerTls,
        alpn: &'static str,
        metrics: &Metrics,
    ) -> Result<Self, PemError> {
        let bytes = files.read()?;
        let config = files.config(&bytes, alpn)?;
        files.tell_expiry(&bytes, metrics);
        Ok(Self {
            files,
            alpn,
            metrics: metrics.clone(),
            read: ArcSwap::from_pointee(ReadFiles { bytes, config }),
        })
    }

    /// For the next connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.read.load().config)
    }

    /// Where they are read from.
    fn paths(&self) -> Vec<PathBuf> {
        let ListenerTls {
            cert_file,
            key_file,
            client_ca_file,
            ..
        } = &self.files;
        let mut paths = vec![cert_file.clone(), key_file.clone()];
        paths.extend(client_ca_file.clone());
        paths
    }

    /// Reads the files again whenever they change. Has no end.
    pub(crate) async fn follow(self: Arc<Self>, reload: ReloadSignal) {
        let mut watch = FileWatcher::new(self.paths(), &reload);
        // What was refused last is told once.
        let mut refused = None;
        loop {
            watch.changed().await;
            let certificates = Arc::clone(&self);
            let read = spawn_blocking(move || certificates.read_again()).await;
            let Ok(read) = read else { return };
            let section = self.files.names.section;
            match read {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(
                        section,
                        "new certificates are shown from the next connection on"
                    );
                }
                Err(error) => {
                    let error = error.to_string();
                    if refused.as_ref() != Some(&error) {
                        self.tell_refused(Some(crate::wall_clock::now()));
                        tracing::error!(
                            section,
                            error,
                            "certificates are refused: those of before are shown on"
                        );
                    }
                    refused = Some(error);
                    continue;
                }
            }
            self.tell_refused(None);
            refused = None;
        }
    }

    /// Tells the metrics since when what is in the files is refused, if it is.
    fn tell_refused(&self, at: Option<DateTime<Utc>>) {
        self.metrics.file_refused(self.files.names.followed, at);
    }

    /// Reads the files again. The next connections get what is in them; where it is no good, they get what
    /// the ones before got. Tells whether anything changed.
    fn read_again(&self) -> Result<bool, PemError> {
        let bytes = self.files.read()?;
        if self.read.load().bytes == bytes {
            return Ok(false);
        }
        let config = self.files.config(&bytes, self.alpn)?;
        self.files.tell_expiry(&bytes, &self.metrics);
        self.read.store(Arc::new(ReadFiles { bytes, config }));
        Ok(true)
    }
}

impl ListenerTls {
    fn read(&self) -> Result<[Vec<u8>; 3], PemError> {
        let names = self.names;
        let client_ca = self.client_ca_file.as_ref();
        let client_ca = client_ca.map(|path| pem::read(names.client_ca_file, path));
        Ok([
            pem::read(names.cert_file, &self.cert_file)?,
            pem::read(names.key_file, &self.key_file)?,
            client_ca.transpose()?.unwrap_or_default(),
        ])
    }

    /// Tells the metrics until when the service's own certificate is valid.
    fn tell_expiry(&self, [cert, ..]: &[Vec<u8>; 3], metrics: &Metrics) {
        if let Some(at) = pem::expires(cert) {
            metrics.certificate_expires(self.names.section, at);
        }
    }

    fn config(
        &self,
        [cert, key, client_ca]: &[Vec<u8>; 3],
        alpn: &str,
    ) -> Result<Arc<ServerConfig>, PemError> {
        let names = self.names;
        let provider = Arc::new(ring::default_provider());
        let chain = pem::certificates(names.cert_file, &self.cert_file, cert)?;
        let private = pem::key(names.key_file, &self.key_file, key)?;
        let verifier = match &self.client_ca_file {
            Some(path) => self.verifier(path, client_ca)?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|config| config.with_client_cert_verifier(verifier))
            .and_then(|config| config.with_single_cert(chain, private))
            .map_err(|error| {
                let fault = format!("is no key for {}: {error}", names.cert_file);
                PemError::foreign(names.key_file, &self.key_file, fault)
            });
        let mut config = config?;
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        if self.client_ca_file.is_some() {
            // A session that is resumed would let a client's certificate in again, whatever became of it meanwhile.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        Ok(Arc::new(config))
    }

    fn verifier(
        &self,
        path: &Path,
        client_ca: &[u8],
    ) -> Result<Arc<dyn ClientCertVerifier>, PemError> {
        let name = self.names.client_ca_file;
        let foreign =
            |error: &dyn std::error::Error| PemError::foreign(name, path, error.to_string());
        let mut roots = RootCertStore::empty();
        for certificate in pem::certificates(name, path, client_ca)? {
            roots.add(certificate).map_err(|error| foreign(&error))?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.client_certificates {
            ClientCertificates::Required => builder,
            ClientCertificates::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| foreign(&error))
    }
}
