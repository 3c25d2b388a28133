//! The chart, rendered by the real helm: every set of values in `values/`, checked against expectations, Kubernetes'
//! schemas, and a running service.

mod alerts;
mod chart;
mod manifests;
mod notes;
mod pod;
mod program;
mod ranges;
mod refusals;
mod schema;
mod security;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::tools::{ProgramOutput, run, tool};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The oldest supported Kubernetes, and the newest with schemas.
const VERSIONS: [&str; 2] = ["1.27", "1.37"];

/// The sets of values, by file name.
const SETS: [&str; 13] = [
    "alerts",
    "cluster",
    "default",
    "everything",
    "existing-policy",
    "file",
    "http-tls",
    "memory",
    "mtls",
    "otlp",
    "redis",
    "scaled",
    "sentinel",
];

/// Small alerts and a small dashboard: the chart renders any content.
const ALERTS: &str = "\
# A rule file, as Prometheus reads it.
groups:
  - name: tollgate
    rules:
      - alert: TollgateIsAway
        expr: up{job=\"tollgate\"} == 0
        for: 5m
        annotations:
          summary: \"{{ $labels.instance }} is away: {{ $value | printf `%.0f` }}\"
";
const DASHBOARD: &str =
    r#"{"title": "Tollgate", "panels": [{"title": "{{verdict}}", "type": "stat"}]}"#;

fn chart() -> PathBuf {
    Path::new(ROOT).join("helm/tollgate")
}

/// The path of a set of values.
fn values(set: &str) -> String {
    let file = Path::new(ROOT).join(format!("tests/helm/values/{set}.yaml"));
    file.to_str().unwrap().to_owned()
}

/// A copy of the chart with these files added or replaced.
fn chart_with(files: &[(&str, &str)]) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&chart(), copy.path());
    for (name, text) in files {
        fs::write(copy.path().join(name), text).unwrap();
    }
    copy
}

/// A copy of the chart with small alerts and a small dashboard.
fn complete_chart() -> TempDir {
    chart_with(&[
        ("files/alerts.yaml", ALERTS),
        ("files/dashboard.json", DASHBOARD),
    ])
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Runs helm without the developer's settings.
fn helm(words: &[&str]) -> ProgramOutput {
    let mut command = Command::new(tool("bin/helm"));
    for (name, _) in std::env::vars() {
        if name.starts_with("HELM_") || name == "KUBECONFIG" {
            command.env_remove(name);
        }
    }
    run(command.args(words))
}

/// `helm template` of a chart, as the release `rel` in the namespace `ns`, with more words.
fn template(chart: &Path, words: &[&str]) -> ProgramOutput {
    let newest = VERSIONS[VERSIONS.len() - 1];
    let chart = chart.to_str().unwrap();
    let fixed = [
        "template",
        "rel",
        chart,
        "-n",
        "ns",
        "--kube-version",
        newest,
    ];
    helm(&[&fixed, words].concat())
}

/// The rendered manifests.
struct Manifests(Vec<Value>);

/// Renders a set of values, with more words.
fn render_with(set: &str, words: &[&str]) -> Manifests {
    let chart = complete_chart();
    let values = values(set);
    let words = [&["-f", &values], words].concat();
    let text = template(chart.path(), &words).expect_success();
    Manifests::parse(&text)
}

fn render(set: &str) -> Manifests {
    render_with(set, &[])
}

impl Manifests {
    fn parse(text: &str) -> Self {
        let all: Vec<Value> =
            serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let all: Vec<Value> = all.into_iter().filter(|it| !it.is_null()).collect();
        assert!(!all.is_empty(), "{text}");
        Self(all)
    }

    fn all(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|it| it["kind"] == kind).collect()
    }

    /// The only one of a kind.
    fn one(&self, kind: &str) -> &Value {
        let all = self.all(kind);
        assert_eq!(all.len(), 1, "{kind}: {all:?}");
        all[0]
    }

    fn named(&self, kind: &str, name: &str) -> Option<&Value> {
        let mut all = self.all(kind).into_iter();
        all.find(|it| it["metadata"]["name"] == name)
    }

    /// The Deployment or StatefulSet.
    fn workload(&self) -> &Value {
        let workloads = [self.all("Deployment"), self.all("StatefulSet")].concat();
        assert_eq!(workloads.len(), 1);
        workloads[0]
    }

    /// The pod spec of the service.
    fn pod(&self) -> &Value {
        &self.workload()["spec"]["template"]["spec"]
    }

    /// The container of the service.
    fn container(&self) -> &Value {
        let containers = self.pod()["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        &containers[0]
    }

    /// The pods of `helm test`.
    fn tests(&self) -> Vec<&Value> {
        self.all("Pod")
    }

    /// A file of a ConfigMap.
    fn file(&self, config_map: &str, key: &str) -> Option<&str> {
        self.named("ConfigMap", config_map)?["data"][key].as_str()
    }

    /// The settings file.
    fn settings(&self) -> &str {
        let name = self.workload()["metadata"]["name"].as_str().unwrap();
        self.file(name, "tollgate.toml").unwrap()
    }

    /// The policy file, if the chart renders one.
    fn policy(&self) -> Option<&str> {
        let name = self.workload()["metadata"]["name"].as_str().unwrap();
        self.file(&format!("{name}-policy"), "policy.toml")
    }
}

/// TOML as JSON, to compare values instead of text.
fn toml(text: &str) -> Value {
    let table: toml::Table = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    serde_json::to_value(table).unwrap()
}

/// Whether a selector matches these labels.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(key, value)| &labels[key] == value)
}
