//! `program`: the built-in programmes.

use std::fs;

use tollgate::policy::PROGRAMS;

use super::tollgate;

#[test]
fn the_built_in_programmes_are_listed_the_newest_last() {
    let listed = tollgate(&["program", "list"]).expect_success();
    let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = listed.lines().map(narrow).collect();
    assert_eq!(
        lines,
        [
            "PROGRAM LISTS OF MODELS ALIASES RETIRED",
            "openai-2025-06-27 2025-06-27 27 0 0",
            "openai-2026-09-28 2026-09-28 32 18 4",
        ]
    );
}

/// What a policy takes over by `extends` can be read, and kept as a file.
#[test]
fn a_programme_is_shown_as_a_policy_file_that_serves_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let org = "\n[orgs.a]\ntier = 1\ndata_sharing = \"all\"\n";
    for program in &PROGRAMS {
        let shown = tollgate(&["program", "show", program.name]).expect_success();
        let (copy, extending) = (
            dir.path().join("copy.toml"),
            dir.path().join("extends.toml"),
        );
        fs::write(&copy, shown + org).unwrap();
        let text = format!("[program]\nextends = {:?}\n{org}", program.name);
        fs::write(&extending, text).unwrap();
        let (copy, extending) = (copy.to_str().unwrap(), extending.to_str().unwrap());
        let changes = tollgate(&["check-policy", extending, "--against", copy]).expect_success();
        let changes: Vec<&str> = changes.lines().skip(2).map(str::trim).collect();
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(
            changes[0].ends_with(&format!("extends none → {}", program.name)),
            "{changes:?}"
        );
    }
}

#[test]
fn an_unknown_programme_is_a_wrong_argument() {
    let ran = tollgate(&["program", "show", "openai"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
    assert!(
        ran.stderr.contains("openai-2025-06-27, openai-2026-09-28"),
        "{ran:?}"
    );
}
