//! Redis, or the network, stalls, is slow, or loses replies. Redis loses nothing, and calls may arrive late: no tokens
//! may be granted twice.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Deployment, RECOVERY_TIMEOUT, REPLICAS, Rules, some_calls};
use crate::support::{
    clock::Clock,
    is_long,
    proxy::{Fault, Proxy},
    random::Random,
    redis::RedisServer,
    world::NOON,
};

/// How long the network is faulty.
fn fault_duration() -> Duration {
    Duration::from_secs(if is_long() { 30 } else { 3 })
}

/// Three replicas, each behind its own network.
async fn behind_networks(redis: &RedisServer) -> (Vec<Proxy>, Deployment) {
    let mut networks = Vec::new();
    for _ in 0..REPLICAS {
        networks.push(Proxy::to(redis.port).await);
    }
    let urls: Vec<String> = networks.iter().map(Proxy::url).collect();
    let deployment = Deployment::over(&urls, "").await;
    (networks, deployment)
}

/// Traffic while each call meets a random fault, and afterwards.
async fn traffic_over(redis: &RedisServer, fault: fn(&mut Random) -> Fault) {
    let (networks, deployment) = behind_networks(redis).await;
    let traffic = deployment.traffic();
    traffic.wait_for(some_calls()).await;
    for (at, network) in networks.iter().enumerate() {
        let mut random = Random(at as u64);
        network.plan(move || fault(&mut random));
    }
    tokio::time::sleep(fault_duration()).await;
    for network in &networks {
        network.reset();
    }
    for network in &networks {
        network.wait_until_all_arrived().await;
    }
    deployment.decides_again(RECOVERY_TIMEOUT).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    deployment.check(history, &Rules::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stands_still_makes_calls_fail_in_time_and_loses_nothing() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let deployment = Deployment::three_over(redis.url(), "").await;
    let traffic = deployment.traffic();
    for seconds in if is_long() { &[3, 10][..] } else { &[3] } {
        traffic.wait_for(some_calls()).await;
        redis.signal(Signal::SIGSTOP);
        tokio::time::sleep(Duration::from_secs(*seconds)).await;
        redis.signal(Signal::SIGCONT);
        deployment.decides_again(RECOVERY_TIMEOUT).await;
    }
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    deployment.check(history, &Rules::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_counts_once_where_three_of_ten_answers_of_redis_are_lost() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    traffic_over(&redis, |random| match random.below(10) {
        0..3 => Fault::DropReply,
        _ => Fault::Pass,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_counts_once_where_calls_take_up_to_two_seconds_and_arrive_late() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    traffic_over(&redis, |random| {
        Fault::Delay(Duration::from_millis(random.below(2_000)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_packets_for_two_seconds_makes_calls_fail_in_time() {
    let clock = Clock::at(NOON);
    let redis = RedisServer::start_at(&clock);
    let (networks, deployment) = behind_networks(&redis).await;
    let traffic = deployment.traffic();
    for _ in 0..if is_long() { 8 } else { 1 } {
        traffic.wait_for(some_calls()).await;
        // For all replicas but one, whose callers notice nothing.
        for network in &networks[1..] {
            network.drop_packets(true);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        for network in &networks[1..] {
            network.drop_packets(false);
        }
        deployment.decides_again(RECOVERY_TIMEOUT).await;
    }
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(
        history.failed().any(|call| call.replica > 0),
        "nobody noticed"
    );
    for network in &networks {
        network.wait_until_all_arrived().await;
    }
    deployment.check(history, &Rules::default()).await;
}
