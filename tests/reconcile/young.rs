//! docs/CONTRACT.md, "Background reconcile": usage that the provider may not report yet, and the external usage that its
//! report shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;
use tollgate::{
    domain::PoolName,
    reconcile::{
        Comparison, Scope, compare,
        external::{ExternalFigures, PoolFacts, provider_tokens},
        samples::{LedgerSample, SampleHistory},
    },
};

use super::{Books, Counted, FREE, bucket, day, drifts, ledger, page, report};

const TODAY: &str = "2026-11-22";
const YESTERDAY: &str = "2026-11-21";

fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

/// Compares today, of which the ledger had `then` when the youngest usage ended that is compared.
fn compared(now: &[Counted<'_>], then: &[Counted<'_>], buckets: &[Value]) -> Comparison {
    let books = Books::sharing();
    let sample = LedgerSample {
        rows: ledger(then),
        ..LedgerSample::empty(day(TODAY))
    };
    let scope = Scope {
        settled: Some(&sample),
        ..books.scope()
    };
    let report = report(&page(buckets));
    let days: BTreeSet<_> = report.days.clone();
    compare(&scope, days, &ledger(now), &report)
}

#[test]
fn what_the_ledger_counted_since_may_have_either_verdict_at_the_provider() {
    let found = |now: Counted<'_>, then: &[Counted<'_>], (tier, tokens): (&str, u64)| {
        let rows = [
            ("proj_p", "gpt-4o", tier, tokens),
            ("proj_p", "o1", FREE, 1),
        ];
        let mut found = drifts(&compared(&[now], then, &[bucket(TODAY, &rows)]));
        found.retain(|it| it.contains("gpt-4o") && !it.starts_with("listed_never_free"));
        found
    };
    let (free, billed) = (
        (TODAY, "p", "gpt-4o", 100, 0),
        (TODAY, "p", "gpt-4o", 0, 100),
    );
    for (young, tier, kinds) in [
        (free, "default", ["false_free", "late"]),
        (billed, FREE, ["missed_free", ""]),
    ] {
        assert_eq!(found(young, &[], (tier, 60)), [""; 0]);
        assert_eq!(
            found(young, &[], (tier, 130)),
            [format!("external {TODAY} p gpt-4o large 30")]
        );
        let known = found(young, &[young], (tier, 60));
        let expected = kinds.iter().filter(|it| !it.is_empty());
        let expected = expected
            .zip([60, 40])
            .map(|(kind, tokens)| format!("{kind} {TODAY} p gpt-4o large {tokens}"));
        assert_eq!(known, expected.collect::<Vec<_>>());
    }
}

#[test]
fn any_figure_between_then_and_now_agrees_and_what_is_above_both_is_external() {
    for (then, now) in [(100, 300), (300, 100)] {
        for (reported, external) in [(100, 0), (200, 0), (300, 0), (301, 1)] {
            let row = |tokens| [(TODAY, "p", "gpt-4o", tokens, 0)];
            let buckets = [bucket(TODAY, &[("proj_p", "gpt-4o", FREE, reported)])];
            let found = drifts(&compared(&row(now), &row(then), &buckets));
            let expected =
                (external > 0).then(|| format!("external {TODAY} p gpt-4o large {external}"));
            assert_eq!(found, Vec::from_iter(expected), "{then} {now} {reported}");
        }
    }
}

#[test]
fn without_verdicts_of_the_provider_the_sums_are_compared() {
    let (then, now) = (
        [(TODAY, "p", "gpt-4o", 100, 10)],
        [(TODAY, "p", "gpt-4o", 300, 20)],
    );
    for (reported, external) in [(110, 0), (250, 0), (320, 0), (321, 1)] {
        let buckets = [bucket(TODAY, &[("proj_p", "gpt-4o", "default", reported)])];
        let found = drifts(&compared(&now, &then, &buckets));
        let expected =
            (external > 0).then(|| format!("external {TODAY} p gpt-4o large {external}"));
        assert_eq!(found, Vec::from_iter(expected), "{reported}");
    }
}

