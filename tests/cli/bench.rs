//! `tollgate bench`: what it says is what it did. No test here asserts a time.

use super::{Cli, tollgate};

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
fn what_can_not_be_measured_is_told() {
    let cli = Cli::start();
    for (words, code, said) in [
        ("--pid server", 2, "NAME=PID"),
        ("--pid server=4294967294", 1, "there is no such process"),
        ("--callers 0", 2, "callers"),
        ("--rate 0", 2, "rate"),
    ] {
        let ran = cli.run(&format!("bench --duration 50ms {words}"));
        assert_eq!(ran.code, Some(code), "{words:?}: {ran:?}");
        assert!(ran.stderr.contains(said), "{words:?}: {ran:?}");
    }
    let ran = tollgate(&["bench", "--duration", "50ms", "--addr", "127.0.0.1:1"]);
    assert_eq!(ran.code, Some(1));
    let said = "UNAVAILABLE: not one call was answered";
    assert!(ran.stderr.contains(said), "{ran:?}");
}
