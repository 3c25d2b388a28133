//! Redis is killed, and started again with all that it had, or with nothing.

use std::time::Duration;

use super::{BACK, REPLICAS, Rules, Scene, history::Loss, some_calls};
use crate::support::{clock::Clock, free_port, is_long, redis::RedisServer, world::NOON};

/// With this, Redis acknowledges nothing that is not on disk.
const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn rounds() -> usize {
    if is_long() { 20 } else { 3 }
}

/// Kills Redis under traffic, several times, and holds the rest against the history. Gives when.
async fn kill_under_traffic(redis: &mut RedisServer, replicas: usize, keeps: bool) {
    let scene = Scene::over(&vec![redis.url(); replicas], "").await;
    let scene = if keeps { scene } else { scene.that_loses() };
    let traffic = scene.traffic();
    let mut rules = Rules::default();
    for _ in 0..rounds() {
        traffic.wait_for(some_calls() / 2).await;
        redis.kill();
        if !keeps {
            rules.losses.push(Loss::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        redis.restart();
        scene.decides_again(BACK).await;
    }
    traffic.wait_for(some_calls() / 2).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    scene.check(history, &rules).await;
}

/// Nothing is lost, so nothing is given away: the bound is 0, and all is as it was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_that_syncs_always_has_all_that_was_acknowledged() {
    let clock = Clock::at(NOON);
    let mut redis = RedisServer::start_on(free_port(), Some(&clock), &ALWAYS);
    kill_under_traffic(&mut redis, REPLICAS, true).await;
}

/// The one replica knows all that was acknowledged: the bound is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_that_keeps_nothing_gives_nothing_away_with_one_replica() {
    let clock = Clock::at(NOON);
    let mut redis = RedisServer::start_at(&clock);
    kill_under_traffic(&mut redis, 1, false).await;
}

/// Until each replica has restored what only it knows, the others may grant that much once more: what was
/// acknowledged since the last write of the replica that had written longest ago. Nothing older, and
/// nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_that_keeps_nothing_gives_away_what_replicas_had_not_told_and_no_more() {
    let clock = Clock::at(NOON);
    let mut redis = RedisServer::start_at(&clock);
    kill_under_traffic(&mut redis, REPLICAS, false).await;
}
