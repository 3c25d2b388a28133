//! An outage, of the store or of the service, is shown in the page, and ends by itself.

use nix::sys::signal::Signal;
use serde_json::json;

use super::{browser::Browser, count};
use crate::support::{calls::policy_file, redis::RedisServer, tollgate::Tollgate};

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_or_the_service_is_shown_and_ends_by_itself() {
    let mut redis = RedisServer::start();
    let policy = policy_file(1_000);
    let tollgate = Tollgate::start(&["--store", &redis.url(), "--policy", policy.path()]);
    let client = tollgate.client();
    count(&client, "acme", "p", "gpt-4o", 100).await;
    let browser = Browser::start().await;
    browser
        .open(&format!("http://{}/orgs/acme", tollgate.http_addr))
        .await;
    browser.run("window.isSame = true").await;
    browser.type_into("input[name=project]", "p").await;
    browser.wait_for_text("#live", "Live").await;
    redis.kill();
    browser.wait_for_text("#notices", "the store").await;
    browser.wait_for_text("#live", "No new figures since").await;
    browser.wait_for_text("#footer", "Store: redis, down").await;
    assert_eq!(
        browser.text("#pools article .pool-head").await,
        "large 900 remaining"
    );
    redis.restart();
    browser
        .wait_for("document.querySelector('#notices').textContent === ''")
        .await;
    browser.wait_for_text("#live", "Live").await;
    // The service itself does not answer.
    tollgate.signal(Signal::SIGSTOP);
    browser
        .wait_for_text("#live", "The service has not answered since")
        .await;
    tollgate.signal(Signal::SIGCONT);
    browser.wait_for_text("#live", "Live").await;
    let state = browser
        .run("return [window.isSame, document.querySelector('input[name=project]').value]")
        .await;
    assert_eq!(state, json!([true, "p"]));
}

#[tokio::test]
async fn without_a_store_a_page_still_says_why_it_has_no_figures() {
    let mut redis = RedisServer::start();
    let policy = policy_file(1_000);
    let tollgate = Tollgate::start(&["--store", &redis.url(), "--policy", policy.path()]);
    count(&tollgate.client(), "acme", "p", "gpt-4o", 100).await;
    redis.kill();
    let page = super::get(&tollgate.http_addr, "/orgs/acme", &[]);
    assert_eq!(page.status, 503);
    assert!(
        page.body.contains("No new figures: the store"),
        "{}",
        page.body
    );
    assert_eq!(
        super::get(&tollgate.http_addr, "/usage.csv?org=acme", &[]).status,
        503
    );
    // The list shows what the replica has read before.
    assert_eq!(super::get(&tollgate.http_addr, "/", &[]).status, 200);
}
