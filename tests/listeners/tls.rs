//! `[tls]` and `[http_tls]`: authentication of the service and of its clients.

use std::{sync::Arc, time::Instant};

use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tollgate::grpc::proto::{GetQuotaRequest, quota_service_client::QuotaServiceClient};
use tonic::{
    Code,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{WAIT_TIMEOUT, ended, start, until};
use crate::support::{
    calls::{TextFile, new_reserve, reserve, verdict_text},
    certificates::{Authority, Files},
    tollgate::{Tollgate, program},
};

pub(super) fn read(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

pub(super) fn section(name: &str, files: &Files, more: &str) -> String {
    let Files { cert, key } = files;
    format!("[{name}]\ncert_file = {cert:?}\nkey_file = {key:?}\n{more}")
}

/// A client that trusts this authority and has this certificate, connected.
async fn connect(
    tollgate: &Tollgate,
    authority: &Authority,
    client: Option<&Files>,
) -> Result<QuotaServiceClient<Channel>, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&authority.file())))
        .domain_name("tollgate.test");
    if let Some(Files { cert, key }) = client {
        tls = tls.identity(Identity::from_pem(read(cert), read(key)));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", tollgate.addr)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await?;
    Ok(QuotaServiceClient::new(channel))
}

/// The TLS configuration of a client that trusts this authority and has this certificate.
fn client_config(authority: &Authority, client: Option<&Files>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(&read(&authority.file())).unwrap();
    roots.add(ca).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match client {
        None => config.with_no_client_auth(),
        Some(Files { cert, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(&read(cert)).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(&read(key)).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    })
}

/// A connection after its handshake.
pub(super) async fn shake_hands(addr: &str, config: Arc<ClientConfig>) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("tollgate.test").unwrap();
    TlsConnector::from(config).connect(name, tcp).await.unwrap()
}

