//! The restricted pod security standard, for every pod of every set of values; and that everything a pod refers to
//! exists.

use serde_json::{Value, json};

use super::{Manifests, SETS, render, selects};

/// The kinds of volumes that the standard allows.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// The specs of all pods, each with its manifest's name.
fn pods(manifests: &Manifests) -> Vec<(String, &Value)> {
    let mut pods = Vec::new();
    for manifest in &manifests.0 {
        let name = format!("{} {}", manifest["kind"], manifest["metadata"]["name"]);
        match manifest["kind"].as_str().unwrap() {
            "Pod" => pods.push((name, &manifest["spec"])),
            "Deployment" | "StatefulSet" => {
                pods.push((name, &manifest["spec"]["template"]["spec"]))
            }
            _ => {}
        }
    }
    pods
}

fn containers(pod: &Value) -> Vec<&Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .filter_map(|kind| pod[kind].as_array())
        .flatten()
        .collect()
}

/// Each violation of the standard, and of the chart's further guarantees.
fn shortcomings(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut must = |what: &str, holds: bool| {
        if !holds {
            found.push(what.to_owned());
        }
    };
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        must(host, pod[host].is_null());
    }
    let security = &pod["securityContext"];
    must("runAsNonRoot", security["runAsNonRoot"] == true);
    must("runAsUser", security["runAsUser"] != 0);
    must("sysctls", security["sysctls"].is_null());
    let seccomp = |context: &Value| context["seccompProfile"]["type"] == "RuntimeDefault";
    must("seccompProfile", seccomp(security));
    must("token", pod["automountServiceAccountToken"] == false);
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().unwrap().keys();
        let allowed = |kind: &String| kind == "name" || VOLUMES.contains(&kind.as_str());
        must("volumes", kinds.into_iter().all(allowed));
    }
    let containers = containers(pod);
    must("containers", !containers.is_empty());
    for container in containers {
        let security = &container["securityContext"];
        must("privileged", security["privileged"].is_null());
        must("escalation", security["allowPrivilegeEscalation"] == false);
        must("drop", security["capabilities"]["drop"] == json!(["ALL"]));
        must("add", security["capabilities"]["add"].is_null());
        must("procMount", security["procMount"].is_null());
        must("container's user", security["runAsUser"] != 0);
        must("container runAsNonRoot", security["runAsNonRoot"] == true);
        must("container's seccompProfile", seccomp(security));
        must("root", security["readOnlyRootFilesystem"] == true);
        for port in container["ports"].as_array().into_iter().flatten() {
            must("hostPort", port["hostPort"].is_null());
        }
        // A file mounted by subPath is never updated.
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            must("subPath", mount["subPath"].is_null());
        }
        let amounts = &container["resources"];
        must("requests", amounts["requests"]["memory"].is_string());
        must("limits", amounts["limits"]["memory"].is_string());
    }
    found
}

#[test]
fn every_pod_meets_the_restricted_pod_security_standard() {
    let mut seen = 0;
    for set in SETS {
        let manifests = render(set);
        for (name, pod) in pods(&manifests) {
            assert_eq!(shortcomings(pod), [""; 0], "{set}: {name}");
            seen += 1;
        }
    }
    assert!(seen > SETS.len(), "{seen}");
}

#[test]
fn a_pod_below_the_standard_is_detected() {
    let manifests = render("default");
    for (at, value, noticed) in [
        ("/hostNetwork", json!(true), "hostNetwork"),
        (
            "/securityContext/runAsNonRoot",
            json!(false),
            "runAsNonRoot",
        ),
        ("/securityContext/runAsUser", json!(0), "runAsUser"),
        (
            "/securityContext/seccompProfile/type",
            json!("Unconfined"),
            "seccompProfile",
        ),
        ("/automountServiceAccountToken", json!(true), "token"),
        ("/volumes/0/hostPath", json!({"path": "/"}), "volumes"),
        (
            "/containers/0/securityContext/privileged",
            json!(true),
            "privileged",
        ),
        (
            "/containers/0/securityContext/allowPrivilegeEscalation",
            json!(true),
            "escalation",
        ),
        (
            "/containers/0/securityContext/capabilities/drop",
            json!([]),
            "drop",
        ),
        (
            "/containers/0/securityContext/capabilities/add",
            json!(["NET_ADMIN"]),
            "add",
        ),
        (
            "/containers/0/securityContext/readOnlyRootFilesystem",
            json!(false),
            "root",
        ),
        ("/containers/0/ports/0/hostPort", json!(50051), "hostPort"),
        (
            "/containers/0/volumeMounts/0/subPath",
            json!("policy.toml"),
            "subPath",
        ),
    ] {
        let mut pod = manifests.pod().clone();
        let (parent, key) = at.rsplit_once('/').unwrap();
        pod.pointer_mut(parent).unwrap()[key] = value;
        assert_eq!(shortcomings(&pod), [noticed], "{at}");
    }
}