#[test]
fn a_free_tier_that_only_young_usage_would_have_is_not_missed() {
    let young = [(TODAY, "p", "gpt-4o", 100, 0)];
    let empty = [bucket(TODAY, &[])];
    assert!(compared(&young, &[], &empty).unknown.is_empty());
    assert_eq!(compared(&young, &young, &empty).unknown.len(), 1);
}

#[test]
fn days_before_the_sample_are_compared_whole_and_days_after_it_are_young() {
    let (today, yesterday) = (TODAY, YESTERDAY);
    let row = [
        (today, "p", "gpt-4o", 100, 0),
        (yesterday, "p", "gpt-4o", 100, 0),
    ];
    let billed = |on: &str| {
        bucket(
            on,
            &[
                ("proj_p", "gpt-4o", "default", 60),
                ("proj_p", "o1", FREE, 1),
            ],
        )
    };
    let is_false_free = |on: &str| {
        let found = drifts(&compared(&row, &[], &[billed(on)]));
        found.iter().any(|it| it.starts_with("false_free"))
    };
    assert!(is_false_free(yesterday) && !is_false_free(today));
}

#[test]
fn the_newest_sample_that_is_old_enough_counts_and_their_number_is_bounded() {
    let lag = Duration::from_secs(80);
    let begin = Instant::now();
    let at = |seconds: u64| begin + Duration::from_secs(seconds);
    let mut history = SampleHistory::new(lag, Duration::from_secs(1));
    for second in 0..1_000 {
        let used = BTreeMap::from([(pool("large"), second)]);
        let sample = LedgerSample {
            used,
            ..LedgerSample::empty(day(TODAY))
        };
        history.add(at(second), sample);
        let settled = history.settled(at(second));
        let used = settled.map(|it| it.used_on(day(TODAY), &pool("large")));
        match used {
            None => assert!(second < 80),
            Some(used) => assert!(
                used + 80 <= second && second < used + 80 + 10 + 1,
                "{used} {second}"
            ),
        }
    }
    let sizes = format!("{history:?}").matches("LedgerSample").count();
    assert!(sizes <= 10, "{sizes}");
    let settled = history.settled(at(1_079)).unwrap();
    assert_eq!(settled.used_on(day(YESTERDAY), &pool("large")), 0);
}

#[test]
fn the_number_of_samples_is_bounded_also_while_nothing_is_compared() {
    let begin = Instant::now();
    let mut history = SampleHistory::new(Duration::from_secs(80), Duration::from_secs(1));
    for second in 0..1_000 {
        let at = begin + Duration::from_secs(second);
        history.add(at, LedgerSample::empty(day(TODAY)));
    }
    let sizes = format!("{history:?}").matches("LedgerSample").count();
    assert!(sizes <= 10, "{sizes}");
}

/// Polls so far apart, for a day: in how many there was a settled sample, and in how many a missing one was new.
fn polled(spacing_minutes: u64) -> (usize, usize) {
    let (lag, every) = (Duration::from_secs(1_200), Duration::from_secs(300));
    let (begin, spacing) = (Instant::now(), Duration::from_secs(60 * spacing_minutes));
    let mut history = SampleHistory::new(lag, every);
    let (mut settled, mut reported) = (0, 0);
    for poll in 0..24 {
        let now = begin + spacing * poll;
        history.set_spacing(spacing);
        settled += usize::from(history.settled(now).is_some());
        reported += usize::from(history.is_newly_missing(now));
        // It is read a little later.
        let read_at = now + Duration::from_secs(1);
        history.add(read_at, LedgerSample::empty(day(TODAY)));
    }
    (settled, reported)
}

#[test]
fn rounds_that_take_longer_than_every_leave_settled_samples_and_far_too_long_ones_are_reported_once()
 {
    for (spacing, first) in [(5, 5), (17, 2), (19, 2), (21, 1), (33, 1), (62, 1)] {
        let (settled, reported) = polled(spacing);
        // In each poll that is as late as the lag.
        assert!(settled >= 24 - first - 1, "{spacing}: {settled}");
        assert_eq!(reported, 0, "{spacing}");
    }
    assert_eq!(polled(63), (0, 1));
}

