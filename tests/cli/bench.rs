//! `tollgate bench` reports what it sent. No test here asserts a time.

use std::{process::Stdio, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Cli, tollgate};
use crate::support::calls::TextFile;

const BUILTIN: &str = include_str!("../../src/policy/builtin.toml");

#[test]
fn a_bench_counts_what_the_service_counted() {
    let cli = Cli::start();
    let pid = std::process::id();
    let report = cli.json(&format!(
        "bench --duration 300ms --callers 8 --tokens 7 --pid self={pid}"
    ));
    let requests = report["requests"].as_u64().unwrap();
    assert!(requests > 0);
    assert_eq!(report["verdicts"]["FREE"], requests);
    assert_eq!(report["errors"], serde_json::json!({}));
    assert!(report["latency_us"]["p50"].as_u64() <= report["latency_us"]["max"].as_u64());
    assert!(report["cpu_us_per_request"]["self"].is_number());
    let quota = cli.json("quota org-demo");
    let large = &quota["pools"][0];
    assert_eq!(large["free_requests"], requests);
    assert_eq!(large["used"], requests * 7);
}

#[test]
fn an_open_loop_sends_what_is_due_and_ids_are_new_in_each_run() {
    let cli = Cli::start();
    for run in 1..=2 {
        let printed = cli.table("bench --duration 500ms --rate 100 --callers 4 --ids");
        assert!(printed[0].starts_with("requests 50 in "), "{printed:?}");
        assert!(printed.contains(&"FREE 50".to_owned()), "{printed:?}");
        let quota = cli.json("quota org-demo");
        assert_eq!(quota["pools"][0]["free_requests"], 50 * run);
    }
}

#[test]
fn a_stream_counts_what_the_service_counted() {
    let cli = Cli::start();
    // More connections than callers, and callers that do not divide evenly by connections.
    for (callers, connections) in [(2_u32, 4), (7, 3)] {
        let before = &cli.json("quota org-demo")["pools"][0]["free_requests"];
        let report = cli.json(&format!(
            "bench --stream --ids --duration 300ms --callers {callers} --connections {connections}"
        ));
        let requests = report["requests"].as_u64().unwrap();
        assert!(requests > u64::from(callers), "{report}");
        assert_eq!(report["verdicts"]["FREE"], requests);
        assert_eq!(report["errors"], serde_json::json!({}));
        assert!(report["latency_us"]["p50"].as_u64() <= report["latency_us"]["max"].as_u64());
        let after = &cli.json("quota org-demo")["pools"][0]["free_requests"];
        let counted = after.as_u64().unwrap() - before.as_u64().unwrap();
        assert_eq!(counted, requests, "every id was new");
    }
}

#[test]
fn a_stream_sends_what_is_due_round_the_organizations() {
    let policy = BUILTIN.replace(
        "[orgs.org-demo]",
        "[orgs.org-0]\ntier = 1\ndata_sharing = \"all\"\n[orgs.org-1]",
    );
    let policy = TextFile::new(&policy);
    let cli = Cli::start_with(&["--policy", policy.path()]);
    let printed = cli.table(
        "bench --stream --duration 500ms --rate 100 --callers 8 --org org --orgs 3 --tokens 2",
    );
    assert!(printed[0].starts_with("requests 50 in "), "{printed:?}");
    for count in ["FREE 34", "ORGANIZATION_NOT_ENROLLED 16"] {
        assert!(printed.contains(&count.to_owned()), "{printed:?}");
    }
    for org in ["org-0", "org-1"] {
        let quota = cli.json(&format!("quota {org}"));
        assert_eq!(quota["pools"][0]["used"], 17 * 2, "{org}");
    }
}

#[test]
fn a_request_that_is_refused_and_one_without_an_answer_are_errors() {
    let mut cli = Cli::start();
    let report = cli.json("bench --stream --duration 100ms --callers 4 --tokens 0");
    assert_eq!(report["verdicts"], serde_json::json!({}));
    assert_eq!(
        report["errors"],
        serde_json::json!({"INVALID_ARGUMENT": report["requests"]})
    );
    let words = "bench --stream --rate 100 --duration 2s --callers 100 --json";
    let words: Vec<&str> = words.split(' ').collect();
    let mut command = cli.command(&words);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let bench = command.spawn().unwrap();
    while cli.json("quota org-demo")["pools"][0]["free_requests"] == 0 {}
    cli.service.signal(Signal::SIGKILL);
    cli.service.wait(Duration::from_secs(10));
    let ran = bench.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let sum = |counts: &Value| {
        let counts = counts.as_object().unwrap().values();
        counts.map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    let (verdicts, errors) = (sum(&report["verdicts"]), sum(&report["errors"]));
    assert!(verdicts > 0 && errors > 0, "{report}");
    assert_eq!(report["requests"], verdicts + errors);
}

#[test]
fn what_cannot_be_measured_is_reported() {
    let cli = Cli::start();
    for (words, code, expected) in [
        ("--pid server", 2, "NAME=PID"),
        ("--pid server=4294967294", 1, "there is no such process"),
        ("--callers 0", 2, "callers"),
        ("--rate 0", 2, "rate"),
    ] {
        let ran = cli.run(&format!("bench --duration 50ms {words}"));
        assert_eq!(ran.code, Some(code), "{words:?}: {ran:?}");
        assert!(ran.stderr.contains(expected), "{words:?}: {ran:?}");
    }
    for how in [&[][..], &["--stream"]] {
        let words = ["bench", "--duration", "50ms", "--addr", "127.0.0.1:1"];
        let ran = tollgate(&[&words, how].concat());
        assert_eq!(ran.code, Some(1));
        let expected = "UNAVAILABLE: not one call was answered";
        assert!(ran.stderr.contains(expected), "{ran:?}");
    }
}
