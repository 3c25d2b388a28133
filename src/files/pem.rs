//! PEM files: certificates and keys. Errors name the setting and the file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::task::JoinError;
use x509_parser::parse_x509_certificate;

use super::read::ReadError;

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// It can't be read, or holds something else.
    #[error("{setting}: {} {fault}", path.display())]
    Unusable {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// The parser panicked: a defect.
    #[error("the parser failed: {0}")]
    Panicked(#[from] JoinError),
}

impl PemError {
    /// An unusable file. `fault` is a predicate: "holds no certificate".
    pub fn foreign(setting: &'static str, path: &Path, fault: impl ToString) -> Self {
        Self::Unusable {
            setting,
            path: path.to_owned(),
            fault: fault.to_string(),
        }
    }
}

/// Reads a file.
///
/// # Errors
///
/// It can't be read.
pub fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, PemError> {
    fs::read(path).map_err(|error| PemError::foreign(setting, path, ReadError::Io(error)))
}

/// The end of the first certificate's validity, if it can be read.
#[must_use]
pub fn expires(pem: &[u8]) -> Option<DateTime<Utc>> {
    let leaf = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, leaf) = parse_x509_certificate(&leaf).ok()?;
    DateTime::from_timestamp(leaf.validity().not_after.timestamp(), 0)
}

/// Parses certificates, of which there must be one: with an empty list of authorities, every connection would fail.
///
/// # Errors
///
/// There is none, or the file is no PEM.
pub fn certificates(
    setting: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(read) if !read.is_empty() => Ok(read),
        Ok(_) => Err(PemError::foreign(
            setting,
            path,
            "holds no certificate in PEM",
        )),
        Err(error) => Err(PemError::foreign(
            setting,
            path,
            format!("is no PEM: {error}"),
        )),
    }
}

/// Parses a private key.
///
/// # Errors
///
/// There is none.
pub fn key(
    setting: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| PemError::foreign(setting, path, "holds no private key in PEM"))
}
