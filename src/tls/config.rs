//! The TLS settings of a client: its trusted authorities and its own certificate.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
};

use super::pinned::PinnedVerifier;
use crate::files::pem::{PemError, PemFile};

/// A client's TLS files, in PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The trusted authorities, or the servers' own certificates; none: the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain, its own certificate first; and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The names of a client's TLS settings.
pub struct TlsNames {
    /// The file of trusted authorities.
    pub ca_file: &'static str,
    /// The file of the client certificate.
    pub cert_file: &'static str,
    /// The file of its key.
    pub key_file: &'static str,
    /// The form of an address without TLS.
    pub plaintext_address: &'static str,
}

/// A client's TLS settings.
#[derive(Clone)]
pub struct TlsSettings {
    /// What they are called.
    pub names: &'static TlsNames,
    /// Their values.
    pub files: TlsFiles,
}

impl TlsSettings {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A file can't be used.
    pub fn config(&self) -> Result<ClientConfig, PemError> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions");
        let config = match self.pinned()? {
            None => config.with_root_certificates(system_authorities()),
            Some(verifier) => config
                .dangerous()
                .with_custom_certificate_verifier(verifier),
        };
        let Some((cert, key)) = self.client_files()? else {
            return Ok(config.with_no_client_auth());
        };
        config
            .with_client_auth_cert(cert.certificates()?, key.key()?)
            .map_err(|error| key.mismatch(&cert, &error))
    }

    /// The client certificate and its key, if there are any.
    pub(crate) fn client_files(&self) -> Result<Option<(PemFile, PemFile)>, PemError> {
        let Some((cert, key)) = &self.files.client else {
            return Ok(None);
        };
        let cert = PemFile::read(self.names.cert_file, cert)?;
        Ok(Some((cert, PemFile::read(self.names.key_file, key)?)))
    }

    /// Verifies the server's certificate.
    ///
    /// # Errors
    ///
    /// The file can't be used, or there is none and the system has no authorities.
    pub(crate) fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, PemError> {
        if let Some(verifier) = self.pinned()? {
            return Ok(verifier);
        }
        let (roots, provider) = (system_authorities(), ring::default_provider());
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider))
            .build()
            .map(|verifier| verifier as _)
            .map_err(|_| PemError::NoAuthorities(self.names.ca_file))
    }

    fn pinned(&self) -> Result<Option<Arc<PinnedVerifier>>, PemError> {
        let Some(path) = &self.files.ca_file else {
            return Ok(None);
        };
        let file = PemFile::read(self.names.ca_file, path)?;
        let verifier = PinnedVerifier::new(file.certificates()?);
        let verifier = verifier.map_err(|error| file.unusable(error))?;
        Ok(Some(Arc::new(verifier)))
    }
}

/// The system's authorities. Those that can't be parsed are left out.
fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}
