//! Redis answers, and says no: demoted, full, or not without the right password.

use std::time::{Duration, Instant};

use tonic_health::pb::health_check_response::ServingStatus;

use super::{logged, start, start_unseen, unavailable};
use crate::support::{
    calls::{large, reserve, said},
    redis::RedisServer,
};

#[tokio::test]
async fn a_demoted_redis_makes_calls_unavailable_until_it_is_promoted_again() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    reserve(&client, 10, "before").await;
    redis.run(&["REPLICAOF", "127.0.0.1", "1"]);
    for _ in 0..3 {
        unavailable(&client, 10, "demoted").await;
    }
    assert!(
        logged(&tollgate, &["WARN", "read only replica"]),
        "{:?}",
        tollgate.log()
    );
    redis.run(&["REPLICAOF", "NO", "ONE"]);
    let answer = reserve(&client, 10, "demoted").await;
    assert_eq!(
        (said(&answer).as_str(), answer.used, answer.replayed),
        ("FREE", 20, false)
    );
}

#[tokio::test]
async fn a_full_redis_makes_calls_unavailable_until_it_has_room() {
    let redis = RedisServer::start();
    redis.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    reserve(&client, 10, "before").await;
    redis.run(&["CONFIG", "SET", "maxmemory", "1"]);
    unavailable(&client, 10, "full").await;
    // Also where the script has to be sent anew.
    redis.run(&["SCRIPT", "FLUSH"]);
    unavailable(&client, 10, "full").await;
    assert!(logged(&tollgate, &["WARN", "OOM"]), "{:?}", tollgate.log());
    assert_eq!(large(&client).await.used, 10);
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]);
    let answer = reserve(&client, 10, "full").await;
    assert_eq!(
        (said(&answer).as_str(), answer.used, answer.replayed),
        ("FREE", 20, false)
    );
}

#[tokio::test]
async fn a_wrong_password_is_told_in_the_log_without_the_password() {
    let redis = RedisServer::start();
    let control = &mut redis.connection();
    let mut set_password = |password: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg(&["SET", "requirepass", password]);
        command.query::<()>(control).unwrap();
    };
    set_password("hunter2");
    for user in [":hunter3@", ""] {
        let url = format!("redis://{user}127.0.0.1:{}", redis.port);
        let tollgate = start_unseen(&url, "log = \"trace\"");
        let patience = Instant::now() + Duration::from_secs(10);
        let why = [
            "WARN",
            "NOT_SERVING",
            if user.is_empty() {
                "NOAUTH"
            } else {
                "WRONGPASS"
            },
        ];
        while !logged(&tollgate, &why) {
            assert!(Instant::now() < patience, "{:?}", tollgate.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        unavailable(&tollgate.client(), 10, "").await;
        let readiness = tollgate.health("readiness").await;
        assert_eq!(readiness, Some(ServingStatus::NotServing));
        assert!(!logged(&tollgate, &["hunter3"]));
        if !user.is_empty() {
            // The operator puts it right: no restart is needed.
            set_password("hunter3");
            tollgate.wait_for_readiness(ServingStatus::Serving).await;
            assert_eq!(said(&reserve(&tollgate.client(), 10, "").await), "FREE");
            assert!(!logged(&tollgate, &["hunter3"]));
        }
    }
}
