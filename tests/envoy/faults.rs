//! Envoy goes on where Tollgate does not answer, and nobody holds what no request used.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{
    PATH, SETTINGS, Setup,
    gateway::{Gateway, chat, chat_stream},
    provider::Provider,
};
use crate::{
    metrics::wait_for,
    support::{
        calls::{TextFile, large_of, policy_file},
        redis::RedisServer,
        tollgate::Tollgate,
    },
};

const ALLOWANCE: u64 = 1_000_000;

const CHECKS: &str = "tollgate_envoy_checks_total";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tollgate_requests_pass_as_billed_with_no_verdict_of_their_own() {
    let mut setup = Setup::start(ALLOWANCE, "").await;
    let mut client = setup.client().await;
    setup.tollgate.signal(Signal::SIGKILL);
    setup.tollgate.wait(Duration::from_secs(10));
    let spoofed = [("x-tollgate-verdict", "free")];
    let answer = client
        .post(PATH, &spoofed, chat("down", 60, "").to_string())
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(setup.provider.seen("down")[0].project, "private");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_envoy_gave_up_leaves_nothing_reserved() {
    let setup = Setup::start(ALLOWANCE, "").await;
    let mut client = setup.client().await;
    setup.tollgate.signal(Signal::SIGSTOP);
    let began = Instant::now();
    let answer = client
        .post(PATH, &[], chat("slow", 60, "").to_string())
        .await;
    setup.tollgate.signal(Signal::SIGCONT);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "Envoy waits for its timeout"
    );
    assert_eq!(setup.provider.seen("slow")[0].project, "private");
    // The next Check is behind the one that was given up.
    client
        .post(PATH, &[], chat("next", 60, "").to_string())
        .await;
    setup.wait_for_outcome("settled", 1).await;
    let large = setup.large().await;
    assert_eq!((large.used, large.held_tokens), (60, 0));
}

/// Redis stands still while the client hangs up: the write is carried to its end, and then taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_during_its_check_leaves_nothing_reserved() {
    let redis = RedisServer::start();
    let url = redis.url();
    let policy = policy_file(ALLOWANCE);
    let timeouts = "call_timeout = \"20s\"\n[redis]\nresponse_timeout = \"20s\"\n";
    let settings = TextFile::new(&format!("{timeouts}{SETTINGS}"));
    let args = [
        "--store",
        &url,
        "--policy",
        policy.path(),
        "--config",
        settings.path(),
    ];
    let tollgate = Tollgate::start(&args);
    let provider = Provider::start().await;
    let gateway = Gateway::start(&[&tollgate.addr], &provider.addr);
    let mut client = gateway.client().await;
    client
        .post(PATH, &[], chat("first", 60, "").to_string())
        .await;

    redis.signal(Signal::SIGSTOP);
    let body = chat("leaves", 60, "").to_string();
    let left =
        tokio::time::timeout(Duration::from_millis(300), client.begin(PATH, &[], body)).await;
    assert!(left.is_err(), "Redis stands still");
    drop(client);
    tokio::time::sleep(Duration::from_millis(200)).await;
    redis.signal(Signal::SIGCONT);
    wait_for(&tollgate, CHECKS, &["answer=\"unanswered\""], 1.0).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let large = large_of(&tollgate.client(), "acme").await;
        if (large.used, large.held_tokens) == (60, 0) {
            break;
        }
        assert!(Instant::now() < deadline, "{large:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(provider.seen("leaves").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_during_its_stream_keeps_its_reservation_counted() {
    let setup = Setup::start(ALLOWANCE, "").await;
    let mut client = setup.client().await;
    let answer = client
        .begin(PATH, &[], chat_stream("leaves", 60, "slow").to_string())
        .await;
    assert_eq!(answer.unwrap().status(), 200);
    drop(client);
    setup.wait_for_outcome("kept_client_left", 1).await;
    let large = setup.large().await;
    assert!(
        large.used > 0 && large.used == large.held_tokens,
        "{large:?}"
    );
    let kept =
        |line: &serde_json::Value| line["outcome"] == "kept_client_left" && line["org"] == "acme";
    assert!(
        setup.tollgate.log().iter().any(kept),
        "each kept reservation is in the log"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_mid_stream_loses_no_settle() {
    let redis = RedisServer::start();
    let url = redis.url();
    let policy = policy_file(ALLOWANCE);
    let settings = TextFile::new(SETTINGS);
    let args = [
        "--store",
        &url,
        "--policy",
        policy.path(),
        "--config",
        settings.path(),
    ];
    let mut tollgate = Tollgate::start(&args);
    let addr = tollgate.addr.clone();
    let provider = Provider::start().await;
    let gateway = Gateway::start(&[&addr], &provider.addr);
    let mut client = gateway.client().await;
    let body = chat_stream("long", 60, "slow").to_string();
    let answer = client.begin(PATH, &[], body).await.unwrap();
    assert_eq!(provider.seen("long")[0].project, "shared");
    tollgate.signal(Signal::SIGKILL);
    tollgate.wait(Duration::from_secs(10));
    let tollgate = Tollgate::start(&[&args[..], &["--listen", &addr]].concat());
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap();
    assert!(!body.to_bytes().is_empty());
    let outcome = ["outcome=\"settled\""];
    wait_for(&tollgate, "tollgate_envoy_outcomes_total", &outcome, 1.0).await;
    let large = large_of(&tollgate.client(), "acme").await;
    assert_eq!((large.used, large.held_tokens), (60, 0));
}
