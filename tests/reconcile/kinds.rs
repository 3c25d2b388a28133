//! Each kind of drift, and what is none.

use serde_json::json;
use tollgate::reconcile::{UsageReport, compare};

use super::{Books, DAY, FREE, NEXT_DAY, bucket, bucket_at, day, drifts, ledger, page, report};

/// Of another model something was free, so that the report says what was.
const OTHER_FREE: super::Used<'static> = ("proj_q", "gpt-4.1-2025-04-14", FREE, 10);
const OTHER_LEDGER: super::Counted<'static> = (DAY, "proj_q", "gpt-4.1", 10, 0);

#[test]
fn names_are_resolved_and_snapshots_of_one_alias_in_one_pool_are_one_model() {
    let books = Books::with_program("strip_prefixes = [\"openai/\"]", "data_sharing = \"all\"");
    let rows = [
        (DAY, "p", "gpt-4o", 100, 0),
        (DAY, "p", "openai/gpt-4o", 50, 0),
        (DAY, "proj_p", "gpt-4o-2024-05-13", 7, 0),
        (DAY, "p", "gpt-4o-mini", 9, 0),
    ];
    let used = [
        ("proj_p", "gpt-4o-2024-08-06", FREE, 100),
        ("proj_p", "gpt-4o-2024-11-20", FREE, 57),
        ("proj_p", "gpt-4o-mini-2024-07-18", FREE, 9),
    ];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    assert_eq!(drifts(&comparison), Vec::<String>::new());
    assert!(!comparison.has_drift() && comparison.unknown.is_empty());
    assert_eq!(comparison.usage.len(), 2);
}

/// What is different in a row: the ledger's FREE and BILLED, the provider's free and billed tokens.
#[test]
fn what_a_row_has_is_judged_whoever_ran_it_where() {
    for (free, billed, provider_free, provider_billed, wanted) in [
        (0, 0, 0, 0, vec![]),
        (100, 0, 100, 0, vec![]),
        // BILLED ran elsewhere, as it should.
        (100, 70, 100, 0, vec![]),
        (100, 0, 70, 30, vec!["false_free 30"]),
        // BILLED ran elsewhere: what the provider billed here was FREE.
        (100, 500, 70, 30, vec!["false_free 30"]),
        (100, 0, 70, 50, vec!["false_free 30", "external 20"]),
        (100, 0, 70, 20, vec!["false_free 20", "lost 10"]),
        (100, 0, 70, 0, vec!["lost 30"]),
        // What the provider billed is what Tollgate said BILLED.
        (
            100,
            40,
            70,
            40,
            vec!["billed_in_sharing_project 40", "lost 30"],
        ),
        (100, 40, 100, 40, vec!["billed_in_sharing_project 40"]),
        (100, 40, 140, 0, vec!["missed_free 40"]),
        (
            100,
            40,
            120,
            20,
            vec!["billed_in_sharing_project 20", "missed_free 20"],
        ),
        (100, 0, 130, 0, vec!["external 30"]),
        (100, 0, 100, 30, vec!["external 30"]),
        (0, 0, 10, 20, vec!["external 30"]),
    ] {
        let rows = [OTHER_LEDGER, (DAY, "p", "gpt-4o", free, billed)];
        let model = "gpt-4o-2024-08-06";
        let mut used = vec![OTHER_FREE];
        for (tier, tokens) in [(FREE, provider_free), ("default", provider_billed)] {
            if tokens > 0 {
                used.push(("proj_p", model, tier, tokens));
            }
        }
        // Of another project the model was free: it's neither the model nor a cause that is wider.
        used.push(("proj_q", model, FREE, 1));
        used.push(("proj_p", "o3-2025-04-16", FREE, 1));
        let more = [(DAY, "proj_q", "gpt-4o", 1, 0), (DAY, "p", "o3", 1, 0)];
        let comparison =
            Books::sharing().compare(&[&rows[..], &more].concat(), &[bucket(DAY, &used)]);
        let found: Vec<String> = drifts(&comparison)
            .iter()
            .map(|it| it.replace(&format!(" {DAY} p gpt-4o large"), ""))
            .collect();
        assert_eq!(
            found, wanted,
            "{free} {billed} {provider_free} {provider_billed}"
        );
        assert_eq!(comparison.has_drift(), !wanted.is_empty());
    }
}