/// The answer to a GET over HTTPS.
pub(super) async fn https_get(tollgate: &Tollgate, authority: &Authority, path: &str) -> String {
    let mut stream = shake_hands(&tollgate.http_addr, client_config(authority, None)).await;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: tollgate.test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// With TLS 1.3, a client learns only at its first call that its certificate is refused.
async fn is_let_in(tollgate: &Tollgate, authority: &Authority, client: Option<&Files>) -> bool {
    match connect(tollgate, authority, client).await {
        Ok(mut client) => client.reserve(new_reserve(1, "")).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn both_ports_speak_tls_and_plaintext_is_not_answered() {
    let authority = Authority::new();
    let files = authority.sign("server", &["tollgate.test", "127.0.0.1"]);
    let settings = section("tls", &files, "") + &section("http_tls", &files, "");
    let tollgate = start(&settings);
    let client = connect(&tollgate, &authority, None).await.unwrap();
    assert_eq!(verdict_text(&reserve(&client, 1, "").await), "FREE");
    assert!(tollgate.client().reserve(new_reserve(1, "")).await.is_err());
    assert!(connect(&tollgate, &Authority::new(), None).await.is_err());
    let answer = https_get(&tollgate, &authority, "/livez").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn clients_show_certificates_of_the_authority_that_is_named() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = authority.sign("server", &["tollgate.test"]);
    let (known, foreign) = (
        authority.sign("client", &["gateway"]),
        other.sign("client", &["gateway"]),
    );
    let asks = format!("client_ca_file = {:?}\n", authority.file());
    let tollgate = start(&section("tls", &files, &asks));
    assert!(is_let_in(&tollgate, &authority, Some(&known)).await);
    assert!(!is_let_in(&tollgate, &authority, Some(&foreign)).await);
    assert!(!is_let_in(&tollgate, &authority, None).await);

    let optional = asks + "client_certificates = \"optional\"\n";
    let tollgate = start(&section("tls", &files, &optional));
    assert!(is_let_in(&tollgate, &authority, Some(&known)).await);
    assert!(!is_let_in(&tollgate, &authority, Some(&foreign)).await);
    assert!(is_let_in(&tollgate, &authority, None).await);
}

#[tokio::test]
async fn a_new_certificate_is_used_for_new_connections_and_an_invalid_one_is_refused() {
    let (authority, next) = (Authority::new(), Authority::new());
    let files = authority.sign("server", &["tollgate.test"]);
    let new = next.sign("server", &["tollgate.test"]);
    let tollgate = start(&section("tls", &files, ""));
    let open = connect(&tollgate, &authority, None).await.unwrap();
    reserve(&open, 1, "").await;
    let logged = |message: &str| tollgate.log().iter().any(|line| line["message"] == message);

    // The key of another certificate.
    std::fs::write(&files.key, read(&new.key)).unwrap();
    let refused = "certificates are refused: those of before are shown on";
    super::until("the bad pair is not logged", || logged(refused)).await;
    assert!(is_let_in(&tollgate, &authority, None).await);

    std::fs::write(&files.cert, read(&new.cert)).unwrap();
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !is_let_in(&tollgate, &next, None).await {
        assert!(Instant::now() < deadline, "the new one is not shown");
    }
    assert!(!is_let_in(&tollgate, &authority, None).await);
    assert!(logged(
        "new certificates are shown from the next connection on"
    ));
    // The old connection stays open.
    reserve(&open, 1, "").await;
}

/// Starts the service with invalid settings; its message must contain the words.
fn assert_start_fails(settings: &str, words: &[&str]) {
    let settings = TextFile::new(settings);
    let args = ["serve", "--store", "memory:", "--config", settings.path()];
    let ended = program().args(args).output().unwrap();
    let message = String::from_utf8(ended.stderr).unwrap();
    assert!(!ended.status.success(), "{message}");
    for word in words {
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[test]
fn invalid_tls_files_are_reported_at_the_start_with_their_settings() {
    let authority = Authority::new();
    let (files, other) = (
        authority.sign("server", &["tollgate.test"]),
        authority.sign("other", &["tollgate.test"]),
    );
    let nothing = authority.other_file("nothing.pem", "nothing");
    let with = |cert: &str, key: &str, more: &str| {
        let (cert, key) = (cert.to_owned(), key.to_owned());
        section("tls", &Files { cert, key }, more)
    };
    let ca = format!("client_ca_file = {nothing:?}\n");
    let optional = "client_certificates = \"optional\"\n";
    for (settings, words) in [
        (
            with("/nowhere", &files.key, ""),
            ["tls.cert_file", "/nowhere"],
        ),
        (
            with(&nothing, &files.key, ""),
            ["tls.cert_file", "no certificate"],
        ),
        (
            with(&files.cert, &nothing, ""),
            ["tls.key_file", "no private key"],
        ),
        (
            with(&files.cert, &other.key, ""),
            ["tls.key_file", "no key for tls.cert_file"],
        ),
        (
            with(&files.cert, &files.key, &ca),
            ["tls.client_ca_file", "no certificate"],
        ),
        (
            with(&files.cert, &files.key, optional),
            ["tls.client_certificates", "needs client_ca_file"],
        ),
        (
            format!("[http_tls]\ncert_file = {:?}\n", files.cert),
            ["http_tls", "key_file"],
        ),
    ] {
        assert_start_fails(&settings, &words);
    }
}

#[test]
fn invalid_bounds_are_reported_at_the_start_with_their_settings() {
    for (settings, words) in [
        ("connections = 3", ["bounds.connections", "16"]),
        ("idle_time = \"1ms\"", ["bounds.idle_time", "1s"]),
        ("conections = 3", ["bounds.conections", "connections"]),
    ] {
        assert_start_fails(&format!("[bounds]\n{settings}\n"), &words);
    }
}

/// A callers file: one caller is identified by its certificate, one by a token.
fn callers(roles: &str) -> String {
    let hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    format!(
        "[callers.gateway]\ncertificates = [\"spiffe://test/gateway\"]\nroles = [{roles}]\n\
         organizations = [\"acme\"]\n\n[callers.operator]\ntokens = [\"{hash}\"]\n\
         roles = [\"read\"]\norganizations = [\"*\"]\n"
    )
}

/// The token of the hash above.
const TOKEN: &str = "Bearer test";

/// A service with TLS on both ports, and a callers file.
struct ServiceWithCallers {
    authority: Authority,
    callers: TextFile,
    tollgate: Tollgate,
}

impl ServiceWithCallers {
    fn start() -> Self {
        let authority = Authority::new();
        let files = authority.sign("server", &["tollgate.test"]);
        let client_ca = format!(
            "client_ca_file = {:?}\nclient_certificates = \"optional\"\n",
            authority.file()
        );
        let callers = TextFile::new(&callers("\"reserve\""));
        let settings = format!("callers = {:?}\n", callers.path())
            + &section("tls", &files, &client_ca)
            + &section("http_tls", &files, "");
        Self {
            tollgate: start(&settings),
            authority,
            callers,
        }
    }

    /// The certificate of the caller `gateway`.
    fn gateway(&self) -> Files {
        self.authority
            .sign_names("gateway", &["spiffe://test/gateway"])
    }

    async fn reserve(&self, certificate: Option<&Files>) -> Result<(), Code> {
        let mut client = connect(&self.tollgate, &self.authority, certificate)
            .await
            .unwrap();
        let answer = client.reserve(new_reserve(1, "")).await;
        answer.map(|_| ()).map_err(|it| it.code())
    }

    fn logged(&self, matches: impl Fn(&serde_json::Value) -> bool) -> usize {
        let log = self.tollgate.log();
        log.iter().filter(|line| matches(line)).count()
    }
}

#[tokio::test]
async fn callers_are_identified_by_certificate_or_token() {
    let service = ServiceWithCallers::start();
    let known = service.gateway();
    let unknown = service
        .authority
        .sign_names("gateway-2", &["spiffe://test/gateway/2"]);
    assert_eq!(service.reserve(Some(&known)).await, Ok(()));
    assert_eq!(
        service.reserve(Some(&unknown)).await,
        Err(Code::Unauthenticated)
    );
    assert_eq!(service.reserve(None).await, Err(Code::Unauthenticated));

    let (tollgate, authority) = (&service.tollgate, &service.authority);
    let mut operator = connect(tollgate, authority, None).await.unwrap();
    let mut quota = tonic::Request::new(GetQuotaRequest {
        org: "acme".to_owned(),
    });
    quota
        .metadata_mut()
        .insert("authorization", TOKEN.parse().unwrap());
    let pools = operator.get_quota(quota).await.unwrap().into_inner().pools;
    assert_eq!(pools.iter().map(|pool| pool.used).sum::<u64>(), 1);

    let quota = "/api/quota?org=acme";
    let refused = https_get(tollgate, authority, quota).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let with_token = format!("{quota} HTTP/1.1\r\nAuthorization: {TOKEN}\r\nX-Rest:");
    let answer = https_get(tollgate, authority, &with_token).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_changed_callers_file_applies_at_once_and_one_with_a_fault_not_at_all() {
    let service = ServiceWithCallers::start();
    let gateway = service.gateway();
    let file = service.callers.path();
    std::fs::write(file, callers("\"rule\"")).unwrap();
    super::until("the fault is not logged", || {
        let is_fault = |line: &serde_json::Value| {
            let error = line["error"].as_str();
            error.is_some_and(|it| it.contains("\"rule\""))
        };
        service.logged(is_fault) > 0
    })
    .await;
    assert_eq!(service.reserve(Some(&gateway)).await, Ok(()));
    std::fs::write(file, callers("\"read\"")).unwrap();
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while service.reserve(Some(&gateway)).await.is_ok() {
        assert!(Instant::now() < deadline, "the change is not applied");
    }
    assert_eq!(
        service.reserve(Some(&gateway)).await,
        Err(Code::PermissionDenied)
    );
    let changes = service.logged(|line| line["message"] == "the callers have changed");
    assert_eq!(changes, 1);
}

#[tokio::test]
async fn silence_after_the_tls_handshake_times_out() {
    let authority = Authority::new();
    let files = authority.sign("server", &["tollgate.test"]);
    let bounds = "[bounds]\nhandshake_time = \"1s\"\n";
    let tollgate = start(&section("tls", &files, bounds));
    let config = client_config(&authority, None);
    let mut silent = shake_hands(&tollgate.addr, config).await;
    let mut received = Vec::new();
    let closed = tokio::time::timeout(WAIT_TIMEOUT, silent.read_to_end(&mut received));
    let _ = closed.await.expect("it is still open");
    until("why is not logged", || {
        ended(&tollgate, "HandshakeTimeout") == 1
    })
    .await;
}

/// Performs two handshakes, the second with the session of the first.
async fn second_handshake(tollgate: &Tollgate, config: Arc<ClientConfig>) -> HandshakeKind {
    let request = b"GET /livez HTTP/1.1\r\nHost: tollgate.test\r\nConnection: close\r\n\r\n";
    let mut kind = None;
    for _ in 0..2 {
        let mut stream = shake_hands(&tollgate.http_addr, Arc::clone(&config)).await;
        stream.write_all(request).await.unwrap();
        // TLS 1.3 sends tickets after the handshake.
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        kind = stream.get_ref().1.handshake_kind();
    }
    kind.unwrap()
}

#[tokio::test]
async fn a_client_shows_its_certificate_each_time_that_it_connects() {
    let authority = Authority::new();
    let (files, known) = (
        authority.sign("server", &["tollgate.test"]),
        authority.sign("client", &["gateway"]),
    );
    let asks = format!("client_ca_file = {:?}\n", authority.file());
    let tollgate = start(&section("http_tls", &files, &asks));
    let config = client_config(&authority, Some(&known));
    let kind = second_handshake(&tollgate, config).await;
    assert_eq!(kind, HandshakeKind::Full);
    // Without client certificates, a session may be resumed.
    let open = start(&section("http_tls", &files, ""));
    let kind = second_handshake(&open, client_config(&authority, None)).await;
    assert_eq!(kind, HandshakeKind::Resumed);
}
