//! A cluster: each organization at one master. Moving its slot is invisible, and losing a master is the
//! matter of those who are there alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tollgate::grpc::proto::ListUsageRequest;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{ORGS, PROMPT, Traffic, reserve_of, start, used};
use crate::support::{calls::Client, cluster::RedisCluster, tollgate::Tollgate};

async fn start_over(cluster: &RedisCluster, settings: &str) -> Tollgate {
    let tollgate = start(&cluster.url(), settings);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    tollgate
}

async fn free_requests_listed(client: &Client, org: &str) -> u64 {
    let request = ListUsageRequest {
        org: org.to_owned(),
        ..ListUsageRequest::default()
    };
    let rows = client.clone().list_usage(request).await.unwrap();
    let rows = rows.into_inner().rows;
    rows.iter().map(|row| row.free_requests).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_the_slot_of_a_hot_organization_is_invisible_to_its_callers() {
    let cluster = Arc::new(RedisCluster::start());
    let tollgate = start_over(&cluster, "").await;
    let client = tollgate.client();
    let traffic = Traffic::over(&client, "org-0");
    traffic.wait_for(100).await;
    for _ in 0..4 {
        let moved = Arc::clone(&cluster);
        let moving = tokio::task::spawn_blocking(move || {
            let to = (moved.master_of("org-0") + 1) % 3;
            moved.move_slot_of("org-0", to, Duration::from_millis(20));
        });
        // Reading is as undisturbed.
        while !moving.is_finished() {
            let before = used(&client, "org-0").await;
            assert!(free_requests_listed(&client, "org-0").await >= before);
        }
        moving.await.unwrap();
        traffic.wait_for(100).await;
    }
    let seen = traffic.stop().await;
    assert_eq!(seen.unavailable, 0, "{}", seen.unavailable);
    // Otherwise the run would prove less than its name says.
    let errors: String = cluster
        .nodes
        .iter()
        .map(|node| node.info("errorstats"))
        .collect();
    for answer in ["errorstat_MOVED:", "errorstat_ASK:", "errorstat_TRYAGAIN:"] {
        assert!(errors.contains(answer), "{errors}");
    }
    let used = used(&client, "org-0").await;
    assert!(seen.counts().contains(&used), "{used}: {:?}", seen.counts());
    assert_eq!(free_requests_listed(&client, "org-0").await, used);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_a_master_is_the_matter_of_its_organizations_alone() {
    let mut cluster = RedisCluster::start();
    let tollgate = start_over(&cluster, "").await;
    let client = tollgate.client();
    let orgs = cluster.one_of_each(ORGS);
    for org in &orgs {
        assert_eq!(reserve_of(&client, org, "before").await.unwrap().used, 1);
    }
    // One that stalls keeps its callers for a timeout, and nobody else.
    let stalled = Pid::from_raw(i32::try_from(cluster.nodes[0].pid()).unwrap());
    kill(stalled, Signal::SIGSTOP).unwrap();
    let lost = Traffic::over(&client, &orgs[0]);
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(2) {
        for org in &orgs[1..] {
            let asked = Instant::now();
            reserve_of(&client, org, "").await.unwrap();
            slowest = slowest.max(asked.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(slowest < Duration::from_millis(400), "{slowest:?}");
    kill(stalled, Signal::SIGCONT).unwrap();
    lost.wait_for(20).await;
    let seen = lost.stop().await;
    assert!(seen.unavailable > 0);
    // What timed out was not sent again, unless it counts once anyway.
    let counted = used(&client, &orgs[0]).await - 1;
    assert!(
        seen.counts().contains(&counted),
        "{counted}: {:?}",
        seen.counts()
    );
    // One that is gone.
    cluster.nodes[0].kill();
    for round in 0..50 {
        let asked = Instant::now();
        let failed = reserve_of(&client, &orgs[0], &format!("{round}"))
            .await
            .unwrap_err();
        assert_eq!(failed.code(), Code::Unavailable);
        for org in &orgs[1..] {
            reserve_of(&client, org, "").await.unwrap();
        }
        assert!(asked.elapsed() < PROMPT);
    }
    // The store as a whole is of use.
    tokio::time::sleep(Duration::from_millis(700)).await;
    let readiness = tollgate.health("readiness").await;
    assert_eq!(readiness, Some(ServingStatus::Serving));
    cluster.nodes[0].restart();
    let patience = Instant::now() + Duration::from_secs(15);
    while reserve_of(&client, &orgs[0], "after").await.is_err() {
        assert!(Instant::now() < patience, "the master is not found again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_counts_once_when_replies_are_lost_on_the_way_from_a_cluster() {
    let cluster = Arc::new(RedisCluster::start());
    let tollgate = start_over(&cluster, "").await;
    let client = tollgate.client();
    let traffic = Traffic::over(&client, "org-0");
    let master = cluster.master_of("org-0");
    for _ in 0..20 {
        traffic.wait_for(25).await;
        let node = Arc::clone(&cluster);
        let cut = move || node.nodes[master].integer(&["CLIENT", "KILL", "TYPE", "normal"]);
        tokio::task::spawn_blocking(cut).await.unwrap();
    }
    let seen = traffic.stop().await;
    let used = used(&client, "org-0").await;
    assert!(seen.counts().contains(&used), "{used}: {:?}", seen.counts());
}

/// The rights that the README names for a cluster, and no others.
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
    let traffic = Traffic::over(&client, "org-0");
    traffic.wait_for(50).await;
    let moved = Arc::clone(&cluster);
    let moving = move || {
        let to = (moved.master_of("org-0") + 1) % 3;
        moved.move_slot_of("org-0", to, Duration::from_millis(20));
    };
    tokio::task::spawn_blocking(moving).await.unwrap();
    traffic.wait_for(50).await;
    // Also where the script has to be sent anew.
    for node in &cluster.nodes {
        node.run(&["SCRIPT", "FLUSH"]);
    }
    traffic.wait_for(50).await;
    let seen = traffic.stop().await;
    assert_eq!(seen.unavailable, 0, "{seen:?}");
    let used = used(&client, "org-0").await;
    assert!(seen.counts().contains(&used));
    assert_eq!(free_requests_listed(&client, "org-0").await, used);
}
