//! Checks the house rules that can be read off the sources.

mod syntax;
mod words;

use std::{
    fs,
    path::{Path, PathBuf},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Every text file below a folder of the project, with its path from the root.
fn files(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let name = path
                    .strip_prefix(ROOT)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                found.push((name, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

/// A source without its unit tests and comments.
fn code(text: &str) -> String {
    let program = text.split("#[cfg(test)]").next().unwrap();
    let lines = program.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !part(before) && !part(after)
    })
}

/// Our modules that a source uses: what follows `crate::`, also within `use crate::{…}`.
fn known_modules(code: &str) -> Vec<String> {
    let mut known = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            known.push(first_word(rest));
            continue;
        };
        let mut depth = 0;
        let mut item = String::new();
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => known.push(first_word(&std::mem::take(&mut item))),
                _ if depth == 0 => item.push(c),
                _ => {}
            }
        }
        known.push(first_word(&item));
    }
    known.retain(|module| !module.is_empty());
    known
}

fn first_word(text: &str) -> String {
    text.trim_start()
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// Each room of the house, and the rooms that it may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("estimate", &["domain"]),
    ("wall_clock", &[]),
    ("spreadsheet", &[]),
    ("tls", &["files"]),
    ("files", &[]),
    ("http_client", &["files", "tls"]),
    ("telemetry", &["domain"]),
    ("auth", &["domain", "files"]),
    ("policy", &["domain", "files", "wall_clock"]),
    (
        "store",
        &["domain", "files", "telemetry", "tls", "wall_clock"],
    ),
    (
        "ledger",
        &["domain", "policy", "store", "telemetry", "wall_clock"],
    ),
    (
        "reconcile",
        &[
            "domain",
            "files",
            "http_client",
            "ledger",
            "policy",
            "store",
            "telemetry",
            "tls",
        ],
    ),
    (
        "notify",
        &[
            "domain",
            "files",
            "http_client",
            "ledger",
            "telemetry",
            "tls",
        ],
    ),
    (
        "grpc",
        &["auth", "domain", "estimate", "ledger", "store", "telemetry"],
    ),
    (
        "envoy",
        &[
            "auth",
            "domain",
            "estimate",
            "grpc",
            "ledger",
            "policy",
            "telemetry",
            "wall_clock",
        ],
    ),
    (
        "http",
        &[
            "auth",
            "domain",
            "grpc",
            "ledger",
            "policy",
            "spreadsheet",
            "store",
            "telemetry",
        ],
    ),
    ("net", &["auth", "files", "telemetry", "wall_clock"]),
    (
        "settings",
        &[
            "auth",
            "domain",
            "envoy",
            "files",
            "grpc",
            "ledger",
            "net",
            "notify",
            "policy",
            "reconcile",
            "store",
            "telemetry",
        ],
    ),
    (
        "server",
        &[
            "auth",
            "envoy",
            "files",
            "grpc",
            "http",
            "ledger",
            "net",
            "notify",
            "policy",
            "reconcile",
            "settings",
            "store",
            "telemetry",
            "wall_clock",
        ],
    ),
    ("client", &["files", "grpc", "settings", "tls"]),
    ("bench", &["client", "grpc"]),
    (
        "cli",
        &[
            "auth",
            "bench",
            "client",
            "domain",
            "estimate",
            "files",
            "grpc",
            "policy",
            "reconcile",
            "settings",
            "spreadsheet",
            "wall_clock",
        ],
    ),
];

#[test]
fn each_module_imports_only_what_it_may() {
    for (file, text) in files("src") {
        let path = file.trim_start_matches("src/").trim_end_matches(".rs");
        let room = path.split('/').next().unwrap();
        if !file.ends_with(".rs") || ["lib", "main"].contains(&room) {
            continue;
        }
        let (_, may) = ROOMS
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{file} is in no known room"));
        for known in known_modules(&code(&text)) {
            let allowed = known == room || may.contains(&known.as_str());
            assert!(allowed, "{file} knows {known:?}");
        }
    }
}

/// A name becomes an organization in one place, which checks that the caller may act for it.
#[test]
fn grpc_takes_no_organization_that_its_caller_may_not_speak_for() {
    let mut places = Vec::new();
    for (file, text) in files("src/grpc") {
        let count = code(&text).matches("OrgId::parse").count();
        places.extend(std::iter::repeat_n(file, count));
    }
    assert_eq!(places, ["src/grpc/convert.rs"]);
}

#[test]
fn the_domain_is_pure() {
    for (file, text) in files("src/domain") {
        for impure in [
            "async",
            "tokio",
            "serde",
            "tracing",
            "tonic",
            "redis",
            "now",
            "SystemTime",
            "fs",
            "net",
        ] {
            assert!(!names(&code(&text), impure), "{file}: {impure}");
        }
    }
}

