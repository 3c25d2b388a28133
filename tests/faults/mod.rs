//! docs/DURABILITY.md: what Redis does to those who rely on it, under the traffic of gateways through
//! replicas. Whatever they asked and were told is written down, and held against what the ledger has in
//! the end ([`check`]).
//!
//! `TOLLGATE_LONG=1` is the long form: more traffic, more rounds, longer faults.

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

/// Organizations that the policy knows: enough for every master of a cluster to have some.
const ORGS: usize = 12;

/// How many of them have traffic.
const BUSY_ORGS: usize = 4;

const REPLICAS: usize = 3;

/// As the contract says; a slow machine may be late.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(4);

/// The same where a fault takes connections, but nothing that a caller should notice: here no call may
/// fail, however slow the machine is.
const LONG_TIMEOUTS: &str = "call_timeout = \"30s\"\n[redis]\nresponse_timeout = \"30s\"\n";

const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Answered calls before a fault, and after it.
fn some_calls() -> u64 {
    if is_long() { 6_000 } else { 500 }
}

/// Of every organization; the hot one reaches it while a fault is going on, or soon after.
fn allowance() -> u64 {
    if is_long() { 2_000_000 } else { 150_000 }
}

/// What may happen under a fault.
#[derive(Debug, Default)]
struct Rules {
    /// Redis forgot what it had acknowledged.
    losses: Vec<Loss>,
    /// No connection is cut and no answer lost: every id has its one answer that is no replay.
    cuts_nothing: bool,
    /// A call without a deadline is answered within this time.
    call_timeout: Option<Duration>,
}

/// Replicas of the service over one store.
struct Deployment {
    replicas: Vec<Tollgate>,
    clients: Vec<Client>,
    profile: TrafficProfile,
}

impl Deployment {
    /// As many replicas as there are URLs of the store, each of them serving.
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

    /// What was known may be forgotten: nobody asks for it again.
    fn that_may_lose_writes(mut self) -> Self {
        self.profile.repeats_calls = false;
        self
    }

    /// No call may fail: nobody is in a hurry.
    fn without_deadlines(mut self) -> Self {
        self.profile.deadline = None;
        self
    }

    fn traffic(&self) -> Traffic {
        Traffic::over(&self.clients, &self.profile)
    }

    /// Each replica decides again, that soon.
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

    /// Uses the allowances up, and holds what was told against what there is.
    async fn check(&self, mut history: History, rules: &Rules) {
        let mut gateway = Gateway::over(&self.clients);
        for org in &self.profile.orgs {
            invariants::use_up(&mut gateway, org).await;
        }
        history.calls.append(&mut gateway.history);
        invariants::all(&self.clients, &self.profile.orgs, &history, rules).await;
    }
}
