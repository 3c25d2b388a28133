//! The client's TLS: its trusted authorities and its own certificate.

use rustls::pki_types::ServerName;
use tonic::transport::{ClientTlsConfig, Endpoint, Identity};

use super::{
    WrongArguments,
    connection::{CA_FILE, CERT_FILE, ConnectionArgs},
};
use crate::tls::{TlsFiles, TlsNames, TlsSettings};

static TLS_FLAGS: TlsNames = TlsNames {
    ca_file: CA_FILE,
    cert_file: CERT_FILE,
    key_file: "--key-file",
    plaintext_address: "--addr http://HOST:PORT",
};

impl ConnectionArgs {
    /// Adds TLS to an endpoint.
    ///
    /// # Errors
    ///
    /// A file can't be used.
    pub(crate) fn encrypt(&self, endpoint: Endpoint) -> anyhow::Result<Endpoint> {
        let mut tls = ClientTlsConfig::new().domain_name(self.server_name()?.to_str());
        let settings = self.tls_settings();
        if let Some((cert, key)) = settings.client_files()? {
            tls = tls.identity(Identity::from_pem(cert.bytes, key.bytes));
        }
        // Errors of our own configuration name the flag and the file; tonic's don't.
        settings.config()?;
        Ok(endpoint.tls_config_with_verifier(tls, settings.verifier()?)?)
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

    pub(crate) fn tls_settings(&self) -> TlsSettings {
        TlsSettings {
            names: &TLS_FLAGS,
            files: TlsFiles {
                ca_file: self.ca_file.clone(),
                client: self.cert_file.clone().zip(self.key_file.clone()),
            },
        }
    }
}
