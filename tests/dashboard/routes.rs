//! What the routes answer, without a browser.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{Site, count, get};
use crate::support::{calls::policy_file, redis::RedisServer, tollgate::Tollgate};

#[tokio::test]
async fn a_page_loads_its_own_files_only_runs_no_inline_code_and_may_not_be_framed() {
    let site = Site::small();
    let addr = &site.tollgate.http_addr;
    for path in ["/", "/orgs/acme", "/orgs/stranger", "/?q=%00"] {
        let page = get(addr, path, &[]);
        for header in [
            "content-security-policy: default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
             img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'\r\n",
            "referrer-policy: no-referrer",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert!(page.head.contains(header), "{path}: {}", page.head);
        }
        for inline in [
            "<style",
            " style=",
            "onclick",
            "javascript:",
            "http://",
            "https://",
        ] {
            assert!(!page.body.contains(inline), "{path}: {inline}");
        }
        assert_eq!(page.body.matches("<script").count(), 1, "{path}");
    }
    let script = get(addr, "/script.js", &[]).body;
    for unsafe_use in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
    ] {
        assert!(!script.contains(unsafe_use), "{unsafe_use}");
    }
}

#[tokio::test]
async fn files_are_kept_by_browsers_as_long_as_they_are_the_same() {
    let site = Site::small();
    let addr = &site.tollgate.http_addr;
    let page = get(addr, "/", &[]).body;
    for (file, content_type) in [("style.css", "text/css"), ("script.js", "text/javascript")] {
        let (_, after) = page.split_once(&format!("./{file}?v=")).unwrap();
        let version = after.split('"').next().unwrap();
        let answer = get(addr, &format!("/{file}?v={version}"), &[]);
        let is_kept = answer
            .head
            .contains("cache-control: public, max-age=31536000, immutable");
        assert!(
            is_kept && answer.head.contains(content_type),
            "{}",
            answer.head
        );
        // The page of another release asks for another version.
        let answer = get(addr, &format!("/{file}?v=other"), &[]);
        assert!(
            answer.head.contains("cache-control: no-cache"),
            "{}",
            answer.head
        );
    }
}

#[tokio::test]
async fn faults_of_an_address_are_named() {
    let site = Site::small();
    for (path, status, part) in [
        ("/orgs/stranger", 404, "org"),
        ("/orgs", 400, "org: must not be empty"),
        ("/orgs/a%00b", 400, "org: "),
        ("/orgs/acme?from=yesterday", 400, "from: "),
        ("/orgs/acme?from=2026-11-22&to=2026-11-21", 400, "from: "),
        ("/orgs/acme?to=2026-13-01", 400, "to: "),
        ("/orgs/acme?from=1999-01-01", 200, "acme"),
        ("/orgs?org=acme", 200, "acme"),
        ("/usage.csv", 400, "org: "),
        ("/usage.csv?org=stranger", 404, "org"),
        ("/usage.csv?org=acme&from=x", 400, "from: "),
        ("/elsewhere", 404, ""),
    ] {
        let answer = get(&site.tollgate.http_addr, path, &[]);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.body.contains(part), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn the_file_of_many_rows_has_each_of_them_once() {
    let site = Site::small();
    let client = site.client();
    for project in 0..2_300 {
        count(&client, "acme", &format!("p{project}"), "gpt-4o-mini", 1).await;
    }
    let file = get(&site.tollgate.http_addr, "/usage.csv?org=acme", &[]);
    let rows: BTreeSet<&str> = file.body.lines().skip(1).collect();
    assert_eq!((file.body.lines().count(), rows.len()), (2_301, 2_300));
    assert!(rows.contains("acme,2026-11-22,p2299,gpt-4o-mini,mini,1,0,1,0,,"));
    // The page names the largest and sums up the others.
    let page = get(&site.tollgate.http_addr, "/orgs/acme", &[]).body;
    assert!(
        page.contains("others: filter, or download the file"),
        "{page}"
    );
    assert!(page.contains("all 2,300 tokens were free"), "{page}");
}

#[tokio::test]
async fn the_footer_names_version_store_policy_and_day() {
    let site = Site::small();
    let page = get(&site.tollgate.http_addr, "/", &[]).body;
    let (_, footer) = page.split_once("<footer").unwrap();
    for part in [
        concat!("Tollgate ", env!("CARGO_PKG_VERSION")),
        "Store: memory, up",
        "Policy: <bdi class=\"name\">test</bdi>",
        "Day: 2026-11-22 (UTC)",
    ] {
        assert!(footer.contains(part), "{footer}");
    }
}

/// A page is refreshed every two seconds, and has 36 days.
#[tokio::test]
async fn past_days_are_read_once_for_all_refreshes_of_a_page() {
    let redis = RedisServer::start();
    let policy = policy_file(1_000);
    let tollgate = Tollgate::start(&["--store", &redis.url(), "--policy", policy.path()]);
    count(&tollgate.client(), "acme", "p", "gpt-4o", 100).await;
    let reads = || redis.calls_of("hscan");
    let before = reads();
    let page = get(&tollgate.http_addr, "/orgs/acme", &[]);
    assert!(
        page.body.contains("all 100 tokens were free"),
        "{}",
        page.body
    );
    let first = reads() - before;
    // Of each day the ledger's rows, and the provider's.
    assert!((72..=80).contains(&first), "{first}");
    // While the sums of today and yesterday are kept, and once they are read again.
    let deadline = Instant::now() + Duration::from_secs(30);
    while reads() - before == first {
        assert_eq!(get(&tollgate.http_addr, "/orgs/acme", &[]).status, 200);
        assert!(Instant::now() < deadline, "today is not read again");
    }
    get(&tollgate.http_addr, "/orgs/acme?from=2000-01-01", &[]);
    let all = reads() - before;
    assert!(all <= first + 8, "{first}, then {all}");
}
