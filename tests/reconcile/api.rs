//! The client of the usage API, against a stand-in.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tollgate::{
    domain::UtcDay,
    reconcile::{
        UsageReport,
        api::{AdminKey, BucketWidth, UsageApi, UsageApiError, UsageApiLimits},
        compare,
    },
};

use super::{Books, DAY, FREE, NEXT_DAY, day, drifts, ledger};
use crate::support::usage_api::{
    ADMIN_KEY, ApiFault, PROJECT_KEY, ReportedUsage, UsageApiServer, UsageEvent,
};

const NOW: &str = "2026-11-22T12:00:00Z";
const GPT_4O: &str = "gpt-4o-2024-08-06";

/// Those of the command, but for the pauses.
fn limits() -> UsageApiLimits {
    UsageApiLimits {
        retry_delay: Duration::from_millis(1),
        ..UsageApiLimits::default()
    }
}

fn api(base: &str, key: &str) -> UsageApi {
    UsageApi::new(
        &base.parse().unwrap(),
        AdminKey::parse(key).unwrap(),
        limits(),
    )
    .unwrap()
}

fn start(day: UtcDay) -> DateTime<Utc> {
    day.start()
}

async fn usage(server: &UsageApiServer) -> Result<UsageReport, UsageApiError> {
    let api = api(&server.base, ADMIN_KEY);
    api.usage(start(day(DAY)), Some(day(NEXT_DAY).end()), BucketWidth::Day)
        .await
}

fn events() -> Vec<UsageEvent> {
    vec![
        UsageEvent::new("2026-11-19T00:00:00Z", "proj_p", GPT_4O, FREE, 100),
        UsageEvent::new("2026-11-19T23:59:59Z", "proj_p", GPT_4O, "default", 20),
        // Not of these days: ranges are half-open.
        UsageEvent::new("2026-11-21T00:00:00Z", "proj_p", GPT_4O, FREE, 4_000),
        UsageEvent::new("2026-11-18T23:59:59Z", "proj_p", GPT_4O, FREE, 8_000),
    ]
}

fn tokens(report: &UsageReport) -> Vec<(String, Option<&str>, u64)> {
    let rows = report.rows.iter();
    rows.map(|row| {
        (
            row.bucket.day().to_string(),
            row.tier.as_deref(),
            row.tokens,
        )
    })
    .collect()
}

fn wanted() -> Vec<(String, Option<&'static str>, u64)> {
    vec![
        (DAY.to_owned(), Some("default"), 20),
        (DAY.to_owned(), Some(FREE), 100),
    ]
}

#[tokio::test]
async fn days_are_half_open_and_empty_ones_have_a_bucket() {
    let server = UsageApiServer::start(NOW, events()).await;
    let report = usage(&server).await.unwrap();
    assert_eq!(tokens(&report), wanted());
    let days: Vec<String> = report.days.iter().map(ToString::to_string).collect();
    assert_eq!(days, [DAY, NEXT_DAY]);
    assert!(
        report
            .rows
            .iter()
            .all(|row| row.project.as_deref() == Some("proj_p") && !row.batch)
    );
}

#[tokio::test]
async fn minutes_come_in_pages_and_a_cursor_is_sent_back_as_it_is() {
    let server = UsageApiServer::start(NOW, events()).await;
    let api = api(&server.base, ADMIN_KEY);
    let report = api
        .usage(
            start(day(DAY)),
            Some(day(NEXT_DAY).end()),
            BucketWidth::Minute,
        )
        .await
        .unwrap();
    assert!(report.is_by_minute());
    assert_eq!(report.rows.iter().map(|row| row.tokens).sum::<u64>(), 120);
    // 2,880 minutes.
    assert_eq!(server.queries().len(), 4);
}