#[test]
fn only_the_stores_name_their_databases_and_only_the_surfaces_of_grpc_server_and_client_name_tonic()
{
    for (file, text) in files("src")
        .into_iter()
        .filter(|(file, _)| file.ends_with(".rs"))
    {
        let text = code(&text);
        if !file.starts_with("src/store/redis/") {
            assert!(!names(&text, "deadpool_redis"), "{file}");
            assert!(
                !text.contains("use redis::") && !text.contains("redis::cmd"),
                "{file}"
            );
        }
        if !file.starts_with("src/store/file/") {
            assert!(!names(&text, "redb"), "{file}");
        }
        if !file.starts_with("src/telemetry/metrics/") {
            assert!(!names(&text, "prometheus_client"), "{file}");
        }
        if file != "src/telemetry/traces.rs" {
            assert!(!text.contains("opentelemetry"), "{file}");
        }
        let may = [
            "src/grpc/",
            "src/envoy/",
            "src/client/",
            "src/cli/",
            "src/bench/",
            "src/server/",
        ];
        if !may.iter().any(|may| file.starts_with(may)) {
            assert!(!names(&text, "tonic"), "{file}");
        }
    }
}

#[test]
fn files_and_functions_do_one_thing() {
    for (file, text) in files("src").into_iter().chain(files("benches")) {
        let lines = text.lines().count();
        assert!(
            lines <= 600,
            "{file} has {lines} lines: look for the second thing that it does"
        );
    }
    let main = fs::read_to_string(Path::new(ROOT).join("src/main.rs")).unwrap();
    assert!(main.lines().count() <= 80);
}

/// The files of a script are concatenated: the first one starts with Redis' marker.
#[test]
fn every_script_documents_its_keys_and_its_reply() {
    let lua = |file: &str| file.ends_with(".lua");
    let (first, parts): (Vec<_>, Vec<_>) = files("src")
        .into_iter()
        .filter(|(file, _)| lua(file))
        .partition(|(_, text)| text.starts_with("#!lua"));
    for (file, text) in &first {
        assert!(
            text.contains("-- KEYS") && text.contains("-- Returns"),
            "{file}"
        );
    }
    let mut names: Vec<&str> = first.iter().map(|(file, _)| file.as_str()).collect();
    names.sort_unstable();
    let scripts = [
        "src/store/redis/script/acl_check.lua",
        "src/store/redis/script/call.lua",
        "src/store/redis/script/changes.lua",
        "src/store/redis/script/keep_change.lua",
        "src/store/redis/script/lease.lua",
        "src/store/redis/script/provider.lua",
        "src/store/redis/script/query.lua",
    ];
    assert_eq!(names, scripts);
    for (file, text) in &parts {
        let of_a_script = file.starts_with("src/store/redis/script/");
        let says = of_a_script && text.starts_with("-- ") && text.contains("-- KEYS");
        assert!(says, "{file}");
    }
    for (file, text) in first.iter().chain(&parts) {
        let is_wide = |line: &&str| line.chars().count() > 120;
        assert_eq!(text.lines().find(is_wide), None, "{file}");
    }
    assert_eq!(parts.len(), 9);
}

/// A reader of both finds each rule at the same place.
#[test]
fn the_rules_in_lua_have_the_names_and_the_order_of_the_domains() {
    let read = |file: &str| fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let functions = |text: &str, word: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim_start);
        let names = lines.filter_map(|line| {
            line.split_once(word)
                .filter(|(before, _)| ["", "local ", "pub ", "pub const "].contains(before))
        });
        names.map(|(_, name)| first_word(name)).collect()
    };
    for (domain, lua, at_least) in [
        ("pool.rs", "rules.lua", 9),
        ("reservation.rs", "reservation_rules.lua", 4),
    ] {
        let domain = code(&read(&format!("src/domain/{domain}")));
        let mut domain = functions(&domain, "fn ");
        let lua = functions(&read(&format!("src/store/redis/script/{lua}")), "function ");
        assert!(lua.len() >= at_least, "{lua:?}");
        domain.retain(|name| lua.contains(name));
        assert_eq!(lua, domain);
    }
}

#[test]
fn no_code_is_unfinished_and_no_test_is_skipped() {
    for folder in ["src", "tests", "benches"] {
        for (file, text) in files(folder)
            .into_iter()
            .filter(|(file, _)| file.ends_with(".rs"))
        {
            // Split, so that this file does not match.
            for mark in
                [["todo", "!("], ["unimplemented", "!("], ["#[", "ignore"]].map(|it| it.concat())
            {
                assert!(!text.contains(&mark), "{file}: {mark}");
            }
        }
    }
}

#[test]
fn every_section_that_the_sources_name_is_in_the_contract() {
    let contract = fs::read_to_string(Path::new(ROOT).join("docs/CONTRACT.md")).unwrap();
    let sections: Vec<&str> = contract
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let mut named = 0;
    for (file, text) in files("src") {
        let text: String = text
            .lines()
            .map(|line| line.trim_start_matches(['/', '!', ' ', '-', '#']).trim())
            .collect::<Vec<_>>()
            .join(" ");
        for (at, _) in text.match_indices("docs/CONTRACT.md, \"") {
            let section = text[at..].split('"').nth(1).unwrap();
            assert!(
                sections.contains(&section),
                "{file} names the section {section:?}"
            );
            named += 1;
        }
    }
    assert!(named > 5, "{named}");
}
