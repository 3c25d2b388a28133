//! Files in PEM: certificates and keys, with faults that name the setting and the file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::parse_x509_certificate;

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
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

impl PemError {
    /// The file holds something else: `fault` goes on where its name ends.
    pub fn foreign(setting: &'static str, path: &Path, fault: impl Into<String>) -> Self {
        Self::Foreign {
            setting,
            path: path.to_owned(),
            fault: fault.into(),
        }
    }
}

/// A file as it is.
///
/// # Errors
///
/// It can't be read.
pub fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, PemError> {
    fs::read(path).map_err(|source| PemError::Unreadable {
        setting,
        path: path.to_owned(),
        source,
    })
}

/// Until when the first of these certificates is valid; none where there is none that can be read.
#[must_use]
pub fn expires(pem: &[u8]) -> Option<DateTime<Utc>> {
    let leaf = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, leaf) = parse_x509_certificate(&leaf).ok()?;
    DateTime::from_timestamp(leaf.validity().not_after.timestamp(), 0)
}

/// At least one: an empty list of authorities would trust nobody, and say so only at each connection.
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

/// A private key.
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
