//! docs/CONTRACT.md, "Reserve" 1: a field out of bounds is INVALID_ARGUMENT, which names the field.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tollgate::grpc::proto::{
    GetQuotaRequest, ListUsageRequest, ReleaseRequest, ReserveRequest, SettleRequest, Verdict,
};
use tonic::Code;

use super::{Service, assert_names, new_reserve};

/// The largest legal values, in bytes and in tokens.
const NAME: usize = 256;
const REQUEST_ID: usize = 128;
const TOKENS: u64 = 1_000_000_000;

/// No days.
const BAD_DAYS: [&str; 6] = [
    "today",
    "2026-11-3",
    "2026-02-30",
    "20261122",
    "2026-11-22 ",
    "+12026-11-22",
];

/// Illegal names, each with a description; `longest` is the field's limit.
fn bad_names(longest: usize) -> Vec<(&'static str, String)> {
    vec![
        ("too long", "x".repeat(longest + 1)),
        // Bytes are counted, not letters.
        ("too long in bytes", "é".repeat(longest / 2) + "x"),
        ("NUL", "a\0b".to_owned()),
        ("a line feed", "a\n".to_owned()),
        ("DEL", "\u{7f}".to_owned()),
        ("a C1 control character", "a\u{9f}".to_owned()),
    ]
}

fn with_empty(mut names: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
    names.push(("empty", String::new()));
    names
}

#[tokio::test]
async fn each_name_of_reserve_has_bounds_and_is_named() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    for (what, name) in with_empty(bad_names(NAME)) {
        let org = ReserveRequest {
            org: name.clone(),
            ..new_reserve(1)
        };
        assert_names("org", client.reserve(org).await, what);
        let project = ReserveRequest {
            project: name.clone(),
            ..new_reserve(1)
        };
        assert_names("project", client.reserve(project).await, what);
        let model = ReserveRequest {
            model: name,
            ..new_reserve(1)
        };
        assert_names("model", client.reserve(model).await, what);
    }
    for (what, request_id) in bad_names(REQUEST_ID) {
        let request = ReserveRequest {
            request_id,
            ..new_reserve(1)
        };
        assert_names("request_id", client.reserve(request).await, what);
    }
    assert_eq!(
        service.large().await.free_requests,
        0,
        "nothing was counted"
    );
}

#[tokio::test]
async fn tokens_and_workload_of_reserve_have_bounds_and_are_named() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    for tokens in [0, TOKENS + 1, u64::MAX] {
        let what = format!("{tokens} tokens");
        assert_names("tokens", client.reserve(new_reserve(tokens)).await, &what);
    }
    for workload in [9, 99, -1] {
        let request = ReserveRequest {
            workload,
            ..new_reserve(1)
        };
        let what = format!("workload {workload}");
        assert_names("workload", client.reserve(request).await, &what);
    }
    let least = client.reserve(new_reserve(1)).await.unwrap().into_inner();
    assert_eq!(least.verdict(), Verdict::Free);
    let most = client
        .reserve(new_reserve(TOKENS))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((most.verdict(), most.used), (Verdict::Billed, 1));
    assert_eq!(service.large().await.billed_tokens, TOKENS);
}

#[tokio::test]
async fn the_longest_names_and_any_utf8_are_legal() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let longest = "é".repeat(NAME / 2);
    for name in ["{", "}", "a:b", " ", "%7B", "🦀", "\u{200b}", &longest] {
        let request = ReserveRequest {
            project: name.to_owned(),
            request_id: name.chars().take(REQUEST_ID / 2).collect(),
            ..new_reserve(1)
        };
        let answer = client.reserve(request).await.unwrap().into_inner();
        assert_eq!(
            (answer.verdict(), answer.replayed),
            (Verdict::Free, false),
            "{name}"
        );
    }
    // An unknown name is legal too, and gets an answer.
    let stranger = ReserveRequest {
        org: longest.clone(),
        model: longest,
        ..new_reserve(1)
    };
    let answer = client.reserve(stranger).await.unwrap().into_inner();
    assert_eq!(answer.verdict(), Verdict::Billed);
}

#[tokio::test]
async fn each_field_of_settle_has_bounds_and_is_named() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let request = |org: &str, request_id: &str, tokens| SettleRequest {
        org: org.to_owned(),
        request_id: request_id.to_owned(),
        tokens,
        outside_program: false,
    };
    for (what, org) in with_empty(bad_names(NAME)) {
        assert_names("org", client.settle(request(&org, "r", 1)).await, what);
    }
    for (what, id) in with_empty(bad_names(REQUEST_ID)) {
        let answer = client.settle(request("org-demo", &id, 1)).await;
        assert_names("request_id", answer, what);
    }
    for (id, tokens) in [("none", 0), ("all", TOKENS)] {
        let reserved = ReserveRequest {
            request_id: id.to_owned(),
            ..new_reserve(10)
        };
        client.reserve(reserved).await.unwrap();
        for tokens in [TOKENS + 1, u64::MAX] {
            let answer = client.settle(request("org-demo", id, tokens)).await;
            assert_names("tokens", answer, &format!("{tokens} tokens"));
        }
        client
            .settle(request("org-demo", id, tokens))
            .await
            .unwrap();
    }
    let large = service.large().await;
    assert_eq!((large.used, large.billed_tokens), (0, TOKENS));
}

