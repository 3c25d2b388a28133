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

/// Who else can read what is sent to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSecurity {
    /// Over TLS.
    pub encrypted: bool,
    /// Reached from this machine alone.
    pub loopback: bool,
}

/// A name in a certificate, of the kinds that say who a caller is. A URI is compared byte by byte, a DNS
/// name without regard to the case of its codes; the two kinds are never the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// A URI, such as a SPIFFE id.
    Uri(String),
    /// A DNS name, in small letters.
    Dns(String),
}

/// A client certificate that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the client certificate can't be read: {0}")]
pub struct BadCertificate(String);

impl Peer {
    /// Without a certificate. A unix socket has no address.
    #[must_use]
    pub fn on(port: PortSecurity, address: impl Into<Option<SocketAddr>>) -> Self {
        Self {
            address: address.into(),
            ..Self::anybody(port)
        }
    }

    /// With a verified certificate; `leaf` is its DER.
    ///
    /// # Errors
    ///
    /// The certificate, or its list of names, can't be read. The connection is best closed.
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

    /// Anybody who reaches a port.
    #[must_use]
    pub const fn anybody(port: PortSecurity) -> Self {
        Self {
            address: None,
            port,
            names: Vec::new(),
        }
    }

    /// Nothing is known of the connection: it is not encrypted, not local, and anonymous.
    #[must_use]
    pub const fn unknown() -> Self {
        Self::anybody(PortSecurity {
            encrypted: false,
            loopback: false,
        })
    }

    /// None for a unix socket.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether nobody else can read what it sends.
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
    /// Over TLS, or within this machine.
    #[must_use]
    pub fn is_confidential(self) -> bool {
        self.encrypted || self.loopback
    }
}

impl CertificateName {
    /// Reads a name as the callers file has it: with a colon it is a URI, else a DNS name.
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
