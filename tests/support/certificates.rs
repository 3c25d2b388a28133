//! The test's own certificates: an authority, and certificates that it signs.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair,
    SanType,
};
use tempfile::TempDir;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

/// The paths of a certificate and its key.
pub struct Files {
    pub cert: String,
    pub key: String,
}

/// The files for TLS with client certificates.
pub struct Encryption {
    pub ca: String,
    pub cert: String,
    pub key: String,
}

impl Encryption {
    /// The options of a server that also listens on this port with TLS. A sentinel's settings have no dashes.
    pub fn options(&self, port: u16) -> Vec<[String; 2]> {
        let port = port.to_string();
        [
            ("tls-port", port.as_str()),
            ("tls-cert-file", &self.cert),
            ("tls-key-file", &self.key),
            ("tls-ca-cert-file", &self.ca),
            ("tls-auth-clients", "yes"),
            ("tls-replication", "yes"),
        ]
        .map(|(name, value)| [name.to_owned(), value.to_owned()])
        .to_vec()
    }

    /// The same as arguments.
    pub fn arguments(&self, port: u16) -> Vec<String> {
        let options = self.options(port).into_iter();
        let dashed = options.map(|[name, value]| [format!("--{name}"), value]);
        dashed.flatten().collect()
    }
}

impl Authority {
    /// The files of a server with a certificate for this host.
    pub fn encryption(&self, host: &str) -> Encryption {
        let Files { cert, key } = self.sign("server", &[host]);
        Encryption {
            ca: self.file(),
            cert,
            key,
        }
    }

    pub fn new() -> Self {
        static AUTHORITIES: AtomicU32 = AtomicU32::new(0);
        let number = AUTHORITIES.fetch_add(1, Ordering::Relaxed);
        Self::of_name(&format!("authority {number}"))
    }

    /// Two authorities of one name have different keys.
    pub fn of_name(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        named(&mut params, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    /// The path of its own certificate.
    pub fn file(&self) -> String {
        self.path("ca.pem").to_str().unwrap().to_owned()
    }

    /// Writes another file.
    pub fn other_file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Signs a certificate for these hosts.
    pub fn sign(&self, name: &str, hosts: &[&str]) -> Files {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        self.sign_params(name, CertificateParams::new(hosts).unwrap())
    }

    /// Signs a certificate for these names: with a colon a URI, otherwise a DNS name, without validation.
    pub fn sign_names(&self, name: &str, names: &[&str]) -> Files {
        let mut params = CertificateParams::default();
        let alternative = |name: &&str| match name.contains(':') {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(alternative).collect();
        self.sign_params(name, params)
    }

    /// Signs a certificate with these parameters. The common name is the name of the files.
    pub fn sign_params(&self, name: &str, mut params: CertificateParams) -> Files {
        let key = KeyPair::generate().unwrap();
        named(&mut params, name);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Files {
            cert: self.other_file(&format!("{name}.pem"), &cert.pem()),
            key: self.other_file(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// A self-signed certificate, as from `openssl req -x509`, in this authority's folder.
    pub fn self_signed(&self, name: &str, hosts: &[&str]) -> Files {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        named(&mut params, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Files {
            cert: self.other_file(&format!("{name}.pem"), &cert.pem()),
            key: self.other_file(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// With its issuer's name, it would look self-signed.
fn named(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
}
