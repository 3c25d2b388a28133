//! Explains why a TLS connection failed, and names the settings involved.

use std::{error::Error, io, iter::successors, sync::Arc};

use chrono::{DateTime, SecondsFormat};
use rustls::{CertificateError, InvalidMessage, pki_types::UnixTime};

/// Why a TLS connection failed, as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFault {
    /// The server's certificate expired, at this time if known.
    Expired(Option<String>),
    /// The server's certificate is not valid yet; the time is its start, if known.
    NotYetValid(Option<String>),
    /// The server's certificate is for other names.
    WrongName {
        /// The name that the client used, if known.
        expected: Option<String>,
        /// The names of the certificate, if known.
        names: Option<Vec<String>>,
    },
    /// The server's certificate is not signed by a trusted authority.
    UnknownAuthority,
    /// A trusted authority has the signer's name, but another key.
    OtherKey,
    /// The server's certificate is its own authority, and is not in the file of trusted ones.
    OwnAuthority,
    /// The server's certificate is not for servers, but for clients for example.
    WrongPurpose,
    /// The server's answer is not TLS.
    Plaintext,
    /// The server closed the connection during the handshake.
    Closed,
    /// The server requires a client certificate.
    ClientCertificateMissing,
    /// The server refuses the client certificate, for this reason.
    ClientCertificateRefused(&'static str),
    /// The server refuses the handshake without a reason.
    HandshakeRefused,
    /// Client and server have no version of TLS in common.
    NoCommonVersion,
    /// The server has another protocol over TLS.
    OtherProtocol,
}

/// The names of a client's TLS settings, and which are set.
#[derive(Debug, Clone, Copy)]
pub struct TlsSettings {
    /// The file of trusted authorities.
    pub ca_file: &'static str,
    /// Whether `ca_file` is set. If not, the system's authorities are trusted.
    pub has_ca_file: bool,
    /// The client certificate and its key, as `A and B`.
    pub client_files: &'static str,
    /// Whether `client_files` are set.
    pub has_client_files: bool,
    /// The form of an address without TLS.
    pub plaintext_address: &'static str,
}

