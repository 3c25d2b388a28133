//! Which overflow rule the provider applied, from minutes.

use serde_json::Value;
use tollgate::reconcile::{changes::policy_changes, compare, overflow::overflow};

use super::{Books, DAY, FREE, bucket_at, day, ledger, page, report};

/// A minute of the day: its number, and the free and billed tokens of gpt-4o in it.
fn minute((number, free, billed): (i64, u64, u64)) -> Value {
    let start = day(DAY).start().timestamp() + number * 60;
    let model = "gpt-4o-2024-08-06";
    let used = [
        ("proj_p", model, FREE, free),
        ("proj_p", model, "default", billed),
    ];
    let used: Vec<_> = used
        .into_iter()
        .filter(|(.., tokens)| *tokens > 0)
        .collect();
    bucket_at(start, start + 60, &used)
}

#[test]
fn minutes_that_may_still_change_are_left_out() {
    let mut books = Books::sharing();
    let minutes = [(1, 200_000, 0), (2, 0, 60_000), (9, 40_000, 0)].map(minute);
    let report = report(&page(&minutes));
    for (now, wanted) in [("00:28:59", "unknown"), ("00:29:00", "keep_open")] {
        let now = format!("{DAY}T{now}Z");
        books.now = now.leak();
        let evidence = overflow(&books.scope(), &report);
        assert!(
            evidence.values().all(|it| it.name() == wanted),
            "{evidence:?}"
        );
    }
}

#[test]
fn a_free_request_after_an_overflow_says_keep_open_and_a_billed_one_that_would_fit_says_closed() {
    let books = Books::sharing();
    // The allowance is 250,000.
    for (minutes, wanted, changes) in [
        (vec![(1, 200_000, 0), (2, 0, 10_000)], "no overflow", None),
        (
            vec![(1, 200_000, 0), (2, 0, 60_000), (9, 40_000, 0)],
            "keep_open",
            None,
        ),
        (
            vec![(1, 200_000, 0), (2, 0, 60_000), (9, 0, 50_000)],
            "close_until_reset",
            Some("[program]\noverflow = \"close_until_reset\"\n"),
        ),
        // Which of the requests of the same minute came first is not known.
        (vec![(1, 200_000, 0), (2, 20_000, 60_000)], "unknown", None),
        (
            vec![(1, 200_000, 0), (2, 0, 60_000), (9, 0, 50_001)],
            "unknown",
            None,
        ),
    ] {
        let minutes: Vec<Value> = minutes.into_iter().map(minute).collect();
        let report = report(&page(&minutes));
        assert!(report.is_by_minute());
        let scope = books.scope();
        let evidence = overflow(&scope, &report);
        let found: Vec<_> = evidence
            .iter()
            .map(|((_, pool), it)| (pool.as_str(), it.name()))
            .collect();
        assert_eq!(found, [("large", wanted)]);
        let rows = [(DAY, "p", "gpt-4o", 0, 0)];
        let mut comparison = compare(&scope, report.days.clone(), &ledger(&rows), &report);
        comparison.drifts.clear();
        assert_eq!(
            policy_changes(&scope, &comparison, evidence.values()).as_deref(),
            changes
        );
    }
}