#[tokio::test]
async fn each_field_of_release_and_get_quota_has_bounds_and_is_named() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let release = |org: String, request_id: String| ReleaseRequest { org, request_id };
    for (what, org) in with_empty(bad_names(NAME)) {
        let answer = client.release(release(org.clone(), "r".to_owned())).await;
        assert_names("org", answer, what);
        let answer = client.get_quota(GetQuotaRequest { org }).await;
        assert_names("org", answer, what);
    }
    for (what, id) in with_empty(bad_names(REQUEST_ID)) {
        let answer = client.release(release("org-demo".to_owned(), id)).await;
        assert_names("request_id", answer, what);
    }
}

#[tokio::test]
async fn each_field_of_list_usage_has_bounds_and_is_named() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let request = || ListUsageRequest {
        org: "org-demo".to_owned(),
        ..ListUsageRequest::default()
    };
    for (what, org) in with_empty(bad_names(NAME)) {
        let bad = ListUsageRequest { org, ..request() };
        assert_names("org", client.list_usage(bad).await, what);
    }
    for day in BAD_DAYS {
        let bad = ListUsageRequest {
            day: day.to_owned(),
            ..request()
        };
        assert_names("day", client.list_usage(bad).await, day);
    }
    for page_size in [-1, i32::MIN] {
        let bad = ListUsageRequest {
            page_size,
            ..request()
        };
        let status = client.list_usage(bad).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        // There is no maximum to name.
        let expected = format!("page_size: is {page_size}, and must not be negative");
        assert_eq!(status.message(), expected);
    }
    for page_size in [0, 1_000, 1_001, i32::MAX] {
        let good = ListUsageRequest {
            page_size,
            ..request()
        };
        client.list_usage(good).await.unwrap();
    }
    // The last ones are forged: a position outside of the range, and a range without a position.
    let forged = [
        "2026-11-01\n2026-11-01\n2026-11-02\n2026-11-03\norg-demo",
        "2026-11-01\n2026-11-01\n2026-11-02\norg-demo",
        "2026-11-01\n2026-11-01\n2026-11-02\n2026-11-01\norg-demo\np",
    ];
    let forged = forged.map(|text| URL_SAFE_NO_PAD.encode(text));
    let tokens = ["garbage", "=", "AAAA", "MjAyNi0xMS0yMg"].into_iter();
    for page_token in tokens.chain(forged.iter().map(String::as_str)) {
        let bad = ListUsageRequest {
            page_token: page_token.to_owned(),
            ..request()
        };
        assert_names("page_token", client.list_usage(bad).await, page_token);
    }
}

#[tokio::test]
async fn a_range_has_bounds_and_its_fields_are_named() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let range = |day: &str, from_day: &str, to_day: &str| ListUsageRequest {
        org: "org-demo".to_owned(),
        day: day.to_owned(),
        from_day: from_day.to_owned(),
        to_day: to_day.to_owned(),
        ..ListUsageRequest::default()
    };
    for day in BAD_DAYS {
        for (field, bad) in [
            ("from_day", range("", day, "2026-11-22")),
            ("to_day", range("", "2026-11-22", day)),
        ] {
            assert_names(field, client.list_usage(bad).await, day);
        }
    }
    for (field, bad) in [
        ("to_day", range("", "", "2026-11-22")),
        ("to_day", range("", "2026-11-22", "2026-11-21")),
        ("from_day", range("2026-11-22", "2026-11-22", "")),
        ("from_day", range("2026-11-22", "2026-11-22", "2026-11-22")),
        ("to_day", range("2026-11-22", "", "2026-11-22")),
        ("from_day", range("", "2026-01-01", "")),
        ("from_day", range("", "2026-09-21", "2026-11-22")),
    ] {
        let what = format!("{bad:?}");
        assert_names(field, client.list_usage(bad).await, &what);
    }
}

#[tokio::test]
async fn an_unknown_organization_is_not_found() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let org = || "org-unknown".to_owned();
    let quota = client.get_quota(GetQuotaRequest { org: org() }).await;
    assert_eq!(quota.unwrap_err().code(), Code::NotFound);
    let usage = ListUsageRequest {
        org: org(),
        ..ListUsageRequest::default()
    };
    let usage = client.list_usage(usage).await;
    assert_eq!(usage.unwrap_err().code(), Code::NotFound);
}
