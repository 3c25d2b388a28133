//! The usual topologies of Redis: a cluster, sentinels, TLS. All processes are real.

mod cluster;
mod login;
mod sentinel;
mod tls;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use tollgate::grpc::proto::{ReserveRequest, ReserveResponse};
use tonic::Status;

use crate::faults::{History, Traffic, TrafficProfile};
use crate::server::http_get;
use crate::support::{
    calls::{Client, TextFile, large_of, new_reserve, policy_file_of, sum, usage_of},
    tollgate::Tollgate,
};

/// Both timeouts are 500 ms by default; more time for busy machines.
const MAX_CALL_TIME: Duration = Duration::from_secs(3);

const ALLOWANCE: u64 = 1_000_000;

/// Enough organizations for every master to have some.
const ORGS: usize = 12;

/// A service over this store, with the organizations `org-0`, `org-1`, ….
fn start(url: &str, settings: &str) -> Tollgate {
    start_with(url, settings, |_| {})
}

fn start_with(url: &str, settings: &str, prepare: impl FnOnce(&mut Command)) -> Tollgate {
    let (policy, settings) = (policy_file_of(ORGS, ALLOWANCE), TextFile::new(settings));
    let args = ["--policy", policy.path(), "--config", settings.path()];
    Tollgate::start_with(&[&args[..], &["--store", url]].concat(), prepare)
}

/// What the pool `large` of an organization has counted.
async fn used(client: &Client, org: &str) -> u64 {
    large_of(client, org).await.used
}

async fn reserve_of(client: &Client, org: &str, id: &str) -> Result<ReserveResponse, Status> {
    let request = ReserveRequest {
        org: org.to_owned(),
        ..new_reserve(1, id)
    };
    Ok(client.clone().reserve(request).await?.into_inner())
}

/// Waits for a log line with all of these words.
async fn wait_for_log(tollgate: &Tollgate, words: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let has = |line: &serde_json::Value| words.iter().all(|word| line.to_string().contains(word));
    while !tollgate.log().iter().any(has) {
        assert!(Instant::now() < deadline, "{words:?}: {:?}", tollgate.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until `/readyz` is not ready for this reason.
async fn wait_for_not_ready(tollgate: &Tollgate, words: &str) {
    let begun = Instant::now();
    loop {
        let (head, body) = http_get(&tollgate.http_addr, "/readyz");
        if head.starts_with("HTTP/1.1 503") && body.contains(words) {
            return;
        }
        assert!(begun.elapsed() < MAX_CALL_TIME, "{words:?}: {head} {body}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Traffic of one organization through one replica, without deadlines.
fn traffic(client: &Client, org: &str) -> Traffic {
    let profile = TrafficProfile {
        orgs: vec![org.to_owned()],
        deadline: None,
        repeats_calls: true,
    };
    Traffic::over(std::slice::from_ref(client), &profile)
}

/// Asserts that the answers match the counters. Gives the number of failed calls.
async fn assert_counters_match(history: &History, client: &Client, org: &str) -> usize {
    let (used, counts) = (large_of(client, org).await.used, history.counts(org, &[]));
    let range = counts.min..=counts.max;
    assert!(range.contains(&(used as i64)), "{used}: {counts:?}");
    let listed = sum(&usage_of(client, org, "").await).0;
    assert_eq!(listed, used);
    history.failed().count()
}
