//! While Redis is down, calls fail at once. Soon after its return they are served.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::task::JoinSet;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{MAX_CALL_TIME, outages::others_are_unavailable, refused, served_again, start};
use crate::support::{
    calls::{Client, large, new_reserve, reserve, verdict_text},
    redis::RedisServer,
    tollgate::Tollgate,
};

const CALLERS: usize = 200;
const CALLS_PER_CALLER: usize = 50;

/// With a time-out per call, so many calls would take minutes.
async fn many_callers_are_answered_at_once(tollgate: &Tollgate) {
    let clients: Vec<Client> = (0..4).map(|_| tollgate.client()).collect();
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let mut client = clients[caller % clients.len()].clone();
        callers.spawn(async move {
            for call in 0..CALLS_PER_CALLER {
                let answer = client
                    .reserve(new_reserve(1, &format!("{caller} {call}")))
                    .await;
                let status = answer.unwrap_err();
                assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                let received = status.message();
                assert!(received.contains("is down since 20"), "{status:?}");
                assert!(received.contains("counted nothing"), "{status:?}");
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    // In debug mode, with 10,000 calls, a time-out of one second would show 50 times over.
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn while_redis_hangs_many_callers_are_answered_at_once_and_memory_stays_flat() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    reserve(&client, 1, "before").await;
    redis.signal(Signal::SIGSTOP);
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    // The memory of the callers' connections is included.
    many_callers_are_answered_at_once(&tollgate).await;
    let before = tollgate.memory();
    many_callers_are_answered_at_once(&tollgate).await;
    let grown = tollgate.memory().saturating_sub(before);
    assert!(grown < 8 * 1024 * 1024, "{before} and {grown} more");
    let begun = Instant::now();
    others_are_unavailable(&client).await;
    assert!(begun.elapsed() < MAX_CALL_TIME);
    redis.signal(Signal::SIGCONT);
    served_again(&client, "after").await;
    // No call of the outage is counted.
    assert_eq!(large(&client).await.used, 2);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_each_call_at_most_its_deadline_and_is_served_from_soon_after() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    redis.signal(Signal::SIGSTOP);
    let (begun, mut failed) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(3) {
        let call = Instant::now();
        let status = refused(&client, 1, &format!("id {failed}")).await;
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(call.elapsed() < MAX_CALL_TIME, "{:?}", call.elapsed());
        failed += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // With a time-out per call, so many could not fail.
    assert!(failed > 10, "{failed}");
    redis.signal(Signal::SIGCONT);
    assert_eq!(verdict_text(&served_again(&client, "after").await), "FREE");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    // What was sent while it hung counts at most once.
    for at in 0..3 {
        reserve(&client, 1, &format!("id {at}")).await;
    }
    let used = large(&client).await.used;
    assert!((4..=4 + 2).contains(&used), "{used}");
}

#[tokio::test]
async fn answers_and_readiness_say_since_when_and_why_a_crashed_redis_is_down() {
    let mut redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    redis.kill();
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    let status = refused(&client, 1, "r").await;
    assert_eq!(status.code(), Code::Unavailable);
    let expected = "the store is down since 20";
    for text in [status.message(), &super::not_ready_body(&tollgate)] {
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.contains("it can't be reached: connection refused"),
            "{text}"
        );
        // Only the log has Redis' address.
        assert!(!text.contains("127.0.0.1"), "{text}");
    }
    let is_outage =
        |log: &serde_json::Value| log["message"] == "the store does not answer: NOT_SERVING";
    assert!(tollgate.log().iter().any(is_outage));
    redis.restart();
    served_again(&client, "r").await;
}
