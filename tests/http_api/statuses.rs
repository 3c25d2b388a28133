//! The status and the code of each kind of outcome.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{Service, curl, new_reserve, url};
use crate::{server::http_get, support::tollgate::Tollgate};

#[test]
fn a_reservation_is_made_settled_and_released_with_the_figures_of_grpc() {
    let service = Service::start();
    let reserved = service.call("Reserve", &new_reserve(600, "a")).expect_ok();
    let wanted = json!({
        "verdict": "VERDICT_FREE", "billedReason": "BILLED_REASON_UNSPECIFIED", "pool": "large",
        "allowance": 1_000, "used": 600, "remaining": 400, "resetsAt": "2026-11-23T00:00:00Z",
        "replayed": false,
    });
    assert_eq!(reserved, wanted);
    let billed = service.call("Reserve", &new_reserve(600, "b")).expect_ok();
    assert_eq!(billed["billedReason"], "BILLED_REASON_ALLOWANCE_EXCEEDED");
    let settle = json!({"org": "acme", "requestId": "a", "tokens": 0});
    let settled = service.call("Settle", &settle).expect_ok();
    assert_eq!(
        (&settled["used"], &settled["replayed"]),
        (&json!(0), &json!(false))
    );
    let release = json!({"org": "acme", "requestId": "b"});
    let released = service.call("Release", &release).expect_ok();
    assert_eq!(released["releasedTokens"], 600);
    let quota = service
        .call("GetQuota", &json!({"org": "acme"}))
        .expect_ok();
    assert_eq!(quota["pools"][0]["remaining"], 1_000);
    let usage = service
        .call("ListUsage", &json!({"org": "acme"}))
        .expect_ok();
    assert_eq!(usage["rows"][0]["freeRequests"], 1);
}

#[test]
fn every_error_has_the_status_and_the_code_of_the_protocol() {
    let service = Service::start();
    let reserve = |tokens, id: &str| service.call("Reserve", &new_reserve(tokens, id));
    let settle = |id: &str, tokens| {
        let body = json!({"org": "acme", "requestId": id, "tokens": tokens});
        service.call("Settle", &body)
    };
    reserve(1, "a").expect_ok();
    reserve(1, "b").expect_ok();
    service
        .call("Release", &json!({"org": "acme", "requestId": "b"}))
        .expect_ok();
    let future = json!({"org": "acme", "day": "2026-11-23"});
    for (answer, words, status, code) in [
        (reserve(0, ""), &["tokens"][..], 400, "invalid_argument"),
        (
            reserve(2, "a"),
            &["tokens", "new request_id"],
            409,
            "already_exists",
        ),
        (reserve(1, "b"), &[], 400, "failed_precondition"),
        (settle("never", 1), &[], 404, "not_found"),
        (service.call("ListUsage", &future), &[], 400, "out_of_range"),
        (
            service.call("ReserveStream", &json!({})),
            &["over gRPC only"],
            501,
            "unimplemented",
        ),
        // Clients infer this code from this status.
        (
            service.call("Reverse", &json!({})),
            &["no method \"Reverse\""],
            404,
            "unimplemented",
        ),
    ] {
        assert_eq!(
            answer.failure(words),
            (status, code.to_owned()),
            "{answer:?}"
        );
        assert_eq!(answer.header("retry-after"), None);
    }
}

#[test]
fn only_post_is_served() {
    let service = Service::start();
    let url = url(&service.tollgate.http_addr, "GetQuota");
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let answer = curl(&["--request", method, &url]);
        assert_eq!(
            answer.failure(&["POST"]),
            (405, "unknown".to_owned()),
            "{method}"
        );
        assert_eq!(answer.header("allow"), Some("post"));
    }
}

#[test]
fn a_deadline_is_one_to_ten_digits_of_milliseconds_and_ends_the_call() {
    let service = Service::start();
    let reserve = new_reserve(1, "").to_string();
    let with = |timeout: &str| {
        service.reserve(
            &reserve,
            &["--header", &format!("connect-timeout-ms: {timeout}")],
        )
    };
    for timeout in ["1000", "9999999999", "0000020000"] {
        with(timeout).expect_ok();
    }
    for timeout in ["10000000000", "-1", "1.5", "1s", "+1", "0x1"] {
        let failure = with(timeout).failure(&["connect-timeout-ms"]);
        assert_eq!(failure, (400, "invalid_argument".to_owned()), "{timeout}");
    }
    // The body does not arrive.
    let began = Instant::now();
    let mut stream = TcpStream::connect(&service.tollgate.http_addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let head = "POST /tollgate.v1.QuotaService/Reserve HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\
                content-type: application/json\r\nconnect-timeout-ms: 300\r\n\r\n{";
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 504");
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[test]
fn the_version_of_the_protocol_is_1_if_it_is_given() {
    let service = Service::start();
    let reserve = new_reserve(1, "").to_string();
    let with = |version: &str| {
        service.reserve(
            &reserve,
            &["--header", &format!("connect-protocol-version: {version}")],
        )
    };
    with("1").expect_ok();
    for version in ["2", "01", "v1"] {
        let failure = with(version).failure(&["connect-protocol-version"]);
        assert_eq!(failure, (400, "invalid_argument".to_owned()));
    }
}

#[test]
fn calls_are_counted_like_those_of_grpc() {
    let service = Service::start();
    service.call("Reserve", &new_reserve(1, "a")).expect_ok();
    service.call("Reserve", &new_reserve(0, "")).failure(&[]);
    service.reserve("{", &[]).failure(&[]);
    service
        .call("GetQuota", &json!({"org": "nobody"}))
        .failure(&[]);
    let (_, text) = http_get(&service.tollgate.http_addr, "/metrics");
    for (labels, count) in [
        (
            "rpc=\"Reserve\",code=\"OK\",verdict=\"FREE\",reason=\"\"",
            1,
        ),
        (
            "rpc=\"Reserve\",code=\"INVALID_ARGUMENT\",verdict=\"\",reason=\"\"",
            2,
        ),
        (
            "rpc=\"GetQuota\",code=\"NOT_FOUND\",verdict=\"\",reason=\"\"",
            1,
        ),
    ] {
        let line = format!("tollgate_requests_total{{{labels}}} {count}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[test]
fn without_the_setting_nothing_of_it_is_served() {
    let tollgate = Tollgate::start(&["--store", "memory:"]);
    let openapi = format!("http://{}/openapi.json", tollgate.http_addr);
    let hint = "RPCs are not served over HTTP: set http_api = true\n";
    for (url, body) in [(url(&tollgate.http_addr, "Reserve"), hint), (openapi, "")] {
        let answer = curl(&[&url, "--data", "{}"]);
        assert_eq!((answer.status, answer.body.as_str()), (404, body), "{url}");
    }
}