#[test]
fn of_projects_that_do_not_share_and_of_unlisted_models_what_the_provider_billed_is_no_drift() {
    let books = Books::new("data_sharing = \"selected\"\nprojects = [\"p\", \"proj_q\"]");
    let rows = [OTHER_LEDGER, (DAY, "p", "gpt-4o", 0, 400)];
    let used = [
        OTHER_FREE,
        ("proj_elsewhere", "gpt-4o-2024-08-06", "default", 400),
        ("proj_p", "ft:gpt-4o:acme", "default", 30),
    ];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    assert_eq!(drifts(&comparison), Vec::<String>::new());
}

#[test]
fn free_tokens_of_a_project_that_does_not_share_are_missed_and_the_change_lets_it_share() {
    let books = Books::new("data_sharing = \"selected\"\nprojects = [\"proj_q\"]");
    let rows = [OTHER_LEDGER, (DAY, "p", "gpt-4o", 0, 400)];
    let used = [OTHER_FREE, ("proj_p", "gpt-4o-2024-08-06", FREE, 400)];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    assert_eq!(
        drifts(&comparison),
        [format!("missed_free {DAY} p gpt-4o large 400")]
    );
    let change = "[orgs.acme]\ndata_sharing = \"selected\"\nprojects = [\"p\", \"proj_q\"]\n";
    assert_eq!(books.changes(&comparison).as_deref(), Some(change));
}

#[test]
fn a_model_that_no_pool_lists_and_was_free_is_to_be_listed() {
    let books = Books::sharing();
    let rows = [OTHER_LEDGER, (DAY, "p", "gpt-4o-mini-2027-01-01", 0, 60)];
    let used = [
        OTHER_FREE,
        ("proj_p", "gpt-4o-mini-2027-01-01", FREE, 60),
        ("proj_p", "ft:gpt-4o:acme", FREE, 5),
    ];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    let wanted = [
        format!("external {DAY} p ft:gpt-4o:acme - 5"),
        format!("unlisted_but_free {DAY} p ft:gpt-4o:acme - 5"),
        format!("unlisted_but_free {DAY} p gpt-4o-mini-2027-01-01 - 60"),
    ];
    assert_eq!(drifts(&comparison), wanted);
    let change = books.changes(&comparison).unwrap();
    assert!(change.starts_with("[pools.mini]\n# "), "{change}");
    assert!(
        change.ends_with("\nmodels = [\"gpt-4o-mini-2027-01-01\"]\n"),
        "{change}"
    );
}

#[test]
fn a_model_of_which_nothing_was_free_though_it_would_have_fit_is_to_be_retired_with_its_aliases() {
    let books = Books::sharing();
    let rows = [
        OTHER_LEDGER,
        (DAY, "p", "o3", 60, 0),
        (DAY, "p", "gpt-4.1", 5, 0),
    ];
    let used = [
        OTHER_FREE,
        ("proj_p", "o3-2025-04-16", "default", 60),
        ("proj_p", "gpt-4.1-2025-04-14", FREE, 5),
    ];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    let wanted = [
        format!("false_free {DAY} p o3 large 60"),
        "listed_never_free o3 large 60".to_owned(),
    ];
    assert_eq!(drifts(&comparison), wanted);
    let change = "[pools.large]\nretired = [\"o3-2025-04-16\"]\n[program]\nwithout = [\"o3\"]\n";
    assert_eq!(books.changes(&comparison).as_deref(), Some(change));
    // The policy with the change is valid.
    let changed = "[program]\nextends = \"openai-2026-09-28\"\nwithout = [\"o3\"]\n[pools.large]\n\
                   retired = [\"o3-2025-04-16\"]\n";
    tollgate::policy::Policy::parse("changed", changed).unwrap();
}

/// The pool was full at the provider: the model is covered all the same.
#[test]
fn a_model_that_would_not_have_fit_is_false_free_alone() {
    let rows = [
        OTHER_LEDGER,
        (DAY, "p", "o3", 60, 0),
        (DAY, "p", "gpt-4.1", 249_950, 0),
    ];
    let used = [
        OTHER_FREE,
        ("proj_p", "o3-2025-04-16", "default", 60),
        ("proj_p", "gpt-4.1-2025-04-14", FREE, 249_950),
    ];
    let comparison = Books::sharing().compare(&rows, &[bucket(DAY, &used)]);
    assert_eq!(
        drifts(&comparison),
        [format!("false_free {DAY} p o3 large 60")]
    );
}

