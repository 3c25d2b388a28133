//! SIGTERM: NOT_SERVING, a drain delay, no new connections, open calls end, exit 0 within the grace period. SIGINT does
//! the same without the delay.
//!
//! The tests use two threads, so that clients' connections run while the test waits for the process.

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::task::JoinHandle;
use tollgate::grpc::proto::ReserveResponse;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};

use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::http_status;
use crate::support::{
    calls::{TextFile, large, new_reserve, policy_file, reserve, verdict_text},
    redis::RedisServer,
    tollgate::Tollgate,
};

const READINESS: [&str; 3] = ["readiness", "", "tollgate.v1.QuotaService"];
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
/// Longer than the tests wait.
const LONG_PERIOD: &str = "60s";

/// A service over the default store, with these settings.
fn start(drain_delay: &str, grace_period: &str) -> Tollgate {
    let settings = TextFile::new(&format!(
        "drain_delay = \"{drain_delay}\"\ngrace_period = \"{grace_period}\"\n"
    ));
    let policy = policy_file(1_000);
    Tollgate::start(&["--config", settings.path(), "--policy", policy.path()])
}

/// A service over a Redis that may be paused for longer than any test.
fn start_over(redis: &RedisServer, grace_period: &str) -> Tollgate {
    let settings = TextFile::new(&format!(
        "drain_delay = \"0s\"\ngrace_period = \"{grace_period}\"\n\
         call_timeout = \"60s\"\n[redis]\nresponse_timeout = \"{LONG_PERIOD}\"\n"
    ));
    let (policy, url) = (policy_file(1_000), redis.url());
    let args = ["--config", settings.path(), "--policy", policy.path()];
    Tollgate::start(&[&args[..], &["--store", &url]].concat())
}

async fn watch(tollgate: &Tollgate, name: &str) -> Streaming<HealthCheckResponse> {
    let service = name.to_owned();
    let watched = HealthClient::new(tollgate.channel())
        .watch(HealthCheckRequest { service })
        .await;
    watched.unwrap().into_inner()
}

