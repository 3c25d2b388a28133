//! docs/CONTRACT.md, the errors: a real service over a real Redis that restarts, stalls, is demoted, is full, or has
//! foreign data.

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
pub mod refusals;
mod reserve_script;
mod streams;
mod wait_replicas;

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

/// Both timeouts are 500 ms by default; more time for busy machines. A wrong timeout would take ten times as long.
const MAX_CALL_TIME: Duration = Duration::from_secs(3);

/// The contract says one second; more time for busy machines.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(3);

/// Longer than any answer takes, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Timeouts that a pause of Redis by a test does not reach.
const LONG_TIMEOUTS: &str = "call_timeout = \"60s\"\n[redis]\nresponse_timeout = \"60s\"";

/// A service over this Redis, ready.
async fn start(redis: &RedisServer, settings: &str) -> Tollgate {
    let tollgate = start_without_waiting(&redis.url(), settings);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    tollgate
}

fn start_without_waiting(url: &str, settings: &str) -> Tollgate {
    let (policy, settings) = (policy_file(1_000), TextFile::new(settings));
    let args = ["--policy", policy.path(), "--config", settings.path()];
    Tollgate::start(&[&args[..], &["--store", url]].concat())
}

/// The error of a Reserve.
async fn refused(client: &Client, tokens: u64, request_id: &str) -> Status {
    let answer = client
        .clone()
        .reserve(new_reserve(tokens, request_id))
        .await;
    answer.unwrap_err()
}

/// Asserts that a Reserve fails with UNAVAILABLE and helpful advice.
async fn unavailable(client: &Client, tokens: u64, request_id: &str) {
    let status = refused(client, tokens, request_id).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("retry with the same request_id"),
        "{status:?}"
    );
}

/// Whether a log line has all of these words.
fn logged(tollgate: &Tollgate, words: &[&str]) -> bool {
    let lines = tollgate.log();
    let mut texts = lines.iter().map(ToString::to_string);
    texts.any(|line| words.iter().all(|word| line.contains(word)))
}

/// Waits for a log line with these words: the answer may come before it.
async fn wait_for_log(tollgate: &Tollgate, words: &[&str]) {
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

/// Reserves one token until it succeeds, which must be soon.
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

/// A Reserve with a deadline. Uses h2, because tonic's client would end the call by its own timer.
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

/// The reason in `/readyz`.
fn not_ready_body(tollgate: &Tollgate) -> String {
    let (head, body) = http_get(&tollgate.http_addr, "/readyz");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}: {body}");
    body
}
