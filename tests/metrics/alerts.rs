//! The alert rules and the dashboard of the chart: valid, based on existing metrics, and with a runbook.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{WAIT_TIMEOUT, scrape};
use crate::support::{
    calls::TextFile,
    clock::Clock,
    tollgate::Tollgate,
    tools::{run, tool},
    usage_api::{ADMIN_KEY, UsageApiServer},
    world::NOON,
};

/// Series of these codes exist only after their first use.
const RARE_CODES: [&str; 2] = ["UNKNOWN", "DATA_LOSS"];

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap()
}

fn alerts() -> String {
    text("helm/tollgate/files/alerts.yaml")
}

fn dashboard() -> Value {
    serde_json::from_str(&text("helm/tollgate/files/dashboard.json")).unwrap()
}

/// The panels, including those in rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let within = |panel| {
        let panel: &Value = panel;
        let inner = panel["panels"].as_array();
        std::iter::once(panel).chain(inner.into_iter().flatten())
    };
    panels.flat_map(within).collect()
}

fn expressions(dashboard: &Value) -> Vec<String> {
    let targets = panels(dashboard).into_iter();
    let targets = targets.filter_map(|panel| panel["targets"].as_array());
    let expressions = targets.flatten().map(|target| target["expr"].as_str());
    expressions.map(|expr| expr.unwrap().to_owned()).collect()
}

