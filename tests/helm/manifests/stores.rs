//! The manifests of each store: the workload, its replicas, and its needs.

use serde_json::{Value, json};

use super::{mounted_secret, names, secret_variable, service_probes, variable};
use crate::helm::{Manifests, render, render_with, selects, toml};

#[test]
fn without_values_there_is_one_replica_on_a_volume_claim_and_nothing_else_is_needed() {
    let made = render("default");
    let mut kinds: Vec<&str> = made
        .0
        .iter()
        .map(|it| it["kind"].as_str().unwrap())
        .collect();
    kinds.sort_unstable();
    let few = [
        "ConfigMap",
        "Pod",
        "Service",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    ];
    assert_eq!(kinds, few);
    let spec = &made.one("StatefulSet")["spec"];
    assert_eq!(
        (&spec["replicas"], &spec["serviceName"]),
        (&json!(1), &json!("rel-tollgate-headless"))
    );
    // Otherwise a pod that never becomes ready would block the next upgrade.
    assert_eq!(spec["podManagementPolicy"], "Parallel");
    let claim = &spec["volumeClaimTemplates"][0]["spec"];
    assert_eq!(
        claim,
        &json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}})
    );
    assert_eq!(
        spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"],
        "Retain"
    );
    assert_eq!(
        toml(made.settings()),
        json!({
            "listen": "0.0.0.0:50051", "http_listen": "0.0.0.0:9464",
            "store": "file:/var/lib/tollgate/tollgate.db",
            "drain_delay": "5s", "grace_period": "25s",
            "bounds": {"connections": 1000},
        })
    );
    assert_eq!(made.policy(), None);
    assert_eq!(made.pod()["terminationGracePeriodSeconds"], 30);
    assert_eq!(made.pod()["enableServiceLinks"], false);
    let [startup, liveness, readiness] = service_probes(&made);
    let grpc = |name: &str| json!({"port": 50051, "service": name});
    assert_eq!(startup["grpc"], grpc("liveness"));
    assert_eq!(liveness["grpc"], grpc("liveness"));
    assert_eq!(readiness["grpc"], grpc("readiness"));
    let headless = made.named("Service", "rel-tollgate-headless").unwrap();
    assert_eq!(headless["spec"]["clusterIP"], "None");
    let service = made.named("Service", "rel-tollgate").unwrap();
    let port = |name: &str, port: u16| json!({"name": name, "port": port, "targetPort": name, "protocol": "TCP", "appProtocol": name});
    assert_eq!(
        service["spec"]["ports"],
        json!([port("grpc", 50051), port("http", 9464)])
    );
    assert_eq!(service["spec"]["type"], "ClusterIP");
    assert_eq!(
        made.one("ServiceAccount")["automountServiceAccountToken"],
        false
    );
}

