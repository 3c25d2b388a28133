//! PEM files: certificates and keys. Errors name the setting and the file.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::task::JoinError;
use x509_parser::parse_x509_certificate;

use super::read::{ReadError, read_once};

/// The size of the largest file: far larger than any system's list of authorities.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// The bytes of a PEM file, and where it is named.
pub(crate) struct PemFile {
    setting: String,
    path: PathBuf,
    /// Whether they are PEM is not known yet.
    pub(crate) bytes: Vec<u8>,
}

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It can't be read, or holds something else.
    #[error("{setting}: {} {fault}", path.display())]
    Unusable {
        /// The setting that names it.
        setting: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The system has none, and this setting names none.
    #[error("this system has no certificates of authorities: set {0}")]
    NoAuthorities(&'static str),
    /// The parser panicked: a defect.
    #[error("the parser failed: {0}")]
    Panicked(#[from] JoinError),
}

impl PemFile {
    /// Reads a file of at most [`MAX_BYTES`].
    pub(crate) fn read(setting: &str, path: &Path) -> Result<Self, PemError> {
        Self::new(setting, path, read_once(path, MAX_BYTES))
    }

    /// A file that was read.
    pub(crate) fn new(
        setting: impl Into<String>,
        path: &Path,
        read: Result<Vec<u8>, ReadError>,
    ) -> Result<Self, PemError> {
        let (setting, path) = (setting.into(), path.to_owned());
        match read {
            Ok(bytes) => Ok(Self {
                setting,
                path,
                bytes,
            }),
            Err(error) => Err(PemError::Unusable {
                setting,
                path,
                fault: error.to_string(),
            }),
        }
    }

    /// Parses certificates, of which there must be one: with an empty list of authorities, every connection would fail.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, PemError> {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match read {
            Ok(read) if !read.is_empty() => Ok(read),
            Ok(_) => Err(self.unusable("holds no certificate in PEM")),
            Err(error) => Err(self.unusable(format!("is no PEM: {error}"))),
        }
    }

    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, PemError> {
        PrivateKeyDer::from_pem_slice(&self.bytes)
            .map_err(|_| self.unusable("holds no private key in PEM"))
    }

    /// The end of the first certificate's validity, if it can be read.
    pub(crate) fn expires(&self) -> Option<DateTime<Utc>> {
        let leaf = CertificateDer::from_pem_slice(&self.bytes).ok()?;
        let (_, leaf) = parse_x509_certificate(&leaf).ok()?;
        DateTime::from_timestamp(leaf.validity().not_after.timestamp(), 0)
    }

    /// The file can't be used. `fault` is a predicate: "holds no certificate".
    pub(crate) fn unusable(&self, fault: impl ToString) -> PemError {
        PemError::Unusable {
            setting: self.setting.clone(),
            path: self.path.clone(),
            fault: fault.to_string(),
        }
    }

    /// The key in this file is not that of the certificate.
    pub(crate) fn mismatch(&self, cert: &Self, error: &rustls::Error) -> PemError {
        self.unusable(format!("is no key for {}: {error}", cert.setting))
    }
}