#[test]
fn a_project_or_a_day_of_which_nothing_was_free_is_not_enrolled() {
    let books = Books::sharing();
    let rows = [
        OTHER_LEDGER,
        (DAY, "p", "o3", 60, 0),
        (DAY, "p", "gpt-4.1", 5, 0),
    ];
    let used = [
        OTHER_FREE,
        ("proj_p", "o3-2025-04-16", "default", 60),
        ("proj_p", "gpt-4.1-2025-04-14", "default", 5),
    ];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    let found = drifts(&comparison);
    assert_eq!(found[2..], ["not_enrolled p - 65"]);
    let change = "[orgs.acme]\ndata_sharing = \"selected\"\nprojects = [\"proj_q\"]\n";
    assert_eq!(books.changes(&comparison).as_deref(), Some(change));

    // The owner has turned it off since.
    let rows = [
        OTHER_LEDGER,
        (NEXT_DAY, "p", "o3", 60, 0),
        (NEXT_DAY, "q", "gpt-4.1", 5, 0),
    ];
    let next = [
        ("proj_p", "o3-2025-04-16", "default", 60),
        ("q", "gpt-4.1-2025-04-14", "default", 5),
    ];
    let comparison = books.compare(
        &rows,
        &[bucket(DAY, &[OTHER_FREE]), bucket(NEXT_DAY, &next)],
    );
    assert_eq!(
        drifts(&comparison)[2..],
        [format!("not_enrolled {NEXT_DAY} - 65")]
    );
    let off = "[orgs.acme]\ndata_sharing = \"off\"\n";
    assert_eq!(books.changes(&comparison).as_deref(), Some(off));
}

#[test]
fn more_than_the_allowance_is_another_tier() {
    let books = Books::sharing();
    let rows = [
        (DAY, "p", "gpt-4o", 252_500, 0),
        (DAY, "p", "gpt-4.1", 0, 0),
    ];
    // The provider's totals may be a little off.
    let used = [("proj_p", "gpt-4o-2024-08-06", FREE, 252_500)];
    assert_eq!(
        drifts(&books.compare(&rows, &[bucket(DAY, &used)])),
        Vec::<String>::new()
    );
    let rows = [(DAY, "p", "gpt-4o", 900_000, 0)];
    let used = [("proj_p", "gpt-4o-2024-08-06", FREE, 900_000)];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    assert_eq!(
        drifts(&comparison),
        [format!("over_allowance {DAY} large 650000")]
    );
    assert_eq!(
        books.changes(&comparison).as_deref(),
        Some("[orgs.acme]\ntier = 3\n")
    );
}

/// The provider counts a mini model in the large pool: FREE requests of that pool were billed there.
#[test]
fn a_model_that_fills_another_pool_at_the_provider_differs_in_its_pool() {
    let books = Books::sharing();
    let rows = [
        (DAY, "p", "gpt-5.4-mini", 150_000, 0),
        (DAY, "p", "gpt-4o", 120_000, 0),
        (DAY, "p", "gpt-4.1-mini", 700_000, 0),
    ];
    let used = [
        ("proj_p", "gpt-5.4-mini-2026-03-17", FREE, 150_000),
        ("proj_p", "gpt-4.1-mini-2025-04-14", FREE, 700_000),
        ("proj_p", "gpt-4o-2024-08-06", FREE, 90_000),
        ("proj_p", "gpt-4o-2024-08-06", "default", 30_000),
    ];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    let wanted = [
        format!("false_free {DAY} p gpt-4o large 30000"),
        format!("pool_differs {DAY} gpt-5.4-mini large 150000"),
    ];
    assert_eq!(drifts(&comparison), wanted);
    let change = "[pools.large]\nmodels = [\"gpt-5.4-mini-2026-03-17\"]\n";
    assert_eq!(books.changes(&comparison).as_deref(), Some(change));

    // And the other way round: it is free beyond every tier's allowance.
    let rows = [
        (DAY, "p", "gpt-4o", 1_900_000, 0),
        (DAY, "p", "o3", 100_000, 0),
        (DAY, "p", "o1", 200_000, 0),
    ];
    let used = [
        ("proj_p", "gpt-4o-2024-08-06", FREE, 1_900_000),
        ("proj_p", "o3-2025-04-16", FREE, 100_000),
        ("proj_p", "o1-2024-12-17", FREE, 100_000),
        ("proj_p", "o1-2024-12-17", "default", 100_000),
    ];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    let found = drifts(&comparison);
    assert!(
        found.contains(&format!("pool_differs {DAY} gpt-4o mini 1900000")),
        "{found:?}"
    );
}

