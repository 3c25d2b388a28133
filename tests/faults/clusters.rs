//! A cluster of three masters: a slot moves, a master is lost, answers are lost.

use std::{sync::Arc, time::Duration};

use super::{BACK, Habits, ORGS, PATIENT, Rules, Scene, some_calls};
use crate::support::{
    calls::{large_of, usage_of},
    clock::Clock,
    cluster::{RedisCluster, hosts},
    dice::Dice,
    is_long,
    proxy::{Fault, Proxy},
    world::NOON,
};

/// It takes the others a second or so to agree that a master is back; a slow machine may be late.
const FOUND_AGAIN: Duration = Duration::from_secs(15);

/// The hot organization, and another one at each other master.
fn at_each_master(scene: Scene, cluster: &RedisCluster) -> Scene {
    let habits = Habits {
        orgs: cluster.one_of_each(ORGS),
        ..scene.habits.clone()
    };
    Scene { habits, ..scene }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_the_slot_of_a_hot_organization_fails_no_call() {
    let clock = Clock::at(NOON);
    let cluster = Arc::new(RedisCluster::start_with(Some(&clock), &[]));
    let scene = Scene::three_over(cluster.url(), PATIENT)
        .await
        .that_is_patient();
    let traffic = scene.traffic();
    for _ in 0..if is_long() { 40 } else { 4 } {
        traffic.wait_for(some_calls() / 4).await;
        let moved = Arc::clone(&cluster);
        let moving = move || {
            let to = (moved.master_of("org-0") + 1) % 3;
            moved.move_slot_of("org-0", to, Duration::from_millis(20));
        };
        let moving = tokio::task::spawn_blocking(moving);
        // Reading is as undisturbed.
        let client = &scene.clients[0];
        while !moving.is_finished() {
            large_of(client, "org-0").await;
            usage_of(client, "org-0", "").await;
        }
        moving.await.unwrap();
    }
    traffic.wait_for(some_calls() / 4).await;
    let history = traffic.stop().await;
    let failed: Vec<_> = history.failed().collect();
    assert!(failed.is_empty(), "{failed:?}");
    // Otherwise the run would prove less than its name says.
    let errors = cluster.nodes.iter().map(|node| node.info("errorstats"));
    let errors: String = errors.collect();
    for answer in ["errorstat_MOVED:", "errorstat_ASK:", "errorstat_TRYAGAIN:"] {
        assert!(errors.contains(answer), "{errors}");
    }
    let rules = Rules {
        cuts_nothing: true,
        call_timeout: Some(Duration::from_secs(30)),
        ..Rules::default()
    };
    scene.check(history, &rules).await;
}

/// It keeps what it acknowledged: the bound is 0.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_fails_calls_of_its_own_organizations_and_no_others() {
    let clock = Clock::at(NOON);
    let always = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut cluster = RedisCluster::start_with(Some(&clock), &always);
    let scene = Scene::three_over(cluster.url(), PATIENT)
        .await
        .that_is_patient();
    let scene = at_each_master(scene, &cluster);
    let traffic = scene.traffic();
    for _ in 0..if is_long() { 5 } else { 1 } {
        traffic.wait_for(some_calls()).await;
        cluster.nodes[0].kill();
        // Long enough that the others agree on it.
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.nodes[0].restart();
        scene.decides_again(FOUND_AGAIN).await;
    }
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    let hot = &scene.habits.orgs[0];
    let others: Vec<_> = history
        .failed()
        .filter(|call| call.request.org != *hot)
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert!(history.failed().count() > 0, "nobody noticed");
    let rules = Rules {
        call_timeout: Some(Duration::from_secs(30)),
        ..Rules::default()
    };
    scene.check(history, &rules).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_counts_once_where_three_of_ten_answers_of_a_cluster_are_lost() {
    let clock = Clock::at(NOON);
    let cluster = RedisCluster::start_with(Some(&clock), &[]);
    let mut networks = Vec::new();
    for node in &cluster.nodes {
        networks.push(Proxy::to(node.port).await);
    }
    let ports: Vec<u16> = networks.iter().map(Proxy::port).collect();
    cluster.announce(&ports);
    let url = format!("redis+cluster://{}", hosts(&ports));
    let scene = Scene::three_over(url, "").await;
    let scene = at_each_master(scene, &cluster);
    let traffic = scene.traffic();
    traffic.wait_for(some_calls()).await;
    for (at, network) in networks.iter().enumerate() {
        let mut dice = Dice(at as u64);
        network.plan(move || match dice.below(10) {
            0..3 => Fault::DropReply,
            _ => Fault::Pass,
        });
    }
    tokio::time::sleep(Duration::from_secs(if is_long() { 30 } else { 3 })).await;
    for network in &networks {
        network.forget();
    }
    scene.decides_again(BACK).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    scene.check(history, &Rules::default()).await;
}
