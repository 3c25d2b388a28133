//! The chart as a whole: lint, package, versions, Kubernetes' schemas, and that README and schema cover every value.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::{Value, json};
use tollgate::policy::PROGRAMS;

use super::{ROOT, SETS, VERSIONS, chart, complete_chart, helm, render, render_with, toml, values};
use crate::support::tools::{run, tool};

fn read(file: &str) -> String {
    let file = Path::new(ROOT).join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn yaml(file: &str) -> Value {
    serde_saphyr::from_str(&read(file)).unwrap()
}

#[test]
fn every_set_of_values_is_tested() {
    let folder = fs::read_dir(Path::new(ROOT).join("tests/helm/values")).unwrap();
    let names = folder.map(|file| file.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.collect();
    assert_eq!(names, SETS.map(|set| format!("{set}.yaml")).into());
}

#[test]
fn the_chart_passes_the_strict_lint_with_every_set_of_values() {
    let chart = complete_chart();
    for set in SETS {
        let chart = chart.path().to_str().unwrap();
        let ran = helm(&["lint", "--strict", chart, "-f", &values(set)]);
        let received = ran.expect_success();
        assert!(
            received.contains("1 chart(s) linted, 0 chart(s) failed"),
            "{set}: {received}"
        );
    }
}

#[test]
fn the_chart_can_be_packaged_and_the_package_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().to_str().unwrap();
    helm(&["package", chart().to_str().unwrap(), "-d", to]).expect_success();
    let package = folder
        .path()
        .join(format!("tollgate-{}.tgz", env!("CARGO_PKG_VERSION")));
    let listed = run(Command::new("tar").arg("-tzf").arg(&package)).expect_success();
    for file in [
        "Chart.yaml",
        "README.md",
        "values.yaml",
        "values.schema.json",
        "templates/NOTES.txt",
        "templates/_pod.tpl",
        "templates/tests/reserve-and-release.yaml",
    ] {
        assert!(
            listed.lines().any(|it| it == format!("tollgate/{file}")),
            "{file}: {listed}"
        );
    }
    helm(&[
        "template",
        "rel",
        package.to_str().unwrap(),
        "--kube-version",
        VERSIONS[0],
    ])
    .expect_success();
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart = yaml("helm/tollgate/Chart.yaml");
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&version.into(), &version.into())
    );
    assert_eq!(chart["kubeVersion"], format!(">={}.0-0", VERSIONS[0]));
    let image = render("default").container()["image"].clone();
    assert_eq!(image, format!("tollgate:{version}"));
}

/// Only the organizations and what differs are said, in the newest programme's own words.
#[test]
fn a_policy_without_pools_extends_the_newest_programme() {
    let policy = |words: &[&str]| toml(render_with("redis", words).policy().unwrap());
    let newest = PROGRAMS.last().unwrap().name;
    let extending = policy(&[]);
    assert_eq!(extending["program"], json!({"extends": newest}));
    let keys: Vec<_> = extending.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["orgs", "program"]);
    let named = policy(&["--set", "policy.program.extends=openai-2025-06-27"]);
    assert_eq!(named["program"], json!({"extends": "openai-2025-06-27"}));
    let own = policy(&[
        "--set",
        "policy.tiers.1.large=1,policy.pools.large.models={o1}",
    ]);
    assert_eq!(own["pools"], json!({"large": {"models": ["o1"]}}));
    assert!(own["program"].is_null(), "{own}");
    let adding = "policy.program.extends=openai-2025-06-27,policy.pools.large.retired={o1},policy.aliases.a=o3";
    let adding = policy(&["--set", adding]);
    assert_eq!(adding["program"], json!({"extends": "openai-2025-06-27"}));
    assert_eq!(adding["aliases"], json!({"a": "o3"}));
}

/// Each manifest, strictly, for the oldest and the newest Kubernetes. Kubernetes has no schemas for the objects of the
/// Prometheus operator.
#[test]
fn every_manifest_meets_the_schemas_of_kubernetes() {
    let folder = tempfile::tempdir().unwrap();
    let validate = |name: &str, manifests: &[Value]| {
        let file = folder.path().join(format!("{name}.json"));
        fs::write(&file, json!(manifests).to_string()).unwrap();
        let mut command = Command::new(tool("venv/bin/python"));
        command.arg(Path::new(ROOT).join("tests/helm/validate.py"));
        run(command.arg(&file).args(VERSIONS))
    };
    let mut kinds = BTreeSet::new();
    let mut all = Vec::new();
    for set in SETS {
        let manifests = render(set).0;
        kinds.extend(
            manifests
                .iter()
                .map(|it| it["kind"].as_str().unwrap().to_owned()),
        );
        all.extend(manifests);
    }
    all.retain(|it| it["apiVersion"] != "monitoring.coreos.com/v1");
    let ran = validate("all", &all);
    assert_eq!(
        (ran.stdout.trim(), ran.stderr.as_str(), ran.code),
        ("", "", Some(0))
    );
    let ours = [
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PrometheusRule",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        "StatefulSet",
    ];
    assert_eq!(kinds, ours.map(str::to_owned).into());
    // A fault is detected in each version.
    let mut wrong = render("default").workload().clone();
    wrong["spec"]["template"]["spec"]["surprise"] = json!(1);
    let ran = validate("wrong", &[wrong]);
    assert_eq!(
        (ran.code, ran.stdout.lines().count()),
        (Some(1), VERSIONS.len()),
        "{ran:?}"
    );
    assert!(ran.stdout.contains("surprise"), "{ran:?}");
}

