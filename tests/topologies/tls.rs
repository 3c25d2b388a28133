//! TLS to Redis: the server's certificate must be for the URL's host, and the client authenticates with its own.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{ORGS, reserve_of, start, used, wait_for_log, wait_for_not_ready};
use crate::server::http_get;
use crate::support::{
    calls::TextFile,
    certificates::{Authority, Files},
    cluster::RedisCluster,
    free_port,
    redis::RedisServer,
    sentinels::Sentinels,
    tollgate::program,
    tools::run,
};

/// A server that also listens with TLS, and requires client certificates.
struct TlsRedis {
    authority: Authority,
    _server: RedisServer,
    port: u16,
}

impl TlsRedis {
    /// With a certificate for this host.
    fn start(host: &str) -> Self {
        let authority = Authority::new();
        let (port, encryption) = (free_port(), authority.encryption(host));
        let options = encryption.arguments(port);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Self {
            _server: RedisServer::start_on(free_port(), None, &options),
            authority,
            port,
        }
    }

    fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }
}

fn settings(ca_file: &str, client: Option<&Files>) -> String {
    let mut settings = format!("[redis]\nca_file = {ca_file:?}\n");
    if let Some(Files { cert, key }) = client {
        settings += &format!("cert_file = {cert:?}\nkey_file = {key:?}\n");
    }
    settings
}

#[tokio::test]
async fn a_client_with_its_certificate_reaches_a_server_whose_authority_it_trusts() {
    let redis = TlsRedis::start("127.0.0.1");
    let client = redis.authority.sign("client", &["tollgate"]);
    let settings = settings(&redis.authority.file(), Some(&client));
    let tollgate = start(&redis.url(), &settings);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client = tollgate.client();
    assert_eq!(reserve_of(&client, "org-0", "r").await.unwrap().used, 1);
    assert_eq!(used(&client, "org-0").await, 1);
    // It is read only once, so its expiry must be visible.
    let (_, metrics) = http_get(&tollgate.http_addr, "/metrics");
    let metric = "tollgate_certificate_expiry_timestamp_seconds{of=\"redis\"} ";
    assert!(metrics.contains(metric), "{metrics}");
}

#[tokio::test]
async fn a_server_of_another_authority_or_name_or_a_client_without_certificate_is_logged() {
    let redis = TlsRedis::start("127.0.0.1");
    let client = redis.authority.sign("client", &["tollgate"]);
    let (ours, others) = (redis.authority.file(), Authority::new());
    let elsewhere = TlsRedis::start("redis.example");
    let known_there = elsewhere.authority.sign("client", &["tollgate"]);
    let there = settings(&elsewhere.authority.file(), Some(&known_there));
    for (url, settings, why) in [
        (
            redis.url(),
            settings(&others.file(), Some(&client)),
            "signed by no authority in redis.ca_file",
        ),
        (
            redis.url(),
            String::new(),
            "signed by no authority that this machine trusts: set redis.ca_file",
        ),
        (
            redis.url(),
            settings(&ours, None),
            "asks for a client certificate: set redis.cert_file and redis.key_file",
        ),
        (
            elsewhere.url(),
            there,
            "not for the host by which it is reached",
        ),
    ] {
        let tollgate = start(&url, &settings);
        wait_for_log(&tollgate, &["NOT_SERVING", why]).await;
        reserve_of(&tollgate.client(), "org-0", "r")
            .await
            .unwrap_err();
    }
}

/// A server with this certificate that requires none of its clients.
fn start_with_certificate(shown: &Files) -> (RedisServer, String) {
    let port = free_port();
    let options = [
        ("--tls-port", port.to_string().as_str()),
        ("--tls-cert-file", &shown.cert),
        ("--tls-key-file", &shown.key),
        ("--tls-ca-cert-file", &shown.cert),
        ("--tls-auth-clients", "no"),
    ]
    .map(|(name, value)| [name.to_owned(), value.to_owned()]);
    let options: Vec<&str> = options.iter().flatten().map(String::as_str).collect();
    let server = RedisServer::start_on(free_port(), None, &options);
    (server, format!("127.0.0.1:{port}"))
}

fn params() -> CertificateParams {
    CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap()
}

#[tokio::test]
async fn a_certificate_that_is_its_own_authority_is_trusted_where_it_is_itself_the_ca_file() {
    let authority = Authority::new();
    let mut own = params();
    own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = own.self_signed(&key).unwrap().pem();
    let shown = Files {
        cert: authority.other_file("own.pem", &pem),
        key: authority.other_file("own.key", &key.serialize_pem()),
    };
    let (_redis, address) = start_with_certificate(&shown);
    let url = format!("rediss://{address}");
    let tollgate = start(&url, &settings(&shown.cert, None));
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    reserve_of(&tollgate.client(), "org-0", "r").await.unwrap();
    // It is trusted only for itself.
    let words = "the server's certificate is its own authority, and is not in redis.ca_file";
    for settings in [settings(&authority.file(), None), String::new()] {
        wait_for_not_ready(&start(&url, &settings), words).await;
    }
}

