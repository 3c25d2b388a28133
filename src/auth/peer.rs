//! What a connection tells of its other end.

use std::{fmt, net::SocketAddr};

use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// The other end of a connection. Made once when the connection is accepted, and shared by its calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    address: Option<SocketAddr>,
    port: PortSecurity,
    names: Vec<CertificateName>,
}

/// How a port is reached, and so each of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSecurity {
    /// Over TLS.
    pub encrypted: bool,
    /// From this machine alone.
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
    /// Of a connection whose other end showed no certificate. One over a unix socket has no address.
    #[must_use]
    pub fn on(port: PortSecurity, address: impl Into<Option<SocketAddr>>) -> Self {
        Self {
            address: address.into(),
            ..Self::anybody(port)
        }
    }

    /// Of a connection whose other end showed a certificate that was verified. `leaf` is that certificate,
    /// as DER.
    ///
    /// # Errors
    ///
    /// The certificate, or its list of names, can't be read: whose it is can't be told then, and the
    /// connection is best closed.
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

    /// Of some connection of a port.
    #[must_use]
    pub const fn anybody(port: PortSecurity) -> Self {
        Self {
            address: None,
            port,
            names: Vec::new(),
        }
    }

    /// Of a connection that nothing is known of: not encrypted, from anywhere, anonymous.
    #[must_use]
    pub const fn unknown() -> Self {
        Self::anybody(PortSecurity {
            encrypted: false,
            loopback: false,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Whether nobody else reads what it sends.
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
    /// Whether nobody else reads what is sent to it: over TLS, or within this machine.
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

/// What is neither a URI nor a DNS name, or not well-formed, names nobody.
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