/// Waits until the port accepts no connections.
async fn wait_until_closed(addr: &str) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while TcpStream::connect(addr).is_ok() {
        assert!(Instant::now() < deadline, "{addr} still takes connections");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A Reserve that is blocked until the paused Redis is unpaused.
async fn hanging_call(
    redis: &RedisServer,
    tollgate: &Tollgate,
) -> JoinHandle<Result<ReserveResponse, Status>> {
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut client = tollgate.client();
    let call = tokio::spawn(async move {
        let answer = client.reserve(new_reserve(10, "open")).await;
        answer.map(tonic::Response::into_inner)
    });
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let blocked = || redis.info("clients").contains("blocked_clients:1");
    while !blocked() {
        assert!(Instant::now() < deadline, "the call does not reach Redis");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    call
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_sigterm_health_says_so_first_and_calls_are_answered_during_the_drain_delay() {
    let mut tollgate = start("3s", LONG_PERIOD);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    for name in READINESS {
        assert_eq!(tollgate.health(name).await, Some(ServingStatus::Serving));
    }
    assert_eq!(http_status(&tollgate.http_addr, "/readyz"), 200);
    let kept = tollgate.client();
    reserve(&kept, 10, "before").await;

    let begun = Instant::now();
    tollgate.signal(Signal::SIGTERM);
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    for name in READINESS {
        assert_eq!(tollgate.health(name).await, Some(ServingStatus::NotServing));
    }
    let liveness = tollgate.health("liveness").await;
    assert_eq!(liveness, Some(ServingStatus::Serving));
    assert_eq!(http_status(&tollgate.http_addr, "/readyz"), 503);
    assert_eq!(http_status(&tollgate.http_addr, "/livez"), 200);
    for client in [&kept, &tollgate.client()] {
        assert_eq!(verdict_text(&reserve(client, 10, "").await), "FREE");
    }
    assert!(!tollgate.has_ended());
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_health_watch_sees_not_serving_and_does_not_hold_the_end_up() {
    let mut tollgate = start("200ms", LONG_PERIOD);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let mut readiness = watch(&tollgate, "readiness").await;
    let mut liveness = watch(&tollgate, "liveness").await;
    let mut next = async || {
        readiness
            .message()
            .await
            .map(|received| received.map(|it| it.status()))
    };
    assert_eq!(next().await.unwrap(), Some(ServingStatus::Serving));
    tollgate.signal(Signal::SIGTERM);
    assert_eq!(next().await.unwrap(), Some(ServingStatus::NotServing));
    assert_eq!(next().await.unwrap(), None);
    let first = liveness.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    // Never NOT_SERVING: a stopping process must not be restarted.
    assert_eq!(liveness.message().await.unwrap(), None);
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_health_watch_of_an_unknown_service_says_so_stays_open_and_does_not_hold_the_end_up() {
    let mut tollgate = start("0s", LONG_PERIOD);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    // A check of it is NOT_FOUND, as the health protocol requires.
    assert_eq!(tollgate.health("unknown").await, None);
    let mut unknown = watch(&tollgate, "unknown").await;
    let first = unknown.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::ServiceUnknown);
    let next = tokio::spawn(async move { unknown.message().await });
    // Calls on other connections are answered meanwhile, and the watch stays open.
    reserve(&tollgate.client(), 10, "").await;
    assert!(!next.is_finished());
    tollgate.signal(Signal::SIGTERM);
    assert_eq!(next.await.unwrap().unwrap(), None);
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigint_ends_it_at_once() {
    let mut tollgate = start("59s", LONG_PERIOD);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client = tollgate.client();
    reserve(&client, 10, "").await;
    let mut watched = watch(&tollgate, "").await;
    watched.message().await.unwrap();
    tollgate.signal(Signal::SIGINT);
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_a_call_do_not_hold_the_end_up() {
    let mut tollgate = start("0s", LONG_PERIOD);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    // Browsers open connections before they need them. The answered call proves that it was accepted.
    let _silent = TcpStream::connect(&tollgate.http_addr).unwrap();
    let _silent_grpc = TcpStream::connect(&tollgate.addr).unwrap();
    let mut half_spoken = TcpStream::connect(&tollgate.addr).unwrap();
    half_spoken.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    let mut reflection = ServerReflectionClient::new(tollgate.channel());
    // This stream never sends a request, and never ends.
    let never = futures_util::stream::pending();
    let _held = reflection.server_reflection_info(never).await.unwrap();
    assert_eq!(http_status(&tollgate.http_addr, "/livez"), 200);
    let idle = tollgate.client();
    reserve(&idle, 10, "").await;
    tollgate.signal(Signal::SIGTERM);
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_open_at_sigterm_is_answered() {
    let redis = RedisServer::start();
    let mut tollgate = start_over(&redis, LONG_PERIOD);
    let call = hanging_call(&redis, &tollgate).await;
    tollgate.signal(Signal::SIGTERM);
    wait_until_closed(&tollgate.addr).await;
    wait_until_closed(&tollgate.http_addr).await;
    assert!(!call.is_finished() && !tollgate.has_ended());
    redis.run(&["CLIENT", "UNPAUSE"]);
    assert_eq!(verdict_text(&call.await.unwrap().unwrap()), "FREE");
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_call_is_cut_at_the_grace_period_and_its_id_shows_its_outcome() {
    let redis = RedisServer::start();
    let mut tollgate = start_over(&redis, "1s");
    let call = hanging_call(&redis, &tollgate).await;
    let begun = Instant::now();
    tollgate.signal(Signal::SIGTERM);
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let cut = call.await.unwrap().unwrap_err();
    assert!(
        [Code::Unavailable, Code::Unknown].contains(&cut.code()),
        "{cut:?}"
    );

    redis.run(&["CLIENT", "UNPAUSE"]);
    let next = start_over(&redis, LONG_PERIOD);
    assert_eq!(
        verdict_text(&reserve(&next.client(), 10, "open").await),
        "FREE"
    );
    let pool = large(&next.client()).await;
    assert_eq!((pool.used, pool.free_requests), (10, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_sigint_does_not_wait_for_open_calls() {
    let redis = RedisServer::start();
    let mut tollgate = start_over(&redis, LONG_PERIOD);
    let call = hanging_call(&redis, &tollgate).await;
    tollgate.signal(Signal::SIGINT);
    wait_until_closed(&tollgate.addr).await;
    assert!(!call.is_finished() && !tollgate.has_ended());
    tollgate.signal(Signal::SIGINT);
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(1));
}
