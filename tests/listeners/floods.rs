//! Under floods of a hostile caller, other calls are answered, health answers within a second, and memory is bounded.
//! `cargo bench --bench goals` measures the latencies.

use std::time::{Duration, Instant};

use tollgate::grpc::proto::quota_service_client::QuotaServiceClient;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{start, tls::https_get};
use crate::support::{
    calls::reserve,
    certificates::Authority,
    floods::{
        PREFACE, closed, continuation_flood, fitted_to_open_files, held_streams, rapid_reset,
        silent_connections,
    },
    tollgate::Tollgate,
};

const FLOOD_DURATION: Duration = Duration::from_secs(3);
/// The additional memory that a flood may use.
const MAX_EXTRA_MEMORY: u64 = 300 << 20;

/// Makes calls, and health checks on new connections, during a flood.
async fn others_are_served(tollgate: &Tollgate, mut goes_on: impl FnMut() -> bool) {
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client: QuotaServiceClient<Channel> = tollgate.client();
    let before = tollgate.memory();
    let mut calls = 0;
    while goes_on() {
        let begun = Instant::now();
        let health = tollgate.health("readiness").await;
        assert_eq!(health, Some(ServingStatus::Serving));
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "health took {took:?}");
        for _ in 0..10 {
            // It would be UNAVAILABLE after a second.
            reserve(&client, 1, "").await;
            calls += 1;
        }
        let memory = tollgate.memory();
        assert!(
            memory < before + MAX_EXTRA_MEMORY,
            "{before} B, then {memory} B"
        );
    }
    assert!(calls > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_cancelled_at_once_by_the_thousand() {
    let tollgate = start("");
    let addr = tollgate.addr.clone();
    let flood = tokio::spawn(async move { rapid_reset(&addr, FLOOD_DURATION).await });
    others_are_served(&tollgate, || !flood.is_finished()).await;
    assert!(flood.await.unwrap() > 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_an_end() {
    let tollgate = start("");
    let addr = tollgate.addr.clone();
    let flood = tokio::task::spawn_blocking(move || continuation_flood(&addr, FLOOD_DURATION));
    others_are_served(&tollgate, || !flood.is_finished()).await;
    assert!(flood.await.unwrap() > 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_idle_connections_than_there_is_room_for() {
    let count = fitted_to_open_files(5_000);
    let room = count * 3 / 5;
    let tollgate = start(&format!("[bounds]\nconnections = {room}\n"));
    let addr = tollgate.addr.clone();
    let flood = tokio::task::spawn_blocking(move || silent_connections(&addr, count, PREFACE));
    others_are_served(&tollgate, || !flood.is_finished()).await;
    let mut idle = flood.await.unwrap();
    let until = Instant::now() + Duration::from_secs(1);
    others_are_served(&tollgate, || Instant::now() < until).await;
    assert!(closed(&mut idle) >= count - room);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_streams_that_are_held_open() {
    let tollgate = start("");
    let _held = held_streams(&tollgate.addr, 5, 1_000).await;
    let until = Instant::now() + FLOOD_DURATION;
    others_are_served(&tollgate, || Instant::now() < until).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_of_tls_that_do_not_go_on() {
    let authority = Authority::new();
    let files = authority.sign("server", &["tollgate.test"]);
    let count = fitted_to_open_files(2_000);
    let room = count / 2;
    let tollgate = start(&format!(
        "[http_tls]\ncert_file = {:?}\nkey_file = {:?}\n[bounds]\nconnections = {room}\nhandshake_time = \"5s\"\n",
        files.cert, files.key
    ));
    let addr = tollgate.http_addr.clone();
    // The start of a TLS record, whose rest never comes.
    let flood = tokio::task::spawn_blocking(move || {
        let mut silent = silent_connections(&addr, count, &[0x16, 3, 1, 2, 0, 1]);
        let deadline = Instant::now() + super::WAIT_TIMEOUT;
        while closed(&mut silent) < silent.len() {
            assert!(Instant::now() < deadline, "some are still open");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let mut answers = 0;
    while !flood.is_finished() {
        let begun = Instant::now();
        let answer = https_get(&tollgate, &authority, "/livez").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}, after {answers}");
        answers += 1;
    }
    assert!(answers > 0);
    flood.await.unwrap();
}

/// Metrics are rendered on threads that the file store needs, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abandoned_scrapes() {
    let tollgate = start("");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let addr = tollgate.http_addr.clone();
    let request = b"GET /metrics HTTP/1.1\r\nHost: tollgate.test\r\n\r\n";
    let before = threads(&tollgate);
    let flood = tokio::task::spawn_blocking(move || {
        for _ in 0..20 {
            drop(silent_connections(&addr, 50, request));
        }
    });
    let mut most = before;
    while !flood.is_finished() {
        most = most.max(threads(&tollgate));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    flood.await.unwrap();
    assert!(most <= before + 4, "{before}, then {most}");
}

/// The number of the service's threads.
fn threads(tollgate: &Tollgate) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", tollgate.pid()));
    tasks.unwrap().count()
}
