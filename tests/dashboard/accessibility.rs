//! The pages are for everyone: axe finds nothing serious, in light and in dark, and a phone needs no scrolling sideways.

use super::{Site, browser::Browser, count, external_changes::set_external};
use crate::support::world::small_policy;

const PHONE: u32 = 360;

/// Organizations with names that are short, long, and not enrolled; usage of several days and projects.
async fn site() -> Site {
    let long = "an-organization-with-a-name-".repeat(9);
    let policy = small_policy("close_until_reset").replace("overflow", "margin = \"5%\"\noverflow")
        + &format!("[orgs.{long}]\ntier = 1\ndata_sharing = \"off\"\n");
    let site = Site::start(&policy, &[]);
    let client = site.client();
    for (project, model, tokens) in [
        ("search", "gpt-4o", 300),
        ("chat", "gpt-4o-mini", 4_000),
        (&*long, "gpt-4o-mini", 2_500),
        ("experiments", &*long, 1_200),
        ("search", "gpt-4o", 900),
    ] {
        count(&client, "acme", project, model, tokens).await;
    }
    for (pool, note) in [("large", ""), ("mini", &*long)] {
        set_external(&client, pool, 5, note).await;
    }
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_nothing_serious_on_any_page_in_light_and_in_dark() {
    let site = site().await;
    let browser = Browser::start().await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for path in ["/", "/orgs/acme", "/orgs/stranger"] {
            browser.open(&site.url(path)).await;
            if path == "/orgs/acme" {
                browser.click("details.external summary").await;
                browser.click("#by-day-details summary").await;
            }
            let faults = browser.accessibility_faults().await;
            assert_eq!(faults, [""; 0], "{scheme} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dark_is_dark_and_light_is_light() {
    let site = site().await;
    let browser = Browser::start().await;
    let mut colours = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        browser.open(&site.url("/orgs/acme")).await;
        let background = "return getComputedStyle(document.body).backgroundColor";
        colours.push(browser.run(background).await);
    }
    assert_eq!(colours, ["rgb(245, 247, 249)", "rgb(16, 20, 23)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_scrolls_down_and_never_sideways() {
    let site = site().await;
    let browser = Browser::start().await;
    browser.set_width(PHONE, 740).await;
    for path in ["/", "/orgs/acme", "/orgs/stranger"] {
        browser.open(&site.url(path)).await;
        let widths = "const {scrollWidth, clientWidth} = document.documentElement;
            return [innerWidth, scrollWidth - clientWidth]";
        let widths = browser.run(widths).await;
        assert_eq!(widths, serde_json::json!([PHONE, 0]), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keyboard_reaches_everything_and_shows_where_it_is() {
    let site = site().await;
    let browser = Browser::start().await;
    browser.open(&site.url("/orgs/acme")).await;
    let focusable = "a[href], button, input:not([type=hidden]), summary, [tabindex='0']";
    let hidden = format!(
        "return [...document.querySelectorAll(\"{focusable}\")].filter((it) => {{
            if (it.closest('details:not([open]) > :not(summary)')) return false;
            it.focus();
            const style = getComputedStyle(it);
            return document.activeElement !== it || (it.matches(':focus-visible') && style.outlineStyle === 'none');
        }}).map((it) => it.outerHTML)"
    );
    assert_eq!(browser.run(&hidden).await, serde_json::json!([]));
    // The first key of a reader without a mouse leads past the head.
    browser.open(&site.url("/orgs/acme")).await;
    browser.press("\u{e004}").await;
    assert_eq!(
        browser.run("return document.activeElement.className").await,
        "skip"
    );
}
