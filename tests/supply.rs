//! What ships besides the sources: the image, the scripts, and the statements on security.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use serde_json::Value;

use crate::support::tools::run;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(file: &str) -> String {
    let file = Path::new(ROOT).join(file);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The rest of the only line of the last stage that begins with `word`.
fn instruction(word: &str) -> String {
    let dockerfile = read("Dockerfile");
    let last_stage = dockerfile.rsplit("\nFROM ").next().unwrap();
    let mut received = last_stage
        .lines()
        .filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    let received = (received.next(), received.next());
    let (Some(once), None) = received else {
        panic!("{word} stands there once: {received:?}");
    };
    once.to_owned()
}

/// The numbers of a version, for comparisons.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|it| it.parse().unwrap()).collect()
}

#[test]
fn the_image_is_built_by_a_rust_that_the_program_allows() {
    let dockerfile = read("Dockerfile");
    let image = dockerfile
        .lines()
        .find_map(|line| line.strip_prefix("ARG RUST_VERSION="))
        .unwrap();
    let least = env!("CARGO_PKG_RUST_VERSION");
    assert!(
        numbers(image) >= numbers(least),
        "{image} is before {least}"
    );
    assert!(dockerfile.contains("FROM rust:${RUST_VERSION}-"));
}

#[test]
fn the_image_has_the_version_and_the_licence_of_the_program() {
    let dockerfile = read("Dockerfile");
    for (label, value) in [
        ("version", env!("CARGO_PKG_VERSION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
    ] {
        let label = format!("org.opencontainers.image.{label}=\"{value}\"");
        assert!(dockerfile.contains(&label), "{label}");
    }
}

#[test]
fn the_image_is_made_of_nothing_but_what_the_first_stage_laid_out() {
    assert!(read("Dockerfile").contains("\nFROM scratch\n"));
    assert_eq!(
        instruction("COPY"),
        "--from=build --chown=0:65532 /image/ /"
    );
    assert!(read("Dockerfile").contains("./scripts/build-static /image\n"));
}

#[test]
fn the_image_is_what_the_chart_starts() {
    let values: Value = serde_saphyr::from_str(&read("helm/tollgate/values.yaml")).unwrap();
    let pod = &values["podSecurityContext"];
    let (user, group) = (&pod["runAsUser"], &pod["runAsGroup"]);
    assert_eq!(instruction("USER"), format!("{user}:{group}"));
    assert_eq!(pod["fsGroup"], *group);
    // The pods' first argument is a subcommand.
    assert_eq!(instruction("ENTRYPOINT"), r#"["/tollgate"]"#);
    assert!(read("helm/tollgate/templates/_pod.tpl").contains("args:\n        - serve\n"));
    // The chart's settings have these ports and this volume.
    let (grpc, http) = ("50051", "9464");
    assert_eq!(instruction("EXPOSE"), format!("{grpc} {http}"));
    let settings = read("helm/tollgate/templates/_settings.tpl");
    let folder = instruction("WORKDIR");
    for part in [
        format!("\"%s:{grpc}\""),
        format!("\"%s:{http}\""),
        format!("\"file:{folder}/tollgate.db\""),
    ] {
        assert!(settings.contains(&part), "{part}");
    }
}

#[test]
fn every_script_can_be_run_and_ends_at_its_first_failure() {
    let scripts = fs::read_dir(Path::new(ROOT).join("scripts")).unwrap();
    let mut paths: Vec<_> = scripts.map(|entry| entry.unwrap().path()).collect();
    paths.push(Path::new(ROOT).join(".ci/run"));
    assert!(paths.len() > 5, "{paths:?}");
    for path in paths {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{}", path.display());
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("#!/usr/bin/env bash\n"),
            "{}",
            path.display()
        );
        assert!(text.contains("\nset -euo pipefail\n"), "{}", path.display());
    }
}

/// A user without rights gets a list of everything that root must install, before anything is fetched or built.
#[test]
fn the_script_of_the_tests_lists_all_that_is_missing_at_once() {
    let empty = tempfile::tempdir().unwrap();
    let (scripts, path) = (empty.path().join("scripts"), empty.path().join("path"));
    fs::create_dir(&scripts).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(scripts.join("test"), read("scripts/test")).unwrap();
    for (name, text) in [
        ("id", "echo 1000"),
        ("cargo", "echo built"),
        ("apt-get", "echo installed"),
        ("dirname", "echo ${1%/*}"),
    ] {
        let file = path.join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut bash = Command::new("/bin/bash");
    let ran = run(bash.arg(scripts.join("test")).env("PATH", &path));
    assert_eq!((ran.code, &*ran.stdout), (Some(1), ""), "{ran:?}");
    let missing = "gcc libc6-dev g++ curl redis-server redis-sentinel redis-tools valgrind chromium \
                   chromium-driver python3 python3-venv golang-go";
    let command =
        format!("apt-get update && apt-get install -y --no-install-recommends {missing}\n");
    assert!(ran.stderr.ends_with(&command), "{ran:?}");
}

fn sources(folder: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|it| it == "rs") {
            into.push(fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn security_md_names_only_tests_and_scripts_that_exist() {
    let mut texts = Vec::new();
    for folder in ["src", "tests"] {
        sources(&Path::new(ROOT).join(folder), &mut texts);
    }
    let security = read("SECURITY.md");
    let defended = security
        .split("## What is defended, and by what")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .unwrap();
    let rows: Vec<&str> = defended
        .lines()
        .filter_map(|line| line.strip_suffix(" |")?.rsplit(" | ").next())
        .skip(2)
        .collect();
    assert!(rows.len() > 15, "{}", rows.len());
    for row in rows {
        let names: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{row}");
        for name in names {
            let there = match name.strip_prefix("./") {
                Some(script) => Path::new(ROOT).join(script).is_file(),
                None => texts
                    .iter()
                    .any(|text| text.contains(&format!("fn {name}("))),
            };
            assert!(there, "SECURITY.md names {name}");
        }
    }
}

#[test]
fn durability_md_names_only_modules_of_tests_that_exist() {
    let durability = read("docs/DURABILITY.md");
    let names = durability.split('`').skip(1).step_by(2);
    let modules: Vec<&str> = names.filter(|name| name.contains("::")).collect();
    assert!(modules.len() > 5, "{modules:?}");
    for module in modules {
        let path = Path::new(ROOT)
            .join("tests")
            .join(module.replace("::", "/"));
        let is_there = path.with_extension("rs").is_file() || path.join("mod.rs").is_file();
        assert!(is_there, "docs/DURABILITY.md names {module}");
    }
}
