//! docs/DURABILITY.md, "When Redis forgets": Redis loses writes that it had acknowledged, and what the
//! living replicas remember of today's pools is restored before anything else is granted.

use std::{fs, path::PathBuf};

use chrono::TimeDelta;

use super::{logged, start};
use crate::support::{
    calls::{Client, large, policy_file, reserve, said},
    clock::Clock,
    redis::RedisServer,
    tollgate::Tollgate,
};

/// A service over a pool of 1,000 tokens.
async fn replica(redis: &RedisServer) -> (Tollgate, Client) {
    let tollgate = start(redis, "").await;
    let client = tollgate.client();
    (tollgate, client)
}

/// What this Reserve leaves of the pool, and whether it was free.
async fn used(client: &Client, tokens: u64) -> (String, u64) {
    let answer = reserve(client, tokens, "").await;
    (said(&answer), answer.used)
}

fn free(used: u64) -> (String, u64) {
    ("FREE".to_owned(), used)
}

fn exceeded(used: u64) -> (String, u64) {
    ("AllowanceExceeded".to_owned(), used)
}

/// A copy of what Redis holds now, to be put back later: what a failover to a replica that lags, or a
/// crash between two fsyncs, does.
struct Snapshot(PathBuf);

impl Snapshot {
    fn of(redis: &RedisServer) -> Self {
        redis.run(&["SAVE"]);
        let kept = redis.dir().join("kept.rdb");
        fs::copy(redis.dir().join("dump.rdb"), &kept).unwrap();
        Self(kept)
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
    let figures = large(&client).await;
    assert_eq!((figures.free_requests, figures.billed_requests), (2, 2));
    assert_eq!(figures.billed_tokens, 501);
    assert!(logged(&tollgate, &["lost writes", "acme", "restored"]));
}

#[tokio::test]
async fn with_one_replica_a_redis_that_restarts_empty_gives_nothing_away() {
    let mut redis = RedisServer::start();
    let (_tollgate, client) = replica(&redis).await;
    let mut granted = 0;
    for round in 0..30 {
        if round % 5 == 4 {
            redis.restart();
        }
        let answer = reserve(&client, 70, "").await;
        granted += if said(&answer) == "FREE" { 70 } else { 0 };
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
    // It takes it for tomorrow, until the store has told it better.
    clock.advance(TimeDelta::days(1));
    assert_eq!(large(&client).await.used, 600);
    redis.run(&["FLUSHALL"]);
    assert_eq!(used(&client, 500).await, exceeded(600));
}

#[tokio::test]
async fn what_each_living_replica_counted_is_restored_whichever_comes_first() {
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
        // Each brings its own, and what it saw of the others before its last write.
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
    let (_tollgate, client) = replica(&redis).await;
    for _ in 0..10 {
        reserve(&client, 50, "").await;
    }
    redis.run(&["FLUSHALL"]);
    let (_newcomer, new_client) = replica(&redis).await;
    // More writes than the other made, so that to count them would tell nothing.
    for at in 1..=20 {
        assert_eq!(used(&new_client, 10).await, free(10 * at));
    }
    assert_eq!(used(&client, 1).await, free(701));
    assert_eq!(used(&new_client, 300).await, exceeded(701));
}

#[tokio::test]
async fn what_a_dead_replica_counted_is_restored_as_far_as_a_living_one_saw_it() {
    let redis = RedisServer::start();
    let (dead, dead_client) = replica(&redis).await;
    let (_living, client) = replica(&redis).await;
    reserve(&dead_client, 100, "").await;
    reserve(&client, 10, "").await;
    // Nobody else is told of this one: it is what may be given away once more.
    reserve(&dead_client, 7, "").await;
    drop(dead);
    redis.run(&["FLUSHALL"]);
    assert_eq!(used(&client, 1).await, free(111));
}

#[tokio::test]
async fn a_pool_that_was_closed_stays_closed() {
    let redis = RedisServer::start();
    let policy = crate::support::calls::TextFile::new(&crate::support::world::small_policy(
        "close_until_reset",
    ));
    let tollgate = Tollgate::start(&["--policy", policy.path(), "--store", &redis.url()]);
    let client = tollgate.client();
    assert_eq!(used(&client, 1_001).await, exceeded(0));
    redis.run(&["FLUSHALL"]);
    assert_eq!(used(&client, 1).await, ("PoolClosed".to_owned(), 0));
}

#[tokio::test]
async fn an_unknown_outcome_is_not_taken_for_a_loss() {
    let redis = RedisServer::start();
    let (tollgate, client) = replica(&redis).await;
    reserve(&client, 10, "").await;
    // Its answer is lost, and it was counted.
    redis.run(&["CLIENT", "PAUSE", "700", "WRITE"]);
    assert!(
        client
            .clone()
            .reserve(crate::support::calls::ask(5, ""))
            .await
            .is_err()
    );
    redis.run(&["CLIENT", "UNPAUSE"]);
    let answer = used(&client, 1).await;
    assert!([free(11), free(16)].contains(&answer), "{answer:?}");
    assert!(!logged(&tollgate, &["lost writes"]));
}
