//! Redis as people run it: a cluster, a master that sentinels watch, over TLS. Real processes each time.

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

/// The default of both timeouts is 500 ms; a slow machine may be late.
const MAX_CALL_TIME: Duration = Duration::from_secs(3);

const ALLOWANCE: u64 = 1_000_000;

/// Organizations enough for every master to have some.
const ORGS: usize = 12;

/// A service over this store, with the organizations `org-0` and on.
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

/// Whether a line of the log holds all of these words; waits for it.
async fn logs(tollgate: &Tollgate, words: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let has = |line: &serde_json::Value| words.iter().all(|word| line.to_string().contains(word));
    while !tollgate.log().iter().any(has) {
        assert!(Instant::now() < deadline, "{words:?}: {:?}", tollgate.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until `/readyz` says that it is not ready, and this.
async fn is_not_ready_for(tollgate: &Tollgate, words: &str) {
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

/// Traffic of one organization, over one replica; nobody is in a hurry.
fn traffic(client: &Client, org: &str) -> Traffic {
    let profile = TrafficProfile {
        orgs: vec![org.to_owned()],
        deadline: None,
        repeats_calls: true,
    };
    Traffic::over(std::slice::from_ref(client), &profile)
}

/// What callers were told is what is counted, where nothing is lost. Tells how many calls failed.
async fn holds(history: &History, client: &Client, org: &str) -> usize {
    let (used, counts) = (large_of(client, org).await.used, history.counts(org, &[]));
    let range = counts.min..=counts.max;
    assert!(range.contains(&(used as i64)), "{used}: {counts:?}");
    let listed = sum(&usage_of(client, org, "").await).0;
    assert_eq!(listed, used);
    history.failed().count()
}
