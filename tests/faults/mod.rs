//! docs/DURABILITY.md: faults of Redis under the traffic of gateways through several replicas. All calls and answers
//! are recorded, and checked against the ledger at the end ([`invariants`]).
//!
//! `TOLLGATE_LONG=1` runs the long form: more traffic, more rounds, longer faults.

mod clusters;
mod crashes;
mod disturbances;
pub mod history;
mod invariants;
mod sentinels;
mod stalls;
mod traffic;

use std::time::{Duration, Instant};

use tollgate::grpc::proto::ReserveRequest;
use tonic_health::pb::health_check_response::ServingStatus;

pub use self::{
    history::History,
    traffic::{Traffic, TrafficProfile},
};
use self::{history::Loss, traffic::Gateway};
use crate::support::{
    calls::{Client, TextFile, new_reserve, policy_file_of},
    is_long,
    tollgate::Tollgate,
};

/// Organizations in the policy: enough for every master of a cluster to have some.
const ORGS: usize = 12;

/// How many of them have traffic.
const BUSY_ORGS: usize = 4;

const REPLICAS: usize = 3;

/// Longer than the contract says, for busy machines.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(4);

/// For faults that cut connections but that callers must not notice: no call may fail, however slow the machine is.
const LONG_TIMEOUTS: &str = "call_timeout = \"30s\"\n[redis]\nresponse_timeout = \"30s\"\n";

const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// How many calls are answered before a fault, and after it.
fn some_calls() -> u64 {
    if is_long() { 6_000 } else { 500 }
}

/// The allowance of each organization. The hot one uses it up during a fault or soon after.
fn allowance() -> u64 {
    if is_long() { 2_000_000 } else { 150_000 }
}

/// What a fault allows.
#[derive(Debug, Default)]
struct Rules {
    /// Losses of acknowledged writes.
    losses: Vec<Loss>,
    /// No connection is cut and no reply lost: every id has exactly one answer that is no replay.
    cuts_nothing: bool,
    /// The time limit of a call without a deadline.
    call_timeout: Option<Duration>,
}

/// Replicas of the service over one store.
struct Deployment {
    replicas: Vec<Tollgate>,
    clients: Vec<Client>,
    profile: TrafficProfile,
}

impl Deployment {
    /// One serving replica for each URL of the store.
    async fn over(urls: &[String], settings: &str) -> Self {
        let (policy, settings) = (policy_file_of(ORGS, allowance()), TextFile::new(settings));
        let args = ["--policy", policy.path(), "--config", settings.path()];
        let start = |url: &String| Tollgate::start(&[&args[..], &["--store", url]].concat());
        let replicas: Vec<Tollgate> = urls.iter().map(start).collect();
        for replica in &replicas {
            replica.wait_for_readiness(ServingStatus::Serving).await;
        }
        Self {
            clients: replicas.iter().map(Tollgate::client).collect(),
            replicas,
            profile: TrafficProfile {
                orgs: (0..BUSY_ORGS).map(|org| format!("org-{org}")).collect(),
                deadline: Some(Duration::from_millis(400)),
                repeats_calls: true,
            },
        }
    }

    async fn three_over(url: String, settings: &str) -> Self {
        Self::over(&vec![url; REPLICAS], settings).await
    }

    /// Ids may be lost, so calls are not repeated.
    fn that_may_lose_writes(mut self) -> Self {
        self.profile.repeats_calls = false;
        self
    }

    /// No call may fail, so none has a deadline.
    fn without_deadlines(mut self) -> Self {
        self.profile.deadline = None;
        self
    }

    fn traffic(&self) -> Traffic {
        Traffic::over(&self.clients, &self.profile)
    }

    /// Waits until each replica decides again.
    async fn decides_again(&self, within: Duration) {
        let begun = Instant::now();
        for (at, client) in self.clients.iter().enumerate() {
            loop {
                let request = ReserveRequest {
                    org: self.profile.orgs[0].clone(),
                    dry_run: true,
                    ..new_reserve(1, "")
                };
                let answer = client.clone().reserve(request).await;
                assert!(begun.elapsed() < within, "replica {at}: {answer:?}");
                if answer.is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    async fn are(&self, readiness: ServingStatus) {
        for replica in &self.replicas {
            replica.wait_for_readiness(readiness).await;
        }
    }

    /// Uses up the allowances, and checks the answers against the ledger.
    async fn check(&self, mut history: History, rules: &Rules) {
        let mut gateway = Gateway::over(&self.clients);
        for org in &self.profile.orgs {
            invariants::use_up(&mut gateway, org).await;
        }
        history.calls.append(&mut gateway.history);
        invariants::all(&self.clients, &self.profile.orgs, &history, rules).await;
    }
}
