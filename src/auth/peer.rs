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
    names: Vec<CertificateName>,
}

/// Whether others can read the traffic of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    #[must_use]
    pub fn on(port: PortSecurity, address: impl Into<Option<SocketAddr>>) -> Self {
        Self {
            address: address.into(),
            ..Self::anybody(port)
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

    /// An anonymous peer of a port.
    #[must_use]
    pub const fn anybody(port: PortSecurity) -> Self {
        Self {
            address: None,
            port,
            names: Vec::new(),
        }
    }

    /// An anonymous peer, whose connection counts as neither encrypted nor local.
    #[must_use]
    pub const fn unknown() -> Self {
        Self::anybody(PortSecurity {
            encrypted: false,
            loopback: false,
        })
    }

    /// Its address; none for a unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether nobody else can read its traffic.
    #[must_use]
    pub fn is_confidential(&self) -> bool {
        self.port.is_confidential()
    }

    /// The names in its certificate.
    #[must_use]
    pub fn names(&self) -> &[CertificateName] {
        &self.names
    }
}

impl PortSecurity {
    /// Whether its traffic is encrypted, or stays within this machine.
    #[must_use]
    pub fn is_confidential(self) -> bool {
        self.encrypted || self.loopback
    }
}

impl CertificateName {
    /// Parses a name in the callers file: with a colon it is a URI, otherwise a DNS name.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err("holds blanks, control characters or letters beyond ASCII");
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
            return if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(letters)
                && !rest.is_empty()
            {
                Ok(Self::Uri(text.to_owned()))
            } else {
                Err("is no URI such as \"spiffe://example.org/gateway\"")
            };
        }
        let letters = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let label = |label: &str| !label.is_empty() && label.bytes().all(letters);
        if text.split('.').all(label) {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err("is neither a DNS name such as \"gateway.internal\" (whole, no wildcard) nor a URI")
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
