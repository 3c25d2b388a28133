//! TLS of a listener: its certificate and the authorities of client certificates. Both are reloaded when files change.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{
    files::{
        pem::{self, PemError},
        watched::{Contents, Reload, ReloadSignal, Watched},
    },
    telemetry::metrics::{Metrics, WatchedFile},
};

/// The section `[tls]` or `[http_tls]` of the settings. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The section and the names of its settings.
    pub names: &'static TlsNames,
    /// The certificate of the service, then the intermediate ones.
    pub cert_file: PathBuf,
    /// The certificate's key.
    pub key_file: PathBuf,
    /// The authorities of client certificates. If none, no client certificate is requested.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client certificate is required.
    pub client_certificates: ClientCertificates,
}

/// The names of one section's TLS settings.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsNames {
    /// The section's name.
    pub section: &'static str,
    /// The section's files in the metrics.
    pub file: WatchedFile,
    /// The setting of `cert_file`.
    pub cert_file: &'static str,
    /// The setting of `key_file`.
    pub key_file: &'static str,
    /// The setting of `client_ca_file`.
    pub client_ca_file: &'static str,
}

/// `[tls]`.
pub static GRPC_TLS: TlsNames = TlsNames {
    section: "tls",
    file: WatchedFile::Tls,
    cert_file: "tls.cert_file",
    key_file: "tls.key_file",
    client_ca_file: "tls.client_ca_file",
};

/// `[http_tls]`.
pub static HTTP_TLS: TlsNames = TlsNames {
    section: "http_tls",
    file: WatchedFile::HttpTls,
    cert_file: "http_tls.cert_file",
    key_file: "http_tls.key_file",
    client_ca_file: "http_tls.client_ca_file",
};

/// Whether clients must have a certificate, if `client_ca_file` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ClientCertificates {
    /// A client without one is refused.
    Required,
    /// A client without one is anonymous or has a token. A certificate that is sent must be valid.
    Optional,
}

/// The TLS configuration of a listener's next connection.
pub(crate) struct Certificates(ArcSwap<ServerConfig>);

/// Replaces a listener's certificates when their files change.
pub(crate) struct CertificateReloader {
    certificates: Arc<Certificates>,
    watched: Watched<Arc<ServerConfig>, PemError>,
    names: &'static TlsNames,
    metrics: Metrics,
}

impl Certificates {
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }
}

impl CertificateReloader {
    /// Reads the files. Blocks.
    pub(crate) fn open(
        files: ListenerTls,
        alpn: &'static str,
        metrics: &Metrics,
    ) -> Result<Self, PemError> {
        let (names, metrics) = (files.names, metrics.clone());
        let paths: Vec<PathBuf> = files.files().map(|(_, path)| path.clone()).collect();
        let load = {
            let metrics = metrics.clone();
            move |contents| files.load(contents, alpn, &metrics)
        };
        let (config, watched) = Watched::open(paths, pem::MAX_BYTES, load)?;
        Ok(Self {
            certificates: Arc::new(Certificates(ArcSwap::new(config))),
            watched,
            names,
            metrics,
        })
    }

    pub(crate) fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.certificates)
    }

    /// Watches the files. Does not return.
    pub(crate) async fn follow(self, signal: ReloadSignal) {
        let section = self.names.section;
        let mut watched = self.watched.with_signal(&signal);
        loop {
            let rejected = match watched.next().await {
                Reload::Loaded(config) => {
                    self.certificates.0.store(config);
                    tracing::info!(
                        section,
                        "new certificates are shown from the next connection on"
                    );
                    None
                }
                Reload::Rejected(error) => Some(error),
                Reload::Restored => None,
                Reload::Unchanged | Reload::StillRejected | Reload::Unstable => continue,
            };
            let rejected_at = rejected.is_some().then(crate::wall_clock::now);
            self.metrics.file_refused(self.names.file, rejected_at);
            if let Some(error) = rejected {
                tracing::error!(
                    section,
                    %error,
                    "certificates are refused: those of before are shown on"
                );
            }
        }
    }
}

impl ListenerTls {
    /// The files, with the settings that name them.
    fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let names = self.names;
        let own = [
            (names.cert_file, &self.cert_file),
            (names.key_file, &self.key_file),
        ];
        let client_ca = self.client_ca_file.as_ref();
        own.into_iter()
            .chain(client_ca.map(|path| (names.client_ca_file, path)))
    }

    fn load(
        &self,
        contents: Contents,
        alpn: &str,
        metrics: &Metrics,
    ) -> Result<Arc<ServerConfig>, PemError> {
        let read = self
            .files()
            .zip(contents)
            .map(|((name, path), read)| read.map_err(|error| PemError::foreign(name, path, error)));
        let read: Vec<Vec<u8>> = read.collect::<Result<_, _>>()?;
        let names = self.names;
        let chain = pem::certificates(names.cert_file, &self.cert_file, &read[0])?;
        let private = pem::key(names.key_file, &self.key_file, &read[1])?;
        let verifier = match self.client_ca_file.as_ref().zip(read.get(2)) {
            Some((path, pem)) => self.verifier(path, pem)?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
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
            // A resumed session would accept a client certificate whose authority was removed.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        if let Some(at) = pem::expires(&read[0]) {
            metrics.certificate_expires(names.section, at);
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