#[tokio::test]
async fn today_has_no_end_and_shows_what_is_visible_by_now() {
    let lump = [
        UsageEvent::new("2026-11-22T11:49:00Z", "proj_p", GPT_4O, FREE, 1),
        UsageEvent::new("2026-11-22T11:42:00Z", "proj_p", GPT_4O, FREE, 2),
        // A correction after hours.
        UsageEvent::new("2026-11-22T01:00:00Z", "proj_p", GPT_4O, FREE, 4)
            .late(chrono::TimeDelta::hours(11)),
    ];
    let server = UsageApiServer::start("2026-11-22T11:54:59Z", lump.to_vec()).await;
    let api = api(&server.base, ADMIN_KEY);
    for (now, sum) in [
        ("2026-11-22T11:54:59Z", 0),
        ("2026-11-22T11:55:00Z", 3),
        ("2026-11-22T12:15:00Z", 7),
    ] {
        server.set_now(now);
        let report = api
            .usage(
                "2026-11-22T00:00:00Z".parse().unwrap(),
                None,
                BucketWidth::Day,
            )
            .await
            .unwrap();
        assert_eq!(
            report.rows.iter().map(|row| row.tokens).sum::<u64>(),
            sum,
            "{now}"
        );
    }
    assert!(
        server
            .queries()
            .iter()
            .all(|query| !query.contains("end_time"))
    );
}

#[tokio::test]
async fn a_model_that_the_provider_does_not_show_for_weeks_is_lost_until_it_does() {
    let event =
        |model, tokens| UsageEvent::new("2026-11-19T09:00:00Z", "proj_p", model, FREE, tokens);
    let missing = event("o3-2025-04-16", 40).late(chrono::TimeDelta::weeks(3));
    let server = UsageApiServer::start(NOW, vec![event(GPT_4O, 100), missing]).await;
    let rows = ledger(&[(DAY, "p", "gpt-4o", 100, 0), (DAY, "p", "o3", 40, 0)]);
    for (now, wanted) in [
        (NOW, vec![format!("lost {DAY} p o3 large 40")]),
        ("2026-12-10T12:00:00Z", vec![]),
    ] {
        server.set_now(now);
        let report = usage(&server).await.unwrap();
        let comparison = compare(&Books::sharing().scope(), [day(DAY)].into(), &rows, &report);
        assert_eq!(drifts(&comparison), wanted, "{now}");
    }
}

/// Of the stand-in: the provider takes both.
#[test]
fn lists_in_a_query_have_two_spellings() {
    let page = |query: &str| {
        let (now, events) = (NOW.parse().unwrap(), events());
        let query = format!("start_time={}&{query}", start(day(DAY)).timestamp());
        ReportedUsage { now, events }.page(&query).unwrap()
    };
    let spelled = page("group_by[]=model&group_by[]=service_tier&models[]=gpt-4o-2024-08-06");
    assert_eq!(
        spelled,
        page("group_by=model&group_by=service_tier&models=gpt-4o-2024-08-06")
    );
    let results = spelled["data"][0]["results"].as_array().unwrap();
    assert_eq!((results.len(), &results[0]["model"]), (2, &json!(GPT_4O)));
    assert_eq!(page("models[]=o3")["data"][0]["results"], json!([]));
}

/// Of the stand-in: users and keys are null, as the provider has them where they are not known.
#[test]
fn batches_can_be_chosen_and_a_group_by_users_or_keys_is_one_of_null() {
    let batch = UsageEvent {
        is_batch: true,
        ..events()[0].clone()
    };
    let results = |query: &str| {
        let (now, events) = (
            NOW.parse().unwrap(),
            [events(), vec![batch.clone()]].concat(),
        );
        let at = batch.at.timestamp() / 86_400 * 86_400;
        let query = format!("start_time={at}&end_time={}&{query}", at + 86_400);
        let page = ReportedUsage { now, events }.page(&query).unwrap();
        page["data"][0]["results"].as_array().unwrap().clone()
    };
    let requests = |results: &[Value]| -> u64 {
        let requests = results
            .iter()
            .map(|it| it["num_model_requests"].as_u64().unwrap());
        requests.sum()
    };
    let all = results("group_by=batch");
    let batches = results("batch=true&group_by=batch");
    assert_eq!((batches.len(), requests(&batches)), (1, 1));
    assert_eq!(batches[0]["batch"], json!(true));
    let others = results("batch=false");
    assert_eq!(requests(&others), requests(&all) - 1);
    let by_user = results("group_by=user_id&group_by=api_key_id");
    assert_eq!((by_user.len(), requests(&by_user)), (1, requests(&all)));
    assert_eq!(
        (&by_user[0]["user_id"], &by_user[0]["api_key_id"]),
        (&json!(null), &json!(null))
    );
}