impl TlsFault {
    /// Finds the TLS fault in an error's chain; `None` if there is none.
    #[must_use]
    pub fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        causes(error)
            .find_map(|cause| cause.downcast_ref().and_then(Self::of_rustls))
            .or_else(|| causes(error).find_map(|cause| Self::of_text(&cause.to_string())))
    }

    fn of_rustls(error: &rustls::Error) -> Option<Self> {
        use CertificateError as C;
        let certificate = match error {
            rustls::Error::InvalidCertificate(certificate) => certificate,
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            ) => return Some(Self::Plaintext),
            _ => return None,
        };
        Some(match certificate {
            C::UnknownIssuer => Self::UnknownAuthority,
            C::BadSignature | C::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                Self::OtherKey
            }
            C::Expired => Self::Expired(None),
            C::ExpiredContext { not_after, .. } => Self::Expired(date(*not_after)),
            C::NotValidYet => Self::NotYetValid(None),
            C::NotValidYetContext { not_before, .. } => Self::NotYetValid(date(*not_before)),
            C::NotValidForNameContext {
                expected,
                presented,
            } => Self::WrongName {
                expected: Some(expected.to_str().into_owned()),
                names: Some(presented.iter().map(|name| bare(name)).collect()),
            },
            C::InvalidPurpose | C::InvalidPurposeContext { .. } => Self::WrongPurpose,
            _ => return None,
        })
    }

    /// Libraries pass some errors on as text, and rustls has no variant for others.
    fn of_text(text: &str) -> Option<Self> {
        if let Some((_, alert)) = text.split_once("received fatal alert: ") {
            return Self::of_alert(alert.split(|c: char| !c.is_alphanumeric()).next()?);
        }
        let signs = [
            ("UnknownIssuer", Self::UnknownAuthority),
            ("BadSignature", Self::OtherKey),
            ("UnsupportedSignatureAlgorithmForPublicKey", Self::OtherKey),
            ("CaUsedAsEndEntity", Self::OwnAuthority),
            ("certificate expired", Self::Expired(None)),
            ("certificate not valid yet", Self::NotYetValid(None)),
            (
                "not valid for name",
                Self::WrongName {
                    expected: None,
                    names: None,
                },
            ),
            ("InvalidContentType", Self::Plaintext),
            ("tls handshake eof", Self::Closed),
        ];
        let found = signs.into_iter().find(|(sign, _)| text.contains(sign));
        found.map(|(_, fault)| fault)
    }

    /// The fault of a fatal alert from the server, by rustls' name of the alert.
    fn of_alert(alert: &str) -> Option<Self> {
        Some(match alert {
            "CertificateRequired" | "NoCertificate" => Self::ClientCertificateMissing,
            "UnknownCA" => Self::ClientCertificateRefused("does not trust its authority"),
            "CertificateExpired" => Self::ClientCertificateRefused("finds it expired"),
            "CertificateRevoked" => Self::ClientCertificateRefused("finds it revoked"),
            "BadCertificate" | "CertificateUnknown" | "UnsupportedCertificate" | "AccessDenied" => {
                Self::ClientCertificateRefused("does not accept it")
            }
            "HandshakeFailure" => Self::HandshakeRefused,
            "ProtocolVersion" => Self::NoCommonVersion,
            "NoApplicationProtocol" => Self::OtherProtocol,
            _ => return None,
        })
    }

    /// A sentence for the operator, without a full stop.
    #[must_use]
    pub fn sentence(&self, settings: &TlsSettings) -> String {
        let TlsSettings {
            ca_file,
            has_ca_file,
            client_files,
            has_client_files,
            plaintext_address,
        } = settings;
        match self {
            Self::Expired(None) => "the server's certificate has expired".to_owned(),
            Self::Expired(Some(at)) => format!("the server's certificate expired at {at}"),
            Self::NotYetValid(None) => "the server's certificate is not valid yet".to_owned(),
            Self::NotYetValid(Some(at)) => {
                format!("the server's certificate is not valid before {at}")
            }
            Self::WrongName { expected, names } => {
                wrong_name(expected.as_deref(), names.as_deref())
            }
            Self::UnknownAuthority if *has_ca_file => {
                format!("the server's certificate is signed by no authority in {ca_file}")
            }
            Self::UnknownAuthority => format!(
                "the server's certificate is signed by no authority that this machine trusts: set {ca_file}"
            ),
            Self::OtherKey => format!(
                "the server's certificate is signed with another key than that of the authority of this name in \
                 {ca_file}: the authority was made anew, and its new certificate belongs there"
            ),
            Self::OwnAuthority => format!(
                "the server's certificate is its own authority, and is not in {ca_file}: put that very \
                 certificate there"
            ),
            Self::WrongPurpose => "the server's certificate is not for servers".to_owned(),
            Self::Plaintext => {
                format!("the port does not speak TLS: use {plaintext_address}")
            }
            Self::Closed => format!(
                "the server closed the connection during the TLS handshake: if the port does not speak TLS, use \
                 {plaintext_address}"
            ),
            Self::ClientCertificateRefused(why) if *has_client_files => {
                format!("the server refuses the client certificate of {client_files}: it {why}")
            }
            Self::ClientCertificateMissing | Self::ClientCertificateRefused(_) => {
                format!("the server asks for a client certificate: set {client_files}")
            }
            Self::HandshakeRefused if *has_client_files => {
                "the server refuses the TLS handshake".to_owned()
            }
            Self::HandshakeRefused => format!(
                "the server refuses the TLS handshake: if it asks for a client certificate, set {client_files}"
            ),
            Self::OtherProtocol => {
                "the port speaks TLS, and over it another protocol than this program".to_owned()
            }
            Self::NoCommonVersion => {
                "the server has no version of TLS in common with this program (1.2 or 1.3)"
                    .to_owned()
            }
        }
    }
}

