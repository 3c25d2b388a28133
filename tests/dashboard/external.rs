//! External usage is set from the page by administrators, and by no other page.

use serde_json::{Value, json};
use tollgate::grpc::proto::{GetQuotaRequest, PoolQuota};

use super::{Answer, Site, browser::Browser, callers, login, request};
use crate::support::{
    calls::{TextFile, large},
    world::small_policy,
};

const BODY: &str = r#"{"org":"acme","pool":"large","tokens":300,"note":"a job"}"#;
const JSON: &str = "Content-Type: application/json";

fn with_callers() -> (Site, TextFile) {
    let callers = TextFile::new(&callers());
    let site = Site::start(&small_policy("keep_open"), &["--callers", callers.path()]);
    (site, callers)
}

fn post(site: &Site, headers: &[&str], body: &str) -> Answer {
    request(
        &site.tollgate.http_addr,
        "POST",
        "/api/external",
        headers,
        body,
    )
}

/// The pool, as a caller with a token may read it.
async fn large_of(site: &Site, token: &str) -> PoolQuota {
    let mut call = tonic::Request::new(GetQuotaRequest {
        org: "acme".to_owned(),
    });
    let value = format!("Bearer {token}").parse().unwrap();
    call.metadata_mut().insert("authorization", value);
    let quota = site.client().get_quota(call).await.unwrap().into_inner();
    quota
        .pools
        .into_iter()
        .find(|pool| pool.pool == "large")
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_sets_external_usage_in_the_page() {
    let (site, _callers) = with_callers();
    let browser = Browser::start().await;
    let address = format!("http://me:tg_chief@{}/orgs/acme", site.tollgate.http_addr);
    browser.open(&address).await;
    browser
        .click("#pools article:nth-of-type(1) details.external summary")
        .await;
    let form = "#pools article:nth-of-type(1) form";
    browser
        .run(&format!(
            "document.querySelector('{form} input[name=tokens]').select()"
        ))
        .await;
    browser
        .type_into(&format!("{form} input[name=tokens]"), "300")
        .await;
    browser
        .type_into(
            &format!("{form} input[name=note]"),
            "a job that bypassed the gateway",
        )
        .await;
    browser.click(&format!("{form} button")).await;
    browser
        .wait_for_text(
            &format!("{form} output"),
            "Set. Before: 0; what counts now: 300.",
        )
        .await;
    browser
        .wait_for_text("#pools article:nth-of-type(1) .pool-head", "700 remaining")
        .await;
    let pool = large_of(&site, "tg_chief").await;
    assert_eq!((pool.external_tokens, pool.remaining), (300, 700));
    let log = site.tollgate.log();
    let event = log.iter().find(|line| line["target"] == "audit").unwrap();
    assert_eq!(
        (&event["caller"], &event["after"]),
        (&"chief".into(), &300.into())
    );
    assert_eq!(event["note"], "a job that bypassed the gateway");
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test]
async fn requests_of_other_pages_and_other_roles_are_refused_and_count_nothing() {
    let (site, _callers) = with_callers();
    let origin = format!("Origin: http://{}", site.tollgate.http_addr);
    let (chief, reader) = (login("tg_chief"), login("tg_reader"));
    let evil = "Origin: http://evil.example";
    let form = "Content-Type: application/x-www-form-urlencoded";
    for (status, headers) in [
        // A form of another page, and one that sends JSON as text.
        (403, vec![&*chief, evil, form]),
        (403, vec![&*chief, &*origin, form]),
        (403, vec![&*chief, &*origin, "Content-Type: text/plain"]),
        (403, vec![&*chief, &*origin]),
        // A script of another page.
        (403, vec![&*chief, evil, JSON]),
        (403, vec![&*chief, "Origin: null", JSON]),
        (
            403,
            vec![&*chief, &*origin, JSON, "Sec-Fetch-Site: cross-site"],
        ),
        (
            403,
            vec![&*chief, &*origin, JSON, "Sec-Fetch-Site: same-site"],
        ),
        // Not a page.
        (403, vec![&*chief, JSON]),
        // Nobody who may.
        (401, vec![&*origin, JSON]),
        (403, vec![&*reader, &*origin, JSON]),
    ] {
        let answer = post(&site, &headers, BODY);
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.body);
    }
    let of_other = BODY.replace("acme", "other");
    assert_eq!(post(&site, &[&chief, &origin, JSON], &of_other).status, 403);
    assert_eq!(large_of(&site, "tg_chief").await.external_tokens, 0);
    let site_header = "Sec-Fetch-Site: same-origin";
    let answer = post(&site, &[&chief, &origin, JSON, site_header], BODY);
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body, json!({"previous_tokens": 0, "external_tokens": 300}));
    assert_eq!(large_of(&site, "tg_chief").await.external_tokens, 300);
}

#[tokio::test]
async fn without_a_callers_file_a_name_that_dns_may_rebind_is_refused() {
    let site = Site::small();
    let set = |headers: &[&str]| post(&site, headers, BODY);
    let rebound = ["Host: evil.example", "Origin: http://evil.example", JSON];
    let answer = set(&rebound);
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert_eq!(large(&site.client()).await.external_tokens, 0);
    let local = ["Host: localhost:1", "Origin: http://localhost:1", JSON];
    assert_eq!(set(&local).status, 200);
    assert_eq!(large(&site.client()).await.external_tokens, 300);
}

#[tokio::test]
async fn a_faulty_body_is_refused_with_the_name_of_the_field() {
    let site = Site::small();
    let origin = format!("Origin: http://{}", site.tollgate.http_addr);
    for (status, body, part) in [
        (400, BODY.replace("300", "-1"), "tokens"),
        (400, BODY.replace("300", "1000000000001"), "tokens: "),
        (400, BODY.replace("\"note\"", "\"notes\""), "notes"),
        (400, BODY.replace("a job", "a\\njob"), "note: "),
        (400, BODY.replace("acme", ""), "org: "),
        (400, BODY.replace("large", ""), "pool: "),
        (404, BODY.replace("large", "huge"), "pool: "),
        (404, BODY.replace("acme", "stranger"), "org"),
        (400, BODY.replace("a job", &"x".repeat(9_000)), ""),
        (400, "{".to_owned(), ""),
    ] {
        let answer = post(&site, &[&origin, JSON], &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert!(answer.body.contains(part), "{body}: {}", answer.body);
    }
    assert_eq!(large(&site.client()).await.external_tokens, 0);
}

/// A browser sends the login along with what another page asks for; it gains nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_gains_nothing_in_a_browser_that_is_logged_in() {
    let (site, _callers) = with_callers();
    let addr = &site.tollgate.http_addr;
    let browser = Browser::start().await;
    browser
        .open(&format!("http://me:tg_chief@{addr}/orgs/acme"))
        .await;
    browser.open("data:text/html,<title>evil</title>").await;
    let script = format!(
        "const body = {BODY:?};
        for (const type of ['text/plain', 'application/json'])
            fetch('http://{addr}/api/external', {{method: 'POST', mode: type === 'text/plain' ? 'no-cors' : 'cors',
                credentials: 'include', headers: {{'content-type': type}}, body}}).catch(() => 0);
        const form = document.createElement('form');
        form.method = 'post'; form.enctype = 'text/plain'; form.action = 'http://{addr}/api/external';
        form.innerHTML = '<input name=x>'; form.firstChild.name = body; form.firstChild.value = '';
        document.body.append(form); form.submit();"
    );
    browser.run(&script).await;
    browser
        .wait_for_text("body", "the content type must be application/json")
        .await;
    assert_eq!(large_of(&site, "tg_chief").await.external_tokens, 0);
}
