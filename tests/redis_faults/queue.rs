//! Requests that wait for a Redis that does not answer: the queue is bounded, and a request whose caller left in time
//! counts nothing.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::{task::JoinSet, time::timeout};
use tollgate::grpc::proto::ReleaseRequest;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    LONG_TIMEOUTS, MAX_CALL_TIME, WAIT_TIMEOUT, refused, reserve_until_the_service_ends_it, start,
};
use crate::support::{
    calls::{large, new_reserve, reserve, verdict_text},
    redis::RedisServer,
    streams::{code, next},
    tollgate::Tollgate,
};

/// How many requests of a stream are read at once: src/grpc/stream.rs.
const STREAM_READ_AHEAD: usize = 256;

/// More streams than fill an organization's half of the queue: src/ledger/queue.rs.
const STREAMS: usize = 16 * 1024 / STREAM_READ_AHEAD + 8;

/// A service over a paused Redis, with a call in flight.
async fn paused(redis: &RedisServer) -> (Tollgate, JoinSet<()>) {
    let tollgate = start(redis, LONG_TIMEOUTS).await;
    let client = tollgate.client();
    reserve(&client, 1, "before").await;
    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let mut first = JoinSet::new();
    first.spawn(
        async move { assert_eq!(verdict_text(&reserve(&client, 1, "first").await), "FREE") },
    );
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !redis.info("clients").contains("blocked_clients:1") {
        assert!(Instant::now() < deadline, "the call does not reach Redis");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (tollgate, first)
}

#[tokio::test]
async fn requests_beyond_the_queues_capacity_are_refused_at_once_and_count_nothing() {
    let redis = RedisServer::start();
    let (tollgate, mut first) = paused(&redis).await;
    let mut streams = JoinSet::new();
    for at in 0..STREAMS {
        let client = tollgate.client();
        streams.spawn(async move {
            let requests = stream::iter(
                (0..STREAM_READ_AHEAD).map(move |of| new_reserve(1, &format!("{at} {of}"))),
            );
            // A gateway's stream stays open.
            let requests = requests.chain(stream::pending());
            let answers = client.clone().reserve_stream(requests).await;
            let mut answers = answers.unwrap().into_inner();
            let mut received = Vec::new();
            while received.len() < STREAM_READ_AHEAD {
                let answer = next(&mut answers).await.unwrap();
                received.push(code(&answer));
            }
            received
        });
    }
    // Some streams have their answers while Redis is still paused.
    let early = timeout(WAIT_TIMEOUT, streams.join_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(early.contains(&Code::ResourceExhausted), "{early:?}");
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let begun = loop {
        let begun = Instant::now();
        let status = timeout(MAX_CALL_TIME, refused(&tollgate.client(), 1, "late")).await;
        if let Ok(status) = status {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert!(status.message().contains("counted nothing"), "{status:?}");
            break begun;
        }
        assert!(Instant::now() < deadline, "it is never refused");
    };
    assert!(begun.elapsed() < MAX_CALL_TIME);
    let liveness = timeout(MAX_CALL_TIME, tollgate.health("liveness"))
        .await
        .unwrap();
    assert_eq!(liveness, Some(ServingStatus::Serving));

    redis.run(&["CLIENT", "UNPAUSE"]);
    let mut received = early;
    while let Some(answers) = streams.join_next().await {
        received.extend(answers.unwrap());
    }
    first.join_next().await.unwrap().unwrap();
    let answered = received.iter().filter(|code| **code == Code::Ok).count();
    let refused = received
        .iter()
        .filter(|code| **code == Code::ResourceExhausted)
        .count();
    assert_eq!(answered + refused, STREAMS * STREAM_READ_AHEAD);
    let pool = large(&tollgate.client()).await;
    let counted = pool.free_requests + pool.billed_requests;
    assert_eq!(counted, answered as u64 + 2);
    let again = reserve(&tollgate.client(), 1, "late").await;
    assert!(!again.replayed);
}

#[tokio::test]
async fn a_deadline_that_ends_before_the_decision_was_sent_counts_nothing() {
    let redis = RedisServer::start();
    let (tollgate, mut first) = paused(&redis).await;
    let late = reserve_until_the_service_ends_it(&tollgate, &new_reserve(1, "late"), "50m").await;
    assert_eq!(late, Code::Unavailable);
    redis.run(&["CLIENT", "UNPAUSE"]);
    first.join_next().await.unwrap().unwrap();
    let mut client = tollgate.client();
    let (org, request_id) = ("acme".to_owned(), "late".to_owned());
    let unknown = client.release(ReleaseRequest { org, request_id }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    assert_eq!(large(&client).await.used, 2);
}
