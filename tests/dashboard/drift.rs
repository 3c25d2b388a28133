//! Drift against the provider and the provider's figures, on both pages and in the file.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;

use super::{browser::Browser, count, get};
use crate::support::{
    compared::ComparedService, tools::WAIT_TIMEOUT, usage_api::UsageEvent, world::small_policy,
};

const HOSTILE: &str = "<img src=x onerror=window.pwned=1>";

/// `acme` with 100 FREE tokens in a project of a hostile name, of which the provider has 900, and a model that only
/// the provider has.
async fn site() -> ComparedService {
    let event = |project, model, tier, tokens| {
        UsageEvent::new("2026-11-22T08:00:00Z", project, model, tier, tokens)
    };
    let events = vec![
        event("proj_h", "gpt-4o", "incentivized-tier", 900),
        event("proj_h", "gpt-4o", "default", 40),
        event("proj_h", HOSTILE, "default", 5),
    ];
    let projects = format!("{} = \"proj_h\"", json!(HOSTILE));
    let service = ComparedService::start(&small_policy("keep_open"), &projects, events).await;
    let client = service.tollgate.client();
    count(&client, "acme", HOSTILE, "gpt-4o", 100).await;
    count(&client, "other", "p", "gpt-4o", 7).await;
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_and_the_providers_figures_are_on_the_page_of_an_organization() {
    let site = site().await;
    let browser = Browser::start().await;
    let address = format!("http://{}", site.tollgate.http_addr);
    browser.open(&format!("{address}/orgs/acme")).await;
    browser
        .wait_for_text("#drift p", "external 840 tokens")
        .await;
    let text = browser.text("#drift p").await;
    assert_eq!(
        text,
        "external 840 tokens. Compared less than a minute ago."
    );
    browser.click("#drift-details summary").await;
    let days = browser.texts("#drift-table tbody tr").await;
    assert_eq!(days[0], "2026-11-22external 840 tokens");
    assert!(
        days.len() > 2 && days[1..].iter().all(|day| day.ends_with("none")),
        "{days:?}"
    );
    browser
        .wait_for("document.querySelectorAll('#model-table td.provider').length === 4")
        .await;
    for (table, cells) in [
        ("project", &["900", "45"][..]),
        ("model", &["900", "40", "0", "5"]),
    ] {
        let shown = browser.texts(&format!("#{table}-table td.provider")).await;
        assert_eq!(shown, cells);
    }
    let names = browser.texts("#model-table tbody th .name").await;
    assert_eq!(names, ["gpt-4o", HOSTILE]);
    assert_eq!(browser.run("return window.pwned === undefined").await, true);
    assert_eq!(browser.accessibility_faults().await, [""; 0]);
    assert_eq!(browser.console().await, [""; 0]);
    browser.screenshot("drift").await;
    // An organization that is not compared has none of it.
    browser.open(&format!("{address}/orgs/other")).await;
    browser.wait_for_text("#project-table", "p").await;
    assert!(!browser.is_there("#drift, .provider").await);
    let head = browser.text("#project-table thead").await;
    assert!(!head.contains("Provider"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_shows_the_drift_of_each_organization_that_is_compared() {
    let site = site().await;
    let browser = Browser::start().await;
    browser
        .open(&format!("http://{}/", site.tollgate.http_addr))
        .await;
    browser.wait_for_text("#org-acme .drift", "external").await;
    assert_eq!(
        browser.texts(".drift").await,
        ["Drift: external 840 tokens"]
    );
    assert!(!browser.is_there("#org-other .drift").await);
    assert_eq!(browser.accessibility_faults().await, [""; 0]);
    browser.screenshot("drift-list").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_has_the_providers_figures() {
    let site = site().await;
    let addr = &site.tollgate.http_addr;
    let file = || {
        get(
            addr,
            "/usage.csv?org=acme&from=2026-11-22&to=2026-11-22",
            &[],
        )
        .body
    };
    wait_for(&file, ",900,").await;
    let rows = [
        format!("acme,2026-11-22,{HOSTILE},{HOSTILE},,0,0,0,0,0,5"),
        format!("acme,2026-11-22,{HOSTILE},gpt-4o,large,100,0,1,0,900,40"),
    ];
    let lines: Vec<String> = file().lines().skip(1).map(str::to_owned).collect();
    assert_eq!(lines, rows);
}

/// Waits until the text has this.
async fn wait_for(text: &impl Fn() -> String, wanted: &str) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !text().contains(wanted) {
        assert!(Instant::now() < deadline, "{wanted}: {}", text());
        sleep(Duration::from_millis(50)).await;
    }
}

/// `acme` with 100 FREE tokens of gpt-4o, and a model that only the provider has, billed.
async fn two_models() -> ComparedService {
    let event = |model, tier, tokens| {
        UsageEvent::new("2026-11-22T08:00:00Z", "proj_p", model, tier, tokens)
    };
    let events = vec![
        event("gpt-4o", "incentivized-tier", 100),
        event("o1", "default", 50),
    ];
    let service =
        ComparedService::start(&small_policy("keep_open"), "p = \"proj_p\"", events).await;
    count(&service.tollgate.client(), "acme", "p", "gpt-4o", 100).await;
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_sorted_by_the_providers_figures() {
    let site = two_models().await;
    let browser = Browser::start().await;
    let address = format!("http://{}/orgs/acme", site.tollgate.http_addr);
    browser.open(&address).await;
    browser.wait_for_text("#model-table", "o1").await;
    let names = async || browser.texts("#model-table tbody th .name").await;
    assert_eq!(names().await, ["gpt-4o", "o1"]);
    browser.click("#model-table thead th:last-of-type a").await;
    let sorted =
        "document.querySelector('#model-table th:last-of-type')?.ariaSort === 'descending'";
    browser.wait_for(sorted).await;
    assert_eq!(names().await, ["o1", "gpt-4o"]);
    assert_eq!(browser.accessibility_faults().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_still_compared_is_read_again_before_an_hour_has_passed() {
    let site = two_models().await;
    let event = |tokens| {
        let at = "2026-11-20T08:00:00Z";
        UsageEvent::new(at, "proj_p", "gpt-4o", "incentivized-tier", tokens)
    };
    let addr = &site.tollgate.http_addr;
    let page = || get(addr, "/orgs/acme?from=2026-11-20&to=2026-11-20", &[]).body;
    // It is read while nothing was compared, and again with each figure.
    page();
    for (tokens, sum) in [(1_234, ">1,234<"), (5_000, ">6,234<")] {
        site.api.add(event(tokens));
        wait_for(&page, sum).await;
    }
}
