//! All options at once, and what holds for any values.

use serde_json::json;

use super::{secret_variable, strings, variable};
use crate::helm::{SETS, render, render_with, toml};

#[test]
fn all_options_of_the_pods_can_be_combined() {
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
    // The platform assigns user and group; the rest of the standard stays.
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
    let template = &spec["template"]["metadata"];
    assert_eq!(template["annotations"]["example.org/team"], "platform");
    assert_eq!(template["labels"]["team"], "platform");
    let settings = toml(made.settings());
    assert_eq!(settings["trace_ratio"], 0.05);
    assert_eq!(settings["http_api"], true);
}

#[test]
fn all_options_around_the_pods_can_be_combined() {
    let made = render("everything");
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
    // Without grpcFrom and httpFrom, only pods of the namespace are admitted.
    for rule in made.one("NetworkPolicy")["spec"]["ingress"]
        .as_array()
        .unwrap()
    {
        assert_eq!(rule["from"], json!([{"podSelector": {}}]));
    }
    for manifest in &made.0 {
        assert_eq!(
            manifest["metadata"]["labels"]["cost-centre"], "42",
            "{manifest}"
        );
    }
}

#[test]
fn all_options_of_the_test_pod_can_be_combined() {
    let made = render("everything");
    let test = &made.tests()[0]["spec"];
    let args = &test["initContainers"][0]["args"];
    assert_eq!(
        (&args[1], &args[2], &args[3]),
        (&json!("org-acme"), &json!("smoke"), &json!("o1"))
    );
    // With a token, it needs no certificate.
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
    let without_credentials = render_with("everything", &["--set", "test.tokenSecret=null"]);
    assert!(without_credentials.tests().is_empty());
}

/// The precedence of labels: the chart's own, then those of the object, then `commonLabels`.
#[test]
fn labels_and_annotations_that_are_given_twice_are_rendered_once() {
    let mut words = vec![
        "--set-string".to_owned(),
        "commonLabels.release=all,commonLabels.team=x".to_owned(),
        "--set-string".to_owned(),
        "podAnnotations.checksum/settings=mine,podAnnotations.other=it".to_owned(),
    ];
    for of in ["serviceMonitor", "prometheusRule", "dashboard"] {
        let labels = format!(
            "{of}.enabled=true,{of}.labels.release=own,{of}.labels.app\\.kubernetes\\.io/instance=no"
        );
        words.extend(["--set".to_owned(), labels]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let made = render_with("default", &words);
    let dashboard = made.named("ConfigMap", "rel-tollgate-dashboard").unwrap();
    for manifest in [
        made.one("ServiceMonitor"),
        made.one("PrometheusRule"),
        dashboard,
    ] {
        let labels = &manifest["metadata"]["labels"];
        assert_eq!(
            (&labels["release"], &labels["team"]),
            (&json!("own"), &json!("x"))
        );
        assert_eq!(labels["app.kubernetes.io/instance"], "rel");
    }
    let template = &made.workload()["spec"]["template"]["metadata"];
    let annotations = template["annotations"].as_object().unwrap();
    assert_eq!(
        (annotations.len(), &annotations["other"]),
        (2, &json!("it"))
    );
    assert_ne!(annotations["checksum/settings"], "mine");
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
    // Running pods load a new organization; they are not restarted.
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
