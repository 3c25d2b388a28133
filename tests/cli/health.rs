//! `tollgate health`, as a container's probe runs it.

use std::{net::TcpListener, time::Duration};

use tonic_health::pb::health_check_response::ServingStatus;

use super::tollgate;
use crate::support::{
    calls::TextFile, certificates::Authority, free_port, redis::RedisServer, tollgate::Tollgate,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_exits_with_0_while_the_service_is_ready_and_with_1_else() {
    let redis = RedisServer::start();
    let service = Tollgate::start(&["--store", &redis.url()]);
    service.wait_for_readiness(ServingStatus::Serving).await;
    let health = |more: &[&str]| tollgate(&[&["health", "--addr", &service.addr], more].concat());
    assert_eq!(health(&[]).expect_success(), "SERVING\n");
    let json: serde_json::Value =
        serde_json::from_str(&health(&["--json"]).expect_success()).unwrap();
    assert_eq!(json["status"], "SERVING");
    redis.run(&["CONFIG", "SET", "maxmemory", "1"]);
    service.wait_for_readiness(ServingStatus::NotServing).await;
    let ran = health(&[]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(ran.stdout, "NOT_SERVING\n");
    assert_eq!(
        ran.stderr,
        "tollgate: the service is not ready: its /readyz says why\n"
    );
}

#[test]
fn health_of_what_is_not_there_or_does_not_answer_fails_in_time_and_says_why() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let ran = tollgate(&["health", "--addr", &nobody]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("Connection refused"), "{ran:?}");
    // It accepts the connection, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let began = std::time::Instant::now();
    let ran = tollgate(&["health", "--addr", &addr, "--timeout", "200ms"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("within 200ms"), "{ran:?}");
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_takes_the_flags_of_tls() {
    let authority = Authority::new();
    let files = authority.sign("server", &["localhost"]);
    let settings = TextFile::new(&format!(
        "[tls]\ncert_file = {:?}\nkey_file = {:?}\n",
        files.cert, files.key
    ));
    let service = Tollgate::start(&["--store", "memory:", "--config", settings.path()]);
    let port = service.addr.rsplit_once(':').unwrap().1;
    let addr = format!("https://localhost:{port}");
    let health = || tollgate(&["health", "--addr", &addr, "--ca-file", &authority.file()]);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while health().code != Some(0) {
        assert!(std::time::Instant::now() < deadline, "{:?}", health());
    }
}
