//! Errors of a store that is held, over the routes alone.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use http::{Request, header::CONTENT_TYPE};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tollgate::{
    auth::Authenticator,
    grpc::{InProcessService, QuotaServiceConfig},
    http::{HttpState, Readiness, router},
    ledger::{GaugedOrganizations, Ledger, LedgerConfig},
    policy::PolicySource,
    store::{StoreError, UsageLimits, memory::MemoryStore},
    telemetry::metrics::Metrics,
};
use tower_service::Service as _;

use super::new_reserve;
use crate::support::{
    clock::Clock,
    held_store::{HeldCall, HeldCalls, HeldStore, settled},
    world::{NOON, policy_text, small_policy},
};

const REASON: &str = "the test wants it";

/// The routes over a store whose calls the test ends. One decision may wait for it.
async fn held_routes() -> (Router, HeldCalls) {
    let memory = MemoryStore::new(Clock::at(NOON).function(), UsageLimits::default());
    let (store, calls) = HeldStore::over(Arc::new(memory), 1);
    let policy = Arc::new(policy_text(&small_policy("keep_open")));
    let ledger = Ledger::new(LedgerConfig {
        max_waiting: 1,
        ..LedgerConfig::new(policy, store)
    });
    ledger.probe().await.unwrap();
    let config = QuotaServiceConfig {
        ledger: ledger.clone(),
        call_timeout: Duration::from_secs(60),
        message_bytes: 64 * 1024,
        estimate_bytes: 2 << 20,
        open_calls: TaskTracker::new(),
        stopping: CancellationToken::new(),
        metrics: Metrics::default(),
        traces: None,
        authenticator: Authenticator::Everyone,
    };
    let state = HttpState {
        ledger,
        store_kind: "memory".into(),
        call_timeout: config.call_timeout,
        ready: watch::channel(Readiness::Ready).1,
        policy: PolicySource::open(None, 0).unwrap().status(),
        metrics: config.metrics.clone(),
        gauged: Arc::new(GaugedOrganizations::Off),
        authenticator: Authenticator::Everyone,
        api: Some(InProcessService::new(config)),
    };
    (router(state), calls)
}

/// The status, the header `retry-after` and the body of a Reserve.
async fn reserve(mut routes: Router, headers: &[(&str, &str)]) -> (u16, Option<String>, Value) {
    let mut request =
        Request::post("/tollgate.v1.QuotaService/Reserve").header(CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Body::from(new_reserve(1, "a").to_string());
    let answer = routes.call(request.body(body).unwrap()).await.unwrap();
    let retry_after = answer.headers().get("retry-after");
    let retry_after = retry_after.map(|it| it.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, retry_after, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn errors_of_the_store_have_the_statuses_of_the_protocol() {
    let ends: [fn(HeldCall); 4] = [
        |call| {
            call.fail(StoreError::Unreachable {
                reason: REASON.into(),
            })
        },
        |call| {
            call.fail(StoreError::OutcomeUnknown {
                reason: REASON.into(),
            })
        },
        |call| {
            call.fail(StoreError::Corrupt {
                reason: REASON.into(),
            })
        },
        HeldCall::panic,
    ];
    let (unavailable, internal) = ((503, Some("1"), "unavailable"), (500, None, "internal"));
    let failures = [
        (unavailable, "counted nothing"),
        (unavailable, "the same request_id"),
        (internal, "the service's log"),
        (internal, "the service's log"),
    ];
    for (end, ((status, retry_after, code), words)) in ends.into_iter().zip(failures) {
        let (routes, mut calls) = held_routes().await;
        let answer = tokio::spawn(async move { reserve(routes, &[]).await });
        end(calls.next().await);
        let answer = answer.await.unwrap();
        assert_eq!(
            (answer.0, answer.1.as_deref()),
            (status, retry_after),
            "{answer:?}"
        );
        assert_eq!(answer.2["code"], code);
        assert!(
            answer.2["message"].as_str().unwrap().contains(words),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_by_the_deadline_is_unavailable() {
    let (routes, mut calls) = held_routes().await;
    let headers = [("connect-timeout-ms", "200")];
    let (status, _, error) = reserve(routes, &headers).await;
    assert_eq!(
        (status, &error["code"]),
        (503, &"unavailable".into()),
        "{error}"
    );
    // It was asked, and would count.
    calls.next().await.go();
}

#[tokio::test]
async fn more_decisions_than_may_wait_are_shed() {
    let (routes, mut calls) = held_routes().await;
    let under_way = tokio::spawn(reserve(routes.clone(), &[]));
    let held = calls.next().await;
    let waiting = tokio::spawn(reserve(routes.clone(), &[]));
    settled().await;
    let (status, retry_after, error) = reserve(routes, &[]).await;
    assert_eq!(
        (status, retry_after.as_deref()),
        (429, Some("1")),
        "{error}"
    );
    assert_eq!(error["code"], "resource_exhausted");
    held.go();
    calls.next().await.go();
    for answer in [under_way, waiting] {
        assert_eq!(answer.await.unwrap().0, 200);
    }
}