#[test]
fn a_missing_sample_is_reported_again_after_there_was_one() {
    let begin = Instant::now();
    let mut history = SampleHistory::new(Duration::from_secs(80), Duration::from_secs(1));
    let mut is_reported = |second, is_settled| {
        let now = begin + Duration::from_secs(second);
        assert_eq!(history.settled(now).is_some(), is_settled, "{second}");
        let is_reported = history.is_newly_missing(now);
        if second == 100 {
            history.add(now, LedgerSample::empty(day(TODAY)));
        }
        is_reported
    };
    for (second, is_settled, expected) in [
        (0, false, false),
        (82, false, false),
        (83, false, true),
        (100, false, false),
        (180, true, false),
        (300, false, false),
        (382, false, false),
        (383, false, true),
    ] {
        assert_eq!(is_reported(second, is_settled), expected, "{second}");
    }
}

#[test]
fn a_sample_that_is_much_older_than_the_lag_does_not_count() {
    let (lag, every) = (Duration::from_secs(1_200), Duration::from_secs(300));
    let begin = Instant::now();
    let mut history = SampleHistory::new(lag, every);
    history.add(begin, LedgerSample::empty(day(YESTERDAY)));
    // Two polls and the distance of samples.
    let oldest = lag + 2 * every + lag / 8;
    for (age, counts) in [
        (lag - Duration::from_secs(1), false),
        (lag, true),
        (oldest, true),
        (oldest + Duration::from_secs(1), false),
        (Duration::from_secs(7 * 60 * 60), false),
    ] {
        assert_eq!(history.settled(begin + age).is_some(), counts, "{age:?}");
    }
    // A gap without polls, such as an outage, is not a time from poll to poll.
    history.set_spacing(Duration::from_secs(7 * 60 * 60));
    for (age, counts) in [
        (3 * lag + lag / 8, true),
        (3 * lag + lag / 8 + Duration::from_secs(1), false),
    ] {
        assert_eq!(history.settled(begin + age).is_some(), counts, "{age:?}");
    }
}

fn facts(provider: u64, used: u64, used_settled: Option<u64>, stored: u64) -> PoolFacts {
    PoolFacts {
        provider,
        used,
        used_settled,
        stored,
    }
}

#[test]
fn what_is_proven_never_falls_and_what_is_likely_does() {
    let (mut figures, large, today) = (ExternalFigures::default(), pool("large"), day(TODAY));
    let mut update = |facts| figures.update(today, &large, facts);
    assert_eq!(update(facts(0, 0, None, 0)), 0);
    assert_eq!(update(facts(500, 200, None, 0)), 300, "proven");
    assert_eq!(
        update(facts(500, 450, None, 300)),
        300,
        "the ledger has more now"
    );
    assert_eq!(update(facts(900, 600, Some(400), 300)), 500, "likely");
    assert_eq!(
        update(facts(900, 700, Some(600), 500)),
        300,
        "likely falls to what is proven"
    );
    assert_eq!(
        update(facts(0, 700, Some(700), 300)),
        300,
        "a model is missing in the report"
    );
    let max = 1_000_000_000_000;
    assert_eq!(update(facts(3 * max, 0, None, 300)), max);
}

#[test]
fn a_figure_of_another_replica_counts_as_proven_and_one_of_its_own_does_not() {
    let (mut figures, large, today) = (ExternalFigures::default(), pool("large"), day(TODAY));
    let mut update = |facts| figures.update(today, &large, facts);
    assert_eq!(update(facts(400, 400, Some(0), 70)), 400, "likely");
    // Whether or not the store took it.
    assert_eq!(update(facts(400, 400, Some(300), 70)), 100);
    assert_eq!(update(facts(400, 400, Some(350), 100)), 70);
    // Neither 70 nor 100: another replica set it.
    assert_eq!(update(facts(400, 400, Some(400), 250)), 250);
    let tomorrow = day("2026-11-23");
    assert_eq!(
        figures.update(tomorrow, &large, facts(0, 0, Some(0), 0)),
        0,
        "it ends at midnight"
    );
}

