//! docs/CONTRACT.md, the errors: a real service over a real Redis that restarts, stalls, is demoted,
//! runs full, or holds what is not ours.

mod foreign;
mod losses;
mod outages;
mod refusals;
mod streams;
mod waiting;

use std::time::Duration;

use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    calls::{Client, TextFile, ask, policy_file},
    redis::RedisServer,
    tollgate::Tollgate,
};

/// The default of both timeouts is 500 ms; a slow machine may be late. What the tests tell apart takes
/// ten times as long.
const PROMPT: Duration = Duration::from_secs(3);

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
    let answer = client.clone().reserve(ask(tokens, request_id)).await;
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
