//! The order of organizations, pages, and searches.

use std::time::Duration;

use tokio::time::sleep;
use tollgate::{
    domain::{BilledReason, ExternalSource, PoolName, Tokens},
    ledger::{OrganizationOrder, OrganizationPage, SetExternalUsage},
};

use super::{Overview, names, numbered, org_section, page, policy_of};
use crate::support::world::{org_id, policy_text};

fn nearest(size: usize) -> OrganizationPage {
    OrganizationPage {
        order: OrganizationOrder::NearestToEnd,
        ..page(size)
    }
}

fn searched(query: &str) -> OrganizationPage {
    OrganizationPage {
        query: query.to_owned(),
        ..page(100)
    }
}

impl Overview {
    /// The names on all pages, and that each page is full but the last one.
    async fn all_pages(&self, mut page: OrganizationPage) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let list = self.list(page.clone()).await;
            all.extend(names(&list).into_iter().map(str::to_owned));
            let Some(next) = list.next else {
                assert_eq!(list.total, all.len(), "by {}", page.size);
                return all;
            };
            assert_eq!(list.organizations.len(), page.size);
            page.after = Some(next);
        }
    }
}

/// Organizations in the order of [`ranked`].
const RANKED: [&str; 9] = [
    "closed",
    "margin",
    "over",
    "half",
    "mini-half",
    "some",
    "zero-1",
    "zero-2",
    "off",
];

/// A service with organizations that are differently near to the end.
async fn ranked() -> Overview {
    let orgs = [
        "closed",
        "over",
        "half",
        "mini-half",
        "some",
        "zero-2",
        "zero-1",
    ];
    let mut policy = policy_of(orgs.map(str::to_owned));
    policy += &org_section("margin", "margin = \"100%\"");
    policy += "[orgs.off]\ntier = 1\ndata_sharing = \"off\"\n";
    let overview = Overview::start(&policy).await;
    overview.reserve("closed", "gpt-4o", 10).await;
    overview.reserve("closed", "gpt-4o", 1_000).await;
    overview.reserve("over", "gpt-4o", 900).await;
    let external = SetExternalUsage {
        org: org_id("over"),
        pool: PoolName::parse("large").unwrap(),
        source: ExternalSource::Manual,
        tokens: Tokens::new(200).unwrap(),
        note: String::new(),
        caller: None,
    };
    overview.ledger.set_external_usage(external).await.unwrap();
    overview.reserve("half", "gpt-4o", 500).await;
    overview.reserve("half", "gpt-4o-mini", 10).await;
    overview.reserve("mini-half", "gpt-4o-mini", 5_000).await;
    overview.reserve("some", "gpt-4o", 1).await;
    sleep(Duration::from_secs(6)).await;
    overview
}

#[tokio::test(start_paused = true)]
async fn the_fullest_pool_ranks_an_organization() {
    let overview = ranked().await;
    assert_eq!(overview.all_pages(nearest(100)).await, RANKED);
}

#[tokio::test(start_paused = true)]
async fn pages_of_any_size_give_each_organization_once_in_either_order() {
    let overview = ranked().await;
    let mut by_name = RANKED;
    by_name.sort_unstable();
    for size in 1..=RANKED.len() + 1 {
        assert_eq!(overview.all_pages(page(size)).await, by_name, "by {size}");
        assert_eq!(overview.all_pages(nearest(size)).await, RANKED, "by {size}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_organization_has_what_its_quota_has() {
    let overview = ranked().await;
    for listed in overview.list(page(100)).await.organizations {
        let quota = overview.ledger.quota(&listed.org).await.unwrap();
        assert_eq!(listed.pools, quota.pools, "{}", listed.org);
        assert_eq!(listed.enrollment.tier, quota.enrollment.tier);
        let not_enrolled = listed.enrollment.not_enrolled;
        assert_eq!(not_enrolled, quota.enrollment.not_enrolled);
        let is_off = listed.org.as_str() == "off";
        let wanted = is_off.then_some(BilledReason::OrganizationNotEnrolled);
        assert_eq!(not_enrolled, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_finds_a_part_of_the_name_in_upper_and_lower_case() {
    let orgs = [
        "Acme GmbH",
        "acme",
        "ACME-eu",
        "Äcme",
        "straße",
        "ИМЯ",
        "other",
    ];
    let overview = Overview::start(&policy_of(orgs.map(str::to_owned))).await;
    for (query, wanted) in [
        ("", &orgs[..]),
        ("acme", &["Acme GmbH", "acme", "ACME-eu"]),
        ("ME G", &["Acme GmbH"]),
        ("äCME", &["Äcme"]),
        ("имя", &["ИМЯ"]),
        ("ß", &["straße"]),
        ("nothing", &[]),
    ] {
        let list = overview.list(searched(query)).await;
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(names(&list), wanted, "{query}");
        assert_eq!(list.total, wanted.len(), "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_readable_organizations_are_listed_and_counted() {
    let overview = ranked().await;
    // One that the policy does not have stays unknown.
    let readable = ["zero-1", "stranger", "half", "off"].map(org_id).to_vec();
    for (page, wanted) in [
        (page(2), vec!["half", "off", "zero-1"]),
        (nearest(2), vec!["half", "zero-1", "off"]),
        (searched("F"), vec!["half", "off"]),
    ] {
        let page = OrganizationPage {
            readable: Some(readable.clone()),
            ..page
        };
        assert_eq!(overview.list(page.clone()).await.total, wanted.len());
        assert_eq!(overview.all_pages(page).await, wanted);
    }
    let nothing = OrganizationPage {
        readable: Some(Vec::new()),
        ..page(10)
    };
    assert_eq!(overview.list(nothing).await.total, 0);
}

#[tokio::test(start_paused = true)]
async fn a_page_goes_on_after_an_organization_that_has_left_the_policy() {
    let overview = Overview::start(&policy_of(numbered(6))).await;
    for order in [OrganizationOrder::Name, OrganizationOrder::NearestToEnd] {
        let all = policy_of(numbered(6));
        overview.ledger.set_policy(policy_text(&all).into());
        let mut page = page(3);
        page.order = order;
        let first = overview.list(page.clone()).await;
        assert_eq!(names(&first), ["org-0000", "org-0001", "org-0002"]);
        page.after = first.next;
        let left = numbered(6).filter(|org| org != "org-0002");
        overview
            .ledger
            .set_policy(policy_text(&policy_of(left)).into());
        let rest = overview.list(page).await;
        assert_eq!(names(&rest), ["org-0003", "org-0004", "org-0005"]);
        assert_eq!((rest.next, rest.total), (None, 5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_without_organizations_has_an_empty_list() {
    let overview = Overview::start(&policy_of([])).await;
    sleep(Duration::from_secs(6)).await;
    let list = overview.list(nearest(10)).await;
    assert_eq!((names(&list), list.total), (Vec::new(), 0));
    assert!(overview.reads().is_empty());
}
