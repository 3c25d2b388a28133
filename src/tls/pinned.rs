//! Verifies server certificates against a file of authorities and of servers' own certificates.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, ExtendedKeyPurpose, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::ring,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, parse_x509_certificate, time::ASN1Time};

/// Trusts the given authorities and the given server certificates.
///
/// webpki accepts no authority's certificate as a server's, so it refuses those of `openssl req -x509`. This verifier
/// also accepts a server certificate that equals a given one. Its dates, purpose and names are checked as usual.
#[derive(Debug)]
pub struct PinnedVerifier {
    named: Vec<CertificateDer<'static>>,
    webpki: Arc<WebPkiServerVerifier>,
}

impl PinnedVerifier {
    /// Takes at least one certificate, of an authority or a server.
    ///
    /// # Errors
    ///
    /// There is none, or one can't be parsed.
    pub fn new(named: Vec<CertificateDer<'static>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in &named {
            roots.add(certificate.clone())?;
        }
        let provider = Arc::new(ring::default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::Other(OtherError(Arc::new(error))))?;
        Ok(Self { named, webpki })
    }
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        let error = match verified {
            Err(error) if self.named.contains(end_entity) => error,
            verified => return verified,
        };
        let (_, certificate) =
            parse_x509_certificate(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let now = i64::try_from(now.as_secs()).ok();
        let now = now.and_then(|now| ASN1Time::from_timestamp(now).ok());
        if !now.is_some_and(|now| certificate.validity().is_valid_at(now)) {
            // webpki checks the dates first, so the error says what is wrong with them.
            return Err(error);
        }
        verify_purpose(&certificate)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// If a certificate lists purposes, server authentication must be one of them.
fn verify_purpose(certificate: &X509Certificate<'_>) -> Result<(), CertificateError> {
    let purposes = certificate
        .extended_key_usage()
        .map_err(|_| CertificateError::BadEncoding)?;
    match purposes {
        Some(purposes) if !purposes.value.server_auth => {
            Err(CertificateError::InvalidPurposeContext {
                required: ExtendedKeyPurpose::ServerAuth,
                presented: Vec::new(),
            })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    use super::*;

    /// tests/cli/tls.rs holds what is trusted, and that names are checked.
    #[test]
    fn a_given_certificate_is_still_checked_for_dates_and_purpose() {
        let refusal = |change: fn(&mut CertificateParams)| {
            let mut params = CertificateParams::new(["a.example".to_owned()]).expect("a name");
            // Like those of `openssl req -x509`.
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            change(&mut params);
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("a certificate");
            let certificate: CertificateDer<'static> = certificate.into();
            let verifier = PinnedVerifier::new(vec![certificate.clone()]).expect("one");
            let name = ServerName::try_from("a.example").expect("a name");
            let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
            verifier.verify_server_cert(&certificate, &[], &name, &[], now)
        };
        for (change, words) in [
            (
                (|params| params.not_after = rcgen::date_time_ymd(2026, 1, 1))
                    as fn(&mut CertificateParams),
                "certificate expired",
            ),
            (
                |params| params.not_before = rcgen::date_time_ymd(2040, 1, 1),
                "certificate not valid yet",
            ),
            (
                |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
                "does not allow extended key usage for server authentication",
            ),
        ] {
            let error = refusal(change).expect_err(words).to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        refusal(|_| ()).expect("valid");
    }
}
