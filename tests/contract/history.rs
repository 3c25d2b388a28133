//! docs/CONTRACT.md, "What is counted where", "GetQuota" and "ListUsage".

use tollgate::{
    domain::{ModelName, ProjectId, UtcDay},
    ledger::{LedgerError, Usage, UsageDays, UsagePage, UsageRow},
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, TODAY, World, new_reserve, org_id, policy, policy_text, small_policy,
};

over_every_store!(
    quota_lists_every_pool_by_name_used_or_not,
    quota_of_a_known_organization_that_is_not_enrolled_has_an_allowance_of_0,
    quota_of_a_stranger_is_not_found,
    usage_counts_every_request_of_a_known_organization,
    usage_is_ordered_by_project_then_model_and_comes_in_pages,
    usage_is_stored_for_the_retention_and_no_day_longer,
    usage_of_a_stranger_without_rows_is_not_found,
    usage_of_a_future_day_is_out_of_range,
    a_range_has_each_row_of_its_days_once_in_pages_of_any_size,
    days_past_the_retention_are_left_out_of_a_range,
    a_range_without_a_kept_day_or_that_ends_in_the_future_or_is_too_long_is_refused,
    pages_of_a_range_go_on_after_midnight_until_their_day_is_past_the_retention,
    a_range_of_a_stranger_is_not_found_unless_it_has_rows_on_one_of_the_days,
);

async fn quota_lists_every_pool_by_name_used_or_not(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(400)).await;
    world.reserve(new_reserve(900)).await;
    let quota = world.quota("acme").await;
    assert_eq!(
        (quota.day.to_string().as_str(), quota.enrollment.tier),
        (TODAY, 1)
    );
    assert_eq!(quota.resets_at.to_rfc3339(), "2026-11-23T00:00:00+00:00");
    let pools: Vec<_> = quota
        .pools
        .iter()
        .map(|(balance, _)| {
            (
                balance.pool.as_str(),
                balance.allowance.get(),
                balance.remaining().get(),
            )
        })
        .collect();
    assert_eq!(pools, [("large", 1_000, 600), ("mini", 10_000, 10_000)]);
    assert_eq!(world.pool("large").await, (400, 1, 900, 1));
    world.clock.set("2026-11-23T00:00:00Z");
    assert_eq!(world.pool("large").await, (0, 0, 0, 0));
}

async fn quota_of_a_known_organization_that_is_not_enrolled_has_an_allowance_of_0(new: NewWorld) {
    let text = small_policy("keep_open")
        + "[orgs.off]\ntier = 1\ndata_sharing = \"off\"\n"
        + "[orgs.zdr]\ntier = 1\ndata_sharing = \"all\"\nzero_data_retention = true\n"
        + "[orgs.big]\ntier = 1\ndata_sharing = \"all\"\nenterprise = true\n";
    let world = new(policy_text(&text));
    for (org, reason) in [
        ("off", "OrganizationNotEnrolled"),
        ("zdr", "ZeroDataRetention"),
        ("big", "EnterprisePlan"),
    ] {
        world.reserve(new_reserve(5).org(org)).await;
        let quota = world.quota(org).await;
        assert_eq!(
            format!("{:?}", quota.enrollment.not_enrolled.unwrap()),
            reason
        );
        assert_eq!(quota.pools.len(), 2);
        for (balance, counters) in quota.pools {
            assert_eq!((balance.allowance.get(), balance.remaining().get()), (0, 0));
            assert_eq!(counters, tollgate::domain::PoolCounters::default());
        }
    }
}

async fn quota_of_a_stranger_is_not_found(new: NewWorld) {
    let world = new(policy("keep_open"));
    let quota = world.ledger.quota(&org_id("stranger")).await;
    assert!(matches!(quota, Err(LedgerError::UnknownOrganization)));
}

async fn usage_counts_every_request_of_a_known_organization(new: NewWorld) {
    let text = small_policy("keep_open") + "[orgs.off]\ntier = 1\ndata_sharing = \"off\"\n";
    let world = new(policy_text(&text));
    world.reserve(new_reserve(600)).await;
    world.reserve(new_reserve(600)).await;
    world.reserve(new_reserve(40)).await;
    world.reserve(new_reserve(9).model("ft:gpt-4o:x")).await;
    world.reserve(new_reserve(3).model("gpt-4o-mini")).await;
    world.reserve(new_reserve(8).org("off")).await;
    assert_eq!(
        world.usage("acme", None).await,
        [
            "p ft:gpt-4o:x - 0 9 0 1",
            "p gpt-4o large 640 600 2 1",
            "p gpt-4o-mini mini 3 0 1 0"
        ]
    );
    assert_eq!(world.usage("off", None).await, ["p gpt-4o large 0 8 0 1"]);
}

