//! docs/CONTRACT.md, the errors: a real service over a real Redis that restarts, stalls, is demoted,
//! runs full, or holds what is not ours.

mod acl_check;
mod circuit_breaker;
mod deadlines;
mod eviction_check;
mod foreign_data;
mod lost_writes;
mod messages;
mod outages;
mod queue;
mod refusal_reasons;
mod refusals;
mod streams;

use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::{net::TcpStream, time::timeout};
use tollgate::grpc::proto::{BilledReason, ReserveRequest, ReserveResponse};
use tonic::{Code, Status, codegen::http};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::server::http_get;
use crate::support::{
    calls::{Client, TextFile, new_reserve, policy_file},
    redis::RedisServer,
    tollgate::Tollgate,
};

/// The default of both timeouts is 500 ms; a slow machine may be late. What the tests tell apart takes
/// ten times as long.
const MAX_CALL_TIME: Duration = Duration::from_secs(3);

/// A second is what the contract says; a slow machine may be late.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(3);

/// No answer takes nearly as long, however busy the machine is.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A pause that a test makes is no failure of Redis.
const LONG_TIMEOUTS: &str = "call_timeout = \"60s\"\n[redis]\nresponse_timeout = \"60s\"";

/// A service over this Redis that has seen it answer.
async fn start(redis: &RedisServer, settings: &str) -> Tollgate {
    let tollgate = start_unseen(&redis.url(), settings);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    tollgate
}

fn start_unseen(url: &str, settings: &str) -> Tollgate {
    let (policy, settings) = (policy_file(1_000), TextFile::new(settings));
    let args = ["--policy", policy.path(), "--config", settings.path()];
    Tollgate::start(&[&args[..], &["--store", url]].concat())
}

/// How a Reserve fails.
async fn refused(client: &Client, tokens: u64, request_id: &str) -> Status {
    let answer = client
        .clone()
        .reserve(new_reserve(tokens, request_id))
        .await;
    answer.unwrap_err()
}

/// It fails as UNAVAILABLE, and the message says what to do.
async fn unavailable(client: &Client, tokens: u64, request_id: &str) {
    let status = refused(client, tokens, request_id).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("retry with the same request_id"),
        "{status:?}"
    );
}

/// Whether a line of the log holds all of these words.
fn logged(tollgate: &Tollgate, words: &[&str]) -> bool {
    let lines = tollgate.log();
    let mut texts = lines.iter().map(ToString::to_string);
    texts.any(|line| words.iter().all(|word| line.contains(word)))
}

/// Waits for a log line with these words: the answer to a call may come before it.
async fn is_logged(tollgate: &Tollgate, words: &[&str]) {
    let begun = Instant::now();
    while !logged(tollgate, words) {
        assert!(
            begun.elapsed() < WAIT_TIMEOUT,
            "{words:?}: {:?}",
            tollgate.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Calls until a Reserve of one token is served again, which is soon.
async fn served_again(client: &Client, request_id: &str) -> ReserveResponse {
    let begun = Instant::now();
    loop {
        match client.clone().reserve(new_reserve(1, request_id)).await {
            Ok(answer) if answer.get_ref().billed_reason() != BilledReason::StoreUnavailable => {
                assert!(begun.elapsed() < RECOVERY_TIMEOUT, "{:?}", begun.elapsed());
                return answer.into_inner();
            }
            failed => assert!(begun.elapsed() < RECOVERY_TIMEOUT, "{failed:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A Reserve with a deadline, whose end the service says: below tonic, whose client would end the call
/// by a timer of its own.
async fn reserve_until_the_service_ends_it(
    tollgate: &Tollgate,
    request: &ReserveRequest,
    grpc_timeout: &str,
) -> Code {
    let stream = TcpStream::connect(&tollgate.addr).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}/tollgate.v1.QuotaService/Reserve", tollgate.addr);
    let head = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", grpc_timeout)
        .body(())
        .unwrap();
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut body) = sender.send_request(head, false).unwrap();
    let message = request.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    body.send_data(framed.into(), true).unwrap();
    let answer = timeout(WAIT_TIMEOUT, answer).await.unwrap().unwrap();
    connection.abort();
    Code::from_bytes(answer.headers()["grpc-status"].as_bytes())
}

/// What `/readyz` says of why the service is not ready.
fn not_ready_body(tollgate: &Tollgate) -> String {
    let (head, body) = http_get(&tollgate.http_addr, "/readyz");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}: {body}");
    body
}
