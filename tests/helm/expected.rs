//! What is expected of each set of values.

use serde_json::{Value, json};

use super::{ALERTS, DASHBOARD, Manifests, SETS, render, render_with, selects, toml};

fn names(manifests: &Manifests, kind: &str) -> Vec<String> {
    let all = manifests.all(kind).into_iter();
    all.map(|it| it["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// A variable of the service's container.
fn variable<'m>(manifests: &'m Manifests, name: &str) -> Option<&'m Value> {
    let variables = manifests.container()["env"].as_array().unwrap();
    variables.iter().find(|it| it["name"] == name)
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|it| it.as_str().unwrap().to_owned()).collect()
}

fn secret_variable(secret: &str, key: &str) -> Value {
    json!({"secretKeyRef": {"name": secret, "key": key}})
}

/// The Secret that is mounted as a directory below /etc/tollgate.
fn mounted_secret(manifests: &Manifests, directory: &str) -> Option<String> {
    let path = format!("/etc/tollgate/{directory}");
    let mounts = manifests.container()["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|it| it["mountPath"] == path)?;
    assert_eq!(mount["readOnly"], true);
    let volumes = manifests.pod()["volumes"].as_array().unwrap();
    let volume = volumes
        .iter()
        .find(|it| it["name"] == mount["name"])
        .unwrap();
    assert_eq!(volume["secret"]["defaultMode"], 0o440);
    Some(volume["secret"]["secretName"].as_str().unwrap().to_owned())
}

fn service_probes(manifests: &Manifests) -> [&Value; 3] {
    ["startupProbe", "livenessProbe", "readinessProbe"].map(|it| &manifests.container()[it])
}

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
fn the_policy_is_rendered_to_toml_that_means_the_same() {
    let made = render("file");
    let policy = made.policy().unwrap();
    assert_eq!(
        toml(policy),
        json!({
            "program": {
                "name": "the \"programme\", with \\ and ü", "overflow": "close_until_reset",
                "covered_workloads": ["inference", "evaluation"], "ends_on": "2027-01-31",
            },
            "pools": {
                "large": {"models": ["gpt-4.1", "o1"]},
                "small ones": {"models": ["gpt-4o.mini"]},
            },
            "tiers": {
                "1": {"large": 250_000, "small ones": 9_007_199_254_740_991_u64},
                "3": {"large": 1_000_000, "small ones": 10_000_000},
            },
            "orgs": {
                "org.with.dots": {
                    "tier": 1, "data_sharing": "selected",
                    "projects": ["proj.search", "proj \"quoted\""], "zero_data_retention": false,
                },
                "org-acme": {"tier": 3, "data_sharing": "all", "enterprise": true},
                "ünïcode & <more>": {"tier": 3, "data_sharing": "off"},
            },
        })
    );
    // As people write it: no exponents, and no quotes where there need be none.
    for line in [
        "large = 250000",
        "[orgs.\"org.with.dots\"]",
        "[orgs.org-acme]",
        "[tiers.1]",
    ] {
        assert!(policy.lines().any(|it| it == line), "{line}: {policy}");
    }
    let claim = &made.one("StatefulSet")["spec"]["volumeClaimTemplates"][0];
    assert_eq!(
        claim["metadata"]["annotations"],
        json!({"backup": "nightly"})
    );
    assert_eq!(claim["spec"]["storageClassName"], "fast-ssd");
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOncePod"]));
    let settings = toml(made.settings());
    assert_eq!(settings["on_store_failure"], "billed");
    assert_eq!(settings["call_timeout"], "750ms");
    assert_eq!(settings["policy"], "/etc/tollgate/policy/policy.toml");
}

/// Control characters and DEL in names, and every kind of value, also as `--set` gives them.
#[test]
fn hard_texts_and_numbers_survive_the_way_into_toml() {
    let hard = "tab\tnew\nline \u{1}\u{7f}\u{85}\u{1f600} \u{2028} 'single' \"double\" \\ /";
    let values = json!({
        "policy": {"program": {"name": hard}, "orgs": {"a": {"tier": 1, "data_sharing": "all"}}},
        "settings": {"bounds": {"zero": 0, "negative": -5, "large": 4_294_967_296_u64, "on": true, "a.b": "c"}},
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hard.json");
    // JSON leaves these as they are, and YAML does not take them so.
    let mut text = values.to_string();
    for (raw, escaped) in [
        ('\u{7f}', "\\u007f"),
        ('\u{85}', "\\u0085"),
        ('\u{2028}', "\\u2028"),
    ] {
        text = text.replace(raw, escaped);
    }
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let tier = "policy.orgs.b.tier=2,policy.orgs.b.data_sharing=all,settings.bounds.set=1234567";
    let made = render_with("default", &["-f", file, "--set", tier]);
    let policy = toml(made.policy().unwrap());
    assert_eq!(policy["program"]["name"], hard);
    assert_eq!(
        policy["orgs"]["b"],
        json!({"tier": 2, "data_sharing": "all"})
    );
    assert_eq!(
        toml(made.settings())["bounds"],
        json!({"zero": 0, "negative": -5, "large": 4_294_967_296_u64, "on": true, "a.b": "c", "set": 1_234_567})
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
    // What the values leave out of the policy is the programme's.
    let policy = toml(made.policy().unwrap());
    let acme =
        json!({"org-acme": {"tier": 3, "data_sharing": "selected", "projects": ["proj-search"]}});
    assert_eq!(policy["orgs"], acme);
    assert_eq!(policy["tiers"]["1"]["large"], 250_000);
    assert_eq!(
        policy["pools"]["large"]["models"].as_array().unwrap().len(),
        14
    );
    // Without a number there are two.
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
    let url = variable(&made, "TOLLGATE_STORE").unwrap();
    assert_eq!(url["valueFrom"], secret_variable("tollgate-redis", "url"));
    let files = |name: &str| format!("/etc/tollgate/redis-tls/{name}");
    assert_eq!(
        toml(made.settings())["redis"],
        json!({
            "ca_file": files("ca.crt"), "cert_file": files("tls.crt"), "key_file": files("tls.key"),
            "sentinel_user": "watcher", "unsafe_eviction": "warn",
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
    // Without the wish there is none.
    assert_eq!(names(&render("redis"), "Service"), ["rel-tollgate"]);
}

#[test]
fn with_tls_on_the_grpc_port_probes_ask_the_http_port() {
    let made = render("mtls");
    let settings = toml(made.settings());
    let file = |name: &str| format!("/etc/tollgate/tls/{name}");
    assert_eq!(
        settings["tls"],
        json!({
            "cert_file": file("tls.crt"), "key_file": file("tls.key"),
            "client_ca_file": file("ca.crt"), "client_certificates": "required",
        })
    );
    assert_eq!(settings.get("http_tls"), None);
    assert_eq!(settings["callers"], "/etc/tollgate/callers/who.toml");
    assert_eq!(mounted_secret(&made, "tls").unwrap(), "tollgate-tls");
    assert_eq!(
        mounted_secret(&made, "callers").unwrap(),
        "tollgate-callers"
    );
    let paths = ["/livez", "/livez", "/readyz"];
    for (probe, path) in service_probes(&made).into_iter().zip(paths) {
        assert_eq!(
            probe["httpGet"],
            json!({"path": path, "port": "http", "scheme": "HTTP"})
        );
        assert_eq!(probe.get("grpc"), None);
    }
    // The test pod shows a certificate of its own.
    let test = &made.tests()[0]["spec"];
    let secret = &test["volumes"][0]["secret"];
    assert_eq!(
        (&secret["secretName"], &secret["defaultMode"]),
        (&json!("tollgate-client"), &json!(0o440))
    );
    for container in [&test["initContainers"][0], &test["containers"][0]] {
        let args = strings(&container["args"]);
        let of_tls = [
            "--ca-file /etc/tollgate/tls/ca.crt",
            "--cert-file /etc/tollgate/tls/tls.crt",
            "--key-file /etc/tollgate/tls/tls.key",
        ];
        let words = of_tls.join(" ");
        assert!(args.join(" ").ends_with(&words), "{args:?}");
        assert!(
            args.contains(&"https://rel-tollgate.ns.svc:50051".to_owned()),
            "{args:?}"
        );
        assert_eq!(
            container["volumeMounts"][0]["mountPath"],
            "/etc/tollgate/tls"
        );
    }
    // Without it the port would not let it in.
    let none = render_with("mtls", &["--set", "test.tlsSecret=null"]);
    assert!(none.tests().is_empty());
}

#[test]
fn with_tls_on_the_http_port_probes_and_metrics_speak_it() {
    let made = render("http-tls");
    for probe in service_probes(&made) {
        assert_eq!(probe["httpGet"]["scheme"], "HTTPS");
    }
    let settings = toml(made.settings());
    let file = |name: &str| format!("/etc/tollgate/http-tls/{name}");
    assert_eq!(
        settings["http_tls"],
        json!({"cert_file": file("tls.crt"), "key_file": file("tls.key")})
    );
    assert_eq!(
        mounted_secret(&made, "http-tls").unwrap(),
        "tollgate-http-tls"
    );
    let service = made.named("Service", "rel-tollgate").unwrap();
    assert_eq!(service["spec"]["ports"][1]["appProtocol"], "https");
    let endpoint = &made.one("ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(endpoint["scheme"], "https");
    assert_eq!(endpoint["tlsConfig"], json!({"insecureSkipVerify": true}));
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
    // Nobody can know its organizations.
    assert!(made.tests().is_empty());
    assert_eq!(
        render_with("existing-policy", &["--set", "test.org=org-x"])
            .tests()
            .len(),
        1
    );
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
    // Beyond the cluster goes gRPC only.
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
    let policy = &made.one("NetworkPolicy")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    let from = |at: usize| policy["ingress"][at]["from"].as_array().unwrap();
    let namespace = |name: &str| json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}});
    assert_eq!(policy["ingress"][0]["ports"][0]["port"], "grpc");
    assert_eq!((from(0).len(), &from(0)[0]), (2, &namespace("gateways")));
    // The pod of `helm test` is let in too.
    let test = &made.tests()[0]["metadata"]["labels"];
    assert!(selects(&from(0)[1]["podSelector"]["matchLabels"], test));
    assert_eq!(policy["ingress"][1]["ports"][0]["port"], "http");
    assert_eq!(from(1), &[namespace("monitoring")]);
    // DNS, and what the values allow.
    assert_eq!(
        policy["egress"][0]["ports"][0],
        json!({"port": 53, "protocol": "UDP"})
    );
    assert_eq!(policy["egress"][1]["ports"][0]["port"], 6379);
}

#[test]
fn traces_bounds_and_reflection_reach_the_settings_as_they_are() {
    let made = render("otlp");
    let settings = toml(made.settings());
    assert_eq!(settings["otlp_endpoint"], "http://collector.tracing:4317");
    assert_eq!(settings["trace_ratio"], 1);
    // Unquoted, YAML takes it for false.
    assert_eq!(settings["reflection"], "off");
    assert_eq!(
        settings["bounds"],
        json!({"connections": 10_000, "handshake_time": "5s"})
    );
    let monitor = made.one("ServiceMonitor");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(
        monitor["spec"]["endpoints"],
        json!([{
            "port": "http", "path": "/metrics", "scheme": "http", "interval": "30s", "scrapeTimeout": "10s",
            "relabelings": [{"action": "replace", "targetLabel": "job", "replacement": "tollgate"}],
        }])
    );
    assert_eq!(
        monitor["spec"]["namespaceSelector"]["matchNames"],
        json!(["ns"])
    );
    let besides = variable(&made, "OTEL_RESOURCE_ATTRIBUTES").unwrap();
    assert_eq!(besides["value"], "deployment.environment=production");
}

#[test]
fn alerts_and_dashboard_are_taken_word_for_word() {
    let made = render("alerts");
    let rules = made.one("PrometheusRule");
    let file: Value = serde_saphyr::from_str(ALERTS).unwrap();
    assert_eq!(rules["spec"], file);
    assert_eq!(rules["metadata"]["labels"]["release"], "prometheus");
    let dashboard = made.named("ConfigMap", "rel-tollgate-dashboard").unwrap();
    assert_eq!(
        dashboard["data"],
        json!({"tollgate.json": format!("{DASHBOARD}\n")})
    );
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(
        dashboard["metadata"]["annotations"]["grafana_folder"],
        "Tollgate"
    );
}

#[test]
fn everything_can_be_on_beside_each_other() {
    let made = render("everything");
    let spec = &made.one("Deployment")["spec"];
    assert_eq!(spec["replicas"], 4);
    let (pod, container) = (made.pod(), made.container());
    assert_eq!(pod["terminationGracePeriodSeconds"], 90);
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "pull"}]));
    assert_eq!(pod["priorityClassName"], "important");
    assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux");
    assert_eq!(pod["tolerations"][0]["key"], "dedicated");
    assert!(pod["affinity"]["podAntiAffinity"].is_object());
    assert_eq!(pod["serviceAccountName"], "quota");
    // The platform gives user and group, and everything else of the standard stays.
    let security = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(pod["securityContext"], security);
    let spread = pod["topologySpreadConstraints"].as_array().unwrap();
    assert_eq!(
        spread[0]["labelSelector"]["matchLabels"]["app.kubernetes.io/name"],
        "quota"
    );
    assert_eq!(
        spread[1]["labelSelector"]["matchLabels"],
        json!({"app": "other"})
    );
    assert_eq!(container["image"], "images.example/tollgate:1.2.3");
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["resources"]["limits"]["cpu"], "2");
    assert_eq!(variable(&made, "TOLLGATE_LOG").unwrap()["value"], "debug");
    let from_secret = &variable(&made, "FROM_A_SECRET").unwrap()["valueFrom"];
    assert_eq!(from_secret, &secret_variable("other", "it"));
    let mounts = container["volumeMounts"].as_array().unwrap();
    assert!(mounts.contains(&json!({"name": "scratch", "mountPath": "/scratch"})));
    let service = made.named("Service", "rel-quota").unwrap();
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert_eq!(service["spec"]["ports"][0]["port"], 443);
    let http = made.named("Service", "rel-quota-http").unwrap();
    assert_eq!(
        (
            &http["spec"]["ports"][0]["port"],
            &http["spec"]["ports"][0]["appProtocol"]
        ),
        (&json!(8080), &json!("https"))
    );
    assert_eq!(
        made.one("PodDisruptionBudget")["spec"]["maxUnavailable"],
        "25%"
    );
    // Nobody is named: the pods of the namespace.
    for rule in made.one("NetworkPolicy")["spec"]["ingress"]
        .as_array()
        .unwrap()
    {
        assert_eq!(rule["from"], json!([{"podSelector": {}}]));
    }
    let template = &spec["template"]["metadata"];
    assert_eq!(template["annotations"]["example.org/team"], "platform");
    assert_eq!(template["labels"]["team"], "platform");
    for manifest in &made.0 {
        assert_eq!(
            manifest["metadata"]["labels"]["cost-centre"], "42",
            "{manifest}"
        );
    }
    assert_eq!(toml(made.settings())["trace_ratio"], 0.05);
    let test = &made.tests()[0]["spec"];
    let args = &test["initContainers"][0]["args"];
    assert_eq!(
        (&args[1], &args[2], &args[3]),
        (&json!("org-acme"), &json!("smoke"), &json!("o1"))
    );
    // Known by its token, it needs no certificate.
    let release = &test["containers"][0];
    let token = &release["env"][1];
    assert_eq!(
        (&token["name"], &token["valueFrom"]),
        (
            &json!("TOLLGATE_TOKEN"),
            &secret_variable("client-token", "it")
        )
    );
    let args = strings(&release["args"]);
    let end = "--addr https://rel-quota.ns.svc:443 --json --ca-file /etc/tollgate/tls/ca.crt";
    assert!(args.join(" ").ends_with(end), "{args:?}");
    let unknown = render_with("everything", &["--set", "test.tokenSecret=null"]);
    assert!(unknown.tests().is_empty());
}

