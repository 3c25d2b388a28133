//! docs/DURABILITY.md: with the setting `wait_replicas` a call is acknowledged once so many replicas of Redis have its
//! writes.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tollgate::store::{Store as _, StoreError, UsageLimits, redis::RedisStore};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    not_ready_body,
    reserve_script::{batch_with_id, is_replayed, reserve_of_other, settle_of_other},
    served_again, start_without_waiting, unavailable,
};
use crate::support::{
    calls::reserve,
    clock::Clock,
    free_port,
    redis::RedisServer,
    world::{NOON, redis_config, redis_store},
};

#[tokio::test]
async fn with_wait_replicas_nothing_is_answered_that_too_few_replicas_have() {
    let redis = RedisServer::start();
    let settings = "call_timeout = \"10s\"\n[redis]\nwait_replicas = 1\nresponse_timeout = \"2s\"";
    let tollgate = start_without_waiting(&redis.url(), settings);
    let client = tollgate.client();
    unavailable(&client, 10, "id").await;
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    // At first, nothing is known.
    while !not_ready_body(&tollgate).contains("too few replicas follow it") {
        assert!(Instant::now() < deadline, "{}", not_ready_body(&tollgate));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let port = redis.port.to_string();
    let replica = RedisServer::start_on(
        free_port(),
        None,
        &[
            "--replicaof",
            "127.0.0.1",
            &port,
            "--repl-diskless-sync-delay",
            "0",
        ],
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while !redis.info("replication").contains("state=online") {
        assert!(Instant::now() < deadline, "{}", redis.info("replication"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    assert_eq!(reserve(&client, 10, "id").await.used, 10);
    // The outcome is unknown: it counted, and is acknowledged once a replica has it.
    replica.signal(Signal::SIGSTOP);
    unavailable(&client, 10, "other").await;
    replica.signal(Signal::SIGCONT);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let answer = served_again(&client, "third").await;
    assert_eq!(answer.used, 21);
    assert!(reserve(&client, 10, "other").await.replayed);
}

#[tokio::test]
async fn batches_that_wait_for_replicas_share_one_call() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let batches = [settle_of_other(), batch_with_id("b")];
    let store = redis_store(&redis);
    for batch in [batch_with_id("first"), reserve_of_other()] {
        store.decide(&[batch]).await;
    }
    let mut config = redis_config(&redis.url(), UsageLimits::default());
    config.wait_replicas = 1;
    config.timeouts.response = Duration::from_secs(1);
    let waiting = RedisStore::new(config).unwrap();
    let before = redis.calls_of("evalsha");
    // There is no replica.
    for decided in waiting.decide(&batches).await {
        assert!(
            matches!(decided, Err(StoreError::OutcomeUnknown { .. })),
            "{decided:?}"
        );
    }
    assert_eq!(redis.calls_of("evalsha"), before + 1);
    assert!(is_replayed(&store, batch_with_id("b")).await);
}
