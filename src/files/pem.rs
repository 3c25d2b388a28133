//! PEM files: certificates and keys. Errors name the setting and the file.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::task::JoinError;
use x509_parser::parse_x509_certificate;

use super::read::read_once;

/// The size of the largest file: far larger than any system's list of authorities.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

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
    pub(crate) fn foreign(setting: &'static str, path: &Path, fault: impl ToString) -> Self {
        Self::Unusable {
            setting,
            path: path.to_owned(),
            fault: fault.to_string(),
        }
    }
}

/// Reads a file of at most [`MAX_BYTES`].
pub(crate) fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, PemError> {
    read_once(path, MAX_BYTES).map_err(|error| PemError::foreign(setting, path, error))
}

/// The end of the first certificate's validity, if it can be read.
pub(crate) fn expires(pem: &[u8]) -> Option<DateTime<Utc>> {
    let leaf = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, leaf) = parse_x509_certificate(&leaf).ok()?;
    DateTime::from_timestamp(leaf.validity().not_after.timestamp(), 0)
}

/// Parses certificates, of which there must be one: with an empty list of authorities, every connection would fail.
pub(crate) fn certificates(
    setting: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let fault = match read {
        Ok(read) if !read.is_empty() => return Ok(read),
        Ok(_) => "holds no certificate in PEM".to_owned(),
        Err(error) => format!("is no PEM: {error}"),
    };
    Err(PemError::foreign(setting, path, fault))
}

pub(crate) fn key(
    setting: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| PemError::foreign(setting, path, "holds no private key in PEM"))
}
