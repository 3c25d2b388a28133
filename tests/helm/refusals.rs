//! What the chart's templates refuse: values that would count wrongly, show a secret or cut calls without any pod
//! reporting it.

use super::{Manifests, chart, chart_with, template};

/// Helm's message about refused values, on one line.
pub(super) fn refusal(words: &[&str]) -> String {
    let ran = template(&chart(), words);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{words:?}");
    ran.stderr.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `--set` before each word.
fn sets<'a>(words: &[&'a str]) -> Vec<&'a str> {
    words.iter().flat_map(|word| ["--set", word]).collect()
}

const REDIS: [&str; 2] = ["store.type=redis", "redis.existingSecret=it"];

fn with_redis(words: &[&'static str]) -> Vec<&'static str> {
    [&REDIS, words].concat()
}

fn assert_refused(words: &[&str], message: &str) {
    let refused = refusal(&sets(words));
    assert!(refused.contains("These values are refused"), "{refused}");
    assert!(refused.contains(message), "{words:?}: {refused}");
}

#[test]
fn pools_stand_alone_only_with_tiers_or_add_to_a_programme() {
    let org = [
        "policy.orgs.o.tier=1",
        "policy.orgs.o.data_sharing=all",
        "policy.pools.large.models={m}",
    ];
    assert_refused(&org, "policy.pools without policy.tiers");
    for more in [
        "policy.tiers.1.large=1",
        "policy.program.extends=openai-2025-06-27",
    ] {
        let words = sets(&[&org[..], &[more]].concat());
        template(&chart(), &words).expect_success();
    }
}

#[test]
fn values_that_no_pod_could_report_are_refused_with_what_would_be_right() {
    for (words, message) in [
        (
            vec!["store.type=redis"],
            "set one of redis.existingSecret (a Secret with the URL) and redis.url; or store.type: file",
        ),
        (
            with_redis(&["redis.url=redis://r:1"]),
            "set one of redis.existingSecret (a Secret with the URL) and redis.url",
        ),
        (
            vec!["store.type=redis", "redis.url=redis://u:secret@r:1"],
            "redis.url has a user or a password",
        ),
        (
            vec!["redis.url=redis://r:1"],
            "redis.existingSecret or redis.url is set, and store.type is file",
        ),
        (
            vec!["store.type=memory", "redis.existingSecret=it"],
            "redis.existingSecret or redis.url is set, and store.type is memory",
        ),
        (
            vec!["replicas=2"],
            "the store file allows one replica: one process at a time",
        ),
        (
            vec!["store.type=memory", "replicas=3"],
            "the store memory allows one replica: each replica would grant the whole allowance",
        ),
        (
            vec!["autoscaling.enabled=true"],
            "Set store.type: redis, or replicas: 1 without autoscaling.enabled",
        ),
        (
            vec![
                "policy.orgs.o.tier=1",
                "policy.orgs.o.data_sharing=all",
                "existingPolicyConfigMap=it",
            ],
            "policy and existingPolicyConfigMap are both set",
        ),
        (
            vec![
                "tls.existingSecret=a",
                "httpTls.existingSecret=b",
                "httpTls.clientCertificates=required",
            ],
            "with tls, the probes use HTTP, and the kubelet has no certificate",
        ),
        (
            vec!["settings.drain_delay=25s"],
            "settings.grace_period is 25s, less than drain_delay (25s)",
        ),
        (
            vec!["settings.grace_period=7s", "settings.call_timeout=1001ms"],
            "call_timeout (1001ms)",
        ),
        (
            vec!["terminationGracePeriodSeconds=25"],
            "terminationGracePeriodSeconds is 25, not more than settings.grace_period (25s)",
        ),
    ] {
        assert_refused(&words, message);
    }
}

#[test]
fn variables_that_the_chart_sets_itself_are_refused() {
    for name in [
        "TOLLGATE_LISTEN",
        "TOLLGATE_STORE",
        "TOLLGATE_ON_STORE_FAILURE",
        "TOLLGATE_NOTIFY_URL",
    ] {
        let word = format!("extraEnv[0].name={name}");
        assert_refused(&[&word], &format!("extraEnv sets {name}"));
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let refused = refusal(&sets(&[
        "replicas=2",
        "redis.existingSecret=it",
        "settings.grace_period=1s",
    ]));
    for message in [
        "the store file allows one replica",
        "store.type is file",
        "settings.grace_period is 1s",
    ] {
        assert!(refused.contains(message), "{refused}");
    }
}

#[test]
fn alerts_and_dashboard_that_the_chart_does_not_contain_are_refused() {
    for (option, file, message) in [
        (
            "prometheusRule.enabled=true",
            "files/alerts.yaml",
            "this chart has no alerts",
        ),
        (
            "dashboard.enabled=true",
            "files/dashboard.json",
            "this chart has no dashboard",
        ),
    ] {
        for text in ["", "{}"] {
            let chart = chart_with(&[(file, text)]);
            let ran = template(chart.path(), &["--set", option]);
            assert_eq!(ran.code, Some(1));
            assert!(ran.stderr.contains(message), "{ran:?}");
        }
    }
}

#[test]
fn a_parent_chart_may_share_values_of_its_own() {
    let words = ["--set", "global.team=platform,enabled=true"];
    let text = template(&chart(), &words).expect_success();
    assert!(Manifests::parse(&text).container().is_object());
}

/// Values that are close to a refused one.
#[test]
fn valid_combinations_are_accepted() {
    for words in [
        // Each port has a Service of its own.
        vec!["service.type=LoadBalancer", "service.httpPort=50051"],
        with_redis(&[
            "podDisruptionBudget.maxUnavailable=null",
            "podDisruptionBudget.minAvailable=50%",
        ]),
        with_redis(&["podDisruptionBudget.maxUnavailable=100%"]),
        with_redis(&[
            "autoscaling.enabled=true",
            "autoscaling.targetCPUUtilizationPercentage=150",
        ]),
        vec![
            "serviceMonitor.enabled=true",
            "serviceMonitor.interval=1m30s",
        ],
        vec!["serviceMonitor.interval=5s"],
        vec![
            r"podAnnotations.container\.apparmor\.security\.beta\.kubernetes\.io/tollgate=runtime/default",
        ],
        vec!["probes.liveness.periodSeconds=null"],
        vec!["settings.bounds.connections=null"],
        vec!["settings.bounds=null", "settings.redis=null"],
        vec!["podAnnotations=null", "podLabels=null", "commonLabels=null"],
        vec![
            "prometheusRule.enabled=true",
            "prometheusRule.runbookBaseUrl=null",
        ],
        vec![
            "store.type=redis",
            "redis.url=rediss+sentinel://s:1/name",
            "redis.sentinel.existingSecret=it",
        ],
    ] {
        template(&chart(), &sets(&words)).expect_success();
    }
}
