//! The client's TLS: its trusted authorities and its own certificate.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::ring,
    pki_types::ServerName,
};
use tonic::transport::{ClientTlsConfig, Endpoint, Identity};

use super::{
    WrongArguments,
    connection::{CA_FILE, CERT_FILE, ConnectionArgs, KEY_FILE},
};
use crate::{
    files::pem::{self, PemError},
    tls::{PinnedVerifier, TlsSettings},
};

impl ConnectionArgs {
    /// Adds TLS to an endpoint.
    ///
    /// # Errors
    ///
    /// A file can't be used.
    pub(crate) fn encrypt(&self, endpoint: Endpoint) -> anyhow::Result<Endpoint> {
        let mut tls = ClientTlsConfig::new().domain_name(self.server_name()?.to_str());
        if let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) {
            let (cert, key) = (pem::read(CERT_FILE, cert)?, pem::read(KEY_FILE, key)?);
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        // Errors of our own configuration name the flag and the file; tonic's don't.
        self.client_config()?;
        Ok(endpoint.tls_config_with_verifier(tls, self.verifier()?)?)
    }

    /// The same settings for a plain TLS connection.
    pub(crate) fn client_config(&self) -> anyhow::Result<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier()?);
        let mut config = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                let chain = pem::certificates(CERT_FILE, cert, &pem::read(CERT_FILE, cert)?)?;
                let private = pem::key(KEY_FILE, key, &pem::read(KEY_FILE, key)?)?;
                let config = config.with_client_auth_cert(chain, private);
                config.map_err(|error| {
                    PemError::foreign(KEY_FILE, key, format!("is no key for {CERT_FILE}: {error}"))
                })?
            }
            _ => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    fn verifier(&self) -> anyhow::Result<Arc<dyn ServerCertVerifier>> {
        if let Some(path) = &self.ca_file {
            let named = pem::certificates(CA_FILE, path, &pem::read(CA_FILE, path)?)?;
            let verifier = PinnedVerifier::new(named)
                .map_err(|error| PemError::foreign(CA_FILE, path, error.to_string()))?;
            return Ok(Arc::new(verifier));
        }
        let mut roots = RootCertStore::empty();
        // A certificate that can't be parsed is skipped.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            bail!("this system has no certificates of authorities: set {CA_FILE}");
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(verifier.build().context("the system's authorities")?)
    }

    /// The name that the server's certificate must be valid for.
    pub(crate) fn server_name(&self) -> Result<ServerName<'static>, WrongArguments> {
        let host = self.addr.host().unwrap_or_default();
        let name = self.server_name.as_deref();
        let name = name.unwrap_or(host.trim_matches(['[', ']']));
        ServerName::try_from(name.to_owned()).map_err(|_| {
            WrongArguments(format!("{name:?} is neither a DNS name nor an IP address"))
        })
    }

    /// The flags for the explanation of a TLS fault.
    pub(crate) fn tls_settings(&self) -> TlsSettings {
        TlsSettings {
            ca_file: CA_FILE,
            has_ca_file: self.ca_file.is_some(),
            client_files: "--cert-file and --key-file",
            has_client_files: self.cert_file.is_some(),
            plaintext_address: "--addr http://HOST:PORT",
        }
    }
}
