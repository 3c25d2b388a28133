//! Redis fails and recovers: restarted, disconnected, stalled.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tollgate::grpc::proto::{GetQuotaRequest, ReleaseRequest, SettleRequest};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{LONG_TIMEOUTS, MAX_CALL_TIME, served_again, start, unavailable};
use crate::support::{
    calls::{Client, large, new_reserve, reserve, verdict_text},
    redis::RedisServer,
};

/// Settle, Release and GetQuota fail as UNAVAILABLE.
pub(super) async fn others_are_unavailable(client: &Client) {
    let (org, request_id) = ("acme".to_owned(), "r".to_owned());
    let mut client = client.clone();
    let settle = SettleRequest {
        org: org.clone(),
        request_id: request_id.clone(),
        tokens: 1,
        outside_program: false,
    };
    let release = ReleaseRequest {
        org: org.clone(),
        request_id,
    };
    let settled = client.settle(settle).await.unwrap_err();
    let released = client.release(release).await.unwrap_err();
    let quota = client.get_quota(GetQuotaRequest { org }).await.unwrap_err();
    for status in [settled, released, quota] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
}

#[tokio::test]
async fn forgotten_scripts_are_sent_again_within_the_call() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    for at in 1..=3 {
        let answer = reserve(&client, 10, &format!("id {at}")).await;
        assert_eq!(
            (verdict_text(&answer).as_str(), answer.used),
            ("FREE", 10 * at)
        );
        assert_eq!(large(&client).await.used, 10 * at);
        redis.run(&["SCRIPT", "FLUSH"]);
    }
}

#[tokio::test]
async fn after_a_restart_of_redis_calls_are_served_again_within_a_second() {
    let mut redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    reserve(&client, 10, "before").await;
    redis.kill();
    unavailable(&client, 10, "between").await;
    others_are_unavailable(&client).await;
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    redis.restart();
    // Redis lost everything; the service restores its snapshots.
    let answer = served_again(&client, "between").await;
    assert_eq!((verdict_text(&answer).as_str(), answer.used), ("FREE", 11));
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    // Also without calls during the outage.
    redis.restart();
    assert_eq!(verdict_text(&served_again(&client, "after").await), "FREE");
}

#[tokio::test]
async fn after_an_idle_connection_is_cut_the_very_next_call_works() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    for at in 1..=20 {
        let answer = reserve(&client, 1, &format!("id {at}")).await;
        assert_eq!((answer.used, answer.replayed), (at, false));
        assert_eq!(large(&client).await.used, at);
        assert!(redis.integer(&["CLIENT", "KILL", "TYPE", "normal"]) >= 1);
    }
}

#[tokio::test]
async fn a_stalled_redis_makes_calls_unavailable_in_time_and_a_retry_shows_what_was_counted() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    reserve(&client, 10, "before").await;
    redis.signal(Signal::SIGSTOP);
    for at in 0..3 {
        let begun = Instant::now();
        unavailable(&client, 100, &format!("stalled {at}")).await;
        assert!(begun.elapsed() < MAX_CALL_TIME, "{:?}", begun.elapsed());
    }
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    redis.signal(Signal::SIGCONT);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    for round in 0..2 {
        for at in 0..3 {
            let answer = reserve(&client, 100, &format!("stalled {at}")).await;
            assert_eq!(verdict_text(&answer), "FREE");
            assert!(answer.replayed || round == 0, "{answer:?}");
        }
    }
    let pool = large(&client).await;
    assert_eq!((pool.used, pool.free_requests), (310, 4));
}

#[tokio::test]
async fn with_a_stalled_redis_no_caller_waits_for_the_failures_of_others() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    reserve(&client, 10, "before").await;
    redis.signal(Signal::SIGSTOP);
    // The first failure closes the idle connection; from then on each call has to connect.
    unavailable(&client, 10, "").await;
    let begun = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for at in 0..32 {
        let mut client = client.clone();
        calls.spawn(async move { client.reserve(new_reserve(10, &format!("id {at}"))).await });
    }
    while let Some(answer) = calls.join_next().await {
        assert_eq!(answer.unwrap().unwrap_err().code(), Code::Unavailable);
    }
    assert!(begun.elapsed() < MAX_CALL_TIME, "{:?}", begun.elapsed());
    redis.signal(Signal::SIGCONT);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    assert_eq!(verdict_text(&reserve(&client, 10, "after").await), "FREE");
}

#[tokio::test]
async fn with_degraded_answers_a_reserve_is_billed_for_the_store_and_nothing_else_is_answered() {
    let mut redis = RedisServer::start();
    let tollgate = start(&redis, "on_store_failure = \"billed\"").await;
    let client = tollgate.client();
    assert_eq!(verdict_text(&reserve(&client, 10, "before").await), "FREE");
    redis.signal(Signal::SIGSTOP);
    let stalled = Instant::now();
    let degraded = reserve(&client, 10, "r").await;
    assert!(stalled.elapsed() < MAX_CALL_TIME);
    redis.kill();
    for answer in [degraded, reserve(&client, 10, "r").await] {
        assert_eq!(verdict_text(&answer), "StoreUnavailable");
        assert!(answer.resets_at.is_some() && !answer.replayed);
        assert_eq!(
            (answer.pool.as_str(), answer.allowance, answer.used),
            ("", 0, 0)
        );
    }
    others_are_unavailable(&client).await;
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    redis.restart();
    assert_eq!(verdict_text(&served_again(&client, "r").await), "FREE");
}

#[tokio::test]
async fn a_call_whose_caller_left_is_carried_to_its_end() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, LONG_TIMEOUTS).await;
    let client = tollgate.client();
    // Loads the script into Redis: otherwise both calls would send it, in any order.
    reserve(&client, 5, "first").await;
    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut leaving = client.clone();
    let call = tokio::spawn(async move { leaving.reserve(new_reserve(10, "left")).await });
    let deadline = Instant::now() + Duration::from_secs(10);
    while !redis.info("clients").contains("blocked_clients:1") {
        assert!(Instant::now() < deadline, "the call does not reach Redis");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    redis.run(&["CLIENT", "UNPAUSE"]);
    let again = reserve(&client, 10, "left").await;
    assert!(again.replayed);
    assert_eq!((verdict_text(&again).as_str(), again.used), ("FREE", 15));
}
