//! The client subcommands.

use std::process::Command;

use serde_json::{Value, json};

use super::{Cli, tollgate};
use crate::support::{free_port, tools::run};

#[test]
fn each_answer_is_a_table_for_people() {
    let cli = Cli::start();
    let reserve = "reserve org-demo search gpt-4o 300000 --request-id one";
    let facts = |used: &str, remaining: &str| {
        let used = format!("used / allowance {used} / 1,000,000");
        let remaining = format!("remaining {remaining}");
        ["pool large", &used, &remaining, "resets in 12 h 0 min"].map(str::to_owned)
    };
    let after = facts("300,000", "700,000");
    assert_eq!(
        cli.table(reserve),
        [&["verdict FREE".to_owned()], &after[..]].concat()
    );
    let again = cli.table(reserve);
    let replayed = "replayed yes: answered before, nothing was counted now";
    assert_eq!(again.last().unwrap(), replayed);
    let billed = cli.table("reserve org-demo search gpt-4o 700001");
    assert_eq!(billed[0], "verdict BILLED (ALLOWANCE_EXCEEDED)");
    assert_eq!(billed[1..], after);
    let settled = cli.table("settle org-demo one 1000001");
    let changed = "verdict BILLED (ALLOWANCE_EXCEEDED), another verdict than at reserve";
    assert_eq!(settled[0], changed);
    assert_eq!(settled[1..], facts("0", "1,000,000"));
    cli.table("reserve org-demo search o1 2000 --request-id two");
    let released = cli.table("release org-demo two");
    assert_eq!(released[0], "released 2,000 tokens");
    assert_eq!(released[1..], facts("0", "1,000,000"));
    cli.table("reserve org-demo search o1 3000 --request-id three");
    let outside = cli.table("settle org-demo three 2500 --outside-program");
    let changed = "verdict BILLED (RAN_OUTSIDE_PROGRAM), another verdict than at reserve";
    assert_eq!(outside[0], changed);
    assert_eq!(outside[1..], facts("0", "1,000,000"));
    let uncovered = cli.table("reserve org-demo search gpt-7 1");
    assert_eq!(
        uncovered,
        ["verdict BILLED (MODEL_NOT_COVERED)", "resets in 12 h 0 min"]
    );
}

#[test]
fn the_quota_table_has_a_bar_the_numbers_and_the_time_to_the_reset() {
    let cli = Cli::start();
    cli.table("reserve org-demo search gpt-4o 250000");
    cli.table("reserve org-demo search gpt-4o 900000");
    let large = format!(
        "large {}{} 250,000 / 1,000,000 0 750,000 900,000",
        "█".repeat(6),
        "░".repeat(18)
    );
    let mini = format!("mini {} 0 / 10,000,000 0 10,000,000 0", "░".repeat(24));
    assert_eq!(
        cli.table("quota org-demo"),
        [
            "org-demo: tier 3, enrolled. 2026-11-22 (UTC), resets in 12 h 0 min",
            "POOL USED / ALLOWANCE HELD REMAINING BILLED",
            &large,
            &mini,
        ]
    );
}

#[test]
fn the_usage_table_has_a_row_for_each_project_and_model() {
    let cli = Cli::start();
    assert_eq!(
        cli.table("usage org-demo"),
        ["2026-11-22 (UTC): nothing was used"]
    );
    cli.table("reserve org-demo search gpt-4o 1234");
    cli.table("reserve org-demo answers gpt-7 5");
    let head = "PROJECT MODEL POOL FREE TOKENS BILLED TOKENS FREE REQUESTS BILLED REQUESTS";
    assert_eq!(
        cli.table("usage org-demo --day 2026-11-22"),
        [
            "2026-11-22 (UTC), 2 rows",
            head,
            "answers gpt-7 - 0 5 0 1",
            "search gpt-4o large 1,234 0 1 0",
        ]
    );
    let yesterday = cli.table("usage org-demo --day 2026-11-21");
    assert_eq!(yesterday, ["2026-11-21 (UTC): nothing was used"]);
}