fn wrong_name(expected: Option<&str>, names: Option<&[String]>) -> String {
    let expected = expected.unwrap_or("the host by which it is reached");
    let wrong = format!("the server's certificate is not for {expected}");
    match names {
        None => wrong,
        Some([]) => format!("{wrong}: it has no subject alternative name"),
        Some(names) => format!("{wrong}: it is for {}", names.join(", ")),
    }
}

/// An error and its causes, outermost first. `source` of an `io::Error` or an `Arc` skips the error that it wraps.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.get_ref().map(|inner| inner as &(dyn Error + 'static));
        }
        if let Some(error) = error.downcast_ref::<Arc<dyn Error + Send + Sync>>() {
            return Some(&**error as &(dyn Error + 'static));
        }
        error.source()
    })
}

fn date(time: UnixTime) -> Option<String> {
    let seconds = i64::try_from(time.as_secs()).ok()?;
    let time = DateTime::from_timestamp(seconds, 0)?;
    Some(time.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// The name in `DnsName("a.example")` or `IpAddress(127.0.0.1)`.
fn bare(name: &str) -> String {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_matches(['(', ')', '"']).to_owned()
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, OtherError};

    use super::*;

    const SETTINGS: TlsSettings = TlsSettings {
        ca_file: "--ca-file",
        has_ca_file: true,
        client_files: "--cert-file and --key-file",
        has_client_files: false,
        plaintext_address: "http://HOST:PORT",
    };

    fn sentence(error: impl Error + 'static) -> String {
        let found = TlsFault::find(&error);
        found.map_or_else(|| error.to_string(), |fault| fault.sentence(&SETTINGS))
    }

    fn io(error: impl Error + Send + Sync + 'static) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn a_tls_fault_is_found_at_any_depth_and_explained() {
        let own = io::Error::other("CaUsedAsEndEntity");
        let own = CertificateError::Other(OtherError(Arc::new(own)));
        let expired = CertificateError::ExpiredContext {
            time: UnixTime::since_unix_epoch(std::time::Duration::from_secs(2)),
            not_after: UnixTime::since_unix_epoch(std::time::Duration::from_secs(1)),
        };
        let inner: Arc<dyn Error + Send + Sync> =
            Arc::new(io(rustls::Error::InvalidCertificate(expired)));
        for (error, said) in [
            (
                io(rustls::Error::InvalidCertificate(own)),
                "the server's certificate is its own authority, and is not in --ca-file",
            ),
            (
                io(io(rustls::Error::InvalidCertificate(
                    CertificateError::UnknownIssuer,
                ))),
                "is signed by no authority in --ca-file",
            ),
            (
                io(rustls::Error::InvalidCertificate(
                    CertificateError::BadSignature,
                )),
                "is signed with another key than that of the authority of this name in --ca-file",
            ),
            (
                io(inner),
                "the server's certificate expired at 1970-01-01T00:00:01Z",
            ),
            (
                io(rustls::Error::AlertReceived(
                    AlertDescription::CertificateRequired,
                )),
                "asks for a client certificate: set --cert-file and --key-file",
            ),
            (
                io(rustls::Error::AlertReceived(
                    AlertDescription::ProtocolVersion,
                )),
                "no version of TLS in common",
            ),
            (
                io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof"),
                "if the port does not speak TLS, use http://HOST:PORT",
            ),
            (
                io(rustls::Error::InvalidMessage(
                    InvalidMessage::InvalidContentType,
                )),
                "the port does not speak TLS: use http://HOST:PORT",
            ),
        ] {
            let sentence = sentence(error);
            assert!(sentence.contains(said), "{said}: {sentence}");
        }
    }

    #[test]
    fn an_error_that_is_no_tls_fault_is_not_explained() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(TlsFault::find(&refused), None);
    }
}