#[test]
fn what_the_provider_does_not_have_yet_is_late_and_no_drift() {
    let mut books = Books::sharing();
    let rows = [(DAY, "p", "gpt-4o", 100, 0)];
    let used = [("proj_p", "gpt-4o-2024-08-06", FREE, 60)];
    // A day is closed 36 hours after its end.
    for (now, wanted) in [
        ("2026-11-21T11:59:59Z", "late"),
        ("2026-11-21T12:00:00Z", "lost"),
    ] {
        books.now = now;
        let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
        assert_eq!(
            drifts(&comparison),
            [format!("{wanted} {DAY} p gpt-4o large 40")]
        );
        let is_open = wanted == "late";
        assert_eq!(comparison.has_drift(), !is_open);
        assert_eq!(comparison.open_days.contains(&day(DAY)), is_open);
    }
}

#[test]
fn what_ended_after_midnight_counts_on_the_next_day_at_the_provider() {
    let books = Books::sharing();
    let first = [("proj_p", "gpt-4o-2024-08-06", FREE, 60)];
    let next = [("proj_p", "gpt-4o-2024-08-06", FREE, 55)];
    // Of the next day's BILLED requests, which ran elsewhere, any could have been free.
    for billed in [0, 15, 70] {
        let rows = [
            (DAY, "p", "gpt-4o", 100, 0),
            (NEXT_DAY, "p", "gpt-4o", 20, billed),
        ];
        let comparison = books.compare(&rows, &[bucket(DAY, &first), bucket(NEXT_DAY, &next)]);
        let wanted = [
            format!("lost {DAY} p gpt-4o large 5"),
            format!("late {DAY} p gpt-4o large 35"),
        ];
        assert_eq!(drifts(&comparison), wanted, "{billed}");
    }
}

/// Each day alone, with those beside it. 30 ended after midnight; the first day has 10 more, and the last one too.
#[test]
fn what_ended_after_midnight_is_no_drift_of_a_day_that_is_compared_alone_or_is_open() {
    let mut books = Books::sharing();
    let days = ["2026-11-18", DAY, NEXT_DAY];
    let rows = days.map(|on| (on, "p", "gpt-4o", 100, 0));
    let used = [60, 130, 110].map(|tokens| [("proj_p", "gpt-4o-2024-08-06", FREE, tokens)]);
    let report = report(&page(&[0, 1, 2].map(|at| bucket(days[at], &used[at]))));
    for (now, first) in [
        ("2026-11-20T11:00:00Z", vec!["late 40"]),
        ("2026-11-22T12:00:00Z", vec!["lost 10", "late 30"]),
    ] {
        books.now = now;
        for (on, wanted) in days.into_iter().zip([first, vec![], vec!["external 10"]]) {
            let comparison = books.compare_days([day(on)].into(), &rows, &report);
            let found = drifts(&comparison);
            let found = found
                .iter()
                .map(|it| it.replace(&format!(" {on} p gpt-4o large"), ""));
            assert_eq!(found.collect::<Vec<_>>(), wanted, "{now}");
            assert_eq!(comparison.days, [day(on)].into());
            assert!(comparison.usage.keys().all(|key| key.day == day(on)));
            assert!(comparison.pools.keys().all(|(of, _)| *of == day(on)));
        }
    }
}

/// By buckets of an hour, and a guard of half an hour.
#[test]
fn what_ended_after_the_guard_is_not_what_the_ledger_carried() {
    let model = "gpt-4o-2024-08-06";
    let start = day(NEXT_DAY).start().timestamp();
    let hour = |at: i64| {
        bucket_at(
            start + at * 3_600,
            start + (at + 1) * 3_600,
            &[("proj_p", model, FREE, 20)],
        )
    };
    let rows = [(DAY, "p", "gpt-4o", 100, 0)];
    let first = bucket(DAY, &[("proj_p", model, FREE, 60)]);
    let external = |tokens: u64| vec![format!("external {NEXT_DAY} p gpt-4o large {tokens}")];
    for (guard, hours, wanted) in [
        ("30m", vec![hour(0)], vec![]),
        ("30m", vec![hour(0), hour(1)], external(20)),
        ("2h", vec![hour(0), hour(1)], vec![]),
        // Off: nothing is carried.
        ("0s", vec![hour(0)], external(20)),
    ] {
        let program = format!("midnight_guard = \"{guard}\"");
        let books = Books::with_program(&program, "data_sharing = \"all\"");
        let comparison = books.compare(&rows, &[vec![first.clone()], hours].concat());
        let mut found = drifts(&comparison);
        found.retain(|it| it.contains(NEXT_DAY));
        assert_eq!(found, wanted, "{guard}");
    }
}

