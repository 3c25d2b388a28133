//! Redis is killed, and restarted with or without its data.

use std::time::Duration;

use super::{Deployment, RECOVERY_TIMEOUT, REPLICAS, Rules, history::Loss, some_calls};
use crate::support::{clock::Clock, free_port, is_long, redis::RedisServer, world::NOON};

/// Redis acknowledges only what is on disk.
const SYNC_ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn rounds() -> usize {
    if is_long() { 20 } else { 3 }
}

/// Kills Redis several times under traffic, and checks the ledger against the history. Gives the losses.
async fn kill_under_traffic(redis: &mut RedisServer, replicas: usize, keeps: bool) {
    let deployment = Deployment::over(&vec![redis.url(); replicas], "").await;
    let deployment = if keeps {
        deployment
    } else {
        deployment.that_may_lose_writes()
    };
    let traffic = deployment.traffic();
    let mut rules = Rules::default();
    for _ in 0..rounds() {
        traffic.wait_for(some_calls() / 2).await;
        redis.kill();
        if !keeps {
            rules.losses.push(Loss::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        redis.restart();
        deployment.decides_again(RECOVERY_TIMEOUT).await;
    }
    traffic.wait_for(some_calls() / 2).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    deployment.check(history, &rules).await;
}

/// Nothing is lost, so no tokens may be granted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_that_syncs_always_has_all_that_was_acknowledged() {
    let clock = Clock::at(NOON);
    let mut redis = RedisServer::start_on(free_port(), Some(&clock), &SYNC_ALWAYS);
    kill_under_traffic(&mut redis, REPLICAS, true).await;
}

/// The only replica knows all that was acknowledged: no tokens may be granted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_without_persistence_gives_nothing_away_with_one_replica() {
    let clock = Clock::at(NOON);
    let mut redis = RedisServer::start_at(&clock);
    kill_under_traffic(&mut redis, 1, false).await;
}

/// Until each replica has restored its own component, the others may grant that much again: what was acknowledged since
/// the last write of the replica that wrote longest ago. Nothing older, and nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_without_persistence_gives_away_what_replicas_had_not_shared_and_no_more() {
    let clock = Clock::at(NOON);
    let mut redis = RedisServer::start_at(&clock);
    kill_under_traffic(&mut redis, REPLICAS, false).await;
}
