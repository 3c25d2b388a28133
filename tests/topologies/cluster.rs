//! A cluster: each organization has one master. A moved slot goes unnoticed, and the failure of a master affects only
//! its own organizations.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    MAX_CALL_TIME, ORGS, assert_counters_match, reserve_of, start, traffic, wait_for_not_ready,
};
use crate::server::http_get;
use crate::support::{cluster::RedisCluster, redis::RedisServer, tollgate::Tollgate};

async fn start_over(cluster: &RedisCluster, settings: &str) -> Tollgate {
    let tollgate = start(&cluster.url(), settings);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    tollgate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_master_affects_only_its_organizations() {
    let mut cluster = RedisCluster::start();
    let tollgate = start_over(&cluster, "").await;
    let client = tollgate.client();
    let orgs = cluster.one_of_each(ORGS);
    for org in &orgs {
        assert_eq!(reserve_of(&client, org, "before").await.unwrap().used, 1);
    }
    // A stalled master delays its own callers by a timeout, and no others.
    let stalled = Pid::from_raw(i32::try_from(cluster.nodes[0].pid()).unwrap());
    kill(stalled, Signal::SIGSTOP).unwrap();
    let lost = traffic(&client, &orgs[0]);
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(2) {
        for org in &orgs[1..] {
            let begun = Instant::now();
            reserve_of(&client, org, "").await.unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(slowest < Duration::from_millis(400), "{slowest:?}");
    kill(stalled, Signal::SIGCONT).unwrap();
    lost.wait_for(20).await;
    let history = lost.stop().await;
    // Calls that timed out were retried only if they are idempotent.
    assert!(assert_counters_match(&history, &client, &orgs[0]).await > 0);
    // A master that is down.
    cluster.nodes[0].kill();
    for round in 0..50 {
        let begun = Instant::now();
        let failed = reserve_of(&client, &orgs[0], &format!("{round}"))
            .await
            .unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable);
        for org in &orgs[1..] {
            reserve_of(&client, org, "").await.unwrap();
        }
        assert!(begun.elapsed() < MAX_CALL_TIME);
    }
    // The store as a whole is usable.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let readiness = tollgate.health("readiness").await;
    assert_eq!(readiness, Some(ServingStatus::Serving));
    cluster.nodes[0].restart();
    let deadline = Instant::now() + Duration::from_secs(15);
    while reserve_of(&client, &orgs[0], "after").await.is_err() {
        assert!(Instant::now() < deadline, "the master is not found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
}

/// The rights that docs/CONFIGURATION.md names for a cluster, and no others.
const LEAST_RIGHTS: [&str; 13] = [
    "~tollgate:*",
    "+hello",
    "+evalsha",
    "+eval",
    "+time",
    "+get",
    "+set",
    "+hmget",
    "+hset",
    "+expireat",
    "+hscan",
    "+cluster|slots",
    "+asking",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_rights_that_the_readme_names_suffice_for_a_cluster() {
    let cluster = Arc::new(RedisCluster::start());
    for node in &cluster.nodes {
        let user = ["ACL", "SETUSER", "gate", "reset", "on", ">secret"];
        node.run(&[&user[..], &LEAST_RIGHTS].concat());
    }
    let tollgate = start(&cluster.url_of("gate:secret@"), "");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client = tollgate.client();
    let traffic = traffic(&client, "org-0");
    traffic.wait_for(50).await;
    let moved = Arc::clone(&cluster);
    let moving = move || {
        let to = (moved.master_of("org-0") + 1) % 3;
        moved.move_slot_of("org-0", to, Duration::from_millis(20));
    };
    tokio::task::spawn_blocking(moving).await.unwrap();
    traffic.wait_for(50).await;
    // Also if the script has to be sent again.
    for node in &cluster.nodes {
        node.run(&["SCRIPT", "FLUSH"]);
    }
    traffic.wait_for(50).await;
    let history = traffic.stop().await;
    assert_eq!(assert_counters_match(&history, &client, "org-0").await, 0);
}

fn change_rights(cluster: &RedisCluster, rules: &[&str]) {
    for node in &cluster.nodes {
        node.run(&[&["ACL", "SETUSER", "gate"], rules].concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_the_user_lacks_in_a_cluster_is_named() {
    let cluster = RedisCluster::start();
    change_rights(&cluster, &["reset", "on", ">secret"]);
    change_rights(&cluster, &LEAST_RIGHTS);
    let tollgate = start(&cluster.url_of("gate:secret@"), "");
    for (taken, missing) in [
        ("hset", "lacks +hset"),
        ("asking", "lacks +asking"),
        ("cluster|slots", "lacks +cluster|slots"),
        ("evalsha", "lacks +evalsha"),
    ] {
        tollgate.wait_for_readiness(ServingStatus::Serving).await;
        change_rights(&cluster, &[&format!("-{taken}")]);
        wait_for_not_ready(&tollgate, missing).await;
        let failed = reserve_of(&tollgate.client(), "org-0", "r").await;
        let status = failed.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(missing), "{status:?}");
        change_rights(&cluster, &[&format!("+{taken}")]);
    }
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    // A service that starts then finds no node.
    change_rights(&cluster, &["-cluster|slots"]);
    let blind = start(&cluster.url_of("gate:secret@"), "");
    wait_for_not_ready(&blind, "lacks +cluster|slots").await;
}

/// Waits until `/readyz` is `ok` with this refusal of a part of the store. Fails if that takes long.
async fn wait_for_refusal_under_ok(tollgate: &Tollgate, wanted: Option<&str>) {
    let begun = Instant::now();
    loop {
        let (head, body) = http_get(&tollgate.http_addr, "/readyz");
        let mut lines = body.lines();
        assert_eq!(lines.next(), Some("ok"), "{head} {body}");
        let refusal = lines.find_map(|line| line.strip_prefix("a part of the store refuses: "));
        if refusal == wanted {
            return;
        }
        assert!(begun.elapsed() < MAX_CALL_TIME * 5, "{head} {body}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_the_user_lacks_at_one_master_is_named_under_ok_until_it_is_given() {
    let cluster = RedisCluster::start();
    change_rights(&cluster, &["reset", "on", ">secret"]);
    change_rights(&cluster, &LEAST_RIGHTS);
    let tollgate = start(&cluster.url_of("gate:secret@"), "");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    wait_for_refusal_under_ok(&tollgate, None).await;
    let one = &cluster.nodes[1];
    one.run(&["ACL", "SETUSER", "gate", "-hset"]);
    let refusal = "its user lacks a right: lacks +hset";
    wait_for_refusal_under_ok(&tollgate, Some(refusal)).await;
    let log: Vec<String> = tollgate.log().iter().map(ToString::to_string).collect();
    let node = format!("127.0.0.1:{}", one.port);
    let named = |line: &&String| line.contains("a master of the cluster refuses");
    let named: Vec<&String> = log.iter().filter(named).collect();
    assert_eq!(named.len(), 1, "{named:?}");
    assert!(named[0].contains(&node) && named[0].contains("lacks +hset"));
    one.run(&["ACL", "SETUSER", "gate", "+hset"]);
    wait_for_refusal_under_ok(&tollgate, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_of_a_cluster_is_refused_as_a_single_server() {
    let cluster = RedisCluster::start();
    change_rights(&cluster, &["reset", "on", ">secret"]);
    change_rights(&cluster, &LEAST_RIGHTS);
    // Those rights are without +info.
    for user in ["", "gate:secret@"] {
        for node in &cluster.nodes {
            let tollgate = start(&format!("redis://{user}127.0.0.1:{}", node.port), "");
            wait_for_not_ready(&tollgate, "this is a cluster node: use redis+cluster://").await;
            for org in 0..ORGS {
                let failed = reserve_of(&tollgate.client(), &format!("org-{org}"), "r").await;
                let status = failed.unwrap_err();
                assert_eq!(status.code(), Code::Unavailable);
                assert!(status.message().contains("redis+cluster://"), "{status:?}");
            }
        }
    }
    // Such a node refuses SELECT first.
    let tollgate = start(
        &format!("redis://127.0.0.1:{}/3", cluster.nodes[0].port),
        "",
    );
    wait_for_not_ready(&tollgate, "this is a cluster node: use redis+cluster://").await;
}

#[tokio::test]
async fn a_single_server_is_refused_as_a_cluster() {
    let redis = RedisServer::start();
    let tollgate = start(&redis.url().replace("redis://", "redis+cluster://"), "");
    wait_for_not_ready(&tollgate, "this server is not part of a cluster").await;
}
