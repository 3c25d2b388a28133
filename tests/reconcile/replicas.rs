//! docs/CONTRACT.md, "Background reconcile", with real services: the lease, the audit log, `/readyz`, secrets.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tollgate::{
    grpc::proto::{ComparisonResult, ListOrganizationsRequest},
    store::Store as _,
};

use super::FREE;
use crate::{
    redis_faults::refusals::{LEAST_RIGHTS, url_of_user},
    server::http_get,
    support::{
        calls::{TextFile, large, policy_file, quota, reserve, usage},
        clock::Clock,
        cluster::RedisCluster,
        redis::RedisServer,
        tollgate::Tollgate,
        usage_api::{ADMIN_KEY, ApiFault, UsageApiServer, UsageEvent},
        world::{NOON, TODAY, redis_store_at},
    },
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A service that compares `acme` with a stand-in of its own.
struct Replica {
    tollgate: Tollgate,
    api: UsageApiServer,
    key: TextFile,
    /// Followed while the service runs.
    _policy: TextFile,
}

fn external(tokens: u64) -> UsageEvent {
    UsageEvent::new("2026-11-22T08:00:00Z", "proj_p", "gpt-4o", FREE, tokens)
}

impl Replica {
    async fn start(clock: &Clock, store: &str, key: &str, more: &str) -> Self {
        let api = UsageApiServer::start(NOON, vec![external(300)]).await;
        let key = TextFile::new(key);
        let settings = TextFile::new(&format!(
            "[reconcile]\nevery = \"2s\"\nsettle_lag = \"5s\"\nraise = \"external\"\napi_base = \"{}\"\n{more}\n\
             [reconcile.orgs.acme]\nadmin_key_file = \"{}\"\nprojects = {{ p = \"proj_p\" }}\n",
            api.base,
            key.path(),
        ));
        let policy = policy_file(1_000);
        let args = [
            "--store",
            store,
            "--policy",
            policy.path(),
            "--config",
            settings.path(),
        ];
        let tollgate = Tollgate::start_at(clock, &args);
        Self {
            tollgate,
            api,
            key,
            _policy: policy,
        }
    }

    fn audit(&self) -> Vec<Value> {
        let mut lines = self.tollgate.log();
        lines.retain(|line| line["target"] == "audit");
        lines
    }

    fn queries(&self) -> usize {
        self.api.queries().len()
    }

    fn readyz(&self) -> (String, String) {
        http_get(&self.tollgate.http_addr, "/readyz")
    }

    fn metrics(&self) -> String {
        http_get(&self.tollgate.http_addr, "/metrics").1
    }
}

async fn wait(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !is_true().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn of_two_replicas_one_polls_and_the_other_takes_over_when_it_is_killed() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let url = redis.url();
    let mut replicas = Vec::new();
    for _ in 0..2 {
        replicas.push(Replica::start(&clock, &url, ADMIN_KEY, "").await);
    }
    wait("a poll", async || {
        replicas.iter().any(|it| it.queries() > 0)
    })
    .await;
    if replicas[0].queries() == 0 {
        replicas.swap(0, 1);
    }
    let began = Instant::now();
    wait("polls", async || replicas[0].queries() >= 4).await;
    let polls = replicas[0].queries();
    let most = began.elapsed().as_secs() / 2 + 2;
    assert!(polls as u64 <= most, "{polls} in {:?}", began.elapsed());
    assert_eq!(replicas[1].queries(), 0);
    let (holder, other) = (replicas[0].metrics(), replicas[1].metrics());
    assert!(
        holder.contains("\ntollgate_reconcile_age_seconds ")
            && holder.contains("tollgate_drift_tokens{")
            && holder.contains("\ntollgate_reconcile_holder 1.0\n")
    );
    assert!(
        other.contains("\ntollgate_reconcile_holder 0.0\n")
            && !other.contains("\ntollgate_reconcile_age_seconds ")
            && !other.contains("tollgate_drift_tokens{")
    );
    let client = replicas[1].tollgate.client();
    wait("external", async || {
        large(&client).await.external_tokens == 300
    })
    .await;
    assert!(redis.integer(&["PTTL", "tollgate:reconcile"]) > 0);
    drop(replicas.remove(0));
    wait("the other polls", async || {
        assert_eq!(large(&client).await.external_tokens, 300);
        replicas[0].queries() > 1
    })
    .await;
    assert_eq!(large(&client).await.external_tokens, 300);
    assert_eq!(reserve(&client, 701, "r").await.used, 0);
    // An unchanged figure is no event.
    assert!(replicas[0].audit().is_empty());
}

#[tokio::test]
async fn every_replica_shows_drift_and_the_providers_figures_with_the_least_rights() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let url = url_of_user(&redis, &[&LEAST_RIGHTS[..], &["+hscan"]].concat());
    let mut replicas = Vec::new();
    for _ in 0..2 {
        replicas.push(Replica::start(&clock, &url, ADMIN_KEY, "").await);
    }
    let drift = ("external".to_owned(), 300);
    for replica in &replicas {
        let client = replica.tollgate.client();
        wait("drift", async || {
            let quota = quota(&client).await;
            let mut found = quota.comparisons.iter().flat_map(|day| &day.drift);
            found.next().map(|it| (it.kind.clone(), it.tokens)) == Some(drift.clone())
        })
        .await;
        let today = quota(&client).await.comparisons.pop().unwrap();
        assert_eq!(
            (&*today.day, today.result()),
            (TODAY, ComparisonResult::Drifts)
        );
        let page = ListOrganizationsRequest::default();
        let list = client.clone().list_organizations(page).await.unwrap();
        let acme = &list.get_ref().organizations[0];
        assert_eq!(acme.comparisons.last(), Some(&today));
        let rows = usage(&client, TODAY).await;
        let provider = rows[0].provider.unwrap();
        assert_eq!(
            (&*rows[0].project, rows.len(), provider.free_tokens),
            ("p", 1, 300)
        );
    }
    let compared = replicas.iter().filter(|it| it.queries() > 0).count();
    assert_eq!(compared, 1, "one of them compares");
}

