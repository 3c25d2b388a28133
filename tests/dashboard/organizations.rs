//! The list of organizations: the nearest to its end first, searched, in pages, also with ten thousand.

use std::time::{Duration, Instant};

use super::{Site, browser::Browser, count, get};
use crate::support::world::small_policy;

const ORGANIZATIONS: usize = 10_000;

/// The longest that a page of ten thousand organizations may take, in a build without optimization on a busy machine.
const MAX_TIME: Duration = Duration::from_millis(500);

fn policy() -> String {
    let mut text = small_policy("keep_open");
    for org in 0..ORGANIZATIONS {
        text += &format!("[orgs.org-{org:05}]\ntier = 1\ndata_sharing = \"all\"\n");
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_organizations_are_searched_and_paged_the_nearest_to_its_end_first() {
    let site = Site::start(&policy(), &[]);
    let client = site.client();
    for (org, tokens) in [("org-00077", 900), ("org-00300", 400), ("org-00200", 700)] {
        count(&client, org, "p", "gpt-4o", tokens).await;
    }
    let browser = Browser::start().await;
    browser.open(&site.url("/")).await;
    let names = ".organizations h2 .name";
    let first = "[...document.querySelectorAll('.organizations h2 .name')].slice(0, 3).map((it) => it.textContent).join()";
    // The replica reads all organizations in turn.
    browser
        .wait_for(&format!("{first} === 'org-00077,org-00200,org-00300'"))
        .await;
    assert_eq!(browser.texts(names).await.len(), 25);
    let count = browser.text("form.search .note").await;
    assert!(count.starts_with("10,002 organizations"), "{count}");
    browser.click(".pages a[rel=next]").await;
    browser
        .wait_for("new URL(location).searchParams.has('after')")
        .await;
    let second = browser.texts(names).await;
    assert_eq!((second.len(), second[0].as_str()), (25, "org-00021"));
    browser.type_into("input[name=q]", "ORG-0007").await;
    browser
        .wait_for("document.querySelectorAll('.organizations > li').length === 10")
        .await;
    let mut found = browser.texts(names).await;
    assert_eq!(found.remove(0), "org-00077");
    assert_eq!(
        found,
        (0..10)
            .filter(|it| *it != 7)
            .map(|it| format!("org-0007{it}"))
            .collect::<Vec<_>>()
    );
    browser.click(".organizations h2 a").await;
    browser.wait_for_text("h1", "org-00077").await;
    assert_eq!(
        browser.text("#pools .pool-head").await,
        "large 100 remaining"
    );
    assert_eq!(browser.console().await, [""; 0]);
    let times = ["/", "/?q=0007", "/?q=nobody"].map(|path| {
        let began = Instant::now();
        assert_eq!(get(&site.tollgate.http_addr, path, &[]).status, 200);
        began.elapsed()
    });
    println!("pages of {ORGANIZATIONS} organizations took {times:?}");
    assert!(times.iter().all(|time| *time < MAX_TIME), "{times:?}");
}

#[tokio::test]
async fn a_search_is_bounded_and_a_malformed_page_begins_at_the_first() {
    let site = Site::small();
    let addr = &site.tollgate.http_addr;
    let long = "x".repeat(257);
    for (path, status, part) in [
        ("/?q=%00", 400, "query: "),
        (&*format!("/?q={long}"), 400, "query: "),
        ("/?q=nobody", 200, "No organization has this in its name"),
        ("/?after=acme&fullness=x", 200, "acme"),
        ("/", 200, "2 organizations"),
    ] {
        let page = get(addr, path, &[]);
        assert_eq!(page.status, status, "{path}");
        assert!(page.body.contains(part), "{path}: {}", page.body);
    }
}

#[tokio::test]
async fn with_one_organization_its_page_is_shown_at_once() {
    let (one, _) = small_policy("keep_open")
        .split_once("[orgs.other]")
        .map(|(one, rest)| (one.to_owned(), rest.to_owned()))
        .unwrap();
    let site = Site::start(&one, &[]);
    let answer = get(&site.tollgate.http_addr, "/", &[]);
    assert_eq!(answer.status, 303);
    assert!(
        answer.head.contains("location: ./orgs/acme"),
        "{}",
        answer.head
    );
    assert_eq!(get(&site.tollgate.http_addr, "/?q=ac", &[]).status, 200);
}
