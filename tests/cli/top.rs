//! `tollgate top`: once, and live in a terminal.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tollgate::grpc::proto::ReserveRequest;

use super::Cli;
use crate::support::{
    calls::TextFile,
    terminal::{LAUNCHER, Terminal},
    tollgate::{program, program_by},
    tools::run,
};

impl Cli {
    /// `tollgate top` in a terminal.
    fn top(&self, columns: u16, rows: u16) -> Terminal {
        let mut command = program_by(&LAUNCHER);
        self.clock.preload(&mut command);
        command.args(["top", "--every", "200ms", "--addr", &self.service.addr]);
        Terminal::start(command, columns, rows)
    }

    async fn reserve_of(&self, org: &str, tokens: u64) {
        let request = ReserveRequest {
            org: org.to_owned(),
            project: "p".to_owned(),
            model: "gpt-4o".to_owned(),
            tokens,
            ..ReserveRequest::default()
        };
        self.service.client().reserve(request).await.unwrap();
    }

    /// The answer of `top --once --json`, once this holds of it.
    fn once_when(&self, holds: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..300 {
            let answer = self.json("top --once");
            if holds(&answer) {
                return answer;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("it does not hold within 30 seconds");
    }
}

/// A policy with these organizations.
fn policy(orgs: &[&str]) -> TextFile {
    let orgs = orgs.iter();
    let orgs = orgs.map(|org| format!("[orgs.\"{org}\"]\ntier = 3\ndata_sharing = \"all\"\n"));
    let head = "[program]\nextends = \"openai-2026-09-28\"\n".to_owned();
    TextFile::new(&(head + &orgs.collect::<String>()))
}

const NAMES: [&str; 4] = ["acme", "組織名は長い", "שלום", "naïve🦀"];

fn is_read(answer: &Value) -> bool {
    let organizations = answer["organizations"].as_array().unwrap();
    organizations.iter().all(|it| !it["as_of"].is_null())
}

#[tokio::test(flavor = "multi_thread")]
async fn once_prints_a_table_or_json() {
    let policy = policy(&["acme", "other"]);
    let cli = Cli::start_with(&["--policy", policy.path()]);
    cli.reserve_of("other", 700_000).await;
    let used = |it: &Value| it["organizations"][0]["pools"][0]["used"] == 700_000;
    let answer = cli.once_when(|it| used(it) && is_read(it));
    assert_eq!(
        (&answer["total"], &answer["next_page_token"]),
        (&json!(2), &json!(""))
    );
    let first = &answer["organizations"][0];
    assert_eq!(
        (&first["org"], &first["tier"]),
        (&json!("other"), &json!(3))
    );
    assert_eq!(first["pools"][0]["remaining"], 300_000);
    let table = cli.table("top --once");
    let head =
        "2 organizations, resets in 12 h 0 min: large 700,000 / 2,000,000, mini 0 / 20,000,000";
    assert_eq!(table[0], head);
    let titles =
        "ORGANIZATION TIER POOL USED / ALLOWANCE HELD EXTERNAL MARGIN REMAINING BILLED AGE";
    assert_eq!(table[1], titles);
    let bar = format!("{}{}", "█".repeat(16), "░".repeat(8));
    let line = format!("other 3 large {bar} 700,000 / 1,000,000 0 0 0 300,000 0 ");
    assert!(table[2].starts_with(&line), "{}", table[2]);
    assert_eq!(table.len(), 6, "{table:?}");
}

#[test]
fn without_a_terminal_or_with_json_it_must_be_once() {
    for (words, fault) in [
        (&["top"][..], "tollgate top needs a terminal"),
        (&["top", "--json"], "--json: prints JSON only with --once"),
        (&["top", "--every", "1ms"], "must be 100ms to 1h"),
    ] {
        let ran = run(program().args(words));
        assert_eq!(ran.code, Some(2), "{words:?}");
        assert!(ran.stderr.contains(fault), "{words:?}: {}", ran.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_change_live_and_keys_filter_order_and_end_it() {
    let policy = policy(&["acme", "other", "third"]);
    let cli = Cli::start_with(&["--policy", policy.path()]);
    cli.reserve_of("other", 700_000).await;
    let mut top = cli.top(80, 24);
    let lines = top.wait_for_text("700k/1.00M");
    assert!(
        lines[0].starts_with("tollgate http://127.0.0.1:"),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains("resets in "), "{}", lines[0]);
    assert!(lines[1].starts_with("3 organizations: large 700,000 / 3,000,000"));
    assert!(lines[3].starts_with("other "), "{}", lines[3]);
    assert!(!top.is_restored());
    cli.reserve_of("other", 100_000).await;
    let lines = top.wait_for_text("800k/1.00M");
    assert!(lines[3].starts_with("other "), "{}", lines[3]);

    top.type_keys("s");
    top.wait_for("the order by name", |lines| {
        lines[0].contains("by name") && lines[3].starts_with("acme ")
    });
    top.type_keys("/HIR");
    top.wait_for("one organization", |lines| {
        lines[3].starts_with("third ") && lines[1].starts_with("1 organization:")
    });
    top.wait_for_text("filter: HIR");
    top.type_keys("x");
    top.wait_for_text("0 organizations");
    top.type_keys("\u{1b}");
    top.wait_for("all organizations", |lines| lines[7].starts_with("third "));

    top.resize(160, 30);
    let lines = top.wait_for("the larger screen", |lines| lines[29].starts_with("q quit"));
    assert!(lines.iter().any(|it| it.contains("800,000/1,000,000")));
    // Six rows do not fit on eight lines.
    top.resize(80, 8);
    top.wait_for("the smaller screen", |lines| lines[7].starts_with("q quit"));
    top.type_keys("\u{1b}[B");
    top.wait_for("the second row", |lines| lines[3].contains(" mini "));
    top.type_keys("q");
    assert!(top.wait_for_end().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_aligned_whatever_the_names_are() {
    let policy = policy(&NAMES);
    let cli = Cli::start_with(&["--policy", policy.path()]);
    let top = cli.top(80, 24);
    let lines = top.wait_for("all rows", |lines| lines[10].contains(" mini "));
    for name in NAMES {
        assert!(
            lines.iter().any(|it| it.starts_with(name)),
            "{name}: {lines:?}"
        );
    }
    for (pool, first) in [("large", 3), ("mini", 4)] {
        let columns: Vec<_> = (first..11)
            .step_by(2)
            .map(|line| top.column_of(line, pool))
            .collect();
        assert_eq!(columns, [Some(16); 4], "{pool}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_is_restored_at_every_end() {
    let cli = Cli::start();
    for (what, end) in [
        ("q", "q"),
        ("Esc", "\u{1b}"),
        ("Ctrl-C", "\u{3}"),
        ("SIGTERM", ""),
    ] {
        let mut top = cli.top(80, 24);
        top.wait_for_text("org-demo");
        match end {
            "" => top.signal(Signal::SIGTERM),
            keys => top.type_keys(keys),
        }
        assert!(top.wait_for_end().success(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_service_is_a_line_and_it_goes_on() {
    let mut cli = Cli::start();
    cli.reserve_of("org-demo", 700_000).await;
    let mut top = cli.top(80, 24);
    top.wait_for_text("700k/1.00M");
    cli.service.signal(Signal::SIGKILL);
    cli.service.wait(std::time::Duration::from_secs(10));
    let lines = top.wait_for_text("UNAVAILABLE: no answer from");
    assert!(lines[3].contains("700k/1.00M"), "{lines:?}");
    top.type_keys("q");
    assert!(top.wait_for_end().success());
}
