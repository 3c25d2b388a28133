//! Disturbances by operators and other programs while Redis is in use. Redis loses nothing: no tokens may be granted
//! twice.

use std::time::{Duration, Instant};

use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    Deployment, History, LONG_TIMEOUTS, RECOVERY_TIMEOUT, Rules,
    history::{Answer, Loss},
    some_calls,
};
use crate::support::{clock::Clock, is_long, redis::RedisServer, world::NOON};

/// How often a disturbance is repeated.
fn times() -> usize {
    if is_long() { 600 } else { 30 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_forgotten_ten_times_a_second_fail_no_call() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let deployment = Deployment::three_over(redis.url(), LONG_TIMEOUTS)
        .await
        .without_deadlines();
    let traffic = deployment.traffic();
    for _ in 0..times() {
        redis.run(&["SCRIPT", "FLUSH"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(redis.info("errorstats").contains("errorstat_NOSCRIPT:"));
    let failed: Vec<_> = history.failed().collect();
    assert!(failed.is_empty(), "{failed:?}");
    let rules = Rules {
        cuts_nothing: true,
        call_timeout: Some(Duration::from_secs(30)),
        ..Rules::default()
    };
    deployment.check(history, &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_counts_once_where_all_connections_are_cut_twenty_times_a_second() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let deployment = Deployment::three_over(redis.url(), "").await;
    let traffic = deployment.traffic();
    let mut cut = 0;
    for _ in 0..2 * times() {
        cut += redis.integer(&["CLIENT", "KILL", "TYPE", "normal"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(cut >= times() as i64, "{cut}");
    deployment.decides_again(RECOVERY_TIMEOUT).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    deployment.check(history, &Rules::default()).await;
}

/// Calls that were refused have failed, and counted nothing.
fn assert_all_refused(history: &History, from: Instant, until: Instant) {
    let meanwhile = history
        .calls
        .iter()
        .filter(|call| call.begun > from && call.ended < until)
        // A call that missed its deadline shows only that the machine is slow.
        .filter(|call| {
            call.deadline
                .is_none_or(|deadline| call.ended - call.begun < deadline)
        });
    let mut refused = 0;
    for call in meanwhile {
        let nothing = matches!(
            call.answer,
            Answer::Failed {
                code: Code::Unavailable,
                counted_nothing: true,
                ..
            }
        );
        assert!(nothing, "{call:?}");
        refused += 1;
    }
    assert!(refused > 0, "nobody noticed");
}

/// Applies settings that make Redis unsuitable, and then settings that fix it, under traffic.
async fn settings_stop_the_service(
    redis: &RedisServer,
    deployment: Deployment,
    refuse: &[&str],
    serve: &[&str],
) {
    let traffic = deployment.traffic();
    let (mut refused, mut changes) = (Vec::new(), Vec::new());
    for _ in 0..if is_long() { 10 } else { 2 } {
        traffic.wait_for(some_calls() / 2).await;
        let from = Instant::now();
        redis.run(&[&["CONFIG", "SET"], refuse].concat());
        deployment.are(ServingStatus::NotServing).await;
        let until = Instant::now();
        assert!(until - from < RECOVERY_TIMEOUT, "{:?}", until - from);
        changes.push(Loss { from, until });
        tokio::time::sleep(Duration::from_millis(500)).await;
        refused.push((until, Instant::now()));
        redis.run(&[&["CONFIG", "SET"], serve].concat());
        deployment.decides_again(RECOVERY_TIMEOUT).await;
    }
    traffic.wait_for(some_calls() / 2).await;
    let history = traffic.stop().await;
    for (from, until) in refused {
        assert_all_refused(&history, from, until);
    }
    let loses = !deployment.profile.repeats_calls;
    let rules = Rules {
        losses: if loses { changes } else { Vec::new() },
        ..Rules::default()
    };
    deployment.check(history, &rules).await;
}

const NOT_EVICTING: [&str; 4] = ["maxmemory", "0", "maxmemory-policy", "noeviction"];

/// Redis has free memory, so nothing is evicted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_set_to_evict_is_refused_soon_and_served_again_when_it_is_set_back() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let deployment = Deployment::three_over(redis.url(), "").await;
    let refuse = ["maxmemory", "100mb", "maxmemory-policy", "allkeys-lru"];
    settings_stop_the_service(&redis, deployment, &refuse, &NOT_EVICTING).await;
}

/// Redis evicts counters until the service refuses it. The only replica knows all of them: no tokens may be granted
/// twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_evicts_what_was_counted_gives_nothing_away_with_one_replica() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let deployment = Deployment::over(&[redis.url()], "")
        .await
        .that_may_lose_writes();
    let refuse = ["maxmemory", "1", "maxmemory-policy", "allkeys-lru"];
    settings_stop_the_service(&redis, deployment, &refuse, &NOT_EVICTING).await;
    assert!(
        !redis.info("stats").contains("evicted_keys:0\r"),
        "nothing was evicted"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_counts_nothing_and_goes_on_where_it_was_when_it_has_room() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let deployment = Deployment::three_over(redis.url(), "").await;
    redis.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    settings_stop_the_service(&redis, deployment, &["maxmemory", "1"], &["maxmemory", "0"]).await;
}
