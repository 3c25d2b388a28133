//! Redis as people run it: a cluster, a master that sentinels watch, over TLS. Real processes each time.

mod cluster;
mod sentinel;
mod tls;

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tollgate::grpc::proto::{GetQuotaRequest, ReserveRequest, ReserveResponse};
use tonic::{Code, Status};

use crate::support::{
    calls::{Client, TextFile, ask, policy_file_of},
    tollgate::Tollgate,
};

/// The default of both timeouts is 500 ms; a slow machine may be late.
const PROMPT: Duration = Duration::from_secs(3);

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
    let org = org.to_owned();
    let quota = client.clone().get_quota(GetQuotaRequest { org }).await;
    let pools = quota.unwrap().into_inner().pools;
    pools.iter().find(|pool| pool.pool == "large").unwrap().used
}

async fn reserve_of(client: &Client, org: &str, id: &str) -> Result<ReserveResponse, Status> {
    let request = ReserveRequest {
        org: org.to_owned(),
        ..ask(1, id)
    };
    Ok(client.clone().reserve(request).await?.into_inner())
}

/// Whether a line of the log holds all of these words; waits for it.
async fn logs(tollgate: &Tollgate, words: &[&str]) {
    let patience = Instant::now() + Duration::from_secs(10);
    let has = |line: &serde_json::Value| words.iter().all(|word| line.to_string().contains(word));
    while !tollgate.log().iter().any(has) {
        assert!(Instant::now() < patience, "{words:?}: {:?}", tollgate.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Reserves of one organization, one token each, from several callers until they are told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    /// How many were answered.
    done: Arc<AtomicU64>,
    callers: JoinSet<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Those with ids: how often each was answered as counted just now.
    counted: BTreeMap<String, usize>,
    without_id: u64,
    /// Calls that failed, with UNAVAILABLE and nothing else.
    unavailable: u64,
    /// Those of them without an id, whose outcome nobody can learn any more.
    unknown: u64,
    /// The longest time from a failure to the next answer of the same caller.
    longest_outage: Duration,
}

const CALLERS: usize = 8;

impl Traffic {
    /// Every second call has an id, and is asked until it is answered.
    fn over(client: &Client, org: &str) -> Self {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut callers = JoinSet::new();
        for number in 0..CALLERS {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            callers.spawn(call_on(client.clone(), org.to_owned(), number, stop, done));
        }
        Self {
            stop,
            done,
            callers,
        }
    }

    /// Waits until so many more calls were answered.
    async fn wait_for(&self, more: u64) {
        let patience = Instant::now() + Duration::from_secs(20);
        let wanted = self.done.load(Ordering::Relaxed) + more;
        while self.done.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < patience, "the callers do not get on");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        while let Some(seen) = self.callers.join_next().await {
            let seen = seen.unwrap();
            all.counted.extend(seen.counted);
            all.without_id += seen.without_id;
            all.unavailable += seen.unavailable;
            all.unknown += seen.unknown;
            all.longest_outage = all.longest_outage.max(seen.longest_outage);
        }
        all
    }
}

async fn call_on(
    client: Client,
    org: String,
    number: usize,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Seen {
    let mut seen = Seen::default();
    let mut failing_since: Option<Instant> = None;
    for at in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let has_id = at % 2 == 0;
        let id = if has_id {
            format!("{number} {at}")
        } else {
            String::new()
        };
        loop {
            match reserve_of(&client, &org, &id).await {
                Ok(answer) => {
                    done.fetch_add(1, Ordering::Relaxed);
                    if let Some(since) = failing_since.take() {
                        seen.longest_outage = seen.longest_outage.max(since.elapsed());
                    }
                    if has_id {
                        *seen.counted.entry(id).or_default() += usize::from(!answer.replayed);
                    } else {
                        seen.without_id += 1;
                    }
                    break;
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    seen.unavailable += 1;
                    failing_since.get_or_insert_with(Instant::now);
                    let since = failing_since.unwrap();
                    assert!(since.elapsed() < Duration::from_secs(20), "{status:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    if !has_id {
                        seen.unknown += 1;
                        break;
                    }
                }
            }
        }
    }
    seen
}

impl Seen {
    /// What the store must have counted at least and at most: each id once, and without ids whatever
    /// was answered and perhaps what was not.
    fn counts(&self) -> std::ops::RangeInclusive<u64> {
        assert!(self.counted.values().all(|count| *count <= 1));
        let sure = self.counted.len() as u64 + self.without_id;
        sure..=sure + self.unknown
    }
}
