//! A missing right of the Redis user is named by readiness, answers and log, as soon as it is removed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::task::JoinSet;
use tollgate::grpc::proto::{GetQuotaRequest, ListUsageRequest};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    RECOVERY_TIMEOUT, logged, not_ready_body,
    refusals::{LEAST_RIGHTS, url_of_user},
    refused, start_without_waiting,
};
use crate::server::http_get;
use crate::support::{
    calls::{Client, new_reserve, reserve},
    clock::Clock,
    redis::RedisServer,
    tollgate::Tollgate,
};

/// The commands of a decision.
const DECISION_COMMANDS: [&str; 8] = [
    "get", "set", "hmget", "hset", "expireat", "time", "evalsha", "eval",
];

fn change_rights(redis: &RedisServer, rules: &[&str]) {
    redis.run(&[&["ACL", "SETUSER", "gate"], rules].concat());
}

/// Waits until `/readyz` is not ready for this reason, or is ready. Fails if that takes long.
async fn wait_for_readyz(tollgate: &Tollgate, missing: Option<&str>) {
    let begun = Instant::now();
    loop {
        let (head, body) = http_get(&tollgate.http_addr, "/readyz");
        let is_there = match missing {
            None => head.starts_with("HTTP/1.1 200"),
            Some(missing) => head.starts_with("HTTP/1.1 503") && body.contains(missing),
        };
        let took = begun.elapsed();
        assert!(
            took < RECOVERY_TIMEOUT,
            "{missing:?} after {took:?}: {head} {body}"
        );
        if is_there {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Callers that reserve all the time. Each failure must be one of the store.
struct Load {
    ends: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    callers: JoinSet<()>,
}

impl Load {
    fn on(client: &Client) -> Self {
        let (ends, served) = (Arc::default(), Arc::default());
        let mut load = Self {
            ends,
            served,
            callers: JoinSet::new(),
        };
        for caller in 0..8 {
            let (ends, served) = (Arc::clone(&load.ends), Arc::clone(&load.served));
            let mut client = client.clone();
            load.callers.spawn(async move {
                let mut number = 0;
                while !ends.load(Ordering::Relaxed) {
                    number += 1;
                    match client
                        .reserve(new_reserve(1, &format!("{caller} {number}")))
                        .await
                    {
                        Ok(_) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(status) => {
                            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                            let words = "its user lacks a right";
                            assert!(status.message().contains(words), "{status:?}");
                        }
                    }
                }
            });
        }
        load
    }

    async fn wait_for_more(&self) {
        let (before, begun) = (self.served.load(Ordering::Relaxed), Instant::now());
        while self.served.load(Ordering::Relaxed) < before + 20 {
            assert!(begun.elapsed() < RECOVERY_TIMEOUT);
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    async fn end(mut self) {
        self.ends.store(true, Ordering::Relaxed);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
    }
}

async fn each_right_is_named(redis: &RedisServer) {
    let tollgate = start_without_waiting(&url_of_user(redis, &LEAST_RIGHTS), "");
    wait_for_readyz(&tollgate, None).await;
    let load = Load::on(&tollgate.client());
    for command in DECISION_COMMANDS {
        load.wait_for_more().await;
        change_rights(redis, &[&format!("-{command}")]);
        let missing = format!("lacks +{command}");
        wait_for_readyz(&tollgate, Some(&missing)).await;
        let health = tollgate.health("readiness").await;
        assert_eq!(health, Some(ServingStatus::NotServing));
        let status = refused(&tollgate.client(), 1, "refused").await;
        assert!(status.message().contains(&missing), "{status:?}");
        assert!(status.message().contains("counted nothing"), "{status:?}");
        assert!(logged(&tollgate, &["WARN", "NOT_SERVING", &missing]));
        change_rights(redis, &[&format!("+{command}")]);
        wait_for_readyz(&tollgate, None).await;
    }
    load.wait_for_more().await;
    load.end().await;
    assert!(!logged(&tollgate, &["not Tollgate's"]));
    assert!(!logged(&tollgate, &["does not answer"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_that_is_removed_under_load_is_named_within_a_second_and_its_return_noticed_within_one()
 {
    each_right_is_named(&RedisServer::start()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_is_named_in_the_words_of_valkey_too() {
    each_right_is_named(&RedisServer::start_valkey_at(&Clock::real())).await;
}

#[tokio::test]
async fn several_missing_rights_are_all_named_and_the_reason_follows_when_they_change() {
    let redis = RedisServer::start();
    let tollgate = start_without_waiting(&url_of_user(&redis, &LEAST_RIGHTS), "");
    wait_for_readyz(&tollgate, None).await;
    change_rights(&redis, &["-set", "-hset", "-time"]);
    wait_for_readyz(&tollgate, Some("lacks +set +hset +time")).await;
    let since = |body: String| body.split_once(": ").map(|(since, _)| since.to_owned());
    let before = since(not_ready_body(&tollgate));
    change_rights(&redis, &["+set"]);
    wait_for_readyz(&tollgate, Some("lacks +hset +time")).await;
    change_rights(&redis, &["resetkeys", "~other:*"]);
    wait_for_readyz(&tollgate, Some("lacks access to keys tollgate:*")).await;
    assert_eq!(since(not_ready_body(&tollgate)), before);
    change_rights(&redis, &["+hset", "+time", "~tollgate:*"]);
    wait_for_readyz(&tollgate, None).await;
}

#[tokio::test]
async fn reads_name_the_right_that_they_lack_too() {
    let redis = RedisServer::start();
    let tollgate = start_without_waiting(&url_of_user(&redis, &LEAST_RIGHTS), "");
    wait_for_readyz(&tollgate, None).await;
    let mut client = tollgate.client();
    reserve(&client, 1, "r").await;
    let (org, usage) = ("acme".to_owned(), ListUsageRequest::default());
    let usage = ListUsageRequest {
        org: org.clone(),
        ..usage
    };
    // No decision needs the right, so the service is ready.
    let status = client.list_usage(usage).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("lacks +hscan"), "{status:?}");
    wait_for_readyz(&tollgate, None).await;
    change_rights(&redis, &["-get"]);
    wait_for_readyz(&tollgate, Some("lacks +get")).await;
    let (_, page) = http_get(&tollgate.http_addr, "/api/quota?org=acme");
    let status = client.get_quota(GetQuotaRequest { org }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    for text in [status.message(), &page] {
        assert!(text.contains("lacks +get"), "{text}");
    }
    // ListUsage has no request_id.
    assert!(status.message().ends_with(": retry"), "{status:?}");
    assert!(!logged(&tollgate, &["not Tollgate's"]));
}

#[tokio::test]
async fn the_missing_right_to_select_the_database_is_named() {
    let redis = RedisServer::start();
    let url = url_of_user(&redis, &LEAST_RIGHTS);
    let tollgate = start_without_waiting(&format!("{url}/1"), "");
    wait_for_readyz(&tollgate, Some("lacks +select")).await;
    change_rights(&redis, &["+select"]);
    wait_for_readyz(&tollgate, None).await;
    change_rights(&redis, &["-select"]);
    wait_for_readyz(&tollgate, Some("lacks +select")).await;
}

#[tokio::test]
async fn the_missing_right_to_wait_for_replicas_is_named() {
    let redis = RedisServer::start();
    let url = url_of_user(&redis, &LEAST_RIGHTS);
    let tollgate = start_without_waiting(&url, "[redis]\nwait_replicas = 1");
    wait_for_readyz(&tollgate, Some("lacks +wait")).await;
    change_rights(&redis, &["+wait"]);
    wait_for_readyz(&tollgate, Some("too few replicas")).await;
}