#[test]
fn a_figure_that_may_be_above_what_is_proven_is_unproven_until_a_lower_one_was_written() {
    let (mut figures, large, today) = (ExternalFigures::default(), pool("large"), day(TODAY));
    let unproven = |figures: &ExternalFigures| {
        let unproven = figures.unproven(today);
        unproven.map(|(_, tokens)| tokens).collect::<Vec<_>>()
    };
    assert_eq!(
        figures.update(today, &large, facts(400, 400, Some(0), 0)),
        400
    );
    figures.confirm(&large);
    assert_eq!(unproven(&figures), [0]);
    let lower = facts(400, 400, Some(400), 400);
    assert_eq!(figures.update(today, &large, lower), 0);
    assert_eq!(unproven(&figures), [0], "400 is there until 0 is written");
    figures.confirm(&large);
    assert_eq!(unproven(&figures), [0; 0]);
}

#[test]
fn a_model_that_was_retired_today_counts_in_its_pool_if_it_was_free_by_either_side() {
    let books = Books::with_program(
        "without = [\"gpt-4o\"]\n[pools.large]\nretired = [\"gpt-4o-2024-08-06\"]",
        "data_sharing = \"all\"",
    );
    let rows = [
        ("proj_p", "gpt-4o-2024-08-06", FREE, 1),
        ("proj_p", "gpt-4o-2024-08-06", "default", 20),
    ];
    let report = report(&page(&[bucket(TODAY, &rows)]));
    for (row, expected) in [
        ((TODAY, "p", "gpt-4o-2024-08-06", 1, 0), 21),
        // The alias is gone too.
        ((TODAY, "p", "gpt-4o", 1, 0), 21),
        ((TODAY, "p", "gpt-4o", 0, 1), 1),
        ((YESTERDAY, "p", "gpt-4o", 1, 0), 1),
        // Another snapshot, which is listed.
        ((TODAY, "p", "gpt-4o-2024-05-13", 1, 0), 1),
    ] {
        let tokens = provider_tokens(&books.scope(), day(TODAY), &ledger(&[row]), &report);
        assert_eq!(tokens[&pool("large")], expected, "{row:?}");
    }
}

#[test]
fn the_providers_figure_of_a_pool_has_every_tier_and_each_project_that_may_share() {
    let rows = [
        ("proj_p", "gpt-4o-2024-08-06", FREE, 1),
        ("proj_p", "gpt-4o", "default", 20),
        ("proj_p", "gpt-4o-mini", FREE, 7_000_000),
        ("proj_p", "ft:gpt-4o", FREE, 7_000_000),
        ("proj_unmapped", "o1", "flex", 300),
    ];
    let buckets = [
        bucket(TODAY, &rows),
        bucket(YESTERDAY, &[("proj_p", "o1", FREE, 7_000_000)]),
    ];
    let report = report(&page(&buckets));
    let with_rows = |books: &Books, rows: &[Counted<'_>]| {
        provider_tokens(&books.scope(), day(TODAY), &ledger(rows), &report)[&pool("large")]
    };
    let large = |books: &Books| with_rows(books, &[]);
    assert_eq!(large(&Books::sharing()), 321);
    let p = "data_sharing = \"selected\"\nprojects = [\"p\"]";
    assert_eq!(
        large(&Books::new(p)),
        321,
        "a project that is not mapped may share"
    );
    let other = "data_sharing = \"selected\"\nprojects = [\"q\"]";
    assert_eq!(
        large(&Books::new(other)),
        301,
        "p does not share by the policy, but what was free of it counts"
    );
    for (row, expected) in [
        ((TODAY, "p", "gpt-4o", 1, 0), 321),
        ((TODAY, "p", "gpt-4o", 0, 1), 301),
        ((YESTERDAY, "p", "gpt-4o", 1, 0), 301),
    ] {
        let tokens = with_rows(&Books::new(other), &[row]);
        assert_eq!(
            tokens, expected,
            "p shared today if it had FREE requests: {row:?}"
        );
    }
}
