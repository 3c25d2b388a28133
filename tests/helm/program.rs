//! The real program with the rendered settings, policy, variables, probes and test pod.

use std::time::{Duration, Instant};

use serde_json::Value;
use tollgate::grpc::proto::{
    BilledReason, GetQuotaRequest, ReserveRequest, ReserveResponse, Verdict,
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{pod::Pod, render, render_with};
use crate::{
    server::http_get,
    support::{tollgate::program, tools::run},
};

fn is_free(answer: &ReserveResponse) -> bool {
    answer.verdict() == Verdict::Free
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_values_serves_the_demo_organization_from_a_file() {
    let pod = Pod::start("default");
    pod.probe().await;
    let answer = pod.reserve("org-demo", "p", "gpt-4o", 1_000_000).await;
    assert!(is_free(&answer), "{answer:?}");
    assert!(
        pod.root
            .path()
            .join("var/lib/tollgate/tollgate.db")
            .exists()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_the_values_decides_by_its_very_names_and_numbers() {
    let pod = Pod::start("file");
    let file = pod.root.path().join("etc/tollgate/policy/policy.toml");
    let checked = run(program().arg("check-policy").arg(file)).expect_success();
    assert!(checked.contains("is valid"), "{checked}");
    pod.probe().await;
    let most = pod
        .reserve("org.with.dots", "proj.search", "gpt-4.1", 250_000)
        .await;
    assert!(is_free(&most), "{most:?}");
    let more = pod
        .reserve("org.with.dots", "proj.search", "gpt-4.1", 1)
        .await;
    assert!(!is_free(&more), "{more:?}");
    let small = pod
        .reserve("org.with.dots", "proj \"quoted\"", "gpt-4o.mini", 7)
        .await;
    assert_eq!(
        (is_free(&small), small.allowance),
        (true, 9_007_199_254_740_991)
    );
    let request = GetQuotaRequest {
        org: "ünïcode & <more>".to_owned(),
    };
    let quota = pod
        .service
        .client()
        .get_quota(request)
        .await
        .unwrap()
        .into_inner();
    assert!(!quota.enrolled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_redis_serves_the_programme_to_the_organizations_of_the_values() {
    // This Redis has no replicas.
    let pod = Pod::of(render_with(
        "redis",
        &["--set", "settings.redis.wait_replicas=0"],
    ));
    pod.probe().await;
    let answer = pod
        .reserve("org-acme", "proj-search", "gpt-4o", 1_000_000)
        .await;
    assert!(is_free(&answer), "{answer:?}");
    let other = pod.reserve("org-acme", "another", "gpt-4o", 1).await;
    assert!(!is_free(&other), "{other:?}");
    let keys = pod._redis.as_ref().unwrap().strings(&["KEYS", "*"]);
    assert!(
        !keys.is_empty() && keys.iter().all(|it| it.starts_with("quota:")),
        "{keys:?}"
    );
}

/// Its readiness probe succeeds, so the pod stays in its Service, and callers get BILLED.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_answers_billed_is_ready_for_it_without_its_redis() {
    let words = "settings.redis.wait_replicas=0,settings.on_store_failure=billed";
    let mut pod = Pod::of(render_with("redis", &["--set", words]));
    pod.probe().await;
    drop(pod._redis.take());
    pod.service
        .wait_for_readiness(ServingStatus::NotServing)
        .await;
    let probe = &pod.manifests.container()["readinessProbe"];
    let service = probe["grpc"]["service"].as_str().unwrap();
    assert_eq!(
        pod.service.health(service).await,
        Some(ServingStatus::Serving)
    );
    let answer = pod.reserve("org-acme", "proj-search", "gpt-4o", 1).await;
    assert_eq!(answer.billed_reason(), BilledReason::StoreUnavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_an_existing_policy_and_a_claim_serves() {
    let pod = Pod::start("existing-policy");
    pod.probe().await;
    assert!(is_free(&pod.reserve("org-x", "p", "gpt-4o", 250_000).await));
    assert!(!is_free(&pod.reserve("org-demo", "p", "gpt-4o", 1).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_in_memory_and_scaled_ones_serve() {
    for set in ["memory", "scaled"] {
        let pod = Pod::start(set);
        pod.probe().await;
        assert!(
            is_free(&pod.reserve("org-demo", "p", "gpt-4o", 1).await),
            "{set}"
        );
    }
}

/// With TLS on the gRPC port, the probes use these HTTP paths, which answer like gRPC health.
#[tokio::test(flavor = "multi_thread")]
async fn the_paths_of_probes_over_http_are_those_of_the_service() {
    let without_tls = Pod::start("default");
    let over_http = render("mtls");
    without_tls
        .service
        .wait_for_readiness(ServingStatus::Serving)
        .await;
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = over_http.container()[kind]["httpGet"]["path"]
            .as_str()
            .unwrap();
        let (head, body) = http_get(&without_tls.service.http_addr, path);
        assert!(
            head.starts_with("HTTP/1.1 200 ") && body.starts_with("ok"),
            "{kind}: {head}"
        );
    }
}

/// Twice: the request id contains the pod's uid.
#[tokio::test(flavor = "multi_thread")]
async fn the_test_pod_reserves_and_gives_back_each_time_that_it_runs() {
    for set in ["default", "file"] {
        let pod = Pod::of(render_with(set, &["--set", "test.project=proj.search"]));
        let test = &pod.manifests.tests()[0];
        assert_eq!(test["metadata"]["annotations"]["helm.sh/hook"], "test");
        assert_eq!(test["spec"]["restartPolicy"], "Never");
        let (first, second) = (&test["spec"]["initContainers"], &test["spec"]["containers"]);
        assert_eq!(
            (
                first.as_array().unwrap().len(),
                second.as_array().unwrap().len()
            ),
            (1, 1)
        );
        for uid in ["11111111-aaaa", "22222222-bbbb"] {
            let reserved = pod.run_client(&first[0], uid).expect_success();
            let reserved: Value = serde_json::from_str(&reserved).unwrap();
            assert_eq!(reserved["replayed"], false, "{set}: {reserved}");
            let released = pod.run_client(&second[0], uid).expect_success();
            let released: Value = serde_json::from_str(&released).unwrap();
            assert_eq!(released["released_tokens"], 1, "{set}: {released}");
        }
        let org = first[0]["args"][1].as_str().unwrap().to_owned();
        let quota = pod
            .service
            .client()
            .get_quota(GetQuotaRequest { org })
            .await;
        assert!(
            quota
                .unwrap()
                .into_inner()
                .pools
                .iter()
                .all(|it| it.used == 0),
            "{set}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_with_tls_and_callers_start_with_what_their_secrets_hold() {
    for set in ["mtls", "http-tls", "otlp"] {
        let pod = Pod::start(set);
        let lines = pod.service.log();
        let logged = |message: &str| lines.iter().any(|line| line["message"] == message);
        assert_eq!(logged("only known callers are answered"), set == "mtls");
        // Plaintext is refused; other tests connect over TLS.
        let mut client = pod.service.client();
        let without_tls = client.reserve(ReserveRequest::default());
        let code = without_tls.await.unwrap_err().code();
        assert_eq!(
            code == Code::InvalidArgument,
            set == "otlp",
            "{set}: {code:?}"
        );
        if set != "http-tls" {
            let deadline = Instant::now() + Duration::from_secs(10);
            let probe = &pod.manifests.container()["readinessProbe"];
            let path = probe["httpGet"]["path"].as_str().unwrap_or("/readyz");
            while !http_get(&pod.service.http_addr, path)
                .0
                .starts_with("HTTP/1.1 200 ")
            {
                assert!(Instant::now() < deadline, "{set} is not ready");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
