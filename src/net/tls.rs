//! TLS of a listener: its certificate and the authorities of client certificates. Both are reloaded when files change.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{
    files::{
        pem::{self, PemError, PemFile},
        watched::{Contents, Watched},
    },
    telemetry::metrics::{Metrics, WatchedFile},
};

/// The section `[tls]` or `[http_tls]` of the settings. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The section, which has the name of its files in the metrics.
    pub section: WatchedFile,
    /// The certificate of the service, then the intermediate ones.
    pub cert_file: PathBuf,
    /// The certificate's key.
    pub key_file: PathBuf,
    /// The authorities of client certificates. If none, no client certificate is requested.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client certificate is required.
    pub client_certificates: ClientCertificates,
}

/// Whether clients must have a certificate, if `client_ca_file` is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ClientCertificates {
    /// A client without one is refused.
    Required,
    /// A client without one is anonymous or has a token. A certificate that is sent must be valid.
    Optional,
}

/// The TLS configuration of a listener's next connection.
pub(crate) type Certificates = Arc<ArcSwap<ServerConfig>>;

/// The certificates of a listener, and their files, which are watched.
pub(crate) struct WatchedCertificates {
    pub(crate) section: WatchedFile,
    pub(crate) certificates: Certificates,
    pub(crate) files: Watched<Arc<ServerConfig>, PemError>,
}

impl ListenerTls {
    /// Reads the files. Blocks.
    pub(crate) fn open(
        self,
        alpn: &'static str,
        metrics: &Metrics,
    ) -> Result<WatchedCertificates, PemError> {
        let section = self.section;
        let paths: Vec<PathBuf> = self.files().map(|(_, path)| path.clone()).collect();
        let metrics = metrics.clone();
        let load = move |contents| self.load(contents, alpn, &metrics);
        let (config, files) = Watched::open(paths, pem::MAX_BYTES, load)?;
        Ok(WatchedCertificates {
            section,
            certificates: Arc::new(ArcSwap::new(config)),
            files,
        })
    }

    /// The files, with the settings that name them.
    fn files(&self) -> impl Iterator<Item = (String, &PathBuf)> {
        let files = [
            ("cert_file", Some(&self.cert_file)),
            ("key_file", Some(&self.key_file)),
            ("client_ca_file", self.client_ca_file.as_ref()),
        ];
        let section = self.section.name();
        files
            .into_iter()
            .filter_map(move |(key, path)| Some((format!("{section}.{key}"), path?)))
    }

    fn load(
        &self,
        contents: Contents,
        alpn: &str,
        metrics: &Metrics,
    ) -> Result<Arc<ServerConfig>, PemError> {
        let files = self.files().zip(contents);
        let files = files.map(|((setting, path), read)| PemFile::new(setting, path, read));
        let files: Vec<PemFile> = files.collect::<Result<_, _>>()?;
        let (cert, key) = (&files[0], &files[1]);
        let (chain, private) = (cert.certificates()?, key.key()?);
        let verifier = match files.get(2) {
            Some(client_ca) => self.verifier(client_ca)?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map(|config| config.with_client_cert_verifier(verifier))
            .and_then(|config| config.with_single_cert(chain, private));
        let mut config = config.map_err(|error| key.mismatch(cert, &error))?;
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        if self.client_ca_file.is_some() {
            // A resumed session would accept a client certificate whose authority was removed.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        if let Some(at) = cert.expires() {
            metrics.certificate_expires(self.section.name(), at);
        }
        Ok(Arc::new(config))
    }

    fn verifier(&self, client_ca: &PemFile) -> Result<Arc<dyn ClientCertVerifier>, PemError> {
        let mut roots = RootCertStore::empty();
        for certificate in client_ca.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| client_ca.unusable(error))?;
        }
        let provider = Arc::new(ring::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match self.client_certificates {
            ClientCertificates::Required => builder,
            ClientCertificates::Optional => builder.allow_unauthenticated(),
        };
        builder.build().map_err(|error| client_ca.unusable(error))
    }
}