#[tokio::test]
async fn each_change_of_the_external_usage_is_an_event_of_reconcile_in_the_audit_log() {
    let replica = Replica::start(&Clock::at(NOON), "memory:", ADMIN_KEY, "").await;
    let client = replica.tollgate.client();
    wait("external", async || {
        large(&client).await.external_tokens == 300
    })
    .await;
    replica.api.add(external(50));
    wait("external", async || {
        large(&client).await.external_tokens == 350
    })
    .await;
    let before = replica.queries();
    wait("polls", async || replica.queries() > before + 1).await;
    let events = replica.audit();
    assert_eq!(events.len(), 2, "{events:?}");
    for (event, (before, after)) in events.iter().zip([(0, 300), (300, 350)]) {
        let who = (
            &event["caller"],
            &event["source"],
            &event["org"],
            &event["pool"],
        );
        let expected = ["reconcile", "reconciled", "acme", "large"].map(Value::from);
        assert_eq!(
            who,
            (&expected[0], &expected[1], &expected[2], &expected[3])
        );
        assert_eq!(
            (&event["before"], &event["after"]),
            (&before.into(), &after.into())
        );
    }
}

#[tokio::test]
async fn a_refused_key_shows_in_readyz_and_no_key_in_any_log() {
    const SECRET: &str = "sk-admin-a-secret";
    let replica = Replica::start(&Clock::at(NOON), "memory:", SECRET, "").await;
    let shows = async |line: &str| wait(line, async || replica.readyz().1.contains(line)).await;
    let log = || format!("{:?}", replica.tollgate.log());
    wait("a log line", async || log().contains("admin key (401)")).await;
    shows("refused by the provider: 1").await;
    assert!(replica.readyz().0.starts_with("HTTP/1.1 200 "));
    assert!(!replica.readyz().1.contains("acme"));
    fs::write(replica.key.path(), format!("two {SECRET}")).unwrap();
    shows("not readable: 1").await;
    fs::write(replica.key.path(), ADMIN_KEY).unwrap();
    wait("ok", async || replica.readyz().1 == "ok\n").await;
    let log = log();
    assert!(log.contains("not one word"), "{log}");
    assert!(!log.contains(SECRET) && !log.contains(ADMIN_KEY), "{log}");
}