#[test]
fn only_what_is_read_once_restarts_the_pods() {
    let checksum = |words: &[&str]| {
        let made = render_with("redis", words);
        let template = &made.workload()["spec"]["template"];
        template["metadata"]["annotations"]["checksum/settings"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let template = |words: &[&str]| {
        let made = render_with("redis", words);
        made.workload()["spec"]["template"].clone()
    };
    let before = checksum(&[]);
    assert_ne!(checksum(&["--set", "settings.log=debug"]), before);
    // A new organization is taken by the running pods, which are left as they are.
    let more = "policy.orgs.another.tier=1,policy.orgs.another.data_sharing=all";
    assert_eq!(template(&["--set", more]), template(&[]));
}

#[test]
fn the_kubelet_always_waits_longer_than_the_program_needs() {
    for (grace, seconds) in [
        ("25s", 30),
        ("26001ms", 32),
        ("1m", 65),
        ("1min", 65),
        ("1h", 3605),
    ] {
        let made = render_with(
            "default",
            &["--set", &format!("settings.grace_period={grace}")],
        );
        assert_eq!(
            made.pod()["terminationGracePeriodSeconds"],
            seconds,
            "{grace}"
        );
    }
}

#[test]
fn everything_has_a_name_that_kubernetes_takes_and_stands_in_the_namespace_of_the_release() {
    let long = "a-release-with-quite-a-long-name-as-some-people-like-";
    for set in SETS {
        let made = render_with(set, &["--set", &format!("fullnameOverride={long}{long}x")]);
        for manifest in &made.0 {
            let metadata = &manifest["metadata"];
            let name = metadata["name"].as_str().unwrap();
            assert!(name.len() <= 63 && !name.ends_with('-'), "{set}: {name}");
            assert_eq!(metadata["namespace"], "ns", "{set}: {name}");
            let labels = metadata["labels"].as_object().unwrap();
            assert_eq!(labels["app.kubernetes.io/instance"], "rel");
            assert_eq!(labels["app.kubernetes.io/managed-by"], "Helm");
        }
        let named: std::collections::BTreeSet<String> = made
            .0
            .iter()
            .map(|it| format!("{} {}", it["kind"], it["metadata"]["name"]))
            .collect();
        assert_eq!(named.len(), made.0.len(), "{set}");
    }
}
