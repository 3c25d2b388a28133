//! Certificates of the test's own: an authority, and what it signs.

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

/// The files of a certificate and its key.
pub struct Files {
    pub cert: String,
    pub key: String,
}

/// How a server speaks TLS, and asks its clients who they are.
pub struct Encryption {
    pub ca: String,
    pub cert: String,
    pub key: String,
}

impl Encryption {
    /// The options of a server that listens on this port besides; a sentinel's settings have no dashes.
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
    /// A server with a certificate for this host.
    pub fn encryption(&self, host: &str) -> Encryption {
        let Files { cert, key } = self.signs("server", &[host]);
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

    /// Two of one name have different keys.
    pub fn of_name(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        named(&mut params, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir }
    }

    /// The file of its own certificate.
    pub fn file(&self) -> String {
        self.path("ca.pem").to_str().unwrap().to_owned()
    }

    /// A file of another text.
    pub fn other_file(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Signs for these hosts.
    pub fn signs(&self, name: &str, hosts: &[&str]) -> Files {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        self.signs_params(name, CertificateParams::new(hosts).unwrap())
    }

    /// Signs for these names: with a colon a URI, else a DNS name. Whether they are any is not looked at.
    pub fn signs_names(&self, name: &str, names: &[&str]) -> Files {
        let mut params = CertificateParams::default();
        let alternative = |name: &&str| match name.contains(':') {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(alternative).collect();
        self.signs_params(name, params)
    }

    /// Signs what is asked for, with the name of the files as the common name.
    pub fn signs_params(&self, name: &str, mut params: CertificateParams) -> Files {
        let key = KeyPair::generate().unwrap();
        named(&mut params, name);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Files {
            cert: self.other_file(&format!("{name}.pem"), &cert.pem()),
            key: self.other_file(&format!("{name}.key"), &key.serialize_pem()),
        }
    }

    /// A certificate that is its own authority, as `openssl req -x509` makes it, in this authority's folder.
    pub fn signs_itself(&self, name: &str, hosts: &[&str]) -> Files {
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

/// One whose name is its issuer's would be taken for signed by itself.
fn named(params: &mut CertificateParams, name: &str) {
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
}
