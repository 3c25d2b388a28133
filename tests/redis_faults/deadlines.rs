//! Every call is answered within its deadline, however long Redis takes.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tollgate::grpc::proto::{
    GetQuotaRequest, ListUsageRequest, ReleaseRequest, ReserveRequest, SettleRequest,
};
use tonic::{Code, Status};

use super::{
    MAX_CALL_TIME, reserve_until_the_service_ends_it, start, streams::RequestStream, unavailable,
};
use crate::support::{
    calls::{Client, large, new_reserve, reserve, verdict_text},
    redis::RedisServer,
    streams::code,
};

/// Redis may take a minute; its callers may not.
const SHORT_CALL_TIMEOUT: &str = "call_timeout = \"300ms\"\n[redis]\nresponse_timeout = \"60s\"";
const CALL_TIMEOUT: Duration = Duration::from_millis(300);

/// The code of each call; asserts that it took the call timeout.
async fn all_fail(client: &Client) -> Vec<Status> {
    let (org, request_id) = (|| "acme".to_owned(), || "r".to_owned());
    let mut client = client.clone();
    let begun = Instant::now();
    let settle = SettleRequest {
        org: org(),
        request_id: request_id(),
        tokens: 1,
        outside_program: false,
    };
    let release = ReleaseRequest {
        org: org(),
        request_id: request_id(),
    };
    let usage = ListUsageRequest {
        org: org(),
        ..ListUsageRequest::default()
    };
    let failed = vec![
        client.settle(settle).await.unwrap_err(),
        client.release(release).await.unwrap_err(),
        client
            .get_quota(GetQuotaRequest { org: org() })
            .await
            .unwrap_err(),
        client.list_usage(usage).await.unwrap_err(),
    ];
    let calls = u32::try_from(failed.len()).unwrap();
    assert!(begun.elapsed() >= CALL_TIMEOUT * calls);
    assert!(begun.elapsed() < CALL_TIMEOUT * calls + MAX_CALL_TIME);
    failed
}

#[tokio::test]
async fn a_call_without_a_deadline_is_unavailable_after_the_call_timeout_and_is_carried_to_its_end()
{
    let redis = RedisServer::start();
    let tollgate = start(&redis, SHORT_CALL_TIMEOUT).await;
    let client = tollgate.client();
    reserve(&client, 1, "r").await;
    redis.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    unavailable(&client, 10, "sent").await;
    assert!(begun.elapsed() >= CALL_TIMEOUT && begun.elapsed() < CALL_TIMEOUT + MAX_CALL_TIME);
    let advice = [
        "outcome is unknown",
        "outcome is unknown",
        "in time: retry",
        "in time: retry",
    ];
    for (failed, advice) in all_fail(&client).await.iter().zip(advice) {
        assert_eq!(failed.code(), Code::Unavailable, "{failed:?}");
        assert!(failed.message().contains(advice), "{failed:?}");
    }
    redis.signal(Signal::SIGCONT);
    let again = reserve(&client, 10, "sent").await;
    assert!(again.replayed, "what was sent is carried to its end");
    // Queued requests behind it were dropped.
    assert_eq!(large(&client).await.used, 11);
}

#[tokio::test]
async fn the_callers_deadline_counts_and_the_answer_comes_before_it() {
    let redis = RedisServer::start();
    let long_timeouts = "call_timeout = \"60s\"\n[redis]\nresponse_timeout = \"60s\"";
    let tollgate = start(&redis, long_timeouts).await;
    reserve(&tollgate.client(), 1, "before").await;
    redis.signal(Signal::SIGSTOP);
    let ended = async |request: &ReserveRequest| {
        let begun = Instant::now();
        let code = reserve_until_the_service_ends_it(&tollgate, request, "200m").await;
        // tonic's client would report CANCELLED at the deadline itself.
        assert_eq!(code, Code::Unavailable);
        assert!(begun.elapsed() < MAX_CALL_TIME);
    };
    ended(&new_reserve(1, "first")).await;
    ended(&new_reserve(1, "behind")).await;
    redis.signal(Signal::SIGCONT);
    let mut client = tollgate.client();
    assert!(reserve(&client, 1, "first").await.replayed);
    let (org, request_id) = ("acme".to_owned(), "behind".to_owned());
    let unknown = client.release(ReleaseRequest { org, request_id }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn with_degraded_answers_a_reserve_whose_time_is_over_is_billed_and_nothing_else_is() {
    let redis = RedisServer::start();
    let settings = format!("on_store_failure = \"billed\"\n{SHORT_CALL_TIMEOUT}");
    let tollgate = start(&redis, &settings).await;
    let client = tollgate.client();
    redis.signal(Signal::SIGSTOP);
    let begun = Instant::now();
    let answer = reserve(&client, 10, "r").await;
    assert_eq!(verdict_text(&answer), "StoreUnavailable");
    assert!(begun.elapsed() < CALL_TIMEOUT + MAX_CALL_TIME);
    for failed in all_fail(&client).await {
        assert_eq!(failed.code(), Code::Unavailable, "{failed:?}");
    }
    redis.signal(Signal::SIGCONT);
    assert_eq!(verdict_text(&reserve(&client, 10, "r").await), "FREE");
}

#[tokio::test]
async fn each_request_of_a_stream_has_the_time_of_a_call_and_the_stream_goes_on() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, SHORT_CALL_TIMEOUT).await;
    let mut stream = RequestStream::over(&tollgate.client()).await;
    assert_eq!(stream.reserve(1, "before").await.unwrap().used, 1);
    redis.signal(Signal::SIGSTOP);
    for id in ["sent", "behind"] {
        let begun = Instant::now();
        let failed = stream.reserve(10, id).await;
        assert_eq!(code(&failed), Code::Unavailable);
        assert!(failed.unwrap_err().message.contains("outcome is unknown"));
        assert!(begun.elapsed() >= CALL_TIMEOUT && begun.elapsed() < CALL_TIMEOUT + MAX_CALL_TIME);
    }
    redis.signal(Signal::SIGCONT);
    assert!(stream.reserve(10, "sent").await.unwrap().replayed);
    assert!(!stream.reserve(10, "behind").await.unwrap().replayed);
}