#[test]
fn each_answer_is_json_with_the_protos_names_and_plain_numbers() {
    let cli = Cli::start();
    let midnight = "2026-11-23T00:00:00Z";
    let answer = |head: Value, used: u64, replayed: bool| {
        let mut answer = json!({
            "pool": "large", "allowance": 1_000_000, "used": used, "remaining": 1_000_000 - used,
            "resets_at": midnight, "replayed": replayed,
        });
        let Value::Object(head) = head else {
            panic!("no object")
        };
        answer.as_object_mut().unwrap().extend(head);
        answer
    };
    let verdict = |verdict: &str, why: &str| json!({"verdict": format!("VERDICT_{verdict}"), "billed_reason": format!("BILLED_REASON_{why}")});
    let free = || verdict("FREE", "UNSPECIFIED");
    let reserve = "reserve org-demo search gpt-4o 1000 --request-id one";
    assert_eq!(cli.json(reserve), answer(free(), 1_000, false));
    assert_eq!(cli.json(reserve), answer(free(), 1_000, true));
    let dry = cli.json("reserve org-demo search gpt-4o 1000000 --dry-run");
    assert_eq!(
        dry,
        answer(verdict("BILLED", "ALLOWANCE_EXCEEDED"), 1_000, false)
    );
    let evaluation = cli.json("reserve org-demo search gpt-4o 7 --workload evaluation");
    assert_eq!(
        evaluation["billed_reason"],
        "BILLED_REASON_WORKLOAD_NOT_COVERED"
    );
    let mut settled = free();
    settled["verdict_changed"] = false.into();
    assert_eq!(
        cli.json("settle org-demo one 900"),
        answer(settled, 900, false)
    );
    cli.json("reserve org-demo search gpt-4o 50 --request-id two");
    let released = json!({"released_tokens": 50});
    assert_eq!(
        cli.json("release org-demo two"),
        answer(released, 900, false)
    );
    let pool = |pool: &str, allowance: u64, used: u64| {
        json!({
            "pool": pool, "allowance": allowance, "used": used, "remaining": allowance - used,
            "billed_tokens": 0, "free_requests": u64::from(used > 0), "billed_requests": 0,
            "held_tokens": 0, "closed": false, "margin_tokens": 0, "external_tokens": 0, "shares": [],
        })
    };
    assert_eq!(
        cli.json("quota org-demo"),
        json!({
            "org": "org-demo", "tier": 3, "enrolled": true,
            "not_enrolled_reason": "BILLED_REASON_UNSPECIFIED", "day": "2026-11-22",
            "resets_at": midnight,
            "pools": [pool("large", 1_000_000, 900), pool("mini", 10_000_000, 0)], "comparisons": [],
        })
    );
    assert_eq!(
        cli.json("usage org-demo"),
        json!({
            "day": "2026-11-22", "next_page_token": "", "from_day": "2026-11-22", "to_day": "2026-11-22",
            "comparisons": [],
            "rows": [{
                "project": "search", "model": "gpt-4o", "pool": "large", "free_tokens": 900,
                "billed_tokens": 7, "free_requests": 1, "billed_requests": 1, "day": "2026-11-22",
            }],
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_has_the_rows_of_all_pages() {
    const ROWS: usize = 2_001;
    let cli = Cli::start();
    cli.use_projects(ROWS).await;
    let usage = cli.json("usage org-demo");
    let rows = usage["rows"].as_array().unwrap();
    assert_eq!(rows.len(), ROWS);
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row["project"], format!("project-{at:04}"));
    }
    let table = cli.table("usage org-demo");
    assert_eq!(
        (table[0].as_str(), table.len()),
        ("2026-11-22 (UTC), 2,001 rows", ROWS + 2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_error() {
    let cli = Cli::start();
    // More than a pipe buffers, so that the reader is gone before everything is written.
    cli.use_projects(1_001).await;
    let range = ["--from", "2026-11-22"];
    for format in [
        &[][..],
        &["--json"],
        &["--csv"],
        &range,
        &[&range[..], &["--json"]].concat(),
    ] {
        let client = cli.command(&[&["usage", "org-demo"], format].concat());
        let mut shell = Command::new("bash");
        shell.args(["-c", "set -o pipefail; \"$@\" | head -n 1", "bash"]);
        shell.arg(client.get_program()).args(client.get_args());
        for (name, value) in client.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let ran = run(&mut shell);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        assert_eq!(ran.stdout.lines().count(), 1);
    }
}

#[test]
fn an_error_of_the_service_is_printed_with_its_code_and_exits_with_1() {
    let cli = Cli::start();
    cli.table("reserve org-demo search gpt-4o 10 --request-id one");
    cli.table("settle org-demo one 9");
    for (words, expected) in [
        (
            "reserve org-demo search gpt-4o 0",
            "INVALID_ARGUMENT: tokens: is 0, allowed are 1 to 1000000000",
        ),
        (
            "reserve org-demo search o1 10 --request-id one",
            "ALREADY_EXISTS: request_id: was used before with other fields (model); a retry sends",
        ),
        (
            "settle org-demo one 8",
            "ALREADY_EXISTS: request_id: was settled before with other tokens (9); a retry sends",
        ),
        (
            "settle org-demo nothing 8",
            "NOT_FOUND: request_id: no such reservation",
        ),
        (
            "release org-demo one",
            "FAILED_PRECONDITION: request_id: was settled before",
        ),
        (
            "quota org-unknown",
            "NOT_FOUND: org: the policy does not know",
        ),
        (
            "usage org-demo --day 2026-11-23",
            "OUT_OF_RANGE: day: 2026-11-23 is not kept",
        ),
        (
            "external org-demo huge 1",
            "NOT_FOUND: pool: the policy has no such pool",
        ),
        (
            "external org-demo large 1000000000001",
            "INVALID_ARGUMENT: tokens: is 1000000000001, allowed are",
        ),
        (
            "usage org-demo --day soon --json",
            "INVALID_ARGUMENT: day: is not a day",
        ),
    ] {
        let ran = cli.run(words);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(1), ""),
            "{words}: {ran:?}"
        );
        assert!(
            ran.stderr.starts_with(&format!("tollgate: {expected}")),
            "{words}: {ran:?}"
        );
        assert_eq!(ran.stderr.lines().count(), 1, "{words}: {ran:?}");
    }
}

#[test]
fn a_service_that_is_not_there_is_unavailable_and_exits_with_1() {
    let nobody = format!("127.0.0.1:{}", free_port());
    let ran = tollgate(&["quota", "org-demo", "--addr", &nobody]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.starts_with("tollgate: UNAVAILABLE: "), "{ran:?}");
    assert!(ran.stderr.contains("Connection refused"), "{ran:?}");
}

#[test]
fn wrong_arguments_exit_with_2() {
    for words in [
        &["frobnicate"][..],
        &["reserve", "org-demo", "search", "gpt-4o"],
        &["reserve", "org-demo", "search", "gpt-4o", "many"],
        &[
            "reserve",
            "org-demo",
            "search",
            "gpt-4o",
            "1",
            "--workload",
            "guess",
        ],
        &["reserve", "org-demo", "search", "gpt-4o", "1", "--guess"],
        &["settle", "org-demo", "one"],
        &["settle", "org-demo", "one", "--", "-1"],
        &["release", "org-demo"],
        &["quota"],
        &["quota", "org-demo", "other"],
        &["quota", "org-demo", "--addr", "no address"],
        &["quota", "org-demo", "--addr", ""],
        &["usage"],
        &["usage", "o", "--day", "2026-11-22", "--from", "2026-11-22"],
        &["usage", "o", "--to", "2026-11-22"],
        &["usage", "o", "--all"],
        &["usage", "o", "--from", ""],
        &["usage", "o", "--csv", "--json"],
        &["check-policy"],
        &["quota", "o", "--addr", "ftp://127.0.0.1:1"],
        &["reserve", "o", "p", "m", "1", "--request-id", ""],
    ] {
        let ran = tollgate(words);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(2), ""),
            "{words:?}: {ran:?}"
        );
        assert!(ran.stderr.starts_with("error: "), "{words:?}: {ran:?}");
    }
}

#[test]
fn the_address_can_come_from_the_environment_and_be_a_url() {
    let cli = Cli::start();
    let mut command = crate::support::tollgate::program();
    command.args(["quota", "org-demo"]);
    command.env("TOLLGATE_ADDR", format!("http://{}", cli.service.addr));
    // The client ignores the service's variables, even invalid ones.
    command.env("TOLLGATE_ON_STORE_FAILURE", "nonsense");
    let printed = run(&mut command).expect_success();
    assert!(printed.starts_with("org-demo: tier 3"), "{printed}");
}
