//! Foreign data under the service's keys: calls fail with INTERNAL, only the log has details, and nothing is changed.

use tollgate::grpc::proto::{BilledReason, GetQuotaRequest, ListUsageRequest, SettleRequest};
use tonic::{Code, Status};

use super::{logged, refused, start};
use crate::support::{
    calls::{large, reserve},
    clock::Clock,
    redis::RedisServer,
    tollgate::Tollgate,
    world::NOON,
};

const POOL: &str = "tollgate:{acme}:pool:large:2026-11-22";
const USAGE: &str = "tollgate:{acme}:usage:2026-11-22";
const REQUESTS: &str = "tollgate:{acme}:requests:2026-11-22";

/// Everything in Redis, serialized, with its expiry.
fn contents(redis: &RedisServer) -> Vec<(String, redis::Value, i64)> {
    let mut keys = redis.strings(&["KEYS", "*"]);
    keys.sort();
    let content = |key: String| {
        let (held, expires) = (
            redis.run(&["DUMP", &key]),
            redis.integer(&["EXPIRETIME", &key]),
        );
        (key, held, expires)
    };
    keys.into_iter().map(content).collect()
}

fn is_internal(tollgate: &Tollgate, status: &Status, detail: &str) {
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    for secret in ["acme", "tollgate:", "abc", "WRONGTYPE", "used", "script"] {
        assert!(!status.message().contains(secret), "{status:?}");
    }
    assert!(logged(tollgate, &["ERROR", detail]), "{:?}", tollgate.log());
}

/// With this foreign data, Reserves with an id fail and change nothing. Without it they work.
async fn a_reserve_is_internal_over(foreign: &[&str], detail: &str, settings: &str) {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let tollgate = start(&redis, settings).await;
    let client = tollgate.client();
    redis.run(foreign);
    let before = contents(&redis);
    let status = refused(&client, 10, "r").await;
    is_internal(&tollgate, &status, detail);
    assert_eq!(contents(&redis), before, "{foreign:?}");
    redis.run(&["DEL", foreign[1]]);
    let answer = reserve(&client, 10, "r").await;
    assert_eq!((answer.used, answer.replayed), (10, false), "{foreign:?}");
}

#[tokio::test]
async fn a_foreign_amount_in_a_pool_is_an_internal_error() {
    let too_much = "9007199254740992";
    for amount in [
        "abc",
        "",
        "-1",
        "1.5",
        "1e3",
        too_much,
        "99999999999999999999",
    ] {
        for at in 0..4 {
            let mut amounts = ["1"; 4];
            amounts[at] = amount;
            let counters = format!("{} 0", amounts.join(" "));
            a_reserve_is_internal_over(&["SET", POOL, &counters], "pool:large", "").await;
        }
    }
    for counters in ["", "5", "1 1 1 1", "1 1 1 1 2", "1 1 1 1 0 0"] {
        a_reserve_is_internal_over(&["SET", POOL, counters], "pool:large", "").await;
    }
}

#[tokio::test]
async fn a_key_of_another_type_is_an_internal_error() {
    for key in [USAGE, REQUESTS] {
        a_reserve_is_internal_over(&["SET", key, "abc"], "WRONGTYPE", "").await;
    }
    a_reserve_is_internal_over(&["HSET", POOL, "used", "1"], "WRONGTYPE", "").await;
}

#[tokio::test]
async fn a_foreign_usage_row_or_reservation_is_an_internal_error() {
    for row in ["abc", "1 2 3", "9007199254740992 0 0 0"] {
        a_reserve_is_internal_over(&["HSET", USAGE, "p:gpt-4o", row], "usage", "").await;
    }
    for held in [
        "abc",
        "F1",
        "Q1:10",
        "FsF1:10",
        "Fs1:10:10",
        "F1:10:10",
        "FF1:10",
        // An unknown class.
        "F1:10",
    ] {
        a_reserve_is_internal_over(&["HSET", REQUESTS, "r", held], "not Tollgate's", "").await;
    }
    for class in ["abc", "large:i:", "large", ":"] {
        let foreign = ["HSET", REQUESTS, "r", "F1:10", "\u{1}1", class];
        a_reserve_is_internal_over(&foreign, "not Tollgate's", "").await;
    }
    let foreign = ["HSET", REQUESTS, "\u{1}", "abc"];
    a_reserve_is_internal_over(&foreign, "not Tollgate's", "").await;
}

#[tokio::test]
async fn degraded_answers_are_not_for_a_store_that_answers() {
    let settings = "on_store_failure = \"billed\"";
    a_reserve_is_internal_over(&["HSET", POOL, "used", "1"], "WRONGTYPE", settings).await;
}

#[tokio::test]
async fn reading_a_foreign_key_is_an_internal_error() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let tollgate = start(&redis, "").await;
    let mut client = tollgate.client();
    for foreign in [["SET", POOL, "abc", "KEEPTTL"], ["HSET", POOL, "used", "1"]] {
        redis.run(&foreign);
        let org = "acme".to_owned();
        let status = client.get_quota(GetQuotaRequest { org }).await.unwrap_err();
        is_internal(&tollgate, &status, "not Tollgate's");
        redis.run(&["DEL", POOL]);
    }
    for foreign in [
        ["SET", USAGE, "abc", "KEEPTTL"],
        ["HSET", USAGE, "p:gpt-4o", "abc"],
    ] {
        redis.run(&foreign);
        let request = ListUsageRequest {
            org: "acme".to_owned(),
            ..ListUsageRequest::default()
        };
        let status = client.list_usage(request).await.unwrap_err();
        is_internal(&tollgate, &status, "not Tollgate's");
        redis.run(&["DEL", USAGE]);
    }
    assert_eq!(large(&client).await.used, 0);
}

#[tokio::test]
async fn held_tokens_are_never_granted_on_top_of_lost_counters() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let tollgate = start(&redis, "").await;
    let client = tollgate.client();
    reserve(&client, 900, "r").await;
    redis.run(&["DEL", POOL]);
    let request = SettleRequest {
        org: "acme".to_owned(),
        request_id: "r".to_owned(),
        tokens: 1_500,
        outside_program: false,
    };
    let settled = client.clone().settle(request).await.unwrap().into_inner();
    assert_eq!(settled.billed_reason(), BilledReason::AllowanceExceeded);
    // A held reservation is restored, and not given back: it may have been released before.
    assert_eq!((settled.used, settled.allowance), (900, 1_000));
}
