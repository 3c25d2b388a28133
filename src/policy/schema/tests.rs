use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Statements that stand in a policy in any order, and mostly make it a wrong one.
const STATEMENTS: [&str; 33] = [
    "[program]\nname = \"p\"",
    "[pools.large]\nmodels = [\"gpt-4o\", # [orgs.a]\n  \"o1\"]",
    "[tiers.1]\nlarge = 1_000",
    "[tiers.2]\nlarge = \"many\"",
    "[models.gpt-4o]\ncontext = 1",
    "[orgs]",
    "[orgs]\nm = { tier = 1, data_sharing = \"all\" }",
    "[orgs]\nn.tier = 1\nn.data_sharing = \"off\"",
    "[orgs.a]\ntier = 1\ndata_sharing = \"all\"",
    "[orgs.b]\ntier = 1\ndata_sharing = \"off\"",
    "  [ orgs . \"a\" ]  # a comment\n\ttier = 1\n\tdata_sharing = 'selected'\n\tprojects = [\n[],\n\"p\"\n]",
    "[orgs.'c d']\ntier = 3\ndata_sharing = \"all\"",
    "[orgs.\"\\u0061\".shares]\np = \"5%\"",
    "[orgs.a.shares]\np = { large = 7 }",
    "[orgs.b.shares.p]\nlarge = \"101%\"",
    "[orgs.c]\r\ntier = 1\r\ndata_sharing = \"all\"\r\nmargin = 1\r",
    "[[orgs.c]]\ntier = 1",
    "[orgs.\"\\u0001\"]\ntier = 1\ndata_sharing = \"all\"",
    "[ orgs.d ]\ntear = 1\nnotify_at = [5, 5]",
    "[\"orgs\".e]\ndata_sharing = \"\"\"\n[orgs.f]\ntier = 1\n\"\"\"\ntier = 1",
    "[orgs.e]\ndata_sharing = '''\n[orgs.f]'''\ntier = [\n  [1], [2,\n  [3]],\n]",
    "tier = 1",
    "projects = [\"p\", \"p\"]",
    "enterprise = true",
    "# [orgs.g]",
    "",
    "é = 'orgs'",
    "[other]\nkey = 1",
    "[other.orgs.a]",
    "[orgs.a",
    "[orgs.]",
    "[orgs.b] tier",
    "key = = 1",
];

/// Beside nothing else wrong, each of these must have its line.
const VALID: &str = "[pools.large]\nmodels = [\"gpt-4o\", \"o1\"]\n[tiers.1]\nlarge = 1_000\n";

fn whole(text: &str) -> Result<Policy, Faults> {
    toml::read("p.toml", text.as_bytes(), policy)
}

/// The faults, without duplicate keys behind broken syntax: the parser goes on in one table or another.
fn shown(faults: Faults) -> Vec<String> {
    let is_broken = faults.faults.iter().any(|fault| fault.key.is_empty());
    let shown = faults.faults.iter().map(ToString::to_string);
    let shown = shown.filter(|fault| !is_broken || !fault.ends_with("duplicate key"));
    shown.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1_000) })]

    #[test]
    fn a_policy_that_is_read_table_by_table_is_as_if_it_were_read_at_once(
        begin in select(&["", VALID][..]),
        statements in vec(select(&STATEMENTS[..]), 0..9),
        end in select(&["", "\n", VALID][..]),
    ) {
        let text = format!("{begin}{}\n{end}", statements.join("\n"));
        match (whole(&text), Policy::parse("p.toml", &text)) {
            (Ok(whole), Ok(split)) => {
                prop_assert_eq!(&whole.orgs, &split.orgs);
                prop_assert!(whole.diff(&split).kinds().is_empty());
            }
            (Err(whole), Err(split)) => prop_assert_eq!(shown(whole), shown(split), "{}", text),
            (whole, split) => prop_assert!(false, "{:?} {:?} {}", whole.err(), split.err(), text),
        }
    }
}

#[test]
fn an_array_that_is_not_closed_ends_at_the_next_organization() {
    let text = format!(
        "{VALID}[orgs.a]\ntier = 1\nprojects = [\"p\",\n[orgs.b]\ntier = 1\ndata_sharing = 1\n\
         [orgs.c]\ntier =\n"
    );
    let faults = Policy::parse("p.toml", &text).expect_err("faults");
    let lines: Vec<usize> = faults.faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [7, 12], "{faults}");
}

#[test]
fn an_organization_stands_in_the_table_of_all_or_has_a_table_of_its_own() {
    let org = "tier = 1\ndata_sharing = \"all\"\n";
    let inline = "cannot extend value of type inline table with a dotted key";
    for (text, fault) in [
        (
            format!("[orgs]\na = {{ tier = 1 }}\n[orgs.a]\n{org}"),
            "7: a: duplicate key",
        ),
        (
            format!("[orgs.a]\n{org}[orgs]\na = {{ tier = 1 }}\n"),
            "9: a: duplicate key",
        ),
        (
            format!("orgs = {{ }}\n[x]\n[orgs.a]\n{org}"),
            &format!("6: {inline}"),
        ),
    ] {
        let text = match text.starts_with('[') {
            true => VALID.to_owned() + &text,
            false => text.replace("[x]", VALID.trim_end()),
        };
        let faults = Policy::parse("p.toml", &text)
            .expect_err("a fault")
            .to_string();
        assert!(faults.contains(&format!("p.toml:{fault}")), "{faults}");
    }
}

#[test]
fn a_table_and_all_that_has_no_table_of_its_own_have_at_most_16_mib() {
    let comment = format!("#{}\n", " ".repeat(16 << 20));
    let own = "[orgs.a]\ntier = 1\ndata_sharing = \"all\"\n";
    for (text, fault) in [
        (
            format!("{VALID}{own}[orgs.b]\n{comment}{own}"),
            "8: the table is larger",
        ),
        (
            format!("{VALID}{own}[other]\n{comment}"),
            "1: more than 16 MiB are outside",
        ),
    ] {
        let faults = Policy::parse("p.toml", &text)
            .expect_err("a fault")
            .to_string();
        assert!(faults.contains(&format!("p.toml:{fault}")), "{faults}");
    }
}
