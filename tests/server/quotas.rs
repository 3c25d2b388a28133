//! `/api/orgs` and `/api/quota` on the HTTP port.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{http_get, http_status};
use crate::support::{
    compared::ComparedService,
    redis::RedisServer,
    tollgate::Tollgate,
    tools::WAIT_TIMEOUT,
    usage_api::UsageEvent,
    world::{TODAY, small_policy},
};

fn get_json(tollgate: &Tollgate, path: &str) -> Value {
    let (head, body) = http_get(&tollgate.http_addr, path);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn quotas_as_json_are_those_of_get_quota() {
    let tollgate = Tollgate::start(&[]);
    let mut client = tollgate.client();
    let request = tollgate::grpc::proto::ReserveRequest {
        org: "org-demo".to_owned(),
        project: "p".to_owned(),
        model: "gpt-4o".to_owned(),
        tokens: 930_000,
        ..Default::default()
    };
    client.reserve(request).await.unwrap();
    assert_eq!(get_json(&tollgate, "/api/orgs"), json!(["org-demo"]));
    let quota = get_json(&tollgate, "/api/quota?org=org-demo");
    assert_eq!(
        (&quota["tier"], &quota["enrolled"]),
        (&json!(3), &json!(true))
    );
    let large = json!({
        "pool": "large", "allowance": 1_000_000, "used": 930_000, "remaining": 70_000,
        "billed_tokens": 0, "free_requests": 1, "billed_requests": 0, "held_tokens": 0,
        "closed": false, "margin_tokens": 0, "external_tokens": 0, "shares": [],
    });
    assert_eq!(quota["pools"][0], large);
    assert_eq!(quota["pools"][1]["pool"], "mini");
    assert_eq!(quota["comparisons"], json!([]));
    let resets_at = quota["resets_at"].as_str().unwrap();
    assert!(resets_at.ends_with("T00:00:00+00:00"), "{resets_at}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_as_json_has_the_comparisons_with_the_provider() {
    let event = UsageEvent::new("2026-11-22T08:00:00Z", "x", "gpt-4o", "default", 840);
    let site = ComparedService::start(&small_policy("keep_open"), "", vec![event]).await;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let compared = loop {
        let quota = get_json(&site.tollgate, "/api/quota?org=acme");
        match quota["comparisons"].as_array().and_then(|days| days.last()) {
            Some(last) => break last.clone(),
            None => assert!(Instant::now() < deadline, "{quota}"),
        }
        sleep(Duration::from_millis(50)).await;
    };
    let at = compared["compared_at"].as_str().unwrap();
    assert!(at.starts_with("2026-11-22T12:00:"), "{at}");
    let wanted = json!({
        "day": TODAY, "compared_at": at, "result": "COMPARISON_RESULT_DRIFTS",
        "drift": [{"kind": "external", "tokens": 840}],
    });
    assert_eq!(compared, wanted);
}

#[tokio::test]
async fn a_quota_as_json_gets_the_reason_of_an_error() {
    let mut redis = RedisServer::start();
    let tollgate = Tollgate::start(&["--store", &redis.url()]);
    for (path, status) in [
        ("/api/quota?org=stranger", 404),
        ("/api/quota?org=", 400),
        ("/api/quota?org=a%00", 400),
        ("/api/quota", 400),
        ("/api/quota?org=org-demo", 200),
        ("/elsewhere", 404),
    ] {
        assert_eq!(http_status(&tollgate.http_addr, path), status, "{path}");
    }
    redis.kill();
    assert_eq!(
        http_status(&tollgate.http_addr, "/api/quota?org=org-demo"),
        503
    );
}
