//! A Redis that may evict counters, or can't run the scripts, is refused.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    WAIT_TIMEOUT, logged, not_ready_body,
    refusals::{LEAST_RIGHTS, url_of_user},
    refused, served_again, start, start_without_waiting, unavailable,
};
use crate::support::{
    calls::{Client, new_reserve, reserve, verdict_text},
    redis::RedisServer,
    tollgate::Tollgate,
};

const EVICTING: [&str; 4] = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];

fn set_policy(redis: &RedisServer, policy: &str) {
    redis.run(&["CONFIG", "SET", "maxmemory-policy", policy]);
}

/// The number of log lines with this message.
fn lines(tollgate: &Tollgate, message: &str) -> usize {
    let says = |line: &&serde_json::Value| line["message"].as_str().unwrap().contains(message);
    tollgate.log().iter().filter(says).count()
}

/// How often Redis rejected a command.
fn rejected(redis: &RedisServer, command: &str) -> u64 {
    let stats = redis.info("commandstats");
    let line = stats.lines().find(|line| line.starts_with(command));
    let count = line.and_then(|line| line.split("rejected_calls=").nth(1));
    count.map_or(0, |count| count.split(',').next().unwrap().parse().unwrap())
}

/// Waits for a line of the log.
async fn wait_for_line(tollgate: &Tollgate, message: &str) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while lines(tollgate, message) == 0 {
        assert!(Instant::now() < deadline, "{:?}", tollgate.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Calls until one is refused, within five seconds.
async fn refused_soon(client: &Client) {
    let begun = Instant::now();
    while client.clone().reserve(new_reserve(1, "")).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_redis_that_may_evict_counters_is_refused_from_the_first_call_on() {
    let redis = RedisServer::start_on(crate::support::free_port(), None, &EVICTING);
    let tollgate = start_without_waiting(&redis.url(), "");
    let client = tollgate.client();
    let why = "maxmemory-policy is allkeys-lru";
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let status = refused(&client, 10, "r").await;
        assert_eq!(status.code(), Code::Unavailable);
        if status.message().contains(why) {
            break;
        }
        // On a busy machine, it may be unreachable at first.
        assert!(Instant::now() < deadline, "{status:?}");
    }
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    assert!(not_ready_body(&tollgate).contains(why));
    assert_eq!(redis.integer(&["DBSIZE"]), 0);
    // The operator fixes it.
    set_policy(&redis, "noeviction");
    assert_eq!(verdict_text(&served_again(&client, "r").await), "FREE");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
}

#[tokio::test]
async fn an_eviction_policy_that_is_switched_on_under_traffic_is_refused_until_it_is_set_back() {
    let redis = RedisServer::start();
    redis.run(&["CONFIG", "SET", "maxmemory", "100mb"]);
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    for (round, policy) in ["allkeys-lru", "volatile-ttl"].into_iter().enumerate() {
        set_policy(&redis, policy);
        refused_soon(&client).await;
        unavailable(&client, 1, "").await;
        tollgate.wait_for_readiness(ServingStatus::NotServing).await;
        let body = not_ready_body(&tollgate);
        assert!(body.contains(policy), "{body}");
        set_policy(&redis, "noeviction");
        served_again(&client, "").await;
        tollgate.wait_for_readiness(ServingStatus::Serving).await;
        // Once per change, however many calls there were.
        assert_eq!(lines(&tollgate, "the store is unfit"), round + 1);
        assert!(logged(&tollgate, &["ERROR", policy]));
    }
}

#[tokio::test]
async fn with_degraded_answers_an_unfit_redis_has_every_reserve_billed() {
    let redis = RedisServer::start_on(crate::support::free_port(), None, &EVICTING);
    let tollgate = start_without_waiting(&redis.url(), "on_store_failure = \"billed\"");
    let answer = reserve(&tollgate.client(), 10, "r").await;
    assert_eq!(verdict_text(&answer), "StoreUnavailable");
    assert_eq!(redis.integer(&["DBSIZE"]), 0);
}

#[tokio::test]
async fn with_unsafe_eviction_it_serves_and_warns_once_for_each_change() {
    let redis = RedisServer::start_on(crate::support::free_port(), None, &EVICTING);
    let tollgate = start(&redis, "[redis]\nunsafe_eviction = \"warn\"").await;
    let client = tollgate.client();
    assert_eq!(verdict_text(&reserve(&client, 10, "r").await), "FREE");
    assert_eq!(lines(&tollgate, "UNSAFE"), 1);
    assert!(logged(&tollgate, &["WARN", "UNSAFE", "allkeys-lru"]));
    set_policy(&redis, "noeviction");
    wait_for_line(&tollgate, "does not evict any more").await;
    set_policy(&redis, "volatile-lru");
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !logged(&tollgate, &["UNSAFE", "volatile-lru"]) {
        assert!(Instant::now() < deadline, "{:?}", tollgate.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(lines(&tollgate, "UNSAFE"), 2);
    assert_eq!(
        tollgate.health("readiness").await,
        Some(ServingStatus::Serving)
    );
}

#[tokio::test]
async fn an_evicting_policy_without_a_memory_limit_is_only_a_warning() {
    let redis = RedisServer::start();
    set_policy(&redis, "allkeys-lru");
    let tollgate = start(&redis, "").await;
    assert!(logged(&tollgate, &["WARN", "risky", "allkeys-lru"]));
    assert_eq!(
        verdict_text(&reserve(&tollgate.client(), 10, "r").await),
        "FREE"
    );
}

#[tokio::test]
async fn without_the_right_to_info_it_serves_and_warns_once() {
    let redis = RedisServer::start_on(crate::support::free_port(), None, &EVICTING);
    let rights = LEAST_RIGHTS.into_iter().filter(|right| *right != "+info");
    let url = url_of_user(&redis, &rights.collect::<Vec<_>>());
    let tollgate = start_without_waiting(&url, "");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    assert_eq!(
        verdict_text(&reserve(&tollgate.client(), 10, "r").await),
        "FREE"
    );
    // Several probes have been rejected.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while rejected(&redis, "cmdstat_info:") < 3 {
        assert!(Instant::now() < deadline, "{}", redis.info("commandstats"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lines(&tollgate, "+info"), 1);
}

/// Answers HELLO and INFO like an old Redis, and refuses all other commands.
fn answer_as_an_old_redis(mut caller: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = caller.read(&mut bytes) {
        let command = String::from_utf8_lossy(&bytes[..length]).into_owned();
        let info = "redis_version:6.2.14\r\n";
        let answer = if command.contains("HELLO") {
            "%1\r\n+proto\r\n:3\r\n".to_owned()
        } else if command.contains("INFO") {
            format!("${}\r\n{info}\r\n", info.len())
        } else {
            "-ERR Error compiling script\r\n".to_owned()
        };
        if caller.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_redis_that_is_too_old_for_the_scripts_is_refused_and_named() {
    let old = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", old.local_addr().unwrap());
    thread::spawn(move || {
        for caller in old.incoming() {
            thread::spawn(|| answer_as_an_old_redis(caller.unwrap()));
        }
    });
    let tollgate = start_without_waiting(&url, "[redis]\nunsafe_eviction = \"warn\"");
    let status = refused(&tollgate.client(), 10, "r").await;
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    assert_eq!(status.code(), Code::Unavailable);
    for text in [status.message(), &not_ready_body(&tollgate)] {
        assert!(text.contains("Redis is version 6.2.14"), "{text}");
    }
    assert_eq!(lines(&tollgate, "the store is unfit"), 1);
}
