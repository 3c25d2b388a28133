//! Who changed external usage, on the organization's page.

use tollgate::grpc::proto::SetExternalUsageRequest;

use super::{Site, browser::Browser, callers, get, login};
use crate::support::{
    calls::{Client, TextFile, policy_file},
    redis::RedisServer,
    tollgate::Tollgate,
    world::small_policy,
};

/// Sets the external usage of a pool of `acme`.
pub(super) async fn set_external(client: &Client, pool: &str, tokens: u64, note: &str) {
    let request = SetExternalUsageRequest {
        org: "acme".to_owned(),
        pool: pool.to_owned(),
        tokens,
        note: note.to_owned(),
    };
    client.clone().set_external_usage(request).await.unwrap();
}

const ROW: &str = "#changes-table tbody tr";

#[tokio::test(flavor = "multi_thread")]
async fn a_change_appears_with_its_author_and_the_time_of_the_viewer() {
    let callers = TextFile::new(&callers());
    let site = Site::start(&small_policy("keep_open"), &["--callers", callers.path()]);
    let browser = Browser::start().await;
    let address = format!("http://me:tg_chief@{}/orgs/acme", site.tollgate.http_addr);
    browser.open(&address).await;
    assert_eq!(
        browser.text("#changes").await,
        "Changes of external usage None in the last 7 days."
    );
    let form = "#pools article:nth-of-type(1) details.external";
    browser.click(&format!("{form} summary")).await;
    browser
        .type_into(&format!("{form} input[name=note]"), "the nightly job")
        .await;
    browser
        .run(&format!(
            "document.querySelector('{form} input[name=tokens]').value = 300"
        ))
        .await;
    browser.click(&format!("{form} button")).await;
    // The page is fetched again, without a reload.
    browser.wait_for_text(ROW, "the nightly job").await;
    let cells = browser.texts(&format!("{ROW} > *")).await;
    assert_eq!(
        cells[1..],
        ["large", "manual", "0", "300", "chief", "the nightly job"]
    );
    // The viewer is 5 h 30 min ahead of UTC.
    let time = &cells[0];
    assert!(time.starts_with("2026-11-22 12:0"), "{time}");
    assert!(time.contains(" UTC (Nov 22, 2026, 05:3"), "{time}");
    assert_eq!(browser.console().await, [""; 0]);
    // The reader sees it too, nobody else does.
    let path = "/orgs/acme";
    let page = get(&site.tollgate.http_addr, path, &[&login("tg_reader")]);
    assert!(page.body.contains("the nightly job"), "{}", page.body);
    let page = get(&site.tollgate.http_addr, path, &[]);
    assert_eq!((page.status, page.body.contains("nightly")), (401, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_changes_of_the_days_that_are_chosen_are_shown_and_the_number_is_bounded() {
    let site = Site::small();
    let client = site.client();
    for tokens in 1..=101 {
        set_external(&client, "large", tokens, "").await;
    }
    site.clock.set("2026-11-23T12:00:00Z");
    set_external(&client, "large", 7, "today").await;
    let browser = Browser::start().await;
    browser.open(&site.url("/orgs/acme")).await;
    let after = format!("{ROW} td:nth-of-type(4)");
    let shown = browser.texts(&after).await;
    assert_eq!(
        (shown.len(), &*shown[0], &*shown[1], &*shown[99]),
        (100, "7", "101", "3")
    );
    let note = browser.text("#changes p.note").await;
    assert!(
        note.starts_with("The newest 100 in the last 7 days;"),
        "{note}"
    );
    browser
        .open(&site.url("/orgs/acme?from=2026-11-23&to=2026-11-23"))
        .await;
    assert_eq!(browser.texts(&after).await, ["7"]);
    assert_eq!(browser.text("#changes p.note").await, "1 change in today.");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_are_read_once_for_all_that_look_at_them() {
    let redis = RedisServer::start();
    let policy = policy_file(1_000);
    let tollgate = Tollgate::start(&["--store", &redis.url(), "--policy", policy.path()]);
    set_external(&tollgate.client(), "large", 5, "once").await;
    let show = || {
        let page = get(&tollgate.http_addr, "/orgs/acme", &[]);
        assert!(page.body.contains("once"), "{}", page.body);
    };
    show();
    let before = redis.calls_of("evalsha") + redis.calls_of("evalsha_ro");
    for _ in 0..20 {
        show();
    }
    let calls = redis.calls_of("evalsha") + redis.calls_of("evalsha_ro") - before;
    // The pools of each page, and again, of two days, what is older than 5 s; not the changes of 7 days for each.
    assert!(calls < 60, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_notes_and_pools_are_shown_as_text() {
    let policy = "[program]\nname = \"test\"\n[pools.\"<i>large\"]\nmodels = [\"gpt-4o\"]\n\
                  [tiers.1]\n\"<i>large\" = 1_000\n[orgs.acme]\ntier = 1\ndata_sharing = \"all\"\n";
    let site = Site::start(policy, &[]);
    let hostile = [
        "<script>window.pwned=1</script>",
        "\"><img src=x onerror=window.pwned=1>",
        "</td></table><h1>gone</h1>",
        "\u{202e}txt.exe \u{5d0}\u{5d1}\u{5d2}",
    ];
    let long = "long-".repeat(102);
    let notes = [&hostile[..], &[&*long]].concat();
    for note in &notes {
        set_external(&site.client(), "<i>large", 1, note).await;
    }
    let browser = Browser::start().await;
    browser.open(&site.url("/orgs/acme")).await;
    let mut shown = browser.texts(&format!("{ROW} td.words .name")).await;
    shown.reverse();
    assert_eq!(shown, notes);
    assert_eq!(
        browser.texts(&format!("{ROW} td:nth-of-type(1)")).await,
        ["<i>large"; 5]
    );
    let markup = "return [window.pwned === undefined, document.querySelectorAll('main img, main script, main i').length]";
    assert_eq!(browser.run(markup).await, serde_json::json!([true, 0]));
    assert_eq!(browser.console().await, [""; 0]);
}
