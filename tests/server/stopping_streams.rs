//! A stream does not end by itself: SIGTERM ends it, after the answers to what was read.

use std::time::{Duration, Instant};

use futures_util::stream;
use nix::sys::signal::Signal;
use tollgate::grpc::proto::ReserveStreamResponse;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    calls::{TextFile, large, new_reserve, policy_file, reserve, verdict_text},
    redis::RedisServer,
    streams::next,
    tollgate::Tollgate,
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

fn start(redis: &RedisServer, grace_period: &str) -> Tollgate {
    let settings = TextFile::new(&format!(
        "drain_delay = \"0s\"\ngrace_period = \"{grace_period}\"\n\
         call_timeout = \"60s\"\n[redis]\nresponse_timeout = \"60s\"\n"
    ));
    let (policy, url) = (policy_file(1_000_000), redis.url());
    let args = ["--config", settings.path(), "--policy", policy.path()];
    Tollgate::start(&[&args[..], &["--store", &url]].concat())
}

/// A stream with endless requests of one token each, numbered by their ids.
async fn endless(tollgate: &Tollgate) -> Streaming<ReserveStreamResponse> {
    let requests = stream::iter((0_u64..).map(|at| new_reserve(1, &at.to_string())));
    let answers = tollgate.client().reserve_stream(requests).await;
    answers.unwrap().into_inner()
}

/// Reads to the end: the number of answers, in order and free, and the final status.
async fn rest(answers: &mut Streaming<ReserveStreamResponse>, before: u64) -> (u64, Status) {
    let mut used = before;
    loop {
        match answers.message().await {
            Ok(Some(answer)) => {
                used += 1;
                let answer = format!("{:?}", answer.answer.unwrap());
                assert!(answer.contains(&format!("used: {used},")), "{answer}");
            }
            Ok(None) => panic!("it ended as if the caller had ended it"),
            Err(status) => return (used, status),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_sigterm_all_that_was_read_is_answered_and_nothing_else_was_counted() {
    let redis = RedisServer::start();
    let mut tollgate = start(&redis, "60s");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let mut answers = endless(&tollgate).await;
    for used in 1..=500 {
        assert_eq!(next(&mut answers).await.unwrap().unwrap().used, used);
    }
    tollgate.signal(Signal::SIGTERM);
    let begun = Instant::now();
    let (answered, status) = rest(&mut answers, 500).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("was not counted"), "{status:?}");
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
    assert!(begun.elapsed() < WAIT_TIMEOUT);

    let next = start(&redis, "60s");
    let client = next.client();
    assert_eq!(large(&client).await.free_requests, answered);
    for (id, replayed) in [
        (answered - 1, true),
        (answered, false),
        (answered + 1, false),
    ] {
        let answer = reserve(&client, 1, &id.to_string()).await;
        assert_eq!(answer.replayed, replayed, "{id} of {answered}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_idle_does_not_hold_the_end_up() {
    let redis = RedisServer::start();
    let mut tollgate = start(&redis, "60s");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let never = stream::pending();
    let mut answers = (tollgate.client().reserve_stream(never).await)
        .unwrap()
        .into_inner();
    tollgate.signal(Signal::SIGTERM);
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
}

/// One decision is in the store, and more are queued.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_that_wait_are_cut_at_the_grace_period_and_the_exit_is_clean() {
    let redis = RedisServer::start();
    let mut tollgate = start(&redis, "1s");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    reserve(&tollgate.client(), 1, "first").await;
    redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let channel = tollgate.client();
    let calls: Vec<_> = (0..20)
        .map(|at| {
            let mut client = channel.clone();
            tokio::spawn(async move { client.reserve(new_reserve(1, &format!("id {at}"))).await })
        })
        .collect();
    let mut stream = endless(&tollgate).await;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !redis.info("clients").contains("blocked_clients:1") {
        assert!(Instant::now() < deadline, "no call reaches Redis");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tollgate.signal(Signal::SIGTERM);
    assert_eq!(tollgate.wait(WAIT_TIMEOUT).code(), Some(0));
    for call in calls {
        assert!(call.await.unwrap().is_err());
    }
    let ended = stream.message().await;
    assert!(ended.is_err(), "{ended:?} {:?}", tollgate.log());
    // Sent requests counted, queued ones did not: each id shows it.
    redis.run(&["CLIENT", "UNPAUSE"]);
    let after = start(&redis, "60s");
    for at in 0..20 {
        let answer = reserve(&after.client(), 1, &format!("id {at}")).await;
        assert_eq!(verdict_text(&answer), "FREE");
    }
}