#[tokio::test]
async fn what_passes_is_asked_for_again_and_what_is_unknown_is_ignored() {
    let server = UsageApiServer::start(NOW, events()).await;
    for faults in [
        vec![ApiFault::Status(429)],
        vec![
            ApiFault::RetryAfter(429, "0"),
            ApiFault::RetryAfter(503, "0"),
        ],
        vec![
            ApiFault::Status(500),
            ApiFault::Status(503),
            ApiFault::CutBody,
        ],
        vec![ApiFault::Unknown],
    ] {
        let (named, before) = (format!("{faults:?}"), server.queries().len());
        let asked_again = faults
            .iter()
            .filter(|it| !matches!(it, ApiFault::Unknown))
            .count();
        server.fail(faults);
        assert_eq!(tokens(&usage(&server).await.unwrap()), wanted(), "{named}");
        assert_eq!(server.queries().len() - before, asked_again + 1, "{named}");
    }
    // The other day is there too; who compares leaves it out.
    server.fail([ApiFault::OtherDay]);
    let report = usage(&server).await.unwrap();
    assert!(report.days.contains(&day("2026-11-18")));
}

#[tokio::test]
async fn what_stays_ends_the_query_and_names_its_reason_and_never_the_key() {
    let server = UsageApiServer::start(NOW, events()).await;
    let place = "the provider's usage: page 1, bucket 1, result 1: input_tokens: is ";
    for (faults, wanted) in [
        (
            vec![ApiFault::Status(500); 4],
            "the provider answers 500 Internal Server Error".to_owned(),
        ),
        (
            vec![ApiFault::Status(429); 4],
            "the provider answers 429 Too Many Requests".to_owned(),
        ),
        (
            vec![ApiFault::Status(400)],
            "the provider answers 400 Bad Request".to_owned(),
        ),
        (
            vec![ApiFault::RetryAfter(429, "31")],
            "the provider asks to wait 31 s (Retry-After)".to_owned(),
        ),
        (
            vec![ApiFault::Redirect],
            "the provider redirects (302), and redirects are not followed".to_owned(),
        ),
        (
            vec![ApiFault::CutBody; 4],
            "no answer from the provider: ".to_owned(),
        ),
        (
            vec![ApiFault::RepeatedCursor; 2],
            "the provider repeats a page's cursor".to_owned(),
        ),
        (
            vec![ApiFault::Large],
            "a page of the provider is larger than 8 MiB".to_owned(),
        ),
        (
            vec![ApiFault::Tokens(|it| json!(it as f64))],
            format!("{place}the number 15.0, not a whole number"),
        ),
        (
            vec![ApiFault::Tokens(|it| json!(it.to_string()))],
            format!("{place}a text, not a whole number"),
        ),
        (
            vec![ApiFault::Tokens(|_| json!(-1))],
            format!("{place}the number -1, not a whole number"),
        ),
    ] {
        server.fail(faults);
        let error = usage(&server).await.unwrap_err().to_string();
        assert!(error.starts_with(&wanted), "{error}, not {wanted}");
        assert!(!error.contains("sk-"), "{error}");
        // Nothing is left of the faults.
        assert!(usage(&server).await.is_ok(), "{wanted}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_waited_for_so_long_and_so_often() {
    let server = UsageApiServer::start(NOW, events()).await;
    let limits = UsageApiLimits {
        timeout: Duration::from_millis(500),
        ..limits()
    };
    let key = AdminKey::parse(ADMIN_KEY).unwrap();
    let api = UsageApi::new(&server.base.parse().unwrap(), key, limits).unwrap();
    server.fail(vec![ApiFault::Hang; 4]);
    let error = api.usage(start(day(DAY)), None, BucketWidth::Day).await;
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "the provider does not answer within 500ms");
    server.fail([ApiFault::Hang]);
    assert!(
        api.usage(start(day(DAY)), None, BucketWidth::Day)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_key_that_is_refused_is_named_by_its_kind_only() {
    let server = UsageApiServer::start(NOW, events()).await;
    for (key, wanted) in [
        (
            "sk-unknown",
            "the provider does not accept the admin key (401)",
        ),
        (
            PROJECT_KEY,
            "the key may not read the organization's usage (403): it must be an admin key",
        ),
    ] {
        let api = api(&server.base, key);
        let error = api
            .usage(start(day(DAY)), None, BucketWidth::Day)
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with(wanted), "{error}");
        assert!(!format!("{error:?}").contains("sk-"));
    }
    // Asked once: a refusal stays.
    assert_eq!(server.queries().len(), 2);
    for wrong in ["", "two words", "sk-\n", "schlüssel"] {
        let error = AdminKey::parse(wrong).unwrap_err().to_string();
        assert_eq!(error, "the admin key is not one word of ASCII");
    }
    assert_eq!(
        format!("{:?}", AdminKey::parse(ADMIN_KEY).unwrap()),
        "AdminKey(…)"
    );
}

#[tokio::test]
async fn the_key_goes_over_https_only_except_to_this_machine() {
    for base in [
        "http://api.example.org/v1",
        "ftp://127.0.0.1/v1",
        "https://user:word@example.org/v1",
        "https://example.org/v1?x=1",
        "/v1",
    ] {
        let key = AdminKey::parse(ADMIN_KEY).unwrap();
        let error = UsageApi::new(&base.parse().unwrap(), key, limits()).err();
        assert!(matches!(error, Some(UsageApiError::Address(_))), "{base}");
    }
    for base in [
        "https://example.org",
        "http://localhost:1/v1",
        "http://[::1]:1",
    ] {
        let key = AdminKey::parse(ADMIN_KEY).unwrap();
        assert!(
            UsageApi::new(&base.parse().unwrap(), key, limits()).is_ok(),
            "{base}"
        );
    }
    // The default path is the API's, and a port where nobody listens is said.
    let server = UsageApiServer::start(NOW, events()).await;
    let bare = server.base.trim_end_matches("/v1");
    let report = api(bare, ADMIN_KEY)
        .usage(start(day(DAY)), Some(day(DAY).end()), BucketWidth::Day)
        .await;
    assert_eq!(tokens(&report.unwrap()), wanted());
    let error = api("http://127.0.0.1:1", ADMIN_KEY)
        .usage(start(day(DAY)), None, BucketWidth::Day)
        .await;
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        "no answer from the provider: Connection refused (os error 111)"
    );
}

#[tokio::test]
async fn pages_are_bounded_in_number() {
    let server = UsageApiServer::start(NOW, events()).await;
    let limits = UsageApiLimits {
        pages: 3,
        ..limits()
    };
    let key = AdminKey::parse(ADMIN_KEY).unwrap();
    let api = UsageApi::new(&server.base.parse().unwrap(), key, limits).unwrap();
    let error = api
        .usage(
            start(day(DAY)),
            Some(day(NEXT_DAY).end()),
            BucketWidth::Minute,
        )
        .await;
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        "the provider has more than 3 pages: compare fewer days at a time"
    );
}
