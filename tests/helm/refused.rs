//! What the chart refuses: values that can't be meant together.

use super::{Manifests, chart, chart_with, template};

/// What helm says of values that are refused, in one line.
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

#[test]
fn values_that_cannot_be_meant_together_are_refused_with_what_would_be_right() {
    let redis = |words: &[&'static str]| [&REDIS, words].concat();
    let acme = "policy.orgs.org-acme";
    let org = |word: &str| format!("{acme}.{word}");
    let (tier, all) = (org("tier=3"), org("data_sharing=all"));
    let selected = org("data_sharing=selected");
    let projects = org("projects={p}");
    for (words, said) in [
        (
            vec!["store.type=redis"],
            "set redis.existingSecret (a Secret with its URL) or redis.url; or store.type: file",
        ),
        (redis(&["redis.url=redis://r:1"]), "both name a Redis"),
        (
            vec!["store.type=redis", "redis.url=redis://u:secret@r:1"],
            "redis.url holds a user or a password",
        ),
        (
            vec![
                "store.type=redis",
                "redis.url=redis://r:1",
                "redis.tls.existingSecret=it",
            ],
            "redis.tls is for a Redis that is reached over TLS",
        ),
        (redis(&["redis.tls.certKey=tls.crt"]), "go together"),
        (
            redis(&["redis.login.user=u"]),
            "redis.login.user needs redis.login.existingSecret",
        ),
        (
            redis(&["redis.sentinel.user=u"]),
            "redis.sentinel.user needs redis.sentinel.existingSecret",
        ),
        (
            vec!["redis.url=redis://r:1"],
            "redis.url is set, and store.type is file",
        ),
        (
            vec!["redis.existingSecret=it"],
            "redis.existingSecret is set, and store.type is file",
        ),
        (
            vec!["store.type=memory", "redis.sentinel.existingSecret=it"],
            "redis.sentinel.existingSecret is set, and store.type is memory",
        ),
        (
            vec!["replicas=2"],
            "replicas is 2, and the store file takes one: one process at a time",
        ),
        (
            vec!["store.type=memory", "replicas=3"],
            "replicas is 3, and the store memory takes one: each would grant the whole allowance",
        ),
        (
            vec!["autoscaling.enabled=true"],
            "autoscaling.enabled needs store.type: redis",
        ),
        (
            redis(&["autoscaling.enabled=true", "autoscaling.minReplicas=9"]),
            "autoscaling.minReplicas is more than autoscaling.maxReplicas",
        ),
        (
            redis(&["autoscaling.enabled=true", "replicas=2"]),
            "both say how many",
        ),
        (
            redis(&["autoscaling.enabled=true", "resources.requests.cpu=null"]),
            "resources.requests.cpu, which is not set",
        ),
        (
            redis(&["podDisruptionBudget.minAvailable=1"]),
            "one of maxUnavailable and minAvailable",
        ),
        (
            redis(&["podDisruptionBudget.maxUnavailable=null"]),
            "one of maxUnavailable and minAvailable",
        ),
        (
            redis(&[
                "podDisruptionBudget.maxUnavailable=null",
                "podDisruptionBudget.minAvailable=2",
            ]),
            "podDisruptionBudget.minAvailable is 2 of 2 replicas: no node could be drained",
        ),
        (
            redis(&["podDisruptionBudget.maxUnavailable=0%"]),
            "podDisruptionBudget.maxUnavailable is 0",
        ),
        // Of two, 51 % are two.
        (
            redis(&[
                "podDisruptionBudget.maxUnavailable=null",
                "podDisruptionBudget.minAvailable=51%",
            ]),
            "podDisruptionBudget.minAvailable is 51% of 2 replicas: no node could be drained",
        ),
        (
            redis(&[
                "podDisruptionBudget.maxUnavailable=null",
                "podDisruptionBudget.minAvailable=100%",
                "replicas=9",
            ]),
            "podDisruptionBudget.minAvailable is 100% of 9 replicas",
        ),
        (
            redis(&["redis.tls.certKey=a", "redis.tls.keyKey=b"]),
            "need redis.tls.existingSecret",
        ),
        (
            vec![
                "store.type=redis",
                "redis.url=redis://r:1",
                "redis.sentinel.existingSecret=it",
            ],
            "redis.sentinel is for a Redis that sentinels watch",
        ),
        (
            vec!["settings.redis.wait_replicas=0"],
            "settings.redis.wait_replicas is set, and store.type is file",
        ),
        (
            vec!["store.type=memory", "redis.sentinel.user=u"],
            "redis.sentinel.user is set, and store.type is memory",
        ),
        (
            vec!["redis.tls.certKey=a"],
            "redis.tls.certKey is set, and store.type is file",
        ),
        (
            vec!["settings.call_timeout=61s", "settings.grace_period=5m"],
            "settings.call_timeout is 61s, and must be more than 0 and at most 60s",
        ),
        (
            vec!["settings.bounds.idle_time=8days"],
            "settings.bounds.idle_time is 8days, and must be 1s to 7days",
        ),
        (
            vec!["settings.usage_retention=0d"],
            "settings.usage_retention is 0d, and must be 1day to 3660days",
        ),
        (
            vec!["fullnameOverride=1st"],
            "\"1st\" can't be the name of a Service",
        ),
        (
            vec!["fullnameOverride=quota.internal"],
            "\"quota.internal\" can't be the name of a Service",
        ),
        (
            vec!["nameOverride=a.b"],
            "\"rel-a.b\" can't be the name of a Service",
        ),
        (
            vec!["service.httpPort=50051"],
            "service.grpcPort and service.httpPort are both 50051",
        ),
        (
            vec!["service.loadBalancerClass=it", "service.type=NodePort"],
            "service.loadBalancerClass needs service.type: LoadBalancer",
        ),
        (
            vec!["service.loadBalancerSourceRanges={10.0.0.0/8}"],
            "service.loadBalancerSourceRanges needs service.type: LoadBalancer",
        ),
        (
            vec!["service.externalTrafficPolicy=Local"],
            "service.externalTrafficPolicy needs service.type: LoadBalancer or NodePort",
        ),
        (
            vec![
                "serviceMonitor.interval=1m5s",
                "serviceMonitor.scrapeTimeout=66s",
            ],
            "serviceMonitor.scrapeTimeout is 66s, longer than serviceMonitor.interval (1m5s)",
        ),
        (
            vec!["serviceMonitor.interval=0s"],
            "serviceMonitor.interval is 0",
        ),
        (
            vec![
                r"podAnnotations.container\.apparmor\.security\.beta\.kubernetes\.io/tollgate=unconfined",
            ],
            "container.apparmor.security.beta.kubernetes.io/tollgate to \"unconfined\": the restricted",
        ),
        (
            vec!["extraEnv[0].name=TOLLGATE_ON_STORE_FAILURE"],
            "extraEnv sets TOLLGATE_ON_STORE_FAILURE",
        ),
        (
            vec![&tier, &all, "policy.program.ends_on=2027-02-29"],
            "policy.program.ends_on is 2027-02-29, and there is no such day",
        ),
        (
            vec![
                &tier,
                &all,
                "policy.pools.large.models={a,b}",
                "policy.pools.mini.models={c,a}",
            ],
            "policy.pools.mini lists a, which is in the pool large already",
        ),
        (
            vec![
                &tier,
                &all,
                "policy.pools.large.models={ft:gpt-4o:acme}",
                "policy.pools.mini.models={c}",
            ],
            "policy.pools.large lists ft:gpt-4o:acme: fine-tuned models are never covered",
        ),
        (
            vec!["tls.clientCertificates=optional"],
            "tls.clientCertificates needs tls.existingSecret",
        ),
        (
            vec!["httpTls.clientCertificates=required"],
            "httpTls.clientCertificates needs httpTls.existingSecret",
        ),
        (
            vec![
                "tls.existingSecret=a",
                "httpTls.existingSecret=b",
                "httpTls.clientCertificates=required",
            ],
            "leave no way for probes",
        ),
        (
            vec!["callers.existingSecret=it"],
            "callers.existingSecret needs tls.existingSecret",
        ),
        (
            vec!["settings.reflection=callers"],
            "settings.reflection: callers needs callers.existingSecret",
        ),
        (
            vec!["settings.drain_delay=25s"],
            "settings.grace_period is 25s, and must hold the drain_delay (25s)",
        ),
        (
            vec!["settings.grace_period=7s", "settings.call_timeout=1001ms"],
            "an open call (call_timeout, 1001ms)",
        ),
        (
            vec!["settings.grace_period=61min"],
            "settings.grace_period must be at most 1h",
        ),
        (
            vec!["terminationGracePeriodSeconds=25"],
            "terminationGracePeriodSeconds is 25, and must be more than settings.grace_period (25s)",
        ),
        (
            vec!["extraEnv[0].name=TOLLGATE_LISTEN"],
            "extraEnv sets TOLLGATE_LISTEN",
        ),
        (
            vec!["extraEnv[0].name=TOLLGATE_STORE"],
            "extraEnv sets TOLLGATE_STORE",
        ),
        (
            vec![&tier, &all, "existingPolicyConfigMap=it"],
            "policy and existingPolicyConfigMap both give the policy",
        ),
        (vec!["policy.program.name=it"], "policy.orgs is empty"),
        (
            vec![&tier, &all, "policy.pools.tiny.models={m}"],
            "policy.tiers.1 must name the allowance of each pool, and no other: tiny",
        ),
        (
            vec![
                &tier,
                &all,
                "policy.tiers.1.large=1",
                "policy.tiers.1.mini=1",
            ],
            "policy.orgs.org-acme has tier 3, and there is no such tier",
        ),
        (
            vec![&tier, &selected],
            "policy.orgs.org-acme: projects stands with data_sharing: selected",
        ),
        (
            vec![&tier, &all, &projects],
            "policy.orgs.org-acme: projects stands with",
        ),
    ] {
        let refused = refusal(&sets(&words));
        assert!(
            refused.contains("These values are refused"),
            "{words:?}: {refused}"
        );
        assert!(refused.contains(said), "{words:?}: {refused}");
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let refused = refusal(&sets(&[
        "replicas=2",
        "callers.existingSecret=it",
        "settings.grace_period=1s",
    ]));
    for said in [
        "replicas is 2",
        "callers.existingSecret needs",
        "settings.grace_period is 1s",
    ] {
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn alerts_and_dashboard_that_the_chart_does_not_hold_are_refused() {
    for (on, file, said) in [
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
            let ran = template(chart.path(), &["--set", on]);
            assert_eq!(ran.code, Some(1));
            assert!(ran.stderr.contains(said), "{ran:?}");
        }
    }
}

#[test]
fn a_chart_around_this_one_may_share_values_of_its_own() {
    let words = ["--set", "global.team=platform,enabled=true"];
    let text = template(&chart(), &words).good();
    assert!(Manifests::parse(&text).container().is_object());
}

/// What looks like what is refused, and is right.
#[test]
fn values_that_can_be_meant_are_taken() {
    for words in [
        // Each port has a Service of its own.
        vec!["service.type=LoadBalancer", "service.httpPort=50051"],
        [
            &REDIS[..],
            &[
                "podDisruptionBudget.maxUnavailable=null",
                "podDisruptionBudget.minAvailable=50%",
            ],
        ]
        .concat(),
        [&REDIS[..], &["podDisruptionBudget.maxUnavailable=100%"]].concat(),
        [
            &REDIS[..],
            &[
                "autoscaling.enabled=true",
                "autoscaling.targetCPUUtilizationPercentage=150",
            ],
        ]
        .concat(),
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
        template(&chart(), &sets(&words)).good();
    }
}
