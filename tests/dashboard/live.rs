//! The page changes without a reload, and takes nothing from whoever is using it.

use serde_json::json;

use super::{Site, browser::Browser, count};

#[tokio::test(flavor = "multi_thread")]
async fn figures_change_live_and_focus_scroll_text_and_open_menus_stay() {
    let site = Site::small();
    let client = site.client();
    count(&client, "acme", "p", "gpt-4o", 100).await;
    let browser = Browser::start().await;
    browser.open(&site.url("/orgs/acme")).await;
    browser.wait_for_text("#live", "Live").await;
    browser.run("window.isSame = true").await;
    browser.click("#by-day-details summary").await;
    browser.click("details.external summary").await;
    browser
        .type_into("details.external input[name=note]", "half a no")
        .await;
    browser
        .run("scrollTo(0, 222); window.before = document.activeElement")
        .await;
    count(&client, "acme", "p", "gpt-4o", 250).await;
    browser
        .wait_for_text("#pools article .pool-head", "650 remaining")
        .await;
    // The usage of today is read again after some seconds.
    browser.wait_for_text("#project-table", "350").await;
    let state = browser
        .run(
            "return [window.isSame, document.activeElement === window.before, document.activeElement.name, \
             document.activeElement.value, scrollY, document.querySelector('#by-day-details').open, \
             document.querySelector('details.external').open]",
        )
        .await;
    assert_eq!(
        state,
        json!([true, true, "note", "half a no", 222, true, true])
    );
    browser
        .type_into("details.external input[name=note]", "te")
        .await;
    let note = browser.run("return document.activeElement.value").await;
    assert_eq!(note, "half a note");
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_changes_its_order_live_and_a_focused_link_stays_focused() {
    let site = Site::small();
    let client = site.client();
    count(&client, "acme", "p", "gpt-4o", 500).await;
    let browser = Browser::start().await;
    browser.open(&site.url("/")).await;
    browser
        .wait_for("document.querySelector('.organizations .name').textContent === 'acme'")
        .await;
    browser.wait_for_text("#org-acme", "500 remaining").await;
    browser
        .run(
            "document.querySelector('#org-acme a').focus(); window.before = document.activeElement",
        )
        .await;
    count(&client, "other", "p", "gpt-4o", 900).await;
    browser
        .wait_for("document.querySelector('.organizations .name').textContent === 'other'")
        .await;
    let is_focused = browser
        .run("return document.activeElement === window.before")
        .await;
    assert_eq!(is_focused, true);
    assert_eq!(browser.texts(".organizations h2").await, ["other", "acme"]);
}