#[tokio::test]
async fn each_usual_fault_of_tls_has_plain_words_in_readiness_answers_and_log() {
    let authority = Authority::new();
    let (mut expired, mut early) = (params(), params());
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    early.not_before = rcgen::date_time_ymd(2090, 1, 1);
    let expired = start_with_certificate(&authority.sign_params("expired", expired));
    let early = start_with_certificate(&authority.sign_params("early", early));
    let fine = start_with_certificate(&authority.sign_params("fine", params()));
    let plain = RedisServer::start();
    let over_tls = settings(&authority.file(), None);
    for (url, settings, words) in [
        (
            format!("rediss://{}", expired.1),
            &*over_tls,
            "the server's certificate expired at 2021-01-01",
        ),
        (
            format!("rediss://{}", early.1),
            &*over_tls,
            "the server's certificate is not valid before 2090-01-01",
        ),
        (
            plain.url().replace("redis:", "rediss:"),
            &*over_tls,
            "if the port does not speak TLS, use redis://",
        ),
        (
            format!("redis://{}", fine.1),
            "",
            "if the port speaks TLS, use rediss://",
        ),
        (
            format!("rediss://{}", fine.1.replace("127.0.0.1", "localhost")),
            &*over_tls,
            "the server's certificate is not for the host by which it is reached",
        ),
    ] {
        let tollgate = start(&url, settings);
        wait_for_not_ready(&tollgate, words).await;
        let status = reserve_of(&tollgate.client(), "org-0", "r").await;
        let status = status.unwrap_err();
        assert!(status.message().contains(words), "{status:?}");
        for host in ["localhost", "127.0.0.1"] {
            assert!(!status.message().contains(host), "{status:?}");
        }
        wait_for_log(&tollgate, &["NOT_SERVING", words]).await;
    }
}

/// The error of `tollgate serve` with these settings.
fn fault(store: &str, settings: &str) -> String {
    let settings = TextFile::new(settings);
    let args = ["serve", "--store", store, "--config", settings.path()];
    let ran = run(program().args(args));
    assert_ne!(ran.code, Some(0));
    ran.stderr
}

#[test]
fn an_invalid_tls_file_of_redis_is_reported_at_the_start_with_its_setting_and_name() {
    let authority = Authority::new();
    let (client, other) = (
        authority.sign("client", &["a"]),
        authority.sign("other", &["a"]),
    );
    let ca = authority.file();
    let empty = authority.other_file("empty.pem", "");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = authority.other_file("broken.pem", broken);
    let of = |ca: &str, cert: &str, key: &str| {
        format!("[redis]\nca_file = {ca:?}\ncert_file = {cert:?}\nkey_file = {key:?}\n")
    };
    for (settings, setting, file) in [
        (
            of("/nowhere.pem", &client.cert, &client.key),
            "redis.ca_file",
            "/nowhere.pem",
        ),
        (
            of(&empty, &client.cert, &client.key),
            "redis.ca_file",
            &*empty,
        ),
        (
            of(&broken, &client.cert, &client.key),
            "redis.ca_file",
            &broken,
        ),
        (
            of(&ca, &client.key, &client.key),
            "redis.cert_file",
            &client.key,
        ),
        (
            of(&ca, &client.cert, "/nowhere.key"),
            "redis.key_file",
            "/nowhere.key",
        ),
        (
            of(&ca, &client.cert, &client.cert),
            "redis.key_file",
            &client.cert,
        ),
        (
            of(&ca, &client.cert, &other.key),
            "redis.key_file",
            &other.key,
        ),
    ] {
        for store in [
            "rediss://h",
            "rediss+sentinel://h/main",
            "rediss+cluster://h",
        ] {
            let fault = fault(store, &settings);
            assert!(
                fault.contains(setting) && fault.contains(file),
                "{settings}: {fault}"
            );
        }
    }
}

#[test]
fn settings_that_the_store_has_no_use_for_or_that_lack_their_other_half_are_refused() {
    for (store, settings, why) in [
        (
            "redis://h",
            "ca_file = \"a\"",
            "redis.ca_file: is for a store that is reached over TLS",
        ),
        (
            "rediss://h",
            "cert_file = \"a\"",
            "redis.cert_file: needs redis.key_file",
        ),
        (
            "rediss://h",
            "key_file = \"a\"",
            "redis.key_file: needs redis.cert_file",
        ),
        (
            "redis://h",
            "sentinel_password = \"a\"",
            "redis.sentinel_password: is for",
        ),
        (
            "redis+sentinel://h/m",
            "sentinel_user = \"a\"",
            "redis.sentinel_user: needs",
        ),
        ("rediss://h/#insecure", "", "#insecure"),
    ] {
        let fault = fault(store, &format!("[redis]\n{settings}\n"));
        assert!(fault.contains(why), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_of_a_cluster_and_a_master_with_its_sentinels_are_reached_over_tls_too() {
    let authority = Authority::new();
    let client = authority.sign("client", &["tollgate"]);
    let settings = settings(&authority.file(), Some(&client));
    let encryption = authority.encryption("127.0.0.1");
    let cluster = RedisCluster::start_encrypted(&encryption);
    let sentinels = Sentinels::start_encrypted(&encryption);
    for url in [cluster.encrypted_url(), sentinels.encrypted_url()] {
        let tollgate = start(&url, &settings);
        tollgate.wait_for_readiness(ServingStatus::Serving).await;
        let client = tollgate.client();
        for org in (0..ORGS).map(|org| format!("org-{org}")) {
            assert_eq!(reserve_of(&client, &org, "r").await.unwrap().used, 1);
            assert_eq!(used(&client, &org).await, 1);
        }
    }
}
