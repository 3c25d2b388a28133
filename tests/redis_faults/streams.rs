//! A stream during an outage of Redis: its requests fail in order, and the stream continues.

use futures_util::stream;
use tokio::sync::mpsc;
use tollgate::grpc::proto::{ReserveRequest, ReserveStreamResponse};
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;

use super::start;
use crate::support::{
    calls::{Client, large, new_reserve, reserve, verdict_text},
    redis::RedisServer,
    streams::{StreamItem, code, next},
};

/// A stream that sends one request at a time.
pub(super) struct RequestStream {
    requests: mpsc::Sender<ReserveRequest>,
    answers: Streaming<ReserveStreamResponse>,
}

impl RequestStream {
    pub(super) async fn over(client: &Client) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        let sent = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<_>| {
            Some((receiver.recv().await?, receiver))
        });
        let answers = client.clone().reserve_stream(sent).await;
        Self {
            requests,
            answers: answers.unwrap().into_inner(),
        }
    }

    pub(super) async fn reserve(&mut self, tokens: u64, id: &str) -> StreamItem {
        self.requests.send(new_reserve(tokens, id)).await.unwrap();
        next(&mut self.answers).await.unwrap()
    }
}

#[tokio::test]
async fn an_outage_makes_the_requests_of_a_stream_unavailable_until_redis_is_back() {
    let mut redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let mut stream = RequestStream::over(&tollgate.client()).await;
    assert_eq!(stream.reserve(10, "before").await.unwrap().used, 10);
    redis.kill();
    for _ in 0..3 {
        let failed = stream.reserve(10, "between").await;
        assert_eq!(code(&failed), Code::Unavailable);
        assert!(failed.unwrap_err().message.contains("retry with the same"));
    }
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    redis.restart();
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    // Redis lost everything; the service restores its snapshots.
    let answer = stream.reserve(10, "between").await.unwrap();
    assert_eq!((answer.used, answer.replayed), (20, false));
}

#[tokio::test]
async fn with_degraded_answers_the_requests_of_a_stream_are_billed_for_the_store() {
    let mut redis = RedisServer::start();
    let tollgate = start(&redis, "on_store_failure = \"billed\"").await;
    let mut stream = RequestStream::over(&tollgate.client()).await;
    redis.kill();
    for _ in 0..3 {
        let answer = stream.reserve(10, "r").await.unwrap();
        assert_eq!(verdict_text(&answer), "StoreUnavailable");
    }
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    redis.restart();
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    assert_eq!(
        verdict_text(&stream.reserve(10, "r").await.unwrap()),
        "FREE"
    );
}

#[tokio::test]
async fn foreign_data_fails_only_the_requests_of_its_organization() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    reserve(&client, 1, "").await;
    let pool = &redis.strings(&["KEYS", "tollgate:{acme}:pool:*"])[0];
    let of = |org: &str| ReserveRequest {
        org: org.to_owned(),
        ..new_reserve(1, "")
    };
    redis.run(&["SET", pool, "abc"]);
    redis.run(&["SCRIPT", "FLUSH"]);
    let requests = (0..200).map(move |at| of(["acme", "other", "stranger"][at % 3]));
    let answers = client.clone().reserve_stream(stream::iter(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut others = 0;
    for at in 0..200 {
        let answer = next(&mut answers).await.unwrap();
        match at % 3 {
            0 => assert_eq!(code(&answer), Code::Internal),
            1 => {
                others += 1;
                assert_eq!(answer.unwrap().used, others);
            }
            _ => assert_eq!(verdict_text(&answer.unwrap()), "OrganizationNotEnrolled"),
        }
    }
    redis.run(&["DEL", pool]);
    // Earlier counts are restored.
    assert_eq!(large(&client).await.free_requests, 1);
}
