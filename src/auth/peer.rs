//! The other end of a connection: its address, and the names in its certificate.

use std::{fmt, net::SocketAddr};

use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// The other end of a connection, shared by its calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    address: Option<SocketAddr>,
    port: PortSecurity,
    /// The names in its certificate.
    pub(super) names: Vec<CertificateName>,
}

/// Whether others can read the traffic of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortSecurity {
    /// It uses TLS.
    pub encrypted: bool,
    /// Only this machine can reach it.
    pub loopback: bool,
}

/// A name in a certificate that identifies a caller. URIs are compared byte by byte, DNS names without regard to case;
/// a URI never equals a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// A URI, such as a SPIFFE id.
    Uri(String),
    /// A DNS name, in lower case.
    Dns(String),
}

/// A client certificate that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the client certificate can't be read: {0}")]
pub struct BadCertificate(String);

impl Peer {
    /// A peer without a certificate. A unix socket has no address.
    pub fn on(port: PortSecurity, address: impl Into<Option<SocketAddr>>) -> Self {
        Self {
            address: address.into(),
            port,
            names: Vec::new(),
        }
    }

    /// A peer with a verified certificate; `leaf` is its DER.
    ///
    /// # Errors
    ///
    /// The certificate, or its list of names, can't be read. Close the connection.
    pub fn from_certificate(
        port: PortSecurity,
        address: impl Into<Option<SocketAddr>>,
        leaf: &[u8],
    ) -> Result<Self, BadCertificate> {
        Ok(Self {
            names: names(leaf)?,
            ..Self::on(port, address)
        })
    }

    /// Its address; none for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.port.loopback
    }

    /// Whether nobody else can read its traffic.
    pub fn is_confidential(&self) -> bool {
        self.port.is_confidential()
    }
}

impl PortSecurity {
    /// Whether its traffic is encrypted, or stays within this machine.
    pub fn is_confidential(self) -> bool {
        self.encrypted || self.loopback
    }
}

impl CertificateName {
    /// Parses a name in the callers file: with a colon it is a URI, otherwise a DNS name.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let in_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        let in_label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let is_scheme = |scheme: &str| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(in_scheme)
        };
        let is_label = |label: &str| !label.is_empty() && label.bytes().all(in_label);
        match text.split_once(':') {
            _ if !text.bytes().all(|b| b.is_ascii_graphic()) => {
                Err("holds blanks, control characters or letters beyond ASCII")
            }
            Some((scheme, rest)) if is_scheme(scheme) && !rest.is_empty() => {
                Ok(Self::Uri(text.to_owned()))
            }
            Some(_) => Err("is no URI such as \"spiffe://example.org/gateway\""),
            None if text.split('.').all(is_label) => Ok(Self::Dns(text.to_ascii_lowercase())),
            None => Err(
                "is neither a DNS name such as \"gateway.internal\" (whole, no wildcard) nor a URI",
            ),
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::Dns(name) => f.write_str(name),
        }
    }
}

/// The URIs and DNS names of a certificate. Names of other types are ignored.
fn names(leaf: &[u8]) -> Result<Vec<CertificateName>, BadCertificate> {
    let bad = |error: &dyn fmt::Display| BadCertificate(error.to_string());
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| bad(&error))?;
    let names = certificate.subject_alternative_name();
    let Some(names) = names.map_err(|error| bad(&error))? else {
        return Ok(Vec::new());
    };
    let names = names.value.general_names.iter();
    let known = names.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(CertificateName::Uri((*uri).to_owned())),
        GeneralName::DNSName(name) => Some(CertificateName::Dns(name.to_ascii_lowercase())),
        _ => None,
    });
    Ok(known.collect())
}
