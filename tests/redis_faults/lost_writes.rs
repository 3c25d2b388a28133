//! docs/DURABILITY.md, "When Redis forgets": Redis loses acknowledged writes, and today's pools are restored from the
//! snapshots of the living replicas before anything else is granted.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use nix::sys::signal::Signal;
use tollgate::{
    domain::{Threshold, Tokens, UtcDay},
    grpc::proto::{
        BilledReason, ReleaseRequest, ReserveRequest, SetExternalUsageRequest, SettleRequest,
    },
    ledger::{Ledger, LedgerConfig, Notice},
};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{logged, start};
use crate::{
    server::http_get,
    support::{
        calls::{Client, TextFile, large, new_reserve, policy_file, reserve, verdict_text},
        clock::Clock,
        redis::RedisServer,
        tollgate::Tollgate,
        world::{
            ReserveExt as _, new_reserve as call, org_id, policy, redis_store, request_id,
            small_policy,
        },
    },
};

/// A service with a pool of 1,000 tokens.
async fn replica(redis: &RedisServer) -> (Tollgate, Client) {
    let tollgate = start(redis, "").await;
    let client = tollgate.client();
    (tollgate, client)
}

/// Reserves, and gives the verdict and what is used.
async fn used(client: &Client, tokens: u64) -> (String, u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match client.clone().reserve(new_reserve(tokens, "")).await {
            Ok(answer) => return (verdict_text(answer.get_ref()), answer.get_ref().used),
            // Redis may have been down a moment ago.
            Err(status) => assert!(
                status.message().contains("counted nothing") && Instant::now() < deadline,
                "{status:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn free(used: u64) -> (String, u64) {
    ("FREE".to_owned(), used)
}

fn exceeded(used: u64) -> (String, u64) {
    ("AllowanceExceeded".to_owned(), used)
}

/// A copy of Redis' data, to be restored later. This is the effect of a failover to a lagging replica, or of a crash
/// between two fsyncs.
struct Snapshot(PathBuf);

impl Snapshot {
    fn of(redis: &RedisServer) -> Self {
        redis.run(&["SAVE"]);
        let copy = redis.dir().join("copy.rdb");
        fs::copy(redis.dir().join("dump.rdb"), &copy).unwrap();
        Self(copy)
    }

    fn put_back(&self, redis: &mut RedisServer) {
        redis.kill();
        fs::copy(&self.0, redis.dir().join("dump.rdb")).unwrap();
        redis.restart();
    }
}

#[tokio::test]
async fn with_one_replica_a_flush_gives_nothing_away() {
    let redis = RedisServer::start();
    let (tollgate, client) = replica(&redis).await;
    assert_eq!(used(&client, 600).await, free(600));
    redis.run(&["FLUSHALL"]);
    assert_eq!(large(&client).await.used, 600);
    assert_eq!(used(&client, 500).await, exceeded(600));
    redis.run(&["FLUSHALL"]);
    assert_eq!(used(&client, 400).await, free(1_000));
    assert_eq!(used(&client, 1).await, exceeded(1_000));
    let pool = large(&client).await;
    assert_eq!((pool.free_requests, pool.billed_requests), (2, 2));
    assert_eq!(pool.billed_tokens, 501);
    assert!(logged(&tollgate, &["lost writes", "acme", "restored"]));
    let (head, body) = http_get(&tollgate.http_addr, "/readyz");
    assert!(
        head.contains("200") && body.contains("restored: "),
        "{body}"
    );
}

#[tokio::test]
async fn with_one_replica_a_redis_that_restarts_empty_gives_nothing_away() {
    let mut redis = RedisServer::start();
    let (tollgate, client) = replica(&redis).await;
    let mut granted = 0;
    for round in 0..30 {
        if round % 5 == 4 {
            redis.restart();
            tollgate.wait_for_readiness(ServingStatus::Serving).await;
        }
        let answer = reserve(&client, 70, "").await;
        granted += if verdict_text(&answer) == "FREE" {
            70
        } else {
            0
        };
        assert_eq!(answer.used, granted);
    }
    assert_eq!(granted, 980);
}

#[tokio::test]
async fn a_replica_whose_clock_jumps_to_another_day_remembers_what_it_counted() {
    let (redis, clock) = (RedisServer::start(), Clock::real());
    let (url, policy) = (redis.url(), policy_file(1_000));
    let tollgate = Tollgate::start_at(&clock, &["--store", &url, "--policy", policy.path()]);
    let client = tollgate.client();
    assert_eq!(used(&client, 600).await, free(600));
    // Until the store corrects it, it assumes that it is tomorrow.
    clock.advance(TimeDelta::days(1));
    assert_eq!(large(&client).await.used, 600);
    redis.run(&["FLUSHALL"]);
    assert_eq!(used(&client, 500).await, exceeded(600));
}

#[tokio::test]
async fn counts_of_each_living_replica_are_restored_whichever_comes_first() {
    for first in 0..3 {
        let mut redis = RedisServer::start();
        let replicas = [
            replica(&redis).await,
            replica(&redis).await,
            replica(&redis).await,
        ];
        for (_, client) in &replicas {
            reserve(client, 10, "").await;
        }
        let snapshot = Snapshot::of(&redis);
        for (at, (_, client)) in replicas.iter().enumerate() {
            reserve(client, 100 + at as u64, "").await;
        }
        snapshot.put_back(&mut redis);
        // Each restores its own component, and those that it saw before its last write.
        let mut last = 0;
        for turn in 0..3 {
            let (_, client) = &replicas[(first + turn) % 3];
            last = used(client, 1).await.1;
        }
        assert_eq!(last, 30 + 303 + 3, "first {first}");
        assert_eq!(used(&replicas[first].1, 1_000).await, exceeded(last));
    }
}

#[tokio::test]
async fn a_replica_that_knows_nothing_and_comes_first_takes_nothing_away_from_the_others() {
    let redis = RedisServer::start();
    let (tollgate, client) = replica(&redis).await;
    for _ in 0..10 {
        reserve(&client, 50, "").await;
    }
    let (_newcomer, new_client) = replica(&redis).await;
    // A running replica would restore without any call.
    tollgate.signal(Signal::SIGSTOP);
    redis.run(&["FLUSHALL"]);
    // More writes than the other's, so that counting writes would give the wrong result.
    for at in 1..=20 {
        assert_eq!(used(&new_client, 10).await, free(10 * at));
    }
    tollgate.signal(Signal::SIGCONT);
    assert_eq!(used(&client, 1).await, free(701));
    assert_eq!(used(&new_client, 300).await, exceeded(701));
}

#[tokio::test]
async fn counts_of_a_dead_replica_are_restored_as_far_as_a_living_one_saw_them() {
    let redis = RedisServer::start();
    let (dead, dead_client) = replica(&redis).await;
    let (_living, client) = replica(&redis).await;
    reserve(&dead_client, 100, "").await;
    reserve(&client, 10, "").await;
    // No other replica learns of this write: these tokens may be granted twice.
    reserve(&dead_client, 7, "").await;
    drop(dead);
    redis.run(&["FLUSHALL"]);
    assert_eq!(used(&client, 1).await, free(111));
}

#[tokio::test]
async fn each_replica_restores_its_snapshots_without_any_call() {
    let redis = RedisServer::start();
    let (_one, one) = replica(&redis).await;
    let (_other, other) = replica(&redis).await;
    reserve(&one, 100, "").await;
    reserve(&other, 50, "").await;
    redis.run(&["FLUSHALL"]);
    let (_newcomer, newcomer) = replica(&redis).await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while large(&newcomer).await.used != 150 {
        assert!(Instant::now() < deadline, "{:?}", large(&newcomer).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(used(&newcomer, 851).await, exceeded(150));
}

#[tokio::test]
async fn all_of_many_organizations_are_restored_and_not_only_the_audited_ones() {
    let redis = RedisServer::start();
    let orgs: Vec<String> = (0..40).map(|at| format!("org-{at}")).collect();
    let tables = orgs.iter();
    let tables = tables.map(|org| format!("[orgs.{org}]\ntier = 1\ndata_sharing = \"all\"\n"));
    let text = small_policy("keep_open") + &tables.collect::<String>();
    let policy = TextFile::new(&text);
    let tollgate = Tollgate::start(&["--policy", policy.path(), "--store", &redis.url()]);
    let client = tollgate.client();
    for org in &orgs {
        let request = ReserveRequest {
            org: org.clone(),
            ..new_reserve(1, "")
        };
        client.clone().reserve(request).await.unwrap();
    }
    redis.run(&["FLUSHALL"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    let pools = ["KEYS", "tollgate:*:pool:*"];
    while redis.strings(&pools).len() < orgs.len() {
        assert!(Instant::now() < deadline, "{:?}", redis.strings(&pools));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn tokens_that_a_settle_or_release_gave_back_are_not_given_back_again_after_a_loss() {
    let mut redis = RedisServer::start();
    let (_tollgate, client) = replica(&redis).await;
    for id in ["settled", "released", "later"] {
        reserve(&client, 200, id).await;
    }
    assert_eq!(used(&client, 400).await, free(1_000));
    let snapshot = Snapshot::of(&redis);
    let settle = async |id: &str, tokens| {
        let request = SettleRequest {
            org: "acme".to_owned(),
            request_id: id.to_owned(),
            tokens,
            outside_program: false,
        };
        client.clone().settle(request).await.unwrap().into_inner()
    };
    let release = async |id: &str| {
        let request = ReleaseRequest {
            org: "acme".to_owned(),
            request_id: id.to_owned(),
        };
        client.clone().release(request).await.unwrap().into_inner()
    };
    assert_eq!(settle("settled", 50).await.used, 850);
    assert_eq!(release("released").await.used, 650);
    snapshot.put_back(&mut redis);
    // Redis lost both, and the restored counters include what they gave back.
    assert_eq!(used(&client, 10).await, free(660));
    let again = settle("settled", 50).await;
    assert_eq!((again.used, again.replayed), (660, false));
    assert_eq!(release("released").await.used, 660);
    assert!(settle("settled", 50).await.replayed && release("released").await.replayed);
    // The outcome of a held reservation is unknown, so it stays counted.
    assert_eq!(settle("later", 20).await.used, 660);
    // Later reservations are not affected.
    assert_eq!(reserve(&client, 100, "new").await.used, 760);
    assert_eq!(settle("new", 30).await.used, 690);
    assert_eq!(used(&client, 311).await, exceeded(690));
}

#[tokio::test]
async fn tokens_given_back_for_what_ran_outside_the_programme_are_not_given_back_again_after_a_loss()
 {
    let mut redis = RedisServer::start();
    let (_tollgate, client) = replica(&redis).await;
    for id in ["settled", "later"] {
        reserve(&client, 300, id).await;
    }
    assert_eq!(used(&client, 100).await, free(700));
    let snapshot = Snapshot::of(&redis);
    let settle = async |id: &str| {
        let request = SettleRequest {
            org: "acme".to_owned(),
            request_id: id.to_owned(),
            tokens: 2_000,
            outside_program: true,
        };
        let answer = client.clone().settle(request).await.unwrap().into_inner();
        assert_eq!(answer.billed_reason(), BilledReason::RanOutsideProgram);
        (answer.used, answer.replayed)
    };
    assert_eq!(settle("settled").await, (400, false));
    snapshot.put_back(&mut redis);
    assert_eq!(used(&client, 10).await, free(410));
    assert_eq!(settle("settled").await, (410, false));
    assert_eq!(settle("settled").await, (410, true));
    // Like after a Release: what was held before the loss stays counted.
    assert_eq!(settle("later").await, (410, false));
    // Later reservations are not affected.
    assert_eq!(reserve(&client, 100, "new").await.used, 510);
    assert_eq!(settle("new").await, (410, false));
    let pool = large(&client).await;
    assert_eq!((pool.billed_tokens, pool.billed_requests), (0, 0));
}

#[tokio::test]
async fn a_pool_that_was_closed_stays_closed() {
    let redis = RedisServer::start();
    let policy = TextFile::new(&small_policy("close_until_reset"));
    let tollgate = Tollgate::start(&["--policy", policy.path(), "--store", &redis.url()]);
    let client = tollgate.client();
    assert_eq!(used(&client, 1_001).await, exceeded(0));
    redis.run(&["FLUSHALL"]);
    assert_eq!(used(&client, 1).await, ("PoolClosed".to_owned(), 0));
}

#[tokio::test]
async fn external_usage_is_restored_by_whoever_knew_it_and_the_later_figure_counts() {
    let redis = RedisServer::start();
    let (one, client) = replica(&redis).await;
    let (_other, other) = replica(&redis).await;
    let set = async |client: &Client, tokens| {
        let request = SetExternalUsageRequest {
            org: "acme".to_owned(),
            pool: "large".to_owned(),
            tokens,
            note: String::new(),
        };
        let set = client.clone().set_external_usage(request).await;
        set.unwrap().into_inner().previous_tokens
    };
    assert_eq!(set(&client, 500).await, 0);
    redis.run(&["FLUSHALL"]);
    assert_eq!(large(&client).await.external_tokens, 500);
    assert_eq!(used(&client, 501).await, exceeded(0));
    // The other replica has it in its snapshot, once it has written.
    assert_eq!(used(&other, 100).await, free(100));
    drop(one);
    redis.run(&["FLUSHALL"]);
    assert_eq!(used(&other, 401).await, exceeded(100));
    // A snapshot with the figure before does not replace the later one.
    let (_third, third) = replica(&redis).await;
    assert_eq!(set(&third, 300).await, 500);
    assert_eq!(used(&other, 600).await, free(700));
    redis.run(&["FLUSHALL"]);
    // The third has not seen the last Reserve.
    for client in [&other, &third] {
        assert_eq!(used(client, 1).await, exceeded(700));
        assert_eq!(large(client).await.external_tokens, 300);
    }
}

#[tokio::test]
async fn what_a_share_counted_is_restored_like_a_pool() {
    let mut redis = RedisServer::start();
    let shares = "[orgs.acme.shares]\np = 500\n[orgs.other]";
    let policy = TextFile::new(&small_policy("keep_open").replace("[orgs.other]", shares));
    let arguments = ["--policy", policy.path(), "--store", &redis.url()];
    let (tollgate, other) = (Tollgate::start(&arguments), Tollgate::start(&arguments));
    let (client, other) = (tollgate.client(), other.client());
    let share = async |client: &Client| large(client).await.shares[0].used;
    assert_eq!(reserve(&client, 300, "held").await.used, 300);
    assert_eq!(reserve(&client, 100, "settled").await.used, 400);
    assert_eq!(used(&other, 50).await, free(450));
    let snapshot = Snapshot::of(&redis);
    let settle = async || {
        let request = SettleRequest {
            org: "acme".to_owned(),
            request_id: "settled".to_owned(),
            tokens: 40,
            outside_program: false,
        };
        client.clone().settle(request).await.unwrap().into_inner()
    };
    assert_eq!(settle().await.used, 390);
    assert_eq!(share(&client).await, 390);
    // It knows the other's writes too, and its Settle counts.
    redis.run(&["FLUSHALL"]);
    assert_eq!(share(&client).await, 390);
    assert_eq!(used(&client, 111).await, ("ShareExceeded".to_owned(), 390));
    assert_eq!(used(&client, 110).await, free(500));
    assert_eq!(share(&other).await, 500);
    // Redis falls back to a moment before the Settle: nothing is given back twice, nor granted twice.
    snapshot.put_back(&mut redis);
    assert_eq!(used(&client, 1).await, ("ShareExceeded".to_owned(), 500));
    assert_eq!(settle().await.used, 500);
    assert_eq!(share(&client).await, 500);
}

/// A service under the clock of its Redis.
fn replica_at(clock: &Clock, redis: &RedisServer, policy: &TextFile) -> (Tollgate, Client) {
    let args = ["--store", &redis.url(), "--policy", policy.path()];
    let tollgate = Tollgate::start_at(clock, &args);
    let client = tollgate.client();
    (tollgate, client)
}

#[tokio::test]
async fn what_is_carried_into_the_next_day_is_restored_before_midnight_and_after() {
    for flushed_at in ["2026-11-22T23:56:00Z", "2026-11-23T00:00:01Z"] {
        let clock = Clock::at("2026-11-22T23:55:00Z");
        let redis = RedisServer::start_at(&clock);
        let policy = policy_file(1_000);
        let (_tollgate, client) = replica_at(&clock, &redis, &policy);
        reserve(&client, 600, "r").await;
        clock.set(flushed_at);
        redis.run(&["FLUSHALL"]);
        // Without any call it is there again: as today's, or as tomorrow's.
        let deadline = Instant::now() + Duration::from_secs(10);
        let pool = ["EXISTS", "tollgate:{acme}:pool:large:2026-11-23"];
        while redis.integer(&pool) == 0 {
            assert!(Instant::now() < deadline, "{flushed_at}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        clock.set("2026-11-23T00:00:02Z");
        assert_eq!(used(&client, 401).await, exceeded(600), "{flushed_at}");
        assert_eq!(used(&client, 400).await, free(1_000), "{flushed_at}");
    }
}

#[tokio::test]
async fn what_was_taken_off_the_next_day_is_not_taken_off_again_after_a_loss() {
    let settle = async |client: &Client, tokens| {
        let request = SettleRequest {
            org: "acme".to_owned(),
            request_id: "r".to_owned(),
            tokens,
            outside_program: false,
        };
        client.clone().settle(request).await.unwrap().into_inner()
    };
    for (settled_at, lost_at) in [
        ("2026-11-22T23:56:00Z", "2026-11-22T23:57:00Z"),
        ("2026-11-22T23:56:00Z", "2026-11-23T00:00:05Z"),
        ("2026-11-23T00:00:04Z", "2026-11-23T00:00:05Z"),
    ] {
        let clock = Clock::at("2026-11-22T23:55:00Z");
        let mut redis = RedisServer::start_at(&clock);
        let policy = policy_file(1_000);
        let (tollgate, client) = replica_at(&clock, &redis, &policy);
        reserve(&client, 300, "r").await;
        reserve(&client, 200, "open").await;
        let snapshot = Snapshot::of(&redis);
        clock.set(settled_at);
        assert!(!settle(&client, 100).await.replayed);
        let is_late = settled_at > "2026-11-23";
        let left = if is_late { 300 } else { 200 };
        clock.set(lost_at);
        snapshot.put_back(&mut redis);
        tollgate.wait_for_readiness(ServingStatus::Serving).await;
        // Redis lost the Settle, and what is recovered counts it.
        assert_eq!(used(&client, 1).await.0, "FREE");
        assert!(!settle(&client, 100).await.replayed);
        clock.set("2026-11-23T00:00:06Z");
        let then = large(&client).await.used - u64::from(lost_at > "2026-11-23");
        assert_eq!(then, left, "{settled_at} {lost_at}");
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_not_taken_for_a_loss() {
    let redis = RedisServer::start();
    let (tollgate, client) = replica(&redis).await;
    reserve(&client, 10, "").await;
    // The reply is lost, and the call counted.
    redis.run(&["CLIENT", "PAUSE", "700", "WRITE"]);
    assert!(client.clone().reserve(new_reserve(5, "")).await.is_err());
    redis.run(&["CLIENT", "UNPAUSE"]);
    let answer = used(&client, 1).await;
    assert!([free(11), free(16)].contains(&answer), "{answer:?}");
    assert!(!logged(&tollgate, &["lost writes"]));
}

/// The mark of a threshold is lost with the write that set it, and restored with it.
#[tokio::test]
async fn what_a_pool_has_reached_and_what_was_delivered_are_restored_with_its_counters() {
    let mut redis = RedisServer::start();
    let ledger = Ledger::new(LedgerConfig::new(
        Arc::new(policy("keep_open")),
        Arc::new(redis_store(&redis)),
    ));
    let before = Snapshot::of(&redis);
    let reserved = ledger.reserve(call(960).id("r")).await.unwrap();
    assert!(reserved.verdict.is_free());
    let notice = Notice {
        org: org_id("acme"),
        pool: reserved.pool.unwrap().pool,
        day: UtcDay::of(ledger.now()),
        threshold: Threshold::new(95).unwrap(),
        used: Tokens::ZERO,
        external: Tokens::ZERO,
        allowance: Tokens::ZERO,
        noticed_at: ledger.now(),
    };
    ledger.confirm_notice(&notice).await.unwrap();
    ledger
        .release(org_id("acme"), request_id("r"))
        .await
        .unwrap();
    let reached = async || {
        let quota = ledger.quota(&org_id("acme")).await.unwrap();
        let terms = quota.enrollment.terms.of_pool(&notice.pool);
        let of_pool = quota.pools.iter().find(|it| it.0.pool == notice.pool);
        let counters = of_pool.unwrap().1;
        let unconfirmed = counters.unconfirmed(terms).map(Threshold::per_cent);
        (
            counters.used.get(),
            counters.peak.get(),
            unconfirmed.collect::<Vec<_>>(),
        )
    };
    assert_eq!(reached().await, (0, 960, vec![80]));
    before.put_back(&mut redis);
    let mut again = ledger.reserve(call(1)).await;
    while again.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        again = ledger.reserve(call(1)).await;
    }
    assert_eq!(reached().await, (1, 960, vec![80]));
}

/// A record has components of up to 64 processes; then the oldest are merged. Those of a peak are not among them.
#[tokio::test]
async fn counters_of_very_many_processes_are_restored_once_by_an_idle_process() {
    let redis = RedisServer::start();
    let process = || {
        let store = Arc::new(redis_store(&redis));
        Ledger::new(LedgerConfig::new(Arc::new(policy("keep_open")), store))
    };
    let count = async |ledger: &Ledger, tokens: u64| {
        let reserved = ledger.reserve(call(tokens)).await.unwrap();
        reserved.pool.unwrap().used.get()
    };
    count(&process(), 800).await;
    for _ in 0..60 {
        count(&process(), 2).await;
    }
    let witness = process();
    assert_eq!(count(&witness, 3).await, 923);
    // Its snapshot has the oldest components apart, while Redis has merged them.
    for _ in 0..15 {
        count(&process(), 1).await;
    }
    let quota = witness.quota(&org_id("acme")).await.unwrap();
    let large = quota.pools.iter().find(|it| it.0.pool.as_str() == "large");
    let counters = large.unwrap().1;
    assert_eq!(counters.used.get(), 938);
    assert!(counters.peak.get() >= 800, "{counters:?}");
    assert_eq!(count(&witness, 1).await, 939);
}
