//! Redis answers and refuses: it is demoted, full, or rejects the password.

use std::time::{Duration, Instant};

use tollgate::grpc::proto::ReleaseRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{logged, start, start_without_waiting, unavailable, wait_for_log};
use crate::support::{
    calls::{large, reserve, usage, verdict_text},
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
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    assert!(
        logged(&tollgate, &["WARN", "read only replica"]),
        "{:?}",
        tollgate.log()
    );
    redis.run(&["REPLICAOF", "NO", "ONE"]);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let answer = reserve(&client, 10, "demoted").await;
    assert_eq!(
        (verdict_text(&answer).as_str(), answer.used, answer.replayed),
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
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    // Also if the script has to be sent again.
    redis.run(&["SCRIPT", "FLUSH"]);
    unavailable(&client, 10, "full").await;
    assert!(logged(&tollgate, &["WARN", "OOM"]), "{:?}", tollgate.log());
    assert_eq!(large(&client).await.used, 10);
    redis.run(&["CONFIG", "SET", "maxmemory", "0"]);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let answer = reserve(&client, 10, "full").await;
    assert_eq!(
        (verdict_text(&answer).as_str(), answer.used, answer.replayed),
        ("FREE", 20, false)
    );
}

#[tokio::test]
async fn a_wrong_password_is_logged_without_the_password() {
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
        let tollgate = start_without_waiting(&url, "log = \"trace\"");
        let deadline = Instant::now() + Duration::from_secs(10);
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
            assert!(Instant::now() < deadline, "{:?}", tollgate.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        unavailable(&tollgate.client(), 10, "").await;
        let readiness = tollgate.health("readiness").await;
        assert_eq!(readiness, Some(ServingStatus::NotServing));
        assert!(!logged(&tollgate, &["hunter3"]));
        if !user.is_empty() {
            // The operator fixes it: no restart is needed.
            set_password("hunter3");
            tollgate.wait_for_readiness(ServingStatus::Serving).await;
            assert_eq!(
                verdict_text(&reserve(&tollgate.client(), 10, "").await),
                "FREE"
            );
            assert!(!logged(&tollgate, &["hunter3"]));
        }
    }
}

/// The rights that docs/CONFIGURATION.md names, and no others.
pub const LEAST_RIGHTS: [&str; 11] = [
    "~tollgate:*",
    "+hello",
    "+info",
    "+evalsha",
    "+eval",
    "+time",
    "+get",
    "+set",
    "+hmget",
    "+hset",
    "+expireat",
];

/// Creates a user with these rights. Gives the URL for that user.
pub fn url_of_user(redis: &RedisServer, rights: &[&str]) -> String {
    let user = ["ACL", "SETUSER", "gate", "reset", "on", ">secret"];
    redis.run(&[&user[..], rights].concat());
    format!("redis://gate:secret@127.0.0.1:{}", redis.port)
}

#[tokio::test]
async fn the_least_rights_that_the_readme_names_suffice() {
    let redis = RedisServer::start();
    let url = url_of_user(&redis, &[&LEAST_RIGHTS[..], &["+hscan"]].concat());
    let tollgate = start_without_waiting(&url, "");
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client = tollgate.client();
    assert_eq!(verdict_text(&reserve(&client, 10, "r").await), "FREE");
    let (org, request_id) = ("acme".to_owned(), "r".to_owned());
    let request = ReleaseRequest { org, request_id };
    client.clone().release(request).await.unwrap();
    assert_eq!(large(&client).await.used, 0);
    assert!(
        usage(&client, "").await.is_empty(),
        "what was released is not listed"
    );
}

#[tokio::test]
async fn without_the_right_to_one_write_nothing_is_written() {
    for missing in ["+set", "+hset", "+expireat"] {
        let redis = RedisServer::start();
        let rights = LEAST_RIGHTS.into_iter().filter(|right| *right != missing);
        let url = url_of_user(&redis, &rights.collect::<Vec<_>>());
        let tollgate = start_without_waiting(&url, "");
        tollgate.wait_for_readiness(ServingStatus::NotServing).await;
        let client = tollgate.client();
        for _ in 0..3 {
            unavailable(&client, 10, "r").await;
        }
        let missing_right = format!("lacks {missing}");
        wait_for_log(&tollgate, &["WARN", "NOT_SERVING", &missing_right]).await;
        assert_eq!(redis.integer(&["DBSIZE"]), 0, "{missing}");
        url_of_user(&redis, &[&LEAST_RIGHTS[..], &[missing]].concat());
        tollgate.wait_for_readiness(ServingStatus::Serving).await;
        let answer = reserve(&client, 10, "r").await;
        assert_eq!((answer.used, answer.replayed), (10, false));
    }
}