async fn usage_is_ordered_by_project_then_model_and_comes_in_pages(new: NewWorld) {
    let world = new(policy("keep_open"));
    // More than one step of a scan, and more than a small hash holds.
    for project in 0..40 {
        for model in 0..20 {
            let call = new_reserve(1)
                .project(&format!("p{project}"))
                .model(&format!("m{model}"));
            world.reserve(call).await;
        }
    }
    let mut listed: Vec<(ProjectId, ModelName)> = Vec::new();
    let (mut pages, mut start) = (0, None);
    loop {
        let page = UsagePage {
            days: UsageDays::Today,
            start,
            size: 150,
        };
        let usage = world.ledger.usage(&org_id("acme"), page).await.unwrap();
        listed.extend(usage.rows.into_iter().map(|row| (row.project, row.model)));
        pages += 1;
        start = usage.next;
        if start.is_none() {
            break;
        }
    }
    assert_eq!((pages, listed.len()), (6, 800));
    assert!(
        listed.is_sorted_by(|one, next| one < next),
        "ordered, and each row once"
    );
}

async fn usage_is_stored_for_the_retention_and_no_day_longer(new: NewWorld) {
    let world = new(policy("keep_open"));
    world.reserve(new_reserve(5)).await;
    world.clock.set("2026-12-27T23:59:00Z");
    assert_eq!(
        world.usage("acme", Some(TODAY)).await,
        ["p gpt-4o large 5 0 1 0"]
    );
    assert!(
        world.usage("acme", Some("2026-11-25")).await.is_empty(),
        "a day without requests"
    );
    world.clock.set("2026-12-28T00:00:00Z");
    let error = world.try_usage("acme", Some(TODAY)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "day: 2026-11-22 is not kept; there are 2026-11-23 to 2026-12-28"
    );
}

async fn usage_of_a_stranger_without_rows_is_not_found(new: NewWorld) {
    let world = new(policy("keep_open"));
    let usage = world.try_usage("stranger", None).await;
    assert!(matches!(usage, Err(LedgerError::UnknownOrganization)));
    assert!(
        world.usage("other", None).await.is_empty(),
        "known, and nothing used"
    );
}

async fn usage_of_a_future_day_is_out_of_range(new: NewWorld) {
    let world = new(policy("keep_open"));
    let tomorrow = UtcDay::parse(TODAY).unwrap().plus_days(1);
    let usage = world.try_usage("acme", Some(&tomorrow.to_string())).await;
    assert!(matches!(usage, Err(LedgerError::DayNotKept { .. })));
}

fn day(text: &str) -> UtcDay {
    UtcDay::parse(text).unwrap()
}

fn range(from: &str, to: Option<&str>) -> UsageDays {
    UsageDays::Range {
        from: day(from),
        to: to.map(day),
    }
}

/// The first page of these days, or the one after a page.
async fn page(
    world: &World,
    days: UsageDays,
    before: Option<&Usage>,
    size: usize,
) -> Result<Usage, LedgerError> {
    let page = match before {
        None => UsagePage {
            days,
            start: None,
            size,
        },
        Some(before) => UsagePage {
            days: UsageDays::Range {
                from: *before.days.start(),
                to: Some(*before.days.end()),
            },
            start: Some(before.next.clone().unwrap()),
            size,
        },
    };
    world.ledger.usage(&org_id("acme"), page).await
}

async fn all_pages(world: &World, days: UsageDays, size: usize) -> Vec<Usage> {
    let mut pages = vec![page(world, days, None, size).await.unwrap()];
    while pages.last().unwrap().next.is_some() {
        let next = page(world, days, pages.last(), size).await.unwrap();
        pages.push(next);
    }
    pages
}

/// `day project model tokens` of each row.
fn dated(usage: &Usage) -> Vec<String> {
    let text = |row: &UsageRow| {
        let tokens = row.counters.free_tokens;
        format!("{} {} {} {tokens}", row.day, row.project, row.model)
    };
    usage.rows.iter().map(text).collect()
}

/// Two rows on each of three days; 2026-11-24 has none.
async fn world_with_days(new: NewWorld) -> World {
    let world = new(policy("keep_open"));
    for (moment, project) in [
        ("2026-11-22T12:00:00Z", "z"),
        ("2026-11-23T12:00:00Z", "m"),
        ("2026-11-25T12:00:00Z", "a"),
    ] {
        world.clock.set(moment);
        for (model, tokens) in [("gpt-4o-mini", 2), ("gpt-4o", 1)] {
            let call = new_reserve(tokens).project(project).model(model);
            world.reserve(call).await;
        }
    }
    world
}

const ROWS: [&str; 6] = [
    "2026-11-22 z gpt-4o 1",
    "2026-11-22 z gpt-4o-mini 2",
    "2026-11-23 m gpt-4o 1",
    "2026-11-23 m gpt-4o-mini 2",
    "2026-11-25 a gpt-4o 1",
    "2026-11-25 a gpt-4o-mini 2",
];

