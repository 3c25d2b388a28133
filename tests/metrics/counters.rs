//! Each call is counted once, with the right labels.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::sync::oneshot;
use tollgate::grpc::proto::{
    GetQuotaRequest, ListUsageRequest, ReleaseRequest, ReserveRequest, SettleRequest,
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{WAIT_TIMEOUT, scrape, sum, wait_for};
use crate::{
    server::http_get,
    support::{
        calls::{Client, TextFile, new_reserve, policy_file},
        redis::RedisServer,
        tollgate::Tollgate,
    },
};

const MEMORY: [&str; 2] = ["--store", "memory:"];

/// A service whose pool `large` has 1,000 tokens.
async fn start(args: &[&str]) -> (Tollgate, Client, TextFile) {
    let policy = policy_file(1_000);
    let args = [args, &["--policy", policy.path()]].concat();
    let tollgate = Tollgate::start(&args);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client = tollgate.client();
    (tollgate, client, policy)
}

fn settle(request_id: &str, tokens: u64) -> SettleRequest {
    SettleRequest {
        org: "acme".to_owned(),
        request_id: request_id.to_owned(),
        tokens,
        outside_program: false,
    }
}

fn release(request_id: &str) -> ReleaseRequest {
    ReleaseRequest {
        org: "acme".to_owned(),
        request_id: request_id.to_owned(),
    }
}

#[tokio::test]
async fn requests_are_counted_by_rpc_code_verdict_and_reason() {
    let (tollgate, mut client, _policy) = start(&MEMORY).await;
    client.reserve(new_reserve(900, "a")).await.unwrap();
    client.reserve(new_reserve(900, "b")).await.unwrap();
    client.reserve(new_reserve(900, "b")).await.unwrap();
    client.reserve(new_reserve(0, "")).await.unwrap_err();
    client.settle(settle("a", 10)).await.unwrap();
    client.settle(settle("none", 10)).await.unwrap_err();
    client.release(release("b")).await.unwrap();
    let org = "acme".to_owned();
    client.get_quota(GetQuotaRequest { org }).await.unwrap();
    let usage = ListUsageRequest::default();
    client.list_usage(usage).await.unwrap_err();

    let text = scrape(&tollgate);
    let requests = |labels: &[&str]| sum(&text, "tollgate_requests_total", labels);
    for (labels, count) in [
        (r#"rpc="Reserve",code="OK",verdict="FREE",reason="""#, 1.0),
        (
            r#"rpc="Reserve",code="OK",verdict="BILLED",reason="ALLOWANCE_EXCEEDED""#,
            2.0,
        ),
        (r#"rpc="Reserve",code="INVALID_ARGUMENT""#, 1.0),
        (r#"rpc="Settle",code="OK",verdict="FREE",reason="""#, 1.0),
        (r#"rpc="Settle",code="NOT_FOUND""#, 1.0),
        (r#"rpc="Release",code="OK",verdict="",reason="""#, 1.0),
        (r#"rpc="GetQuota",code="OK""#, 1.0),
        (r#"rpc="ListUsage",code="INVALID_ARGUMENT""#, 1.0),
    ] {
        assert_eq!(requests(&[labels]), count, "{labels}\n{text}");
    }
    assert_eq!(requests(&[]), 9.0, "and nothing else\n{text}");
    let durations = "tollgate_request_duration_seconds_count";
    assert_eq!(sum(&text, durations, &[]), 9.0);
    assert_eq!(sum(&text, durations, &[r#"rpc="Reserve""#]), 4.0);
}

#[tokio::test]
async fn calls_that_reach_no_method_are_counted_too() {
    let redis = RedisServer::start();
    let slow = TextFile::new("[redis]\nresponse_timeout = \"30s\"\n");
    let (tollgate, mut client, _policy) =
        start(&["--store", &redis.url(), "--config", slow.path()]).await;
    // Redis does not answer; the caller leaves long before the deadline.
    redis.run(&["CLIENT", "PAUSE", "20000", "ALL"]);
    let mut call = tonic::Request::new(new_reserve(1, ""));
    call.set_timeout(Duration::from_secs(10));
    let hung_up = tokio::time::timeout(Duration::from_millis(100), client.reserve(call)).await;
    assert!(hung_up.is_err());
    let labels = [r#"rpc="Reserve",code="CANCELLED""#];
    wait_for(&tollgate, "tollgate_requests_total", &labels, 1.0).await;
    // Too large to be read, so no method is called.
    let mut large = new_reserve(1, "");
    large.project = "x".repeat(70_000);
    let refused = client.reserve(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    let labels = [r#"rpc="Reserve",code="OUT_OF_RANGE""#];
    wait_for(&tollgate, "tollgate_requests_total", &labels, 1.0).await;
}

#[tokio::test]
async fn each_request_of_a_stream_is_one() {
    let (tollgate, mut client, _policy) = start(&MEMORY).await;
    let requests = stream::iter([
        new_reserve(600, "a"),
        new_reserve(600, ""),
        new_reserve(0, ""),
        new_reserve(400, ""),
    ]);
    let (go_on, end) = oneshot::channel::<()>();
    let last = stream::once(async move {
        let _ = end.await;
        new_reserve(1, "")
    });
    let answers = client.reserve_stream(requests.chain(last)).await;
    let mut answers = answers.unwrap().into_inner();
    for _ in 0..4 {
        answers.next().await.unwrap().unwrap();
    }
    let text = scrape(&tollgate);
    let of_stream = |labels| {
        sum(
            &text,
            "tollgate_requests_total",
            &[r#""ReserveStream""#, labels],
        )
    };
    assert_eq!(of_stream(r#"verdict="FREE""#), 2.0, "{text}");
    assert_eq!(of_stream(r#"reason="ALLOWANCE_EXCEEDED""#), 1.0);
    assert_eq!(of_stream(r#"code="INVALID_ARGUMENT""#), 1.0);
    assert_eq!(of_stream("rpc"), 4.0);
    let durations = "tollgate_request_duration_seconds_count";
    assert_eq!(sum(&text, durations, &[r#""ReserveStream""#]), 4.0);
    assert_eq!(sum(&text, "tollgate_open_streams", &[]), 1.0);
    go_on.send(()).unwrap();
    assert_eq!(answers.count().await, 1);
    wait_for(&tollgate, "tollgate_open_streams", &[], 0.0).await;
}

#[tokio::test]
async fn tokens_and_reservations_count_once_whatever_is_retried() {
    let (tollgate, mut client, _policy) = start(&MEMORY).await;
    for _ in 0..3 {
        client.reserve(new_reserve(600, "a")).await.unwrap();
        client.reserve(new_reserve(300, "b")).await.unwrap();
        client.reserve(new_reserve(700, "c")).await.unwrap();
    }
    let dry_run = ReserveRequest {
        dry_run: true,
        ..new_reserve(50, "d")
    };
    client.reserve(dry_run).await.unwrap();
    let stranger = ReserveRequest {
        org: "nobody".to_owned(),
        ..new_reserve(7, "e")
    };
    client.reserve(stranger).await.unwrap();
    for _ in 0..2 {
        client.settle(settle("a", 500)).await.unwrap();
        client.release(release("b")).await.unwrap();
    }
    client.settle(settle("c", 5_000)).await.unwrap();
    client.reserve(new_reserve(400, "f")).await.unwrap();
    let outside = SettleRequest {
        outside_program: true,
        ..settle("f", 30)
    };
    client.settle(outside).await.unwrap();
    let text = scrape(&tollgate);
    let large = |kind: &str| {
        let kind = format!("kind=\"{kind}\"");
        sum(&text, "tollgate_tokens_total", &[r#"pool="large""#, &kind])
    };
    assert_eq!((large("free"), large("billed")), (1_300.0, 700.0), "{text}");
    assert_eq!(large("released"), 300.0);
    let settled = (large("settled_free"), large("settled_billed"));
    assert_eq!(settled, (500.0, 5_000.0));
    let none = [r#"pool="""#, r#"kind="billed""#];
    assert_eq!(sum(&text, "tollgate_tokens_total", &none), 7.0);
    // What ran outside the programme counts in no pool.
    let none = [r#"pool="""#, r#"kind="settled_billed""#];
    assert_eq!(sum(&text, "tollgate_tokens_total", &none), 30.0);
    let reason = [r#"rpc="Settle""#, r#"reason="RAN_OUTSIDE_PROGRAM""#];
    assert_eq!(sum(&text, "tollgate_requests_total", &reason), 1.0);
    let reservations = |transition: &str| {
        let transition = format!("transition=\"{transition}\"");
        sum(&text, "tollgate_reservations_total", &[&transition])
    };
    assert_eq!(reservations("held"), 4.0, "{text}");
    assert_eq!(
        (reservations("settled"), reservations("released")),
        (3.0, 1.0)
    );
}

#[tokio::test]
async fn an_outage_of_the_store_shows_and_the_calls_that_it_fails_are_counted() {
    let mut redis = RedisServer::start();
    let (tollgate, mut client, _policy) = start(&["--store", &redis.url()]).await;
    client.reserve(new_reserve(1, "")).await.unwrap();
    let text = scrape(&tollgate);
    for name in ["tollgate_ready", "tollgate_store_up"] {
        assert_eq!(sum(&text, name, &[]), 1.0, "{name}");
    }
    let decided = [r#"outcome="decided""#];
    let calls = "tollgate_store_call_duration_seconds_count";
    assert_eq!(sum(&text, calls, &decided), 1.0, "{text}");
    assert_eq!(sum(&text, "tollgate_store_batch_decisions_sum", &[]), 1.0);
    redis.kill();
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    client.reserve(new_reserve(1, "")).await.unwrap_err();
    let text = scrape(&tollgate);
    for name in ["tollgate_ready", "tollgate_store_up"] {
        assert_eq!(sum(&text, name, &[]), 0.0, "{name}");
    }
    let down = [r#"kind="down""#];
    assert_eq!(sum(&text, "tollgate_store_failures_total", &down), 1.0);
    let unavailable = [r#"rpc="Reserve",code="UNAVAILABLE""#];
    assert_eq!(sum(&text, "tollgate_requests_total", &unavailable), 1.0);
    redis.restart();
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    client.reserve(new_reserve(1, "")).await.unwrap();
    let (_, body) = http_get(&tollgate.http_addr, "/readyz");
    let losses = sum(&scrape(&tollgate), "tollgate_store_losses_total", &[]);
    assert!(
        losses >= 1.0 && body.contains(&format!("restored: {losses}\n")),
        "{body}"
    );
}

#[tokio::test]
async fn degraded_answers_are_counted_as_billed_and_as_what_failed() {
    let mut redis = RedisServer::start();
    let url = redis.url();
    let (tollgate, mut client, _policy) =
        start(&["--store", &url, "--on-store-failure", "billed"]).await;
    redis.kill();
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    client.reserve(new_reserve(1, "a")).await.unwrap();
    let text = scrape(&tollgate);
    let degraded = [r#"verdict="BILLED",reason="STORE_UNAVAILABLE""#];
    assert_eq!(sum(&text, "tollgate_requests_total", &degraded), 1.0);
    let down = [r#"kind="down""#];
    assert_eq!(sum(&text, "tollgate_store_failures_total", &down), 1.0);
    let held = [r#"transition="held""#];
    assert_eq!(sum(&text, "tollgate_reservations_total", &held), 0.0);
}

#[tokio::test]
async fn the_policy_and_the_process_have_metrics() {
    let (tollgate, _client, _policy) = start(&MEMORY).await;
    let text = scrape(&tollgate);
    let version = r#"version=""#;
    assert_eq!(
        sum(&text, "tollgate_policy_info", &["name=\"", version]),
        1.0
    );
    assert_eq!(sum(&text, "tollgate_policy_organizations", &[]), 2.0);
    let build = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(sum(&text, "tollgate_build_info", &[&build]), 1.0);
    let memory = sum(&text, "process_resident_memory_bytes", &[]);
    assert!(memory > 1e6 && memory < 1e9, "{memory}");
    // The kernel counts in hundredths of a second. The scrapes themselves take some time, too.
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while sum(&scrape(&tollgate), "process_cpu_seconds_total", &[]) == 0.0 {
        assert!(Instant::now() < deadline);
    }
    assert!(sum(&text, "process_threads", &[]) >= 2.0);
    let (open, most) = ("process_open_fds", "process_max_fds");
    assert!(sum(&text, open, &[]) > 3.0 && sum(&text, most, &[]) > sum(&text, open, &[]));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.unwrap().as_secs_f64() - sum(&text, "process_start_time_seconds", &[]);
    assert!((-2.0..600.0).contains(&age), "{age}");
}

/// No label contains a name that a caller sent, or a part of it.
#[tokio::test]
async fn nothing_that_callers_send_is_a_label() {
    let (tollgate, mut client, _policy) = start(&MEMORY).await;
    let sent = "zqx7";
    let names = ReserveRequest {
        org: format!("org-{sent}\"}} 1"),
        project: format!("project-{sent}"),
        model: format!("model-{sent}"),
        tokens: 1,
        request_id: format!("id-{sent}"),
        ..ReserveRequest::default()
    };
    client.reserve(names.clone()).await.unwrap();
    let known = ReserveRequest {
        org: "acme".to_owned(),
        ..names.clone()
    };
    client.reserve(known).await.unwrap();
    client
        .settle(settle(&format!("id-{sent}"), 1))
        .await
        .unwrap();
    client
        .release(release(&format!("other-{sent}")))
        .await
        .unwrap_err();
    let org = names.org.clone();
    client.get_quota(GetQuotaRequest { org }).await.unwrap_err();
    let stream = client.reserve_stream(stream::iter([names])).await.unwrap();
    assert_eq!(stream.into_inner().count().await, 1);
    let text = scrape(&tollgate);
    assert!(!text.contains(sent), "{text}");
    assert!(!text.contains("acme") && !text.contains("gpt-4o"), "{text}");
    assert_eq!(sum(&text, "tollgate_requests_total", &[]), 6.0);
}

#[test]
fn connections_denials_certificates_and_reloads_have_metrics() {
    use chrono::DateTime;
    use tollgate::telemetry::metrics::{
        CloseReason, ConnectionRefusal, DenialReason, Metrics, MetricsSnapshot, PoolGauges,
        PortName, ReloadResult, WatchedFile,
    };
    let metrics = Metrics::default();
    let grpc = metrics.connections(PortName::Grpc);
    let (one, other) = (grpc.opened(), grpc.opened());
    let _http = metrics.connections(PortName::Http).opened();
    grpc.refused(ConnectionRefusal::TooMany);
    one.closed(CloseReason::Idle);
    metrics.call_denied(DenialReason::PermissionDenied);
    let at = DateTime::from_timestamp(1_900_000_000, 0).unwrap();
    metrics.certificate_expires("tls", at);
    metrics.policy_loaded("p", "v1", 1, at);
    metrics.policy_loaded("p", "v2", 2, at);
    metrics.policy_reloaded(ReloadResult::Applied, 1);
    metrics.policy_reloaded(ReloadResult::Refused, 1);
    metrics.file_refused(WatchedFile::Tls, Some(at));
    metrics.file_refused(WatchedFile::Callers, Some(at));
    metrics.file_refused(WatchedFile::Callers, None);
    let refused: Vec<_> = metrics.refused_files().collect();
    assert_eq!(refused, [(WatchedFile::Tls, at)]);
    let snapshot = MetricsSnapshot {
        ready: true,
        store_up: false,
        clock_steps: 0,
        store_losses: 3,
        store_calls: 4,
        waiting: 5,
    };
    let text = metrics.text(snapshot, PoolGauges::default());
    for line in [
        r#"tollgate_connections{port="grpc"} 1"#,
        r#"tollgate_connections{port="http"} 1"#,
        r#"tollgate_connections_refused_total{port="grpc",why="too_many"} 1"#,
        r#"tollgate_connections_closed_total{port="grpc",why="idle"} 1"#,
        r#"tollgate_connections_closed_total{port="http",why="idle"} 0"#,
        r#"tollgate_calls_denied_total{why="permission_denied"} 1"#,
        r#"tollgate_certificate_expiry_timestamp_seconds{of="tls"} 1900000000"#,
        r#"tollgate_policy_info{name="p",version="v2"} 1"#,
        r#"tollgate_policy_reloads_total{result="applied"} 1"#,
        r#"tollgate_policy_reloads_total{result="refused"} 1"#,
        r#"tollgate_file_refused{of="policy"} 0"#,
        r#"tollgate_file_refused{of="callers"} 0"#,
        r#"tollgate_file_refused{of="tls"} 1"#,
        r#"tollgate_file_refused{of="http_tls"} 0"#,
        "tollgate_policy_organizations 2.0",
        "tollgate_ready 1.0",
        "tollgate_store_up 0.0",
        "tollgate_store_losses_total 3.0",
        "tollgate_store_calls_in_flight 4.0",
        "tollgate_queue_waiting 5.0",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}\n{text}");
    }
    assert!(!text.contains("v1"), "{text}");
    drop(other);
}
