//! docs/CONTRACT.md, "What is counted where", "GetQuota" and "ListUsage".

use tollgate::{
    domain::{ModelName, ProjectId, UtcDay},
    ledger::{LedgerError, UsagePage},
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, TODAY, new_reserve, org_id, policy, policy_text, small_policy,
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
    let mut pages = 0;
    loop {
        let page = UsagePage {
            day: None,
            after: listed.last().cloned(),
            size: 150,
        };
        let usage = world.ledger.usage(&org_id("acme"), page).await.unwrap();
        listed.extend(usage.rows.into_iter().map(|row| (row.project, row.model)));
        pages += 1;
        if !usage.more {
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
