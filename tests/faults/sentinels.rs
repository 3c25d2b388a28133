//! A master that sentinels watch is replaced. Replication lags, and a demoted master decides until it is
//! told so: what was acknowledged and is gone, replicas restore.

use std::time::{Duration, Instant};

use tonic_health::pb::health_check_response::ServingStatus;

use super::{BACK, REPLICAS, Rules, Scene, history::Loss, some_calls};
use crate::support::{clock::Clock, sentinels::Sentinels, world::NOON};

/// A failover takes a second or two; a slow machine may be late.
const FAILED_OVER: Duration = Duration::from_secs(15);

/// Makes the replica the master, under traffic; without what it was not told, where replication is cut
/// before.
async fn fail_over(replicas: usize, replication_is_cut: bool) {
    let clock = Clock::at(NOON);
    let mut sentinels = Sentinels::start_at(&clock);
    let scene = Scene::over(&vec![sentinels.url(); replicas], "").await;
    let scene = scene.that_loses();
    let traffic = scene.traffic();
    traffic.wait_for(some_calls()).await;
    if replication_is_cut {
        sentinels.cut_replication();
        traffic.wait_for(some_calls()).await;
    }
    // Two of three know as much.
    sentinels.kill_sentinel();
    let from = Instant::now();
    sentinels.fail_over();
    sentinels.wait_for_master(1).await;
    let until = Instant::now();
    scene.decides_again(FAILED_OVER).await;
    traffic.wait_for(some_calls()).await;
    // The demoted one answers still, and nobody asks it.
    let asked = || sentinels.servers[0].calls_of("evalsha");
    let before = asked();
    traffic.wait_for(some_calls() / 4).await;
    assert_eq!(asked(), before);
    let history = traffic.stop().await;
    let rules = Rules {
        losses: vec![Loss { from, until }],
        ..Rules::default()
    };
    scene.check(history, &rules).await;
}

/// The one replica knows all that was acknowledged: the bound is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_writes_gives_nothing_away_with_one_replica() {
    fail_over(1, true).await;
}

/// What may be granted once more is what replicas had not told each other when the failover began, and
/// what the old master decided until it was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_writes_gives_away_what_replicas_had_not_told_and_no_more() {
    fail_over(REPLICAS, true).await;
}

/// The same, though nothing but the old master's last writes is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_calls_go_on_at_the_new_master_and_the_demoted_one_is_left() {
    fail_over(REPLICAS, false).await;
}

/// The same: it takes with it what it had not replicated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_replaced_by_the_one_that_the_sentinels_choose() {
    let clock = Clock::at(NOON);
    let mut sentinels = Sentinels::start_at(&clock);
    let scene = Scene::three_over(sentinels.url(), "").await.that_loses();
    let traffic = scene.traffic();
    traffic.wait_for(some_calls()).await;
    sentinels.servers[0].kill();
    let rules = Rules {
        losses: vec![Loss::now()],
        ..Rules::default()
    };
    scene.are(ServingStatus::NotServing).await;
    scene.are(ServingStatus::Serving).await;
    scene.decides_again(BACK).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    scene.check(history, &rules).await;
}

/// It refuses to write, and forgets nothing: the bound is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_that_answers_still_counts_nothing_and_has_all_when_it_is_promoted() {
    let clock = Clock::at(NOON);
    let sentinels = Sentinels::start_at(&clock);
    let scene = Scene::three_over(sentinels.url(), "").await;
    let traffic = scene.traffic();
    traffic.wait_for(some_calls()).await;
    // As sentinels do it, but without cutting connections; they will see it, and put it right.
    let [first, second] = &sentinels.servers;
    first.run(&["REPLICAOF", "127.0.0.1", &second.port.to_string()]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    first.run(&["REPLICAOF", "NO", "ONE"]);
    scene.decides_again(BACK).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    scene.check(history, &Rules::default()).await;
}