async fn a_range_has_each_row_of_its_days_once_in_pages_of_any_size(new: NewWorld) {
    let world = world_with_days(new).await;
    for size in 1..=ROWS.len() + 1 {
        let pages = all_pages(&world, range("2026-11-22", None), size).await;
        let rows: Vec<String> = pages.iter().flat_map(dated).collect();
        assert_eq!(rows, ROWS, "by {size}");
        // A page is filled over as many days as it takes.
        assert_eq!(pages.len(), ROWS.len().div_ceil(size), "by {size}");
        for page in &pages {
            assert_eq!(page.days, day("2026-11-22")..=day("2026-11-25"));
        }
    }
    for (from, to, rows) in [
        ("2026-11-22", "2026-11-22", &ROWS[..2]),
        ("2026-11-22", "2026-11-24", &ROWS[..4]),
        ("2026-11-23", "2026-11-25", &ROWS[2..]),
        ("2026-11-24", "2026-11-24", &[]),
        ("2026-11-24", "2026-11-25", &ROWS[4..]),
    ] {
        let usage = page(&world, range(from, Some(to)), None, 1_000).await;
        let usage = usage.unwrap();
        assert_eq!(dated(&usage), rows, "{from} to {to}");
        assert_eq!(usage.days, day(from)..=day(to));
        assert_eq!(usage.next, None);
    }
}

async fn days_past_the_retention_are_left_out_of_a_range(new: NewWorld) {
    let world = world_with_days(new).await;
    world.clock.set("2026-12-28T12:00:00Z");
    let usage = page(&world, range("2026-11-22", None), None, 1_000).await;
    let usage = usage.unwrap();
    assert_eq!(usage.days, day("2026-11-23")..=day("2026-12-28"));
    assert_eq!(dated(&usage), ROWS[2..]);
}

async fn a_range_without_a_kept_day_or_that_ends_in_the_future_or_is_too_long_is_refused(
    new: NewWorld,
) {
    let world = new(policy("keep_open"));
    for (from, to, expected) in [
        (
            "2026-10-01",
            Some("2026-10-17"),
            "to_day: 2026-10-17 is not kept; there are 2026-10-18 to 2026-11-22",
        ),
        (
            "2026-11-22",
            Some("2026-11-23"),
            "to_day: 2026-11-23 is not kept; there are 2026-10-18 to 2026-11-22",
        ),
        (
            "2026-11-23",
            None,
            "from_day: 2026-11-23 is not kept; there are 2026-10-18 to 2026-11-22",
        ),
        (
            "2026-09-21",
            None,
            "from_day: 2026-09-21 to 2026-11-22 are more than 62 days",
        ),
        (
            "2026-09-20",
            Some("2026-11-21"),
            "from_day: 2026-09-20 to 2026-11-21 are more than 62 days",
        ),
    ] {
        let usage = page(&world, range(from, to), None, 1_000).await;
        assert_eq!(usage.unwrap_err().to_string(), expected);
    }
    for (from, to) in [("2026-09-22", None), ("2026-09-21", Some("2026-11-21"))] {
        let usage = page(&world, range(from, to), None, 1_000).await;
        assert_eq!(*usage.unwrap().days.start(), day("2026-10-18"));
    }
}

async fn pages_of_a_range_go_on_after_midnight_until_their_day_is_past_the_retention(
    new: NewWorld,
) {
    let world = world_with_days(new).await;
    world.clock.set("2026-12-27T23:59:59Z");
    let days = range("2026-11-22", None);
    let within_a_day = page(&world, days, None, 1).await.unwrap();
    let at_its_end = page(&world, days, None, 2).await.unwrap();
    world.clock.set("2026-12-28T00:00:01Z");
    world.reserve(new_reserve(5)).await;
    // The range still ends with the day that was today, and 2026-11-22 has been read completely.
    let rest = page(&world, days, Some(&at_its_end), 1_000).await.unwrap();
    assert_eq!(dated(&rest), ROWS[2..]);
    assert_eq!(rest.days, day("2026-11-22")..=day("2026-12-27"));
    // A row of 2026-11-22 is gone: the pages would lack it.
    let lost = page(&world, days, Some(&within_a_day), 1_000).await;
    assert_eq!(
        lost.unwrap_err().to_string(),
        "page_token: 2026-11-22 is not kept; there are 2026-11-23 to 2026-12-28"
    );
}

async fn a_range_of_a_stranger_is_not_found_unless_it_has_rows_on_one_of_the_days(new: NewWorld) {
    let world = world_with_days(new).await;
    let without_acme = small_policy("keep_open").replace("[orgs.acme]", "[orgs.renamed]");
    world.ledger.set_policy(policy_text(&without_acme).into());
    let usage = page(&world, range("2026-11-24", None), None, 1_000).await;
    assert_eq!(dated(&usage.unwrap()), ROWS[4..]);
    let usage = page(&world, range("2026-11-24", Some("2026-11-24")), None, 1_000);
    assert!(matches!(usage.await, Err(LedgerError::UnknownOrganization)));
}
