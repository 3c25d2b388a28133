//! The pages need a caller with the role `read`, and show only its organizations.

use super::{Site, browser::Browser, callers, get, login, sort_projects_by_name};
use crate::support::{calls::TextFile, world::small_policy};

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_with_a_token_and_sees_its_own_organizations_only() {
    let callers = TextFile::new(&callers());
    let site = Site::start(&small_policy("keep_open"), &["--callers", callers.path()]);
    let with_login =
        |token: &str, path: &str| format!("http://me:{token}@{}{path}", site.tollgate.http_addr);
    let browser = Browser::start().await;
    // Its only organization, at once.
    browser.open(&with_login("tg_reader", "/")).await;
    assert_eq!(browser.text("h1").await, "acme");
    assert!(
        !browser.is_there("details.external").await,
        "a reader has no form"
    );
    // It stays live, and links work.
    browser.run("window.isSame = true").await;
    sort_projects_by_name(&browser).await;
    browser.wait_for_text("#live", "Live").await;
    assert_eq!(browser.run("return window.isSame").await, true);
    assert_eq!(browser.console().await, [""; 0]);
    browser.open(&site.url("/orgs/other")).await;
    assert_eq!(browser.text("h1").await, "Forbidden");
    assert!(!browser.is_there("#footer *").await);
    let page = browser.text("main").await;
    assert!(
        page.contains("may not speak for this organization"),
        "{page}"
    );
}

#[tokio::test]
async fn pages_of_strangers_are_refused_and_do_not_reveal_what_exists() {
    let callers = TextFile::new(&callers());
    let site = Site::start(&small_policy("keep_open"), &["--callers", callers.path()]);
    let addr = &site.tollgate.http_addr;
    for path in ["/", "/orgs/acme", "/orgs?org=acme", "/usage.csv?org=acme"] {
        for headers in [vec![], vec![login("tg_wrong")]] {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let answer = get(addr, path, &headers);
            assert_eq!(answer.status, 401, "{path}");
            let asks = answer
                .head
                .contains("www-authenticate: basic realm=\"tollgate\"");
            assert!(asks, "{}", answer.head);
            assert!(!answer.body.contains("Policy"), "{}", answer.body);
        }
    }
    let reader = login("tg_reader");
    let [other, stranger] = ["other", "stranger"].map(|org| {
        let page = get(addr, &format!("/orgs/{org}"), &[&reader]);
        let file = get(addr, &format!("/usage.csv?org={org}"), &[&reader]);
        assert_eq!((page.status, file.status), (403, 403));
        (page.body, file.body)
    });
    assert_eq!(other, stranger);
    // They have no figures.
    for path in ["/style.css", "/script.js", "/icon.svg"] {
        assert_eq!(get(addr, path, &[]).status, 200, "{path}");
    }
}
