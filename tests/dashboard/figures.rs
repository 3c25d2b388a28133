//! What the page of an organization shows is what GetQuota and ListUsage answer.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use tollgate::grpc::proto::UsageRow;

use super::{Site, browser::Browser, count, get, sort_projects_by_name};
use crate::support::{
    calls::{quota, usage},
    world::small_policy,
};

/// 1234 as "1,234".
fn grouped(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        _ => format!("{},{:03}", number / 1_000, number % 1_000),
    }
}

/// Free and billed tokens and requests by name, as cells of a table.
fn by_name(rows: &[UsageRow], name: fn(&UsageRow) -> &str) -> BTreeMap<String, [String; 3]> {
    let mut sums: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for row in rows {
        let sum = sums.entry(name(row)).or_default();
        sum[0] += row.free_tokens;
        sum[1] += row.billed_tokens;
        sum[2] += row.free_requests + row.billed_requests;
    }
    let cells = sums
        .into_iter()
        .map(|(name, sum)| (name.to_owned(), sum.map(grouped)));
    cells.collect()
}

async fn count_three_days(site: &Site) -> Vec<UsageRow> {
    let client = site.client();
    let mut rows = Vec::new();
    for day in ["2026-11-22", "2026-11-23", "2026-11-24"] {
        count(&client, "acme", "search", "gpt-4o", 600).await;
        count(&client, "acme", "search", "gpt-4o", 600).await;
        count(&client, "acme", "chat", "gpt-4o-mini", 2_500).await;
        count(&client, "acme", "chat", "davinci", 77).await;
        rows.extend(usage(&client, day).await);
        if day != "2026-11-24" {
            site.clock.pass(TimeDelta::days(1));
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_of_the_page_are_those_of_get_quota_and_list_usage() {
    let site = Site::small();
    let rows = count_three_days(&site).await;
    let quota = quota(&site.client()).await;
    let browser = Browser::start().await;
    browser.open(&site.url("/orgs/acme")).await;
    assert_eq!(browser.text("h1").await, "acme");
    for (place, pool) in quota.pools.iter().enumerate() {
        let card = format!("#pools article:nth-of-type({})", place + 1);
        let shown = browser.texts(&format!("{card} dl > div")).await;
        let expected = [
            format!(
                "used / allowance{} / {}",
                grouped(pool.used),
                grouped(pool.allowance)
            ),
            format!("held{}", pool.held_tokens),
            format!("external{}", pool.external_tokens),
            format!("margin{}", pool.margin_tokens),
            format!("billed tokens{}", grouped(pool.billed_tokens)),
            format!("free requests{}", pool.free_requests),
            format!("billed requests{}", pool.billed_requests),
        ];
        assert_eq!(shown, expected);
        let head = browser.text(&format!("{card} .pool-head")).await;
        let remaining = grouped(pool.remaining);
        assert_eq!(head, format!("{} {remaining} remaining", pool.pool));
    }
    for (table, name) in [
        ("project", (|row| &*row.project) as fn(&UsageRow) -> &str),
        ("model", |row| &*row.model),
    ] {
        let names = browser
            .texts(&format!("#{table}-table tbody th .name"))
            .await;
        let cells = browser
            .texts(&format!("#{table}-table tbody td.number"))
            .await;
        let cells = cells
            .chunks(3)
            .map(|cells| cells.to_vec().try_into().unwrap());
        let shown: BTreeMap<String, [String; 3]> = names.into_iter().zip(cells).collect();
        assert_eq!(shown, by_name(&rows, name));
    }
    let days = browser.texts("#usage svg.columns title").await;
    let last = &days[days.len() - 4..];
    let counted = |day: &str| format!("{day}: 3,100 free, 677 billed");
    let expected = [
        "2026-11-21: 0 free, 0 billed".to_owned(),
        counted("2026-11-22"),
        counted("2026-11-23"),
        counted("2026-11-24"),
    ];
    assert_eq!((days.len(), last), (36, &expected[..]));
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn how_much_was_billed_and_by_whom_is_one_sentence_at_the_top_of_the_usage() {
    let site = Site::small();
    count_three_days(&site).await;
    let browser = Browser::start().await;
    browser.open(&site.url("/orgs/acme")).await;
    let answer = "17.9 % was billed in the last 7 days: 2,031 of 11,331 tokens, by search (1,800, 88.6 %), chat (231, 11.4 %).";
    assert_eq!(browser.text("#answer p").await, answer);
    let uncovered = "11.4 % of the billed tokens (231) were of models that no pool lists.";
    assert_eq!(browser.text("#answer p:nth-of-type(2)").await, uncovered);
    // It is within the first window, without scrolling.
    let bottom = browser
        .run("return document.querySelector('#answer p').getBoundingClientRect().bottom - innerHeight")
        .await;
    assert!(bottom.as_f64().unwrap() <= 0.0, "{bottom}");
    browser.screenshot("answer").await;
    // The day before, chosen by a click.
    browser.click(".range nav a:nth-of-type(4)").await;
    browser
        .wait_for_text("#answer", "677 of 3,777 tokens")
        .await;
    browser
        .open(&site.url("/orgs/acme?from=2026-11-10&to=2026-11-12"))
        .await;
    let nothing = "Nothing was used in 2026-11-10 to 2026-11-12.";
    assert_eq!(browser.text("#answer p").await, nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_at_todays_rate_and_the_reset_are_in_utc_and_in_the_viewers_time_zone() {
    let site = Site::small();
    let client = site.client();
    // 800 of 1,000 by noon: the rest lasts three hours.
    count(&client, "acme", "p", "gpt-4o", 800).await;
    count(&client, "acme", "p", "gpt-4o-mini", 100).await;
    let browser = Browser::start().await;
    browser.open(&site.url("/orgs/acme")).await;
    let large = browser.text("#pools article:nth-of-type(1) .run-out").await;
    let local = large.contains("15:00 UTC (08:30 PM GMT+5:30)");
    assert!(
        large.starts_with("At today's rate it runs out at about ") && local,
        "{large}"
    );
    let mini = browser.text("#pools article:nth-of-type(2) .run-out").await;
    assert_eq!(
        mini,
        "At today's rate it does not run out before the reset."
    );
    let reset = browser.text("#pools > .note").await;
    assert!(
        reset.contains("Resets at 00:00 UTC (05:30 AM GMT+5:30), in 1"),
        "{reset}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_sorted_and_filtered_without_a_reload() {
    let site = Site::small();
    count_three_days(&site).await;
    let browser = Browser::start().await;
    browser.open(&site.url("/orgs/acme")).await;
    let names = "#project-table tbody th .name";
    assert_eq!(browser.texts(names).await, ["search", "chat"]);
    browser.run("window.isSame = true").await;
    sort_projects_by_name(&browser).await;
    assert_eq!(browser.texts(names).await, ["chat", "search"]);
    browser.type_into("input[name=model]", "MINI").await;
    browser
        .wait_for("document.querySelectorAll('#model-table tbody tr').length === 1")
        .await;
    assert_eq!(
        browser.texts("#model-table tbody th .name").await,
        ["gpt-4o-mini"]
    );
    assert_eq!(browser.texts(names).await, ["chat", "search"]);
    assert_eq!(browser.run("return window.isSame").await, true);
    // The address has it all.
    browser.run("location.reload()").await;
    browser
        .wait_for(
            "!window.isSame && document.querySelectorAll('#model-table tbody tr').length === 1",
        )
        .await;
    assert_eq!(browser.texts(names).await, ["chat", "search"]);
}

#[tokio::test]
async fn shares_of_projects_are_shown_the_nearest_to_its_end_first() {
    let policy = small_policy("keep_open")
        + "[orgs.acme.shares]\n\"chat\" = \"50%\"\n\"search\" = { large = 400 }\n\"<b>\" = 1\n";
    let site = Site::start(&policy, &[]);
    let client = site.client();
    count(&client, "acme", "search", "gpt-4o", 300).await;
    count(&client, "acme", "chat", "gpt-4o", 100).await;
    let page = get(&site.tollgate.http_addr, "/orgs/acme", &[]).body;
    let (_, table) = page.split_once("Shares of 3 projects").unwrap();
    let (table, _) = table.split_once("</table>").unwrap();
    let rows = [
        "search",
        "300 / 400",
        "100",
        "chat",
        "100 / 500",
        "400",
        "&lt;b&gt;",
        "0 / 1",
        "1",
    ];
    let cells = table.split("<tbody>").nth(1).unwrap();
    let cells = cells
        .replace("<bdi class=\"name\">", "")
        .replace("</bdi>", "");
    let cells = cells.split('<').filter_map(|part| part.split_once('>'));
    let cells: Vec<&str> = cells
        .map(|(_, text)| text)
        .filter(|text| !text.is_empty())
        .collect();
    assert_eq!(cells, rows);
    assert!(page.contains("Shares of 2 projects"), "the pool mini");
}