/// A value of values.yaml that has a description.
struct DescribedValue {
    path: Vec<String>,
    text: String,
}

/// Every described value, in order: the comment that begins with `# --`, and the key below it.
fn described(text: &str) -> Vec<DescribedValue> {
    let mut found = Vec::new();
    let mut comment: Option<String> = None;
    let mut path: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some(first) = trimmed.strip_prefix("# -- ") {
            comment = Some(first.to_owned());
        } else if let Some(more) = trimmed.strip_prefix("# ") {
            if let Some(comment) = &mut comment {
                comment.push(' ');
                comment.push_str(more);
            }
        } else if let Some((key, _)) = trimmed
            .split_once(':')
            .filter(|_| !trimmed.starts_with('-'))
        {
            path.retain(|(at, _)| *at < indent);
            path.push((indent, key.to_owned()));
            if let Some(text) = comment.take() {
                let path = path.iter().map(|(_, key)| key.clone()).collect();
                found.push(DescribedValue { path, text });
            }
        }
    }
    found
}

fn at<'v>(values: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(values, |value, key| value.get(key))
}

/// The schema of a value; references are resolved.
fn schema_at<'s>(schema: &'s Value, path: &[String]) -> Option<&'s Value> {
    path.iter().try_fold(schema, |part, key| {
        followed(schema, part.get("properties")?.get(key)?)
    })
}

fn followed<'s>(schema: &'s Value, part: &'s Value) -> Option<&'s Value> {
    match part["$ref"].as_str() {
        Some(name) => schema.pointer(name.strip_prefix('#').unwrap()),
        None => Some(part),
    }
}

/// The types of a value, without null; "string" for an enum.
fn kind(schema: &Value, part: &Value) -> String {
    let kinds: Vec<String> = if part.get("enum").is_some() {
        vec!["string".to_owned()]
    } else if let Some(parts) = part["oneOf"].as_array() {
        let parts = parts.iter().map(|it| followed(schema, it).unwrap());
        parts.map(|it| kind(schema, it)).collect()
    } else {
        let one = std::slice::from_ref(&part["type"]);
        let kinds = part["type"].as_array().map_or(one, Vec::as_slice).iter();
        kinds.map(|it| it.as_str().unwrap().to_owned()).collect()
    };
    let kinds: Vec<String> = kinds
        .into_iter()
        .filter(|it| it != "null" && !it.is_empty())
        .collect();
    kinds.join(" or ")
}

/// The README's table follows from values.yaml. If it doesn't, this prints the expected table.
#[test]
fn the_readme_lists_every_value_with_its_type_its_default_and_its_description() {
    let values = yaml("helm/tollgate/values.yaml");
    let schema: Value = serde_json::from_str(&read("helm/tollgate/values.schema.json")).unwrap();
    let mut table = vec![
        "| Key | Type | Default | Description |".to_owned(),
        "| --- | --- | --- | --- |".to_owned(),
    ];
    for DescribedValue { path, text } in described(&read("helm/tollgate/values.yaml")) {
        let key = path.join(".");
        let value = at(&values, &path).unwrap_or_else(|| panic!("{key}"));
        let part = schema_at(&schema, &path).unwrap_or_else(|| panic!("no schema for {key}"));
        let kind = kind(&schema, part);
        table.push(format!("| `{key}` | {kind} | `{value}` | {text} |"));
    }
    let table = table.join("\n");
    let readme = read("helm/tollgate/README.md");
    assert!(
        readme.contains(&table),
        "the README's table must be:\n{table}\n"
    );
}

/// The paths of all values: scalars, lists, and empty maps.
fn leaves(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match value.as_object().filter(|map| !map.is_empty()) {
        None => found.push(path.clone()),
        Some(map) => {
            for (key, value) in map {
                path.push(key.clone());
                leaves(value, path, found);
                path.pop();
            }
        }
    }
}

#[test]
fn every_value_is_described_and_known_to_the_schema_and_the_schema_knows_no_other() {
    let values = yaml("helm/tollgate/values.yaml");
    let schema: Value = serde_json::from_str(&read("helm/tollgate/values.schema.json")).unwrap();
    let described = described(&read("helm/tollgate/values.yaml"));
    let mut found = Vec::new();
    leaves(&values, &mut Vec::new(), &mut found);
    assert!(found.len() > 80, "{}", found.len());
    for leaf in &found {
        let is_described = described.iter().any(|it| leaf.starts_with(&it.path));
        assert!(is_described, "{} has no description", leaf.join("."));
    }
    let mut sections = vec![Vec::new()];
    while let Some(path) = sections.pop() {
        let part = schema_at(&schema, &path).unwrap_or_else(|| panic!("{path:?}"));
        let Some(known) = part["properties"].as_object() else {
            continue;
        };
        let strict = &part["additionalProperties"];
        assert_eq!(strict, false, "{path:?} takes what nobody knows");
        // The keys of an empty map, such as the policy, are only in the schema.
        let value = at(&values, &path).and_then(Value::as_object);
        let Some(value) = value.filter(|map| !map.is_empty()) else {
            continue;
        };
        // A map that is described as a whole, such as the resources, may have more keys.
        if described.iter().any(|it| it.path == path) {
            continue;
        }
        let mut known: BTreeSet<&String> = known.keys().collect();
        if path.is_empty() {
            // For parent charts; not read.
            for key in ["global", "enabled"] {
                assert!(known.remove(&key.to_owned()));
            }
        }
        assert_eq!(known, value.keys().collect(), "{path:?}");
        for key in value.keys() {
            sections.push([path.clone(), vec![key.clone()]].concat());
        }
    }
}