#[test]
fn replicas_that_share_a_redis_roll_one_by_one_and_none_is_missing() {
    let made = render("redis");
    let spec = &made.one("Deployment")["spec"];
    assert_eq!(spec["replicas"], 3);
    let rolling =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    assert_eq!(spec["strategy"], rolling);
    let url = variable(&made, "TOLLGATE_STORE").unwrap();
    assert_eq!(
        url["valueFrom"],
        secret_variable("tollgate-redis", "redis-url")
    );
    let settings = toml(made.settings());
    assert_eq!(settings.get("store"), None);
    let redis = json!({"key_prefix": "quota:", "connect_timeout": "250ms", "wait_replicas": 1});
    assert_eq!(settings["redis"], redis);
    let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let image = format!("images.example/tollgate@{digest}");
    assert_eq!(made.container()["image"], image);
    assert_eq!(made.one("PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
    let spread = &made.pod()["topologySpreadConstraints"][0];
    assert_eq!(spread["whenUnsatisfiable"], "ScheduleAnyway");
    let labels = &made.workload()["spec"]["template"]["metadata"]["labels"];
    assert!(selects(&spread["labelSelector"]["matchLabels"], labels));
    // Sections that the values leave out are the programme's.
    let policy = toml(made.policy().unwrap());
    let acme =
        json!({"org-acme": {"tier": 3, "data_sharing": "selected", "projects": ["proj-search"]}});
    assert_eq!(policy["orgs"], acme);
    assert_eq!(policy["program"], json!({"extends": "openai-2026-09-28"}));
    // The default is two.
    let two = render_with("redis", &["--set", "replicas=null"]);
    assert_eq!(two.one("Deployment")["spec"]["replicas"], 2);
}

#[test]
fn sentinels_and_certificates_come_from_secrets() {
    let made = render("sentinel");
    let password = variable(&made, "TOLLGATE_REDIS_SENTINEL_PASSWORD").unwrap();
    assert_eq!(
        password["valueFrom"],
        secret_variable("sentinel-login", "sentinel-password")
    );
    let password = variable(&made, "TOLLGATE_REDIS_PASSWORD").unwrap();
    assert_eq!(
        password["valueFrom"],
        secret_variable("redis-login", "password")
    );
    let url = variable(&made, "TOLLGATE_STORE").unwrap();
    assert_eq!(url["valueFrom"], secret_variable("tollgate-redis", "url"));
    let files = |name: &str| format!("/etc/tollgate/redis-tls/{name}");
    assert_eq!(
        toml(made.settings())["redis"],
        json!({
            "ca_file": files("ca.crt"), "cert_file": files("tls.crt"), "key_file": files("tls.key"),
            "username": "counter", "sentinel_user": "watcher", "unsafe_eviction": "warn",
            "database": 3,
        })
    );
    assert_eq!(
        mounted_secret(&made, "redis-tls").unwrap(),
        "redis-certificates"
    );
}

#[test]
fn a_cluster_without_a_password_is_named_in_the_settings() {
    let made = render("cluster");
    assert_eq!(variable(&made, "TOLLGATE_STORE"), None);
    let settings = toml(made.settings());
    assert_eq!(
        settings["store"],
        "redis+cluster://redis-0.redis:6379,redis-1.redis:6379"
    );
    assert_eq!(settings["listen"], "[::]:50051");
    assert_eq!(settings["http_listen"], "[::]:9464");
    let headless = made.named("Service", "rel-tollgate-headless").unwrap();
    assert_eq!(
        headless["metadata"]["annotations"],
        json!({"example.org/zone": "private"})
    );
    assert_eq!(headless["spec"]["ports"].as_array().unwrap().len(), 1);
    // The headless Service is optional.
    assert_eq!(names(&render("redis"), "Service"), ["rel-tollgate"]);
}

#[test]
fn a_policy_and_a_volume_claim_that_are_there_already_are_used() {
    let made = render("existing-policy");
    assert_eq!(names(&made, "ConfigMap"), ["quota"]);
    assert_eq!(
        toml(made.settings())["policy"],
        "/etc/tollgate/policy/the-policy.toml"
    );
    let volumes = made.pod()["volumes"].as_array().unwrap();
    let policy = json!({"name": "policy", "configMap": {"name": "quota-policy"}});
    let data = json!({"name": "data", "persistentVolumeClaim": {"claimName": "old-counters"}});
    assert!(
        volumes.contains(&policy) && volumes.contains(&data),
        "{volumes:?}"
    );
    assert_eq!(
        made.one("StatefulSet")["spec"].get("volumeClaimTemplates"),
        None
    );
    assert_eq!(names(&made, "StatefulSet"), ["quota"]);
    assert!(made.all("ServiceAccount").is_empty());
    assert_eq!(made.pod()["serviceAccountName"], "default");
    // Its organizations are unknown to the chart.
    assert!(made.tests().is_empty());
    assert_eq!(
        render_with("existing-policy", &["--set", "test.org=org-x"])
            .tests()
            .len(),
        1
    );
}

/// Without a store no pod would be ready, and the Service would have none to answer BILLED.
#[test]
fn a_pod_that_answers_billed_without_a_store_stays_in_its_service() {
    let billed = ["--set", "settings.on_store_failure=billed"];
    let probes = |set: &str, words: &[&str]| {
        let made = render_with(set, words);
        service_probes(&made).map(Clone::clone)
    };
    for set in ["default", "redis", "mtls", "http-tls"] {
        let [startup, _, readiness] = probes(set, &billed);
        for way in ["grpc", "httpGet"] {
            assert_eq!(readiness.get(way), startup.get(way), "{set}");
        }
        for other in [&["--set", "settings.on_store_failure=error"], [].as_slice()] {
            let [startup, _, readiness] = probes(set, other);
            let asks = |probe: &Value| [probe["grpc"].clone(), probe["httpGet"].clone()];
            assert_ne!(asks(&readiness), asks(&startup), "{set}");
        }
    }
    let [_, _, readiness] = probes("default", &billed);
    assert_eq!(readiness["grpc"]["service"], "liveness");
    assert_eq!(readiness["periodSeconds"], 2);
    let [_, _, readiness] = probes("mtls", &billed);
    assert_eq!(readiness["httpGet"]["path"], "/livez");
}

#[test]
fn a_load_balancer_is_as_the_values_have_it() {
    let made = render_with(
        "redis",
        &[
            "--set",
            "service.type=LoadBalancer,service.loadBalancerClass=example.org/inner",
            "--set",
            "service.loadBalancerSourceRanges={10.0.0.0/8,fd00::/8},service.externalTrafficPolicy=Local",
        ],
    );
    let spec = &made.named("Service", "rel-tollgate").unwrap()["spec"];
    assert_eq!(spec["loadBalancerClass"], "example.org/inner");
    assert_eq!(
        spec["loadBalancerSourceRanges"],
        json!(["10.0.0.0/8", "fd00::/8"])
    );
    assert_eq!(spec["externalTrafficPolicy"], "Local");
    let http = made.named("Service", "rel-tollgate-http").unwrap();
    for field in [
        "loadBalancerClass",
        "loadBalancerSourceRanges",
        "externalTrafficPolicy",
    ] {
        assert_eq!(http["spec"].get(field), None);
        let plain = render("redis");
        let service = plain.named("Service", "rel-tollgate").unwrap();
        assert_eq!(service["spec"].get(field), None);
    }
}

/// The limits on callers fit in the memory limit, by the formula of docs/OPERATIONS.md, "Sizing".
#[test]
fn the_memory_that_callers_can_make_a_pod_use_is_below_its_limit() {
    let made = render("default");
    let connections = toml(made.settings())["bounds"]["connections"]
        .as_u64()
        .unwrap();
    let resources = &made.container()["resources"];
    assert_eq!(
        resources["requests"],
        json!({"cpu": "500m", "memory": "128Mi"})
    );
    let limit = resources["limits"]["memory"].as_str().unwrap();
    let limit: u64 = limit.strip_suffix("Mi").unwrap().parse().unwrap();
    assert_eq!(resources["limits"].get("cpu"), None);
    // The program and its queue, 256 KiB per connection, and a policy of 1 MiB while it is read.
    let mib = 100 + connections / 4 + 40;
    assert!(mib * 5 / 4 <= limit, "{mib} of {limit} MiB");
}

#[test]
fn two_memory_stores_are_never_there_at_once() {
    let made = render("memory");
    let spec = &made.one("Deployment")["spec"];
    assert_eq!(
        (&spec["replicas"], &spec["strategy"]),
        (&json!(1), &json!({"type": "Recreate"}))
    );
    assert_eq!(toml(made.settings())["store"], "memory:");
    assert!(made.all("PodDisruptionBudget").is_empty());
    // Only gRPC is exposed beyond the cluster.
    let service = made.named("Service", "rel-tollgate").unwrap();
    assert_eq!(service["spec"]["type"], "NodePort");
    assert_eq!(service["spec"]["ports"].as_array().unwrap().len(), 1);
    let http = made.named("Service", "rel-tollgate-http").unwrap();
    assert_eq!(
        (&http["spec"]["type"], &http["spec"]["ports"][0]["name"]),
        (&json!("ClusterIP"), &json!("http"))
    );
}

#[test]
fn a_scaled_deployment_has_its_number_from_the_autoscaler() {
    let made = render("scaled");
    assert_eq!(made.one("Deployment")["spec"].get("replicas"), None);
    let scaler = &made.one("HorizontalPodAutoscaler")["spec"];
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "rel-tollgate"});
    assert_eq!(scaler["scaleTargetRef"], target);
    assert_eq!(
        (&scaler["minReplicas"], &scaler["maxReplicas"]),
        (&json!(3), &json!(9))
    );
    assert_eq!(
        scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"],
        300
    );
    let budget = &made.one("PodDisruptionBudget")["spec"];
    assert_eq!(
        (&budget["minAvailable"], budget.get("maxUnavailable")),
        (&json!(2), None)
    );
    assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    let word = "podDisruptionBudget.unhealthyPodEvictionPolicy=IfHealthyBudget";
    let kept = render_with("scaled", &["--set", word]);
    let budget = &kept.one("PodDisruptionBudget")["spec"];
    assert_eq!(budget["unhealthyPodEvictionPolicy"], "IfHealthyBudget");
    // A new pod gets callers within the hour, unless the values set another age.
    let age = |made: &Manifests| toml(made.settings())["bounds"]["connection_age"].clone();
    assert_eq!(age(&made), "30m");
    let word = "settings.bounds.connection_age=2h";
    assert_eq!(age(&render_with("scaled", &["--set", word])), "2h");
    assert!(age(&render("redis")).is_null());
    let policy = &made.one("NetworkPolicy")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    let from = |at: usize| policy["ingress"][at]["from"].as_array().unwrap();
    let namespace = |name: &str| json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}});
    assert_eq!(policy["ingress"][0]["ports"][0]["port"], "grpc");
    assert_eq!((from(0).len(), &from(0)[0]), (2, &namespace("gateways")));
    // The test pod is admitted, too.
    let test = &made.tests()[0]["metadata"]["labels"];
    assert!(selects(&from(0)[1]["podSelector"]["matchLabels"], test));
    assert_eq!(policy["ingress"][1]["ports"][0]["port"], "http");
    assert_eq!(from(1), &[namespace("monitoring")]);
    // DNS, and the rules of the values.
    assert_eq!(
        policy["egress"][0]["ports"][0],
        json!({"port": 53, "protocol": "UDP"})
    );
    assert_eq!(policy["egress"][1]["ports"][0]["port"], 6379);
}
