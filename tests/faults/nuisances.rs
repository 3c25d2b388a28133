//! What operators and other programs do to a Redis that is in use. It forgets nothing: the bound is 0, and
//! all is as it was told.

use std::time::{Duration, Instant};

use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{BACK, History, PATIENT, Rules, Scene, history::Answer, some_calls};
use crate::support::{calls::large_of, clock::Clock, is_long, redis::RedisServer, world::NOON};

/// How often something is done again and again.
fn times() -> usize {
    if is_long() { 600 } else { 30 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_that_are_forgotten_ten_times_a_second_fail_no_call() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let scene = Scene::three_over(redis.url(), PATIENT)
        .await
        .that_is_patient();
    let traffic = scene.traffic();
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
    scene.check(history, &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_counts_once_where_all_connections_are_cut_twenty_times_a_second() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let scene = Scene::three_over(redis.url(), "").await;
    let traffic = scene.traffic();
    let mut cut = 0;
    for _ in 0..2 * times() {
        cut += redis.integer(&["CLIENT", "KILL", "TYPE", "normal"]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(cut >= times() as i64, "{cut}");
    scene.decides_again(BACK).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    scene.check(history, &Rules::default()).await;
}

/// What was asked for while calls were refused failed, and counted nothing.
fn were_refused(history: &History, from: Instant, until: Instant) {
    let meanwhile = history
        .calls
        .iter()
        .filter(|call| call.begun > from && call.ended < until);
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

/// Settings that make Redis unfit, and others that put it right, under traffic.
async fn settings_stop_the_service(redis: &RedisServer, refuse: &[&str], serve: &[&str]) {
    let scene = Scene::three_over(redis.url(), "").await;
    let traffic = scene.traffic();
    let mut refused = Vec::new();
    for _ in 0..if is_long() { 10 } else { 2 } {
        traffic.wait_for(some_calls() / 2).await;
        let begun = Instant::now();
        redis.run(&[&["CONFIG", "SET"], refuse].concat());
        scene.are(ServingStatus::NotServing).await;
        assert!(begun.elapsed() < BACK, "{:?}", begun.elapsed());
        let from = Instant::now();
        tokio::time::sleep(Duration::from_millis(500)).await;
        refused.push((from, Instant::now()));
        // It was not touched.
        assert!(large_of(&scene.clients[0], "org-0").await.used > 0);
        redis.run(&[&["CONFIG", "SET"], serve].concat());
        scene.decides_again(BACK).await;
    }
    traffic.wait_for(some_calls() / 2).await;
    let history = traffic.stop().await;
    for (from, until) in refused {
        were_refused(&history, from, until);
    }
    scene.check(history, &Rules::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_set_to_evict_is_refused_soon_and_served_again_when_it_is_set_back() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let refuse = ["maxmemory", "100mb", "maxmemory-policy", "allkeys-lru"];
    let serve = ["maxmemory", "0", "maxmemory-policy", "noeviction"];
    settings_stop_the_service(&redis, &refuse, &serve).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_counts_nothing_and_goes_on_where_it_was_when_it_has_room() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    redis.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    settings_stop_the_service(&redis, &["maxmemory", "1"], &["maxmemory", "0"]).await;
}
