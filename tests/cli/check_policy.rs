//! `check-policy`: describes a policy, or lists every fault in it.

use std::fs;

use super::tollgate;

#[test]
fn a_valid_policy_is_described_with_its_pools_and_tiers() {
    let builtin = concat!(env!("CARGO_MANIFEST_DIR"), "/src/policy/builtin.toml");
    let june = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/policy/programs/openai-2025-06-27.toml"
    );
    let described = |file: &str| {
        let ran = tollgate(&["check-policy", file]);
        let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = ran.expect_success().lines().map(narrow).collect();
        assert_eq!(lines[0], format!("{file} is valid"));
        lines
    };
    for (file, expected) in [
        (
            builtin,
            [
                "extends openai-2026-09-28",
                "lists of models of 2026-09-28",
                "aliases 18",
                "retired models 4",
                "organizations 1",
                "large 19 250,000 250,000 1,000,000 1,000,000 1,000,000",
                "mini 13 2,500,000 2,500,000 10,000,000 10,000,000 10,000,000",
                "org-demo 3 all projects",
            ],
        ),
        (
            june,
            [
                "program openai-complimentary-tokens",
                "source https://help.openai.com/en/articles/10306912",
                "overflow keep_open",
                "covered workloads inference",
                "model capacities 27",
                "POOL MODELS TIER 1 TIER 2 TIER 3 TIER 4 TIER 5",
                "large 14 250,000 250,000 1,000,000 1,000,000 1,000,000",
                "mini 13 2,500,000 2,500,000 10,000,000 10,000,000 10,000,000",
            ],
        ),
    ] {
        let lines = described(file);
        for line in expected {
            assert!(
                lines.contains(&line.to_owned()),
                "{line:?} is not in {lines:?}"
            );
        }
    }
    // The only warning is about the old date of its lists.
    let ran = tollgate(&["check-policy", june]);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(ran.stderr.contains(": program.as_of: "), "{ran:?}");
}

/// A policy with faults. The comment on a faulty line names the key and a word of the expected message.
const INVALID_POLICY: &str = r#"
[program]
overflow = "maybe"                           # program.overflow: "maybe"
end_on = "2027-01-31"                        # program.end_on: "ends_on"
covered_workloads = ["inference", "dreams"]  # program.covered_workloads: "dreams"
margin = "101%"                              # program.margin: at most 100%
[pools.large]
models = ["gpt-4o", "ft:gpt-4o:x"]           # pools.large.models: fine-tuned
[pools.mini]
models = ["gpt-4o", "gpt-4o-mini"]           # pools.mini.models: "large"
margin = -1                                  # pools.mini.margin: 0 to 9007199254740991
[tiers.1]                                    # tiers.1.mini: missing
large = 9007199254740992                     # tiers.1.large: 9007199254740991
[tiers.6]                                    # tiers.6: 1 to 5
[orgs.acme]
tier = 2                                     # orgs.acme.tier: [tiers.2]
data_sharing = "all"
projects = ["p"]                             # orgs.acme.projects: "selected"
enterprise = "no"                            # orgs.acme.enterprise: string
margin = "5"                                 # orgs.acme.margin: such as "5%"
notify_at = [0]                              # orgs.acme.notify_at: 1 to 100
[orgs.acme.shares]
p = "40"                                     # orgs.acme.shares.p: such as "5%"
q = { huge = 1 }                             # orgs.acme.shares.q.huge: unknown
r = { mini = [1] }                           # orgs.acme.shares.r.mini: whole number
"" = 1                                       # orgs.acme.shares."": empty
[orgs.third]
tier = 1
data_sharing = "selected"
projects = ["p"]
shares.q = 1                                 # orgs.third.shares.q: not among the projects
[models.gpt-4o]
contxt = 128_000                             # models.gpt-4o.contxt: "context"
max_output = 0                               # models.gpt-4o.max_output: 1 to 1000000000
image = 1_000_000_001                        # models.gpt-4o.image: 1 to 1000000000
[orgs.other]
tier = 1
tier = 1                                     # tier: duplicate
data_sharing = "selected"                    # orgs.other.data_sharing: projects
"#;

#[test]
fn every_fault_of_a_policy_is_listed_with_its_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    fs::write(&file, INVALID_POLICY).unwrap();
    let name = file.to_str().unwrap();
    let ran = tollgate(&["check-policy", name]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    let mut printed: Vec<&str> = ran.stderr.lines().collect();
    let head = printed.remove(0);
    let wanted: Vec<(usize, &str, &str)> = (1..)
        .zip(INVALID_POLICY.lines())
        .filter_map(|(line, text)| {
            let (key, word) = text.split_once("  # ")?.1.trim().split_once(": ")?;
            Some((line, key, word))
        })
        .collect();
    assert_eq!(head, format!("tollgate: {} faults", wanted.len()));
    assert_eq!(printed.len(), wanted.len(), "{printed:#?}");
    for (line_of_fault, (line, key, word)) in printed.iter().zip(wanted) {
        let rest = line_of_fault.strip_prefix(&format!("{name}:{line}: {key}: "));
        let rest = rest.unwrap_or_else(|| panic!("{line_of_fault} is not of line {line}, {key}"));
        assert!(rest.contains(word), "{line_of_fault} does not say {word}");
    }
}