#[test]
fn mounted_volumes_exist_and_paths_in_the_settings_are_mounted() {
    for set in SETS {
        let manifests = render(set);
        let claims = &manifests.workload()["spec"]["volumeClaimTemplates"];
        for (name, pod) in pods(&manifests) {
            let volumes = pod["volumes"].as_array().into_iter().flatten();
            let claims = claims.as_array().into_iter().flatten();
            let given: Vec<&Value> = volumes
                .map(|it| &it["name"])
                .chain(claims.map(|it| &it["metadata"]["name"]))
                .collect();
            for container in containers(pod) {
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    assert!(given.contains(&&mount["name"]), "{set}: {name}: {mount}");
                }
            }
        }
        let mounts = manifests.container()["volumeMounts"].as_array().unwrap();
        let mounts: Vec<&str> = mounts
            .iter()
            .map(|it| it["mountPath"].as_str().unwrap())
            .collect();
        let quoted = manifests.settings().split('"').skip(1).step_by(2);
        let paths = quoted.map(|it| it.strip_prefix("file:").unwrap_or(it));
        let folders = paths.filter_map(|it| it.rsplit_once('/').map(|(folder, _)| folder));
        let folders: Vec<&str> = folders.filter(|it| it.starts_with('/')).collect();
        for folder in &folders {
            assert!(mounts.contains(folder), "{set}: {folder} is not mounted");
        }
        for mount in mounts {
            // The settings themselves, and the extra volume.
            let else_named = ["/etc/tollgate/settings", "/scratch"].contains(&mount);
            assert!(
                else_named || folders.contains(&mount),
                "{set}: nobody reads {mount}"
            );
        }
    }
}

#[test]
fn selectors_find_the_pods_of_the_service_and_no_others() {
    for set in SETS {
        let manifests = render(set);
        let workload = manifests.workload();
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        let mut selectors = vec![&workload["spec"]["selector"]["matchLabels"]];
        selectors.extend(
            manifests
                .all("Service")
                .iter()
                .map(|it| &it["spec"]["selector"]),
        );
        for kind in ["PodDisruptionBudget", "NetworkPolicy"] {
            let field = if kind == "NetworkPolicy" {
                "podSelector"
            } else {
                "selector"
            };
            let all = manifests.all(kind);
            selectors.extend(all.iter().map(|it| &it["spec"][field]["matchLabels"]));
        }
        for selector in selectors {
            assert!(selects(selector, labels), "{set}: {selector} of {labels}");
            for test in manifests.tests() {
                assert!(!selects(selector, &test["metadata"]["labels"]), "{set}");
            }
        }
        for monitor in manifests.all("ServiceMonitor") {
            let selector = &monitor["spec"]["selector"]["matchLabels"];
            let services = manifests.all("Service");
            let found: Vec<_> = services
                .iter()
                .filter(|it| selects(selector, &it["metadata"]["labels"]))
                .collect();
            // Only one; otherwise each pod would be scraped twice.
            assert_eq!(found.len(), 1, "{set}");
            let port = &monitor["spec"]["endpoints"][0]["port"];
            let ports = found[0]["spec"]["ports"].as_array().unwrap();
            assert!(ports.iter().any(|it| &it["name"] == port), "{set}");
        }
    }
}