fn promtool(command: &[&str], path: &Path) {
    let checked = run(Command::new(tool("bin/promtool")).args(command).arg(path));
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn the_rules_are_sound() {
    promtool(
        &["check", "rules"],
        &file("helm/tollgate/files/alerts.yaml"),
    );
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    let tests = file("tests/metrics/alerts_test.yaml");
    promtool(&["test", "rules"], &tests);
    let tests = fs::read_to_string(tests).unwrap();
    for alert in each_alert(&alerts()).keys() {
        let name = format!("alertname: {alert}\n");
        let cases: Vec<&str> = tests.split(&name).skip(1).collect();
        let quiet = |case: &&str| case.trim_start().starts_with("exp_alerts: []");
        assert!(
            cases.iter().any(quiet),
            "{alert} has no case in which it is quiet"
        );
        let fires = cases.iter().any(|case| !quiet(case));
        assert!(fires, "{alert} has no case in which it fires");
    }
}

/// Each alert's text by its name.
fn each_alert(rules: &str) -> BTreeMap<String, String> {
    let rules = rules.split("- alert: ").skip(1);
    let alerts = rules.map(|rule| {
        let (name, rest) = rule.split_once('\n').unwrap();
        (name.to_owned(), rest.to_owned())
    });
    alerts.collect()
}

#[test]
fn each_alert_has_a_severity_and_a_section_of_the_runbook() {
    let alerts = each_alert(&alerts());
    assert!(alerts.len() >= 12, "{alerts:?}");
    let operations = text("docs/OPERATIONS.md");
    let sections: BTreeMap<&str, &str> = operations
        .split("\n### ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .collect();
    for (name, rule) in alerts {
        for line in ["severity: ", "summary: ", "description: "] {
            assert!(rule.contains(line), "{name} has no {line}");
        }
        let severity = rule.split("severity: ").nth(1).unwrap();
        let severity = severity.lines().next().unwrap();
        assert!(
            ["critical", "warning"].contains(&severity),
            "{name}: {severity}"
        );
        let runbook = format!("runbook: docs/OPERATIONS.md#{}\n", name.to_lowercase());
        assert!(rule.contains(&runbook), "{name} has no {runbook}");
        assert!(!rule.contains("://"), "{name} points elsewhere");
        let section = sections.get(name.as_str());
        let section = section.unwrap_or_else(|| panic!("docs/OPERATIONS.md has no {name}"));
        let words = section
            .split("\n#")
            .next()
            .unwrap()
            .split_whitespace()
            .count();
        assert!(words >= 20, "{name}: {section}");
    }
}

#[test]
fn the_dashboard_is_valid_for_grafana() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    assert!(panels.len() > 20);
    let ids: BTreeSet<i64> = panels
        .iter()
        .map(|panel| panel["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let mut places = BTreeSet::new();
    for panel in panels {
        assert!(!panel["title"].as_str().unwrap().is_empty(), "{panel}");
        let at = &panel["gridPos"];
        let (x, w) = (at["x"].as_u64().unwrap(), at["w"].as_u64().unwrap());
        assert!(x + w <= 24, "{at}");
        assert!(places.insert((at["y"].as_u64(), x)), "two panels at {at}");
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    assert_eq!(variables[0]["name"], "datasource");
    assert_eq!(variables[0]["type"], "datasource");
    // Each installation is scraped as its own job. The first job is selected by default.
    assert_eq!(variables[1]["name"], "job");
    assert_eq!(
        variables[1]["definition"],
        "label_values(tollgate_ready, job)"
    );
    assert!(variables[1]["current"].get("value").is_none());
}

#[test]
fn every_expression_of_the_dashboard_is_promql() {
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (at, expr) in expressions(&dashboard()).into_iter().enumerate() {
        let expr = expr
            .replace("$__rate_interval", "5m")
            .replace("$job", "tollgate");
        let expr = Value::from(expr);
        rules += &format!("  - {{record: 'panel:{at}', expr: {expr}}}\n");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rules.yaml");
    fs::write(&path, rules).unwrap();
    promtool(&["check", "rules"], &path);
}

/// The names that can be queried, from a scrape.
fn names(scraped: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in scraped
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
    {
        let (name, kind) = line.split_once(' ').unwrap();
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        names.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    names
}

/// The metrics in expressions.
fn named(expressions: &str) -> BTreeSet<String> {
    let words = expressions.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("tollgate_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// The labels in expressions, each with its value.
fn selected(expressions: &str) -> BTreeSet<(String, String)> {
    let mut selected = BTreeSet::new();
    let mut rest = expressions;
    while let Some((before, after)) = rest.split_once('{') {
        let _ = before;
        let Some((matchers, behind)) = after.split_once('}') else {
            break;
        };
        for matcher in matchers.split("\",") {
            if let Some((key, values)) = matcher.split_once("=") {
                let key = key.trim().trim_end_matches('!');
                let values = values.trim_start_matches(['~', '"']).trim_end_matches('"');
                let values = values.split('|').map(|it| (key.to_owned(), it.to_owned()));
                selected.extend(values);
            }
        }
        rest = behind;
    }
    selected
}

#[tokio::test]
async fn every_metric_and_label_in_rules_and_dashboard_exists() {
    // The figures of reconcile exist where it runs.
    let api = UsageApiServer::start(NOON, Vec::new()).await;
    let key = TextFile::new(ADMIN_KEY);
    let settings = TextFile::new(&format!(
        "[reconcile]\napi_base = \"{}\"\n[reconcile.orgs.org-demo]\nadmin_key_file = \"{}\"\n",
        api.base,
        key.path()
    ));
    let args = ["--store", "memory:", "--config", settings.path()];
    let tollgate = Tollgate::start_at(&Clock::at(NOON), &args);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let mut scraped = scrape(&tollgate);
    while !scraped.contains("tollgate_drift_tokens{") && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
        scraped = scrape(&tollgate);
    }
    let names = names(&scraped);
    // Without the templates in braces of the summaries.
    let rules = alerts();
    let rules: Vec<&str> = rules.lines().filter(|line| !line.contains("{{")).collect();
    let (rules, dashboard) = (rules.join("\n"), expressions(&dashboard()).join("\n"));
    for expressions in [&rules, &dashboard] {
        let named = named(expressions);
        assert!(named.len() > 5, "{named:?}");
        for name in named {
            assert!(names.contains(&name), "{name} does not exist");
        }
        for (key, value) in selected(expressions) {
            let elsewhere = ["job", "namespace"].contains(&key.as_str())
                || RARE_CODES.contains(&value.as_str());
            let label = format!("{key}=\"{value}\"");
            assert!(
                elsewhere || scraped.contains(&label),
                "{label} does not exist"
            );
        }
    }
}
