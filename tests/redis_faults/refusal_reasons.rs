//! Each reason for which a running Redis refuses: it is described in words, nothing is counted, and afterwards calls
//! are served without a restart.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use tonic_health::pb::health_check_response::ServingStatus;

use super::{
    WAIT_TIMEOUT, logged, not_ready_body, refused, served_again, start, start_without_waiting,
};
use crate::support::{
    calls::{large, reserve, sum, usage, verdict_text},
    free_port,
    redis::RedisServer,
    tollgate::Tollgate,
};

/// Waits for these words in a section of INFO.
fn wait_for_info(redis: &RedisServer, section: &str, words: &str) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !redis.info(section).contains(words) {
        assert!(Instant::now() < deadline, "{}", redis.info(section));
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until calls, readiness and the log give the reason, also in Redis' own words.
async fn refuses(tollgate: &Tollgate, words: &str, redis_words: &str) {
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    // It may have been unreachable for a moment before.
    loop {
        let status = refused(&tollgate.client(), 10, "refused").await;
        let (received, body) = (status.message(), not_ready_body(tollgate));
        let has_reason = |text: &str| text.contains(words) && text.contains(redis_words);
        if has_reason(received) && has_reason(&body) {
            assert!(received.contains("counted nothing"), "{status:?}");
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{words:?} is in none of {received:?}, {body:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        logged(tollgate, &["WARN", redis_words]),
        "{:?}",
        tollgate.log()
    );
}

/// Asserts that calls are served again, and that nothing was counted.
async fn has_recovered(tollgate: &Tollgate, used_before: u64) {
    let answer = served_again(&tollgate.client(), "refused").await;
    assert_eq!(verdict_text(&answer), "FREE");
    assert_eq!((answer.used, answer.replayed), (used_before + 1, false));
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
}

/// A setting makes Redis refuse, and another one makes it serve again.
async fn a_setting_makes_it_refuse(refuse: &[&str], serve: &[&str], words: &str, code: &str) {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    reserve(&tollgate.client(), 10, "before").await;
    redis.run(refuse);
    refuses(&tollgate, words, code).await;
    // Reads still work.
    assert_eq!(large(&tollgate.client()).await.used, 10);
    assert_eq!(sum(&usage(&tollgate.client(), "").await).0, 10);
    redis.run(serve);
    has_recovered(&tollgate, 10).await;
}

#[tokio::test]
async fn a_full_redis() {
    let (full, room) = (
        ["CONFIG", "SET", "maxmemory", "1"],
        ["CONFIG", "SET", "maxmemory", "0"],
    );
    a_setting_makes_it_refuse(&full, &room, "it is full", "OOM").await;
}

#[tokio::test]
async fn a_redis_with_too_few_replicas() {
    let set = |number| ["CONFIG", "SET", "min-replicas-to-write", number];
    let words = "too few replicas follow it";
    a_setting_makes_it_refuse(&set("1"), &set("0"), words, "NOREPLICAS").await;
}

#[tokio::test]
async fn a_read_only_replica() {
    let (demote, promote) = (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]);
    a_setting_makes_it_refuse(&demote, &promote, "it is read-only", "read only replica").await;
}

#[tokio::test]
async fn a_replica_that_lost_its_master_and_serves_no_stale_data() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    reserve(&tollgate.client(), 10, "before").await;
    redis.run(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    redis.run(&["CONFIG", "SET", "replica-read-only", "no"]);
    redis.run(&["REPLICAOF", "127.0.0.1", "1"]);
    refuses(
        &tollgate,
        "it is cut off from its master",
        "Link with MASTER is down",
    )
    .await;
    redis.run(&["REPLICAOF", "NO", "ONE"]);
    has_recovered(&tollgate, 10).await;
}

#[tokio::test]
async fn a_redis_that_cannot_save() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    reserve(&tollgate.client(), 10, "before").await;
    redis.run(&["CONFIG", "SET", "save", "3600 1000"]);
    // A directory in place of the file.
    let in_the_way = redis.dir().join("dump.rdb");
    fs::create_dir(&in_the_way).unwrap();
    redis.run(&["BGSAVE"]);
    wait_for_info(&redis, "persistence", "rdb_last_bgsave_status:err");
    refuses(&tollgate, "it can't save what it holds", "MISCONF").await;
    fs::remove_dir(&in_the_way).unwrap();
    redis.run(&["BGSAVE"]);
    wait_for_info(&redis, "persistence", "rdb_last_bgsave_status:ok");
    has_recovered(&tollgate, 10).await;
}

#[tokio::test]
async fn a_redis_that_runs_a_long_script() {
    let redis = RedisServer::start();
    let tollgate = start(&redis, "").await;
    reserve(&tollgate.client(), 10, "before").await;
    redis.run(&["CONFIG", "SET", "busy-reply-threshold", "10"]);
    let mut busy = redis.connection();
    let script = thread::spawn(move || {
        let mut command = redis::cmd("EVAL");
        command.arg("while true do end").arg(0);
        command.query::<()>(&mut busy).unwrap_err()
    });
    refuses(&tollgate, "it is busy", "BUSY").await;
    redis.run(&["SCRIPT", "KILL"]);
    script.join().unwrap();
    has_recovered(&tollgate, 10).await;
}

#[tokio::test]
async fn a_redis_that_loads_its_file() {
    // It sleeps at each key, and answers in between.
    let slow = [
        "--key-load-delay",
        "20000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let mut redis = RedisServer::start_on(free_port(), None, &slow);
    let tollgate = start(&redis, "").await;
    reserve(&tollgate.client(), 10, "before").await;
    redis.run(&["CONFIG", "SET", "rdbcompression", "no"]);
    let value = "x".repeat(2_000);
    for at in 0..150 {
        redis.run(&["SET", &format!("big {at}"), &value]);
    }
    redis.run(&["SAVE"]);
    redis.restart_without_waiting();
    refuses(&tollgate, "it is loading", "loading the dataset").await;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while redis.info("persistence").contains("loading:1") {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    has_recovered(&tollgate, 10).await;
}

#[tokio::test]
async fn a_redis_that_takes_no_more_connections() {
    let redis = RedisServer::start();
    let control = &mut redis.connection();
    let mut most = |number: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg(&["SET", "maxclients", number]);
        command.query::<()>(control).unwrap();
    };
    most("1");
    let tollgate = start_without_waiting(&redis.url(), "");
    refuses(
        &tollgate,
        "it takes no more connections",
        "max number of clients",
    )
    .await;
    most("100");
    has_recovered(&tollgate, 0).await;
}

#[tokio::test]
async fn a_redis_with_another_password() {
    let redis = RedisServer::start();
    let control = &mut redis.connection();
    let mut password = |password: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg(&["SET", "requirepass", password]);
        command.query::<()>(control).unwrap();
    };
    password("secret");
    let url = redis.url().replace("//", "//:another@");
    let tollgate = start_without_waiting(&url, "");
    let words = "it does not accept the user or password";
    refuses(&tollgate, words, "WRONGPASS").await;
    password("another");
    has_recovered(&tollgate, 0).await;
}

#[tokio::test]
async fn a_user_without_the_right_to_the_script() {
    let redis = RedisServer::start();
    let user = |rights: &[&str]| super::refusals::url_of_user(&redis, rights);
    let url = user(&["~tollgate:*", "+hello", "+info"]);
    let tollgate = start_without_waiting(&url, "");
    refuses(&tollgate, "its user lacks a right", "lacks +evalsha").await;
    user(&super::refusals::LEAST_RIGHTS);
    has_recovered(&tollgate, 0).await;
}