#[test]
fn warnings_of_a_valid_policy_are_listed_with_their_lines_and_the_exit_code_is_0() {
    let text = r#"
[program]
ends_on = "2026-01-31"
as_of = 2025-12-31
[pools.large]
models = [
    "gpt-4o",
    "gpt-4o-*",
    "O1 ",
    "gpt-4?",
    "gpt-[45]",
    "gpt-4o\u200B",
]
[tiers.1]
large = 1
[orgs."Free to be * named"]
tier = 1
data_sharing = "all"
"#;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap();
    // White space around a path is trimmed.
    let untrimmed = format!(" {name}\n");
    for against in [&[][..], &["--against", name], &["--against", &untrimmed]] {
        let ran = tollgate(&[&["check-policy", &untrimmed], against].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(
            ran.stdout.starts_with(&format!("{name} is valid")),
            "{ran:?}"
        );
        let wanted = [
            "3: program.ends_on: 2026-01-31 is over",
            "4: program.as_of: the lists of models are ",
            "8: pools.large.models: \"gpt-4o-*\" holds a wildcard",
            "9: pools.large.models: \"O1 \" holds white space and upper case",
            "10: pools.large.models: \"gpt-4?\" holds a wildcard",
            "11: pools.large.models: \"gpt-[45]\" holds a wildcard",
            "12: pools.large.models: \"gpt-4o\\u{200b}\" holds an invisible character",
        ];
        let printed: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(printed.len(), wanted.len(), "{printed:#?}");
        for (line, wanted) in printed.iter().zip(wanted) {
            let begins = format!("warning: {name}:{wanted}");
            assert!(line.starts_with(&begins), "{line} is not {begins}");
        }
    }
}

#[test]
fn a_policy_that_is_not_toml_is_reported_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    fs::write(&file, "[program]\nname = \n").unwrap();
    let name = file.to_str().unwrap();
    let ran = tollgate(&["check-policy", name]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains(&format!("\n{name}:2: ")), "{ran:?}");
}

#[test]
fn a_missing_policy_is_an_error() {
    let ran = tollgate(&["check-policy", "/nowhere/policy.toml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    let expected = "tollgate: /nowhere/policy.toml can't be read: ";
    assert!(ran.stderr.starts_with(expected), "{ran:?}");
}

#[test]
fn the_difference_of_two_policies_is_printed_for_people() {
    let dir = tempfile::tempdir().unwrap();
    // Lists of today lead to no warning.
    let today = chrono::Utc::now().date_naive().to_string();
    let builtin = include_str!("../../src/policy/builtin.toml");
    let before = builtin.replace("[orgs", &format!("as_of = {today}\n[orgs"));
    let base = dir.path().join("base.toml");
    fs::write(&base, &before).unwrap();
    let base = base.to_str().unwrap();
    let file = dir.path().join("policy.toml");
    let text = before.replace(
        "[orgs",
        "without = [\"o3\"]\n[tiers.1]\nlarge = 300_000\nmini = 2_500_000\n[orgs",
    );
    let text = text.replace(
        "tier = 3\ndata_sharing = \"all\"",
        "tier = 4\ndata_sharing = \"off\"",
    );
    let more =
        "[orgs.b]\ntier = 1\ndata_sharing = \"all\"\n[orgs.a]\ntier = 1\ndata_sharing = \"off\"\n";
    fs::write(&file, text + more).unwrap();
    let name = file.to_str().unwrap();
    let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let changes = |args: &[&str]| -> Vec<String> {
        let ran = tollgate(&[&["check-policy"], args].concat());
        assert_eq!(ran.stderr, "");
        ran.expect_success().lines().map(narrow).collect()
    };
    assert_eq!(
        changes(&[name, "--against", base]),
        [
            &format!("{name} is valid, and changes in {base}"),
            "WHAT CHANGES",
            "models 1 o3 alias of o3-2025-04-16 → none",
            "allowances 1 large of tier 1 250000 → 300000",
            "organizations added 2 a, b",
            "organizations changed 1 org-demo (tier 3 → 4, data_sharing all → off)",
        ]
    );
    let same = format!("{name} is valid, and changes nothing in {name}");
    assert_eq!(changes(&[name, "--against", name]), [same]);

    // Faults of either file are printed with that file's name.
    let bad = dir.path().join("bad.toml");
    fs::write(&bad, "").unwrap();
    let bad = bad.to_str().unwrap();
    for args in [[bad, "--against", name], [name, "--against", bad]] {
        let ran = tollgate(&[&["check-policy"], &args[..]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert!(
            ran.stderr.contains(&format!("\n{bad}:1: pools: ")),
            "{ran:?}"
        );
    }
}
