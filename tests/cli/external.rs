//! `tollgate external`: the figure is set, and its changes are listed.

use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tollgate::grpc::proto::SetExternalUsageRequest;

use super::{Cli, tollgate};
use crate::support::{calls::TextFile, world::small_policy};

#[test]
fn external_usage_is_set_with_its_note_and_the_answer_has_both_figures() {
    let cli = Cli::start();
    cli.table("reserve org-demo search gpt-4o 1000");
    for (tokens, printed) in [("3000", ["3,000", "0"]), ("2000", ["2,000", "3,000"])] {
        let [external, before] = printed;
        let remaining = match tokens {
            "3000" => "996,000",
            _ => "997,000",
        };
        assert_eq!(
            cli.table(&format!("external org-demo large {tokens} --note batch")),
            [
                format!("external {external}"),
                format!("before {before}"),
                "pool large".to_owned(),
                "used / allowance 1,000 / 1,000,000".to_owned(),
                format!("remaining {remaining}"),
                "resets in 12 h 0 min".to_owned(),
            ]
        );
    }
    let log = cli.service.log();
    let notes = log.iter().filter(|line| line["target"] == "audit");
    assert_eq!(
        notes.map(|line| &line["note"]).collect::<Vec<_>>(),
        ["batch", "batch"]
    );
    assert_eq!(
        cli.json("external org-demo large 5000"),
        json!({
            "previous_tokens": 2_000, "external_tokens": 5_000, "pool": "large", "allowance": 1_000_000,
            "used": 1_000, "remaining": 994_000, "resets_at": "2026-11-23T00:00:00Z",
        })
    );
}

#[test]
fn the_changes_are_listed_as_a_table_and_as_json() {
    let cli = Cli::start();
    assert_eq!(
        cli.table("external org-demo --history"),
        ["2026-11-22 (UTC): no external usage was set"]
    );
    cli.table("external org-demo large 3000 --note batch");
    cli.table("external org-demo mini 20");
    // Their times are a little after noon, in any order: each command sets the clock back.
    let table = cli.table("external org-demo --history --from 2026-11-22");
    let without_time = |line: &String| match line.split_once(' ') {
        Some(("2026-11-22", rest)) if rest.starts_with("12:") => rest[9..].to_owned(),
        _ => line.clone(),
    };
    let mut table: Vec<String> = table.iter().map(without_time).collect();
    table[2..].sort();
    assert_eq!(
        table,
        [
            "2026-11-22 (UTC), 2 changes",
            "SET AT (UTC) POOL SOURCE BEFORE AFTER CALLER NOTE",
            "large manual 0 3,000 - batch",
            "mini manual 0 20 - -",
        ]
    );
    let mut listed = cli.json("external org-demo --history");
    let changes = listed["changes"].as_array_mut().unwrap();
    changes.sort_by_key(|change| change["pool"].to_string());
    for change in changes.iter_mut() {
        let at = change["changed_at"].take();
        assert!(at.as_str().unwrap().starts_with("2026-11-22T12:"), "{at}");
    }
    assert_eq!(
        listed["changes"][0],
        json!({
            "changed_at": null, "pool": "large", "source": "EXTERNAL_SOURCE_MANUAL", "before": 0,
            "after": 3_000, "caller": "", "note": "batch", "outcome_known": true,
        })
    );
    assert_eq!(
        (&listed["from_day"], &listed["next_to_day"]),
        (&"2026-11-22".into(), &"".into())
    );
    let ran = cli.run("external org-demo --history --from 2026-10-01");
    assert_eq!(
        ran.stderr,
        "warning: changes are kept from 2026-10-18 on: the days before it are not listed\n"
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[test]
fn invisible_characters_of_names_and_notes_are_shown_in_tables_and_kept_in_json() {
    let cli = Cli::start();
    cli.table("external org-demo large 3000 --note \u{202e}a\u{2066}b");
    let table = cli.table("external org-demo --history");
    assert!(table[2].ends_with(" - \u{fffd}a\u{fffd}b"), "{table:?}");
    let listed = cli.json("external org-demo --history");
    assert_eq!(listed["changes"][0]["note"], "\u{202e}a\u{2066}b");
    cli.table("reserve org-demo \u{202e}p gpt-4o 10");
    let table = cli.table("usage org-demo");
    assert!(
        table[2].starts_with("\u{fffd}p gpt-4o large 10 "),
        "{table:?}"
    );
}

/// The organization has left the policy: of days without changes it is unknown.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_ends_where_a_later_page_is_not_found() {
    let policy = TextFile::new(&small_policy("keep_open"));
    let dir = tempfile::tempdir().unwrap();
    let store = format!("file:{}", dir.path().join("store").display());
    let cli = Cli::start_with(&["--store", &store, "--policy", policy.path()]);
    let client = cli.service.client();
    let set = (1..=1_000).map(|tokens| {
        let mut client = client.clone();
        let request = SetExternalUsageRequest {
            org: "acme".to_owned(),
            pool: "large".to_owned(),
            tokens,
            note: String::new(),
        };
        async move { client.set_external_usage(request).await }
    });
    let mut set = stream::iter(set).buffer_unordered(16);
    while let Some(set) = set.next().await {
        set.unwrap();
    }
    drop(set);
    drop(cli);
    let others = small_policy("keep_open").replace("[orgs.acme]", "[orgs.new]");
    let policy = TextFile::new(&others);
    let cli = Cli::start_with(&["--store", &store, "--policy", policy.path()]);
    let table = cli.table("external acme --history --from 2026-11-20");
    assert_eq!(
        (table[0].as_str(), table.len()),
        ("2026-11-20 to 2026-11-22 (UTC), 1,000 changes", 1_002)
    );
}

#[test]
fn setting_and_listing_exclude_each_other() {
    for words in [
        &["external", "o", "large"][..],
        &["external", "o", "large", "many"],
        &["external", "o", "large", "1", "--history"],
        &["external", "o", "--history", "--note", "n"],
        &["external", "o", "--history", "--to", "2026-11-22"],
        &["external", "o", "large", "1", "--from", "2026-11-22"],
        &["external", "o"],
    ] {
        let ran = tollgate(words);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(2), ""),
            "{words:?}: {ran:?}"
        );
    }
}
