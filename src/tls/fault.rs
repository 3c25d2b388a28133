//! Explains why a TLS connection failed, and names the settings involved.

use std::{error::Error, io, iter::successors, sync::Arc};

use chrono::{DateTime, SecondsFormat};
use rustls::{CertificateError, pki_types::UnixTime};

use super::config::TlsSettings;

/// Why a TLS connection failed, as the client sees it: a sentence for the operator, without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFault {
    /// The server's certificate is for other names than that by which it is reached. The sentence has these names.
    WrongName(String),
    /// Another one.
    Other(String),
}

impl TlsFault {
    /// A certificate is for other names, without these.
    pub const WRONG_NAME: &str =
        "the server's certificate is not for the host by which it is reached";

    /// Finds the TLS fault in an error's chain; `None` if there is none.
    #[must_use]
    pub fn find(error: &(dyn Error + 'static), settings: &TlsSettings) -> Option<Self> {
        causes(error)
            .find_map(|cause| Self::of_rustls(cause.downcast_ref()?))
            .or_else(|| {
                causes(error)
                    .find_map(|cause| of_text(&cause.to_string(), settings))
                    .map(Self::Other)
            })
    }

    /// The sentence.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Self::WrongName(sentence) | Self::Other(sentence) => sentence,
        }
    }

    /// The faults with dates or names.
    fn of_rustls(error: &rustls::Error) -> Option<Self> {
        use CertificateError as C;
        let rustls::Error::InvalidCertificate(fault) = error else {
            return None;
        };
        match fault {
            C::ExpiredContext { not_after, .. } => {
                let at = date(*not_after)?;
                Some(Self::Other(format!(
                    "the server's certificate expired at {at}"
                )))
            }
            C::NotValidYetContext { not_before, .. } => {
                let at = date(*not_before)?;
                Some(Self::Other(format!(
                    "the server's certificate is not valid before {at}"
                )))
            }
            C::NotValidForNameContext {
                expected,
                presented,
            } => {
                let names: Vec<String> = presented.iter().map(|name| bare(name)).collect();
                let names = match names.as_slice() {
                    [] => "has no subject alternative name".to_owned(),
                    names => format!("is for {}", names.join(", ")),
                };
                let expected = expected.to_str();
                Some(Self::WrongName(format!(
                    "the server's certificate is not for {expected}: it {names}"
                )))
            }
            _ => None,
        }
    }
}

/// The other faults, by their text: libraries pass some errors on as text, and rustls has no variant for others.
fn of_text(text: &str, settings: &TlsSettings) -> Option<String> {
    if let Some((_, alert)) = text.split_once("received fatal alert: ") {
        return of_alert(
            alert.split(|c: char| !c.is_alphanumeric()).next()?,
            settings,
        );
    }
    let names = settings.names;
    let (ca_file, plaintext) = (names.ca_file, names.plaintext_address);
    let unknown = match settings.files.ca_file {
        Some(_) => format!("is signed by no authority in {ca_file}"),
        None => format!("is signed by no authority that this machine trusts: set {ca_file}"),
    };
    let other_key = format!(
        "is signed with another key than that of the authority of this name in {ca_file}: the authority was made \
         anew, and its new certificate belongs there"
    );
    let own_authority =
        format!("is its own authority, and is not in {ca_file}: put that very certificate there");
    let certificate = [
        ("UnknownIssuer", unknown.as_str()),
        ("BadSignature", &other_key),
        ("UnsupportedSignatureAlgorithmForPublicKey", &other_key),
        ("CaUsedAsEndEntity", &own_authority),
        ("certificate expired", "has expired"),
        ("certificate not valid yet", "is not valid yet"),
        (
            "not valid for name",
            "is not for the host by which it is reached",
        ),
        ("does not allow extended key usage", "is not for servers"),
        ("InvalidPurpose", "is not for servers"),
    ];
    let has = |(sign, _): &(&str, &str)| text.contains(sign);
    if let Some((_, fault)) = certificate.into_iter().find(has) {
        return Some(format!("the server's certificate {fault}"));
    }
    if text.contains("InvalidContentType") || text.contains("UnknownProtocolVersion") {
        return Some(format!("the port does not speak TLS: use {plaintext}"));
    }
    text.contains("tls handshake eof").then(|| {
        format!(
            "the server closed the connection during the TLS handshake: if the port does not speak TLS, use \
             {plaintext}"
        )
    })
}

/// The fault of a fatal alert from the server, by rustls' name of the alert.
fn of_alert(alert: &str, settings: &TlsSettings) -> Option<String> {
    let names = settings.names;
    let files = format!("{} and {}", names.cert_file, names.key_file);
    let refused = match alert {
        "HandshakeFailure" => {
            let refuses = "the server refuses the TLS handshake";
            return Some(match settings.files.client {
                Some(_) => refuses.to_owned(),
                None => format!("{refuses}: if it asks for a client certificate, set {files}"),
            });
        }
        "ProtocolVersion" => {
            let fault = "the server has no version of TLS in common with this program (1.2 or 1.3)";
            return Some(fault.to_owned());
        }
        "NoApplicationProtocol" => {
            let fault = "the port speaks TLS, and over it another protocol than this program";
            return Some(fault.to_owned());
        }
        "CertificateRequired" | "NoCertificate" => None,
        "UnknownCA" => Some("does not trust its authority"),
        "CertificateExpired" => Some("finds it expired"),
        "CertificateRevoked" => Some("finds it revoked"),
        "BadCertificate" | "CertificateUnknown" | "UnsupportedCertificate" | "AccessDenied" => {
            Some("does not accept it")
        }
        _ => return None,
    };
    Some(match (refused, &settings.files.client) {
        (Some(why), Some(_)) => {
            format!("the server refuses the client certificate of {files}: it {why}")
        }
        _ => format!("the server asks for a client certificate: set {files}"),
    })
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
    use rustls::AlertDescription;

    use super::*;
    use crate::tls::{TlsFiles, TlsNames};

    static NAMES: TlsNames = TlsNames {
        ca_file: "--ca-file",
        cert_file: "--cert-file",
        key_file: "--key-file",
        plaintext_address: "http://HOST:PORT",
    };

    /// tests/cli/tls.rs has the faults that a connection can show.
    #[test]
    fn a_tls_fault_is_found_at_any_depth_and_other_errors_are_not_explained() {
        let (names, files) = (&NAMES, TlsFiles::default());
        let settings = TlsSettings { names, files };
        let version = rustls::Error::AlertReceived(AlertDescription::ProtocolVersion);
        let inner: Arc<dyn Error + Send + Sync> = Arc::new(io::Error::other(version));
        let found = TlsFault::find(&io::Error::other(inner), &settings);
        let sentence = found.expect("a TLS fault").sentence();
        assert!(
            sentence.contains("no version of TLS in common"),
            "{sentence}"
        );
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(TlsFault::find(&refused, &settings), None);
    }
}