/// One has it at a time: the first, until it expires.
async fn one_at_a_time(url: &str) {
    let stores = [redis_store_at(url), redis_store_at(url)];
    let (short, long) = (Duration::from_millis(1_500), Duration::from_secs(60));
    assert_eq!(stores[0].take_lease(long).await, Ok(true));
    assert_eq!(stores[1].take_lease(short).await, Ok(false));
    assert_eq!(stores[0].take_lease(short).await, Ok(true), "it is renewed");
    assert_eq!(stores[1].take_lease(short).await, Ok(false));
    let began = Instant::now();
    wait("the lease", async || {
        stores[1].take_lease(long).await == Ok(true)
    })
    .await;
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(stores[0].take_lease(short).await, Ok(false));
}

#[tokio::test]
async fn one_replica_at_a_time_has_the_lease_with_the_least_rights() {
    let redis = RedisServer::start();
    let url = url_of_user(&redis, &[&LEAST_RIGHTS[..], &["+hscan"]].concat());
    one_at_a_time(&url).await;
    assert_eq!(redis.strings(&["KEYS", "*"]), ["tollgate:reconcile"]);
    redis.run(&["ACL", "SETUSER", "gate", "-set"]);
    redis.run(&["DEL", "tollgate:reconcile"]);
    let store = redis_store_at(&format!("redis://gate:secret@127.0.0.1:{}", redis.port));
    let refused = store.take_lease(Duration::from_secs(1)).await.unwrap_err();
    assert!(refused.to_string().contains("lacks +set"), "{refused}");
}

#[tokio::test]
async fn one_replica_at_a_time_has_the_lease_in_a_cluster() {
    let cluster = RedisCluster::start_at(&Arc::new(Clock::real()));
    one_at_a_time(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_ends_lowers_what_is_only_likely_and_audits_it() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let mut replica = Replica::start(&clock, &redis.url(), ADMIN_KEY, "").await;
    {
        let client = replica.tollgate.client();
        let is = async |tokens| large(&client).await.external_tokens == tokens;
        wait("proven", async || is(300).await).await;
        // Since then it knows what was used.
        let polls = replica.queries() + 5;
        wait("polls", async || replica.queries() >= polls).await;
        assert_eq!(reserve(&client, 100, "r").await.used, 100);
        replica.api.add(external(100));
        wait("likely", async || is(400).await).await;
    }
    // The client closes its connection on the other thread. Then nothing else takes so long.
    tokio::time::sleep(Duration::from_millis(100)).await;
    redis.run(&["CLIENT", "PAUSE", "400", "WRITE"]);
    replica.tollgate.signal(Signal::SIGINT);
    assert!(replica.tollgate.wait(WAIT_TIMEOUT).success());
    let events = replica.audit();
    let last = events.last().unwrap();
    assert_eq!(
        (&last["before"], &last["after"]),
        (&400.into(), &300.into())
    );
    assert!(last["note"].as_str().unwrap().contains("stops"), "{last}");
    let policy = policy_file(1_000);
    let url = redis.url();
    let other = Tollgate::start_at(&clock, &["--store", &url, "--policy", policy.path()]);
    assert_eq!(large(&other.client()).await.external_tokens, 300);
}

#[tokio::test]
async fn the_end_of_a_service_does_not_wait_for_the_provider() {
    let mut replica = Replica::start(&Clock::at(NOON), "memory:", ADMIN_KEY, "").await;
    wait("a poll", async || replica.queries() > 0).await;
    replica.api.fail([ApiFault::Hang]);
    let before = replica.queries();
    wait("a poll", async || replica.queries() > before).await;
    let began = Instant::now();
    replica.tollgate.signal(Signal::SIGINT);
    assert!(replica.tollgate.wait(WAIT_TIMEOUT).success());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}
