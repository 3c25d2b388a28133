//! A master that sentinels watch is replaced. Replication lags, and a demoted master decides until it is demoted:
//! replicas restore what was acknowledged and lost.

use std::time::{Duration, Instant};

use tonic_health::pb::health_check_response::ServingStatus;

use super::{Deployment, RECOVERY_TIMEOUT, REPLICAS, Rules, history::Loss, some_calls};
use crate::support::{clock::Clock, redis::RedisServer, sentinels::Sentinels, world::NOON};

/// The service asks sentinels twice a second; more time for busy machines.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits until this server is a master. Gives a time before that: until then all replicas used the old master, and knew
/// each other's decisions.
async fn wait_for_promotion(server: &RedisServer) -> Instant {
    let mut before = Instant::now();
    let deadline = before + Duration::from_secs(20);
    loop {
        let now = Instant::now();
        // A server that changes its role cuts its connections.
        match server.try_info("replication") {
            Ok(info) if info.contains("role:master") => return before,
            Ok(_) => before = now,
            Err(error) => assert!(now < deadline, "it is not promoted: {error}"),
        }
        assert!(now < deadline, "it is not promoted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until no replica has used this server for long enough. Gives the time of the last use.
async fn wait_until_unused(server: &RedisServer) -> Instant {
    let (mut calls, mut since) = (server.calls_of("evalsha"), Instant::now());
    let deadline = Instant::now() + Duration::from_secs(20);
    while since.elapsed() < Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = server.calls_of("evalsha");
        if now != calls {
            (calls, since) = (now, Instant::now());
        }
        assert!(Instant::now() < deadline, "it is not left");
    }
    since
}

/// Makes the replica the master under traffic; without the latest writes if replication was cut before.
async fn fail_over(replicas: usize, replication_is_cut: bool) {
    let clock = Clock::at(NOON);
    let mut sentinels = Sentinels::start_at(&clock);
    let deployment = Deployment::over(&vec![sentinels.url(); replicas], "").await;
    let deployment = deployment.that_may_lose_writes();
    let traffic = deployment.traffic();
    traffic.wait_for(some_calls()).await;
    if replication_is_cut {
        sentinels.cut_replication();
        // Soon enough: sentinels choose no replica that lost its master more than ten seconds ago.
        traffic.wait_for(500).await;
    }
    // Two of three are a quorum.
    sentinels.kill_sentinel();
    sentinels.fail_over();
    let from = wait_for_promotion(&sentinels.servers[1]).await;
    sentinels.wait_until_all_name(1).await;
    let named = Instant::now();
    let until = wait_until_unused(&sentinels.servers[0]).await;
    assert!(until - named < SWITCH_TIMEOUT, "{:?}", until - named);
    deployment.decides_again(RECOVERY_TIMEOUT).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    let rules = Rules {
        losses: vec![Loss { from, until }],
        ..Rules::default()
    };
    deployment.check(history, &rules).await;
}

/// The only replica knows all that was acknowledged: no tokens may be granted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_writes_gives_nothing_away_with_one_replica() {
    fail_over(1, true).await;
}

/// May be granted twice: what the replicas had not shared when the failover began, and what each of them decided at the
/// old master until it switched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_writes_gives_away_what_replicas_had_not_shared_and_no_more() {
    fail_over(REPLICAS, true).await;
}

/// The same, but only the old master's last writes are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_calls_go_on_at_the_new_master_and_the_demoted_one_is_left() {
    fail_over(REPLICAS, false).await;
}

/// The same: the writes that it had not replicated are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_replaced_by_the_one_that_the_sentinels_choose() {
    let clock = Clock::at(NOON);
    let mut sentinels = Sentinels::start_at(&clock);
    let deployment = Deployment::three_over(sentinels.url(), "")
        .await
        .that_may_lose_writes();
    let traffic = deployment.traffic();
    traffic.wait_for(some_calls()).await;
    sentinels.servers[0].kill();
    let rules = Rules {
        losses: vec![Loss::now()],
        ..Rules::default()
    };
    deployment.are(ServingStatus::NotServing).await;
    deployment.are(ServingStatus::Serving).await;
    deployment.decides_again(RECOVERY_TIMEOUT).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    deployment.check(history, &rules).await;
}

/// It refuses to write, and loses nothing: no tokens may be granted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_that_answers_still_counts_nothing_and_has_all_when_it_is_promoted() {
    let clock = Clock::at(NOON);
    let sentinels = Sentinels::start_at(&clock);
    let deployment = Deployment::three_over(sentinels.url(), "").await;
    let traffic = deployment.traffic();
    traffic.wait_for(some_calls()).await;
    // As sentinels demote it, but without cutting connections. The sentinels notice, and reverse it.
    let [first, second] = &sentinels.servers;
    first.run(&["REPLICAOF", "127.0.0.1", &second.port.to_string()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.run(&["REPLICAOF", "NO", "ONE"]);
    deployment.decides_again(RECOVERY_TIMEOUT).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    deployment.check(history, &Rules::default()).await;
}
