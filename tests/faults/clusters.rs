//! A cluster of three masters: a slot moves, a master fails, replies are lost.

use std::{sync::Arc, time::Duration};

use super::{Deployment, LONG_TIMEOUTS, ORGS, RECOVERY_TIMEOUT, Rules, TrafficProfile, some_calls};
use crate::support::{
    calls::{large_of, usage_of},
    clock::Clock,
    cluster::{RedisCluster, hosts},
    is_long,
    proxy::{Fault, Proxy},
    random::Random,
    world::NOON,
};

/// The other masters need about a second to agree that a master is back; more on a busy machine.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(15);

/// The hot organization, and one organization at each other master.
fn at_each_master(deployment: Deployment, cluster: &RedisCluster) -> Deployment {
    let profile = TrafficProfile {
        orgs: cluster.one_of_each(ORGS),
        ..deployment.profile.clone()
    };
    Deployment {
        profile,
        ..deployment
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_the_slot_of_a_hot_organization_fails_no_call() {
    let clock = Clock::at(NOON);
    let cluster = Arc::new(RedisCluster::start_with(Some(&clock), &[]));
    let deployment = Deployment::three_over(cluster.url(), LONG_TIMEOUTS)
        .await
        .without_deadlines();
    let traffic = deployment.traffic();
    for _ in 0..if is_long() { 40 } else { 4 } {
        traffic.wait_for(some_calls() / 4).await;
        let moved = Arc::clone(&cluster);
        let moving = move || {
            let to = (moved.master_of("org-0") + 1) % 3;
            moved.move_slot_of("org-0", to, Duration::from_millis(20));
        };
        let moving = tokio::task::spawn_blocking(moving);
        // Reads continue as well.
        let client = &deployment.clients[0];
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
    // Without a moved slot, the run would prove nothing.
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
    deployment.check(history, &rules).await;
}

/// It keeps what it acknowledged: no tokens may be granted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_killed_fails_calls_of_its_own_organizations_and_no_others() {
    let clock = Clock::at(NOON);
    let always = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut cluster = RedisCluster::start_with(Some(&clock), &always);
    let deployment = Deployment::three_over(cluster.url(), LONG_TIMEOUTS)
        .await
        .without_deadlines();
    let deployment = at_each_master(deployment, &cluster);
    let traffic = deployment.traffic();
    for _ in 0..if is_long() { 5 } else { 1 } {
        traffic.wait_for(some_calls()).await;
        cluster.nodes[0].kill();
        // Long enough for the others to agree that it failed.
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.nodes[0].restart();
        deployment.decides_again(REJOIN_TIMEOUT).await;
    }
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    let hot = &deployment.profile.orgs[0];
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
    deployment.check(history, &rules).await;
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
    let deployment = Deployment::three_over(url, "").await;
    let deployment = at_each_master(deployment, &cluster);
    let traffic = deployment.traffic();
    traffic.wait_for(some_calls()).await;
    for (at, network) in networks.iter().enumerate() {
        let mut random = Random(at as u64);
        network.plan(move || match random.below(10) {
            0..3 => Fault::DropReply,
            _ => Fault::Pass,
        });
    }
    tokio::time::sleep(Duration::from_secs(if is_long() { 30 } else { 3 })).await;
    for network in &networks {
        network.reset();
    }
    deployment.decides_again(RECOVERY_TIMEOUT).await;
    traffic.wait_for(some_calls()).await;
    let history = traffic.stop().await;
    assert!(history.failed().count() > 0, "nobody noticed");
    deployment.check(history, &Rules::default()).await;
}