#[test]
fn a_difference_within_the_tolerance_is_none() {
    let mut books = Books::sharing();
    let rows = [(DAY, "p", "gpt-4o", 1_000, 0)];
    let used = [("proj_p", "gpt-4o-2024-08-06", FREE, 950)];
    for (tolerance, number) in [("0", 1), ("49", 1), ("50", 0), ("4%", 1), ("5%", 0)] {
        books.tolerance = tolerance;
        assert_eq!(
            books.compare(&rows, &[bucket(DAY, &used)]).drifts.len(),
            number,
            "{tolerance}"
        );
    }
    for wrong in ["", "%", "101%", "-1", "1.5", "x"] {
        assert!(
            wrong.parse::<tollgate::reconcile::Tolerance>().is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn without_the_free_tiers_name_only_totals_can_be_compared() {
    let books = Books::sharing();
    let reason = |comparison: &tollgate::reconcile::Comparison| {
        let reasons = comparison.unknown.iter().map(|it| it.reason.clone());
        reasons.collect::<Vec<_>>().join("\n")
    };
    let rows = [(DAY, "p", "gpt-4o", 100, 0)];
    let used = [("proj_p", "gpt-4o-2024-08-06", "default", 130)];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    assert!(reason(&comparison).contains("never has the service tier incentivized-tier"));
    assert_eq!(
        drifts(&comparison),
        [format!("external {DAY} p gpt-4o large 30")]
    );

    // It may have another name.
    let used = [("proj_p", "gpt-4o-2024-08-06", "complimentary", 100)];
    let comparison = books.compare(&[], &[bucket(DAY, &used)]);
    assert_eq!(
        comparison.other_tiers.iter().collect::<Vec<_>>(),
        ["complimentary"]
    );
    assert!(!comparison.unknown.is_empty());

    // Not grouped by service tier.
    let mut bucket_without = bucket(DAY, &[("proj_p", "gpt-4o-2024-08-06", FREE, 100)]);
    bucket_without["results"][0]["service_tier"] = json!(null);
    let comparison = books.compare(&rows, &[bucket_without]);
    assert!(reason(&comparison).contains("group it by service_tier"));

    // Nothing was free, by either side.
    let rows = [(DAY, "p", "gpt-4o", 0, 100)];
    let used = [("proj_p", "gpt-4o-2024-08-06", "default", 100)];
    let comparison = books.compare(&rows, &[bucket(DAY, &used)]);
    assert_eq!(reason(&comparison), "");
    assert_eq!(
        drifts(&comparison),
        [format!(
            "billed_in_sharing_project {DAY} p gpt-4o large 100"
        )]
    );
}

#[test]
fn models_in_the_row_other_and_days_without_a_bucket_are_unknown() {
    let books = Books::sharing();
    let rows = [
        OTHER_LEDGER,
        (DAY, "(other)", "(other)", 40, 30),
        (NEXT_DAY, "p", "gpt-4o", 9, 0),
    ];
    let used = [OTHER_FREE, ("proj_p", "gpt-4o-2024-08-06", FREE, 75)];
    let report = report(&page(&[bucket(DAY, &used)]));
    let days = [day(DAY), day(NEXT_DAY)].into();
    let comparison = compare(&books.scope(), days, &ledger(&rows), &report);
    // 70 of the 75 may be what is hidden.
    assert_eq!(
        drifts(&comparison),
        [format!("external {DAY} p gpt-4o large 5")]
    );
    let unknown: Vec<_> = comparison
        .unknown
        .iter()
        .map(|it| it.day.unwrap().to_string())
        .collect();
    assert_eq!(unknown, [NEXT_DAY, DAY]);
}

#[test]
fn a_report_that_is_not_by_project_is_compared_without_projects() {
    let mut all = bucket(
        DAY,
        &[
            ("x", "gpt-4o-2024-08-06", FREE, 100),
            ("x", "o3-2025-04-16", FREE, 3),
        ],
    );
    for result in all["results"].as_array_mut().unwrap() {
        result.as_object_mut().unwrap().remove("project_id");
    }
    let rows = [
        (DAY, "p", "gpt-4o", 60, 0),
        (DAY, "q", "gpt-4o", 40, 0),
        (DAY, "q", "o3", 4, 0),
    ];
    let comparison = Books::sharing().compare(&rows, &[all]);
    assert_eq!(drifts(&comparison), [format!("lost {DAY} o3 large 1")]);
}

#[test]
fn an_empty_page_is_a_report_of_nothing() {
    let empty = UsageReport::from_bytes(page(&[]).to_string().as_bytes()).unwrap();
    assert!(empty.rows.is_empty() && empty.days.is_empty());
}
