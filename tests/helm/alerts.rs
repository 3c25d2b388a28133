//! The rendered alerts select only their own installation.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use super::{Manifests, chart, template, values};
use crate::support::tools::{run, tool};

/// The chart's own rules, of the release `rel` in the namespace `ns`.
fn rendered(words: &[&str]) -> Manifests {
    let set = values("alerts");
    let words = [&["-f", &set, "--set", "serviceMonitor.enabled=true"], words].concat();
    Manifests::parse(&template(&chart(), &words).expect_success())
}

fn rules(made: &Manifests) -> &Vec<Value> {
    let groups = made.one("PrometheusRule")["spec"]["groups"].as_array();
    groups.unwrap()[0]["rules"].as_array().unwrap()
}

#[test]
fn each_expression_names_the_namespace_and_the_job_of_its_own_installation() {
    let made = rendered(&[]);
    let rules = rules(&made);
    assert!(rules.len() >= 12, "{rules:?}");
    for rule in rules {
        let expr = rule["expr"].as_str().unwrap();
        let own = expr.matches("{namespace=\"ns\",job=\"rel-tollgate\"");
        assert_eq!(own.count(), expr.matches('{').count(), "{expr}");
    }
    // The job under which it is scraped.
    let endpoint = &made.one("ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(
        endpoint["relabelings"],
        json!([{"action": "replace", "targetLabel": "job", "replacement": "rel-tollgate"}])
    );
}

/// Another installation in the same namespace, and one of the same name in another namespace.
#[test]
fn other_installations_neither_hide_nor_cause_its_alerts() {
    let folder = tempfile::tempdir().unwrap();
    let made = rendered(&[]);
    let spec = &made.one("PrometheusRule")["spec"];
    fs::write(folder.path().join("rules.json"), spec.to_string()).unwrap();
    let series = |series: &str, values: &str| json!({"series": series, "values": values});
    let own = "namespace='ns',job='rel-tollgate'";
    let others = [
        "namespace='ns',job='b-tollgate'",
        "namespace='ms',job='rel-tollgate'",
    ];
    let mut all = vec![
        series(&format!("up{{{own},instance='a'}}"), "1x3 0x30"),
        series(
            &format!("tollgate_policy_info{{{own},version='v1'}}"),
            "1x40",
        ),
    ];
    for (at, other) in others.iter().enumerate() {
        all.push(series(&format!("up{{{other},instance='b'}}"), "1x40"));
        all.push(series(
            &format!("tollgate_ready{{{other},instance='b'}}"),
            "0x40",
        ));
        let policy = format!("tollgate_policy_info{{{other},version='other{at}'}}");
        all.push(series(&policy, "1x40"));
    }
    let alert = |name: &str, severity: &str| {
        let rule = rules(&made).iter().find(|it| it["alert"] == name).unwrap();
        let labels = json!({"namespace": "ns", "job": "rel-tollgate", "severity": severity});
        json!({"exp_labels": labels, "exp_annotations": rule["annotations"]})
    };
    let expected = |name: &str, alerts: Value| json!({"eval_time": "20m", "alertname": name, "exp_alerts": alerts});
    let test = json!({
        "rule_files": ["rules.json"],
        "evaluation_interval": "1m",
        "tests": [{
            "interval": "1m",
            "input_series": all,
            "alert_rule_test": [
                expected("TollgateAbsent", json!([alert("TollgateAbsent", "critical")])),
                expected("TollgateReplicasDisagreeOnPolicy", json!([])),
                expected("TollgateNotReady", json!([])),
            ],
        }],
    });
    promtool(folder.path(), &test);
}

fn promtool(folder: &Path, test: &Value) {
    let file = folder.join("test.json");
    fs::write(&file, test.to_string()).unwrap();
    let tested = run(Command::new(tool("bin/promtool"))
        .args(["test", "rules"])
        .arg(file));
    assert_eq!(tested.code, Some(0), "{tested:?}");
}

#[test]
fn the_runbook_is_a_file_of_this_project_or_a_link_to_it_where_the_values_say_where_it_is() {
    for rule in rules(&rendered(&[])) {
        let file = rule["annotations"]["runbook"].as_str().unwrap();
        assert!(file.starts_with("docs/OPERATIONS.md#"), "{rule}");
        assert_eq!(rule["annotations"].get("runbook_url"), None);
    }
    for base in ["https://git.example/t", "https://git.example/t/"] {
        let made = rendered(&["--set", &format!("prometheusRule.runbookBaseUrl={base}")]);
        for rule in rules(&made) {
            let name = rule["alert"].as_str().unwrap().to_lowercase();
            let url = format!("https://git.example/t/docs/OPERATIONS.md#{name}");
            assert_eq!(rule["annotations"]["runbook_url"], url, "{rule}");
            assert_eq!(rule["annotations"].get("runbook"), None);
        }
    }
}
