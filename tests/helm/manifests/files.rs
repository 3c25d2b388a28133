//! The files that the chart renders: policy, settings, alerts and dashboard.

use std::path::Path;

use serde_json::{Value, json};
use tollgate::settings::{ServeArgs, Settings};

use super::{mounted_secret, secret_variable, variable};
use crate::{
    helm::{ALERTS, DASHBOARD, ROOT, render, render_with, template, toml, values},
    support::calls::TextFile,
};

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
                "as_of": "2026-09-28",
            },
            "pools": {
                "large": {"models": ["gpt-4.1", "o1"]},
                "small ones": {"models": ["gpt-4o.mini"]},
            },
            "models": {"gpt-4o.mini": {"context": 128_000, "max_output": 16_384}},
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
    // As people write TOML: no exponents, no unnecessary quotes.
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

/// Control characters and DEL in names, and every type of value, also from `--set`.
#[test]
fn hard_texts_and_numbers_survive_the_way_into_toml() {
    let hard = "tab\tnew\nline \u{1}\u{7f}\u{85}\u{1f600} \u{2028} 'single' \"double\" \\ /";
    let models = |model: &str| json!({"models": [model]});
    let values = json!({
        "policy": {
            "program": {"name": hard},
            "pools": {"zero": models("a"), "a.b": models("b"), "set": models("c")},
            "tiers": {"1": {"zero": 0, "a.b": 4_294_967_296_u64}, "2": {"zero": 1, "a.b": 2, "set": 3}},
            "orgs": {"a": {"tier": 1, "data_sharing": "all", "enterprise": true}},
        },
        "settings": {"trace_ratio": 0.25},
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hard.json");
    // JSON allows these unescaped, and YAML does not.
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
    let tier = "policy.orgs.b.tier=2,policy.orgs.b.data_sharing=all,policy.tiers.1.set=1234567";
    let made = render_with("default", &["-f", file, "--set", tier]);
    let policy = toml(made.policy().unwrap());
    assert_eq!(policy["program"]["name"], hard);
    assert_eq!(
        policy["orgs"]["b"],
        json!({"tier": 2, "data_sharing": "all"})
    );
    assert_eq!(policy["orgs"]["a"]["enterprise"], true);
    assert_eq!(
        policy["tiers"]["1"],
        json!({"zero": 0, "a.b": 4_294_967_296_u64, "set": 1_234_567})
    );
    assert_eq!(toml(made.settings())["trace_ratio"], 0.25);
}

#[test]
fn traces_bounds_and_reflection_reach_the_settings_as_they_are() {
    let made = render("otlp");
    let settings = toml(made.settings());
    assert_eq!(settings["otlp_endpoint"], "http://collector.tracing:4317");
    assert_eq!(settings["trace_ratio"], 1);
    // Unquoted, YAML reads it as false.
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
            "port": "http", "path": "/metrics", "scheme": "http", "interval": "30s",
            "relabelings": [{"action": "replace", "targetLabel": "job", "replacement": "rel-tollgate"}],
        }])
    );
    let words = "serviceMonitor.interval=1m30s,serviceMonitor.scrapeTimeout=90s";
    let slower = render_with("otlp", &["--set", words]);
    let endpoint = &slower.one("ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(
        (&endpoint["interval"], &endpoint["scrapeTimeout"]),
        (&json!("1m30s"), &json!("90s"))
    );
    assert_eq!(
        monitor["spec"]["namespaceSelector"]["matchNames"],
        json!(["ns"])
    );
    let besides = variable(&made, "OTEL_RESOURCE_ATTRIBUTES").unwrap();
    assert_eq!(besides["value"], "deployment.environment=production");
}

#[test]
fn alerts_and_dashboard_are_rendered_word_for_word() {
    let made = render("alerts");
    let rules = made.one("PrometheusRule");
    // Except for the job and the namespace.
    let own = ALERTS.replace(r#"job="tollgate""#, r#"namespace="ns",job="rel-tollgate""#);
    let file: Value = serde_saphyr::from_str(&own).unwrap();
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
fn the_alerts_and_the_dashboard_of_the_chart_are_rendered_as_they_are() {
    let set = values("alerts");
    let chart = Path::new(ROOT).join("helm/tollgate");
    let rendered = template(&chart, &["-f", &set]).expect_success();
    for name in [
        "TollgateStoreLostWrites",
        "TollgateReplicasDisagreeOnPolicy",
    ] {
        assert!(rendered.contains(name), "{name}");
    }
    assert!(rendered.contains("{{ $labels"), "{rendered}");
    assert!(rendered.contains("tollgate_requests_total"));
}

#[test]
fn the_admin_keys_of_reconcile_are_mounted_where_the_settings_name_them() {
    assert_eq!(toml(render("default").settings()).get("reconcile"), None);
    let words = "reconcile.existingSecret=admin-keys,settings.reconcile.every=10m,settings.reconcile.raise=false,\
                 settings.reconcile.orgs.acme.admin_key_file=/etc/tollgate/reconcile/acme,\
                 settings.reconcile.orgs.acme.projects.p=proj_p";
    let made = render_with("default", &["--set", words]);
    assert_eq!(mounted_secret(&made, "reconcile").unwrap(), "admin-keys");
    let acme =
        json!({"admin_key_file": "/etc/tollgate/reconcile/acme", "projects": {"p": "proj_p"}});
    let section = json!({"every": "10m", "raise": "off", "orgs": {"acme": acme}});
    assert_eq!(toml(made.settings())["reconcile"], section);
    let file = TextFile::new(made.settings());
    let settings = Settings::load(ServeArgs {
        config: Some(file.path().into()),
        ..ServeArgs::default()
    });
    assert_eq!(settings.unwrap().reconcile.unwrap().orgs.len(), 1);
}

#[test]
fn the_url_of_notifications_is_a_secret_and_the_organizations_with_gauges_are_a_setting() {
    let made = render("default");
    assert!(variable(&made, "TOLLGATE_NOTIFY_URL").is_none());
    assert_eq!(toml(made.settings()).get("metrics"), None);
    let word = "notify.existingSecret=hooks,settings.metrics.organizations={acme,other}";
    let made = render_with("default", &["--set", word]);
    let from = &variable(&made, "TOLLGATE_NOTIFY_URL").unwrap()["valueFrom"];
    assert_eq!(from, &secret_variable("hooks", "url"));
    let section = json!({"organizations": ["acme", "other"]});
    assert_eq!(toml(made.settings())["metrics"], section);
    // YAML reads an unquoted off as false.
    for (value, organizations) in [("false", "off"), ("all", "all")] {
        let word = format!("settings.metrics.organizations={value}");
        let made = render_with("default", &["--set", &word]);
        let section = json!({"organizations": organizations});
        assert_eq!(toml(made.settings())["metrics"], section);
    }
}
