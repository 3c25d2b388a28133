//! Envoy's messages, sent by hand: what is wrong in them is named, and callers and roles hold.

use std::collections::HashMap;

use serde_json::json;
use tollgate::envoy::proto::envoy::service::{
    accesslog::v3::{
        StreamAccessLogsMessage, access_log_service_client::AccessLogServiceClient,
        stream_access_logs_message::HttpAccessLogEntries,
    },
    auth::v3::{
        AttributeContext, CheckRequest, CheckResponse,
        attribute_context::{HttpRequest, Request},
        authorization_client::AuthorizationClient,
        check_response::HttpResponse,
    },
};
use tollgate::{
    auth::TokenHash,
    envoy::proto::envoy::{
        config::core::v3::Metadata,
        data::accesslog::v3::{
            AccessLogCommon, AccessLogType, HttpAccessLogEntry, HttpResponseProperties,
        },
    },
};
use tonic::{Code, metadata::MetadataValue};

use super::{PATH, SETTINGS, gateway::chat};
use crate::{
    metrics::wait_for,
    support::{
        calls::{TextFile, large_of, policy_file, reserve},
        tollgate::Tollgate,
    },
};

fn http_request() -> HttpRequest {
    HttpRequest {
        id: "17".to_owned(),
        method: "POST".to_owned(),
        path: PATH.to_owned(),
        body: chat("x", 60, "").to_string(),
        ..HttpRequest::default()
    }
}

fn check_of(http: HttpRequest) -> CheckRequest {
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: Some(http) }),
            ..AttributeContext::default()
        }),
    }
}

/// The verdict header of an answer, and the reason's.
fn headers(answer: &CheckResponse) -> (String, Option<String>) {
    let Some(HttpResponse::OkResponse(ok)) = &answer.http_response else {
        panic!("{answer:?}");
    };
    let header = |name: &str| {
        let headers = ok.headers.iter().filter_map(|it| it.header.as_ref());
        headers
            .clone()
            .find(|it| it.key == name)
            .map(|it| it.value.clone())
    };
    let verdict = header("x-tollgate-verdict").unwrap();
    (verdict, header("x-tollgate-billed-reason"))
}

struct Service {
    tollgate: Tollgate,
    _files: Vec<TextFile>,
}

impl Service {
    fn start(settings: &str, callers: Option<&str>) -> Self {
        Self::start_with(1_000_000, settings, callers)
    }

    fn start_with(allowance: u64, settings: &str, callers: Option<&str>) -> Self {
        let mut files = vec![policy_file(allowance), TextFile::new(settings)];
        files.extend(callers.map(TextFile::new));
        let mut args = vec![
            "--store",
            "memory:",
            "--policy",
            files[0].path(),
            "--config",
            files[1].path(),
        ];
        if let Some(callers) = files.get(2) {
            args.extend(["--callers", callers.path()]);
        }
        let tollgate = Tollgate::start(&args);
        Self {
            tollgate,
            _files: files,
        }
    }

    async fn check(&self, request: CheckRequest) -> Result<CheckResponse, tonic::Status> {
        let mut client = AuthorizationClient::new(self.tollgate.channel());
        client.check(request).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test]
async fn what_is_wrong_in_a_check_is_named() {
    let service = Service::start(
        "[envoy]\nservices = [\"authorization\"]\nproject = \"p\"\n",
        None,
    );
    let ask = |request| async {
        let error = service.check(request).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        error.message().to_owned()
    };
    assert_eq!(
        ask(CheckRequest::default()).await,
        "attributes.request.http: is missing"
    );
    let no_org = "org: neither the route's context_extensions have \"tollgate.org\", nor does [envoy] set a default";
    assert_eq!(ask(check_of(http_request())).await, no_org);
    let of_org = |org: &str, http| {
        let mut request = check_of(http);
        let attributes = request.attributes.as_mut().unwrap();
        attributes.context_extensions =
            HashMap::from([("tollgate.org".to_owned(), org.to_owned())]);
        request
    };
    assert_eq!(
        ask(of_org("", http_request())).await,
        "org: must not be empty"
    );
    let without_id = HttpRequest {
        id: String::new(),
        ..http_request()
    };
    assert_eq!(
        ask(of_org("acme", without_id)).await,
        "attributes.request.http.id: is missing"
    );

    // A header names no organization, unless a setting says so.
    let mut with_header = http_request();
    with_header
        .headers
        .insert("x-org".to_owned(), "acme".to_owned());
    assert_eq!(ask(check_of(with_header)).await, no_org);
    let rejected = ["answer=\"rejected\""];
    wait_for(
        &service.tollgate,
        "tollgate_envoy_checks_total",
        &rejected,
        5.0,
    )
    .await;

    let answer = service.check(of_org("acme", http_request())).await.unwrap();
    assert_eq!(headers(&answer), ("free".to_owned(), None));
    // Envoy may ask twice about one request: the second answer is a replay.
    service.check(of_org("acme", http_request())).await.unwrap();
    let large = large_of(&service.tollgate.client(), "acme").await;
    assert_eq!(large.free_requests, 1);

    // Of an organization that is not in the policy nothing is reserved, so nothing is to be ended.
    let answer = service
        .check(of_org("nobody", http_request()))
        .await
        .unwrap();
    let reason = Some("organization_not_enrolled".to_owned());
    assert_eq!(headers(&answer), ("billed".to_owned(), reason));
    assert_eq!(answer.dynamic_metadata, None);
}

#[tokio::test]
async fn a_body_is_read_as_text_or_bytes_and_names_its_verdict() {
    let service = Service::start(SETTINGS, None);
    let body = http_request().body;
    let with = |change: &dyn Fn(&mut HttpRequest)| {
        let mut http = http_request();
        change(&mut http);
        check_of(http)
    };
    let unreadable = ("billed".to_owned(), Some("unreadable".to_owned()));
    let free = ("free".to_owned(), None);
    let uncovered = ("billed".to_owned(), Some("workload_not_covered".to_owned()));
    let raw = body.clone().into_bytes();
    let cut = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"ab"#;
    let cut_with = |name: &'static str, value: &'static str| {
        with(&move |it| {
            it.id = name.to_owned();
            it.body = cut.to_owned();
            it.headers.insert(name.to_owned(), value.to_owned());
        })
    };
    for (request, expected) in [
        (with(&|it| it.id = "1".to_owned()), &free),
        // The rest of a body that was cut may ask for tools.
        (cut_with("x-envoy-auth-partial-body", "true"), &uncovered),
        (cut_with("content-length", "1000"), &uncovered),
        (cut_with("content-length", "57"), &unreadable),
        (
            with(&|it| {
                it.id = "2".to_owned();
                it.body.clear();
                it.raw_body = raw.clone().into();
            }),
            &free,
        ),
        (with(&|it| it.method = "GET".to_owned()), &unreadable),
        (
            with(&|it| it.path = "/v1/images/generations".to_owned()),
            &unreadable,
        ),
        (with(&|it| it.body.clear()), &unreadable),
        (
            with(&|it| {
                drop(
                    it.headers
                        .insert("content-encoding".to_owned(), "br".to_owned()),
                )
            }),
            &unreadable,
        ),
    ] {
        let answer = service.check(request).await.unwrap();
        assert_eq!(headers(&answer), *expected);
        assert_eq!(answer.dynamic_metadata.is_some(), expected != &unreadable);
    }
}

#[tokio::test]
async fn tools_and_service_tiers_that_the_policy_does_not_cover_are_billed() {
    let service = Service::start(SETTINGS, None);
    for (id, field, value) in [
        (
            "1",
            "tools",
            json!([{"type": "function", "function": {"name": "f"}}]),
        ),
        ("2", "functions", json!([{"name": "f"}])),
        ("3", "service_tier", json!("flex")),
        ("4", "service_tier", json!("priority")),
    ] {
        let mut body = chat("x", 60, "");
        body[field] = value;
        let http = HttpRequest {
            id: id.to_owned(),
            body: body.to_string(),
            ..http_request()
        };
        let answer = service.check(check_of(http)).await.unwrap();
        let reason = Some("workload_not_covered".to_owned());
        assert_eq!(headers(&answer), ("billed".to_owned(), reason), "{field}");
    }
}

/// Also where it would not fit a second time.
#[tokio::test]
async fn where_billed_is_denied_a_second_check_of_one_request_has_the_first_verdict() {
    let settings = format!("{SETTINGS}on_billed = \"deny\"\n");
    let service = Service::start_with(300, &settings, None);
    for _ in 0..2 {
        let answer = service.check(check_of(http_request())).await.unwrap();
        assert_eq!(headers(&answer), ("free".to_owned(), None));
    }
    let other = HttpRequest {
        id: "18".to_owned(),
        ..http_request()
    };
    let answer = service.check(check_of(other)).await.unwrap();
    assert!(
        matches!(answer.http_response, Some(HttpResponse::DeniedResponse(_))),
        "{answer:?}"
    );
    let large = large_of(&service.tollgate.client(), "acme").await;
    assert_eq!((large.free_requests, large.billed_requests), (1, 0));
}

#[tokio::test]
async fn services_that_are_not_set_are_not_served() {
    let service = Service::start("[envoy]\nservices = [\"access_log\"]\n", None);
    let error = service.check(check_of(http_request())).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
}

#[test]
fn settings_that_are_probably_not_meant_are_warned_of() {
    let both = "[\"authorization\", \"access_log\"]";
    let clusters = "program_clusters = [\"openai_shared\"]\n";
    for (services, more, expected) in [
        (both, clusters, None),
        (both, "on_billed = \"deny\"\n", None),
        (both, "", Some("program_clusters is not set")),
        ("[\"authorization\"]", "", Some("never settled")),
    ] {
        let settings = format!("[envoy]\nservices = {services}\n{more}");
        let service = Service::start(&settings, None);
        let log = service.tollgate.log();
        let messages = log.iter().filter_map(|line| line["message"].as_str());
        let warning: Vec<_> = messages.filter(|it| it.starts_with("envoy.")).collect();
        let is_expected = |it: &&str| expected.is_some_and(|expected| it.contains(expected));
        assert!(warning.iter().all(is_expected), "{settings}: {warning:?}");
        assert_eq!(warning.len(), usize::from(expected.is_some()), "{settings}");
    }
}

#[tokio::test]
async fn envoy_is_a_caller_like_any_other() {
    let caller = |name: &str, token: &str, role: &str, org: &str| {
        let hash = TokenHash::of(token.as_bytes());
        format!(
            "[callers.{name}]\ntokens = [\"{hash}\"]\nroles = [\"{role}\"]\norganizations = [\"{org}\"]\n"
        )
    };
    let callers = [
        caller("envoy", "e", "reserve", "acme"),
        caller("reader", "r", "read", "acme"),
        caller("other", "o", "reserve", "other"),
    ];
    let service = Service::start(SETTINGS, Some(&callers.concat()));
    let code = |token: Option<&'static str>| {
        let mut request = tonic::Request::new(check_of(http_request()));
        if let Some(token) = token {
            let value = MetadataValue::try_from(format!("Bearer {token}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let mut client = AuthorizationClient::new(service.tollgate.channel());
        async move {
            client
                .check(request)
                .await
                .map_or_else(|it| it.code(), |_| Code::Ok)
        }
    };
    assert_eq!(code(None).await, Code::Unauthenticated);
    assert_eq!(code(Some("r")).await, Code::PermissionDenied);
    assert_eq!(code(Some("o")).await, Code::PermissionDenied);
    assert_eq!(code(Some("e")).await, Code::Ok);
}

/// An entry of the access log with this metadata, of a request that its client left.
fn entry(metadata: Option<Metadata>, kind: AccessLogType) -> HttpAccessLogEntry {
    HttpAccessLogEntry {
        common_properties: Some(AccessLogCommon {
            metadata,
            access_log_type: kind.into(),
            ..AccessLogCommon::default()
        }),
        response: Some(HttpResponseProperties::default()),
    }
}

#[tokio::test]
async fn the_access_log_ends_what_a_check_published_and_nothing_else() {
    let service = Service::start(SETTINGS, None);
    let tollgate = &service.tollgate;
    // Not Envoy's: it stays.
    reserve(&tollgate.client(), 100, "mine").await;
    let answer = service.check(check_of(http_request())).await.unwrap();
    let namespace = "envoy.filters.http.ext_authz".to_owned();
    let metadata = Metadata {
        filter_metadata: HashMap::from([(namespace, answer.dynamic_metadata.unwrap())]),
        ..Metadata::default()
    };
    let entries = vec![
        entry(None, AccessLogType::DownstreamEnd),
        entry(Some(Metadata::default()), AccessLogType::DownstreamEnd),
        entry(Some(metadata.clone()), AccessLogType::NotSet),
        entry(Some(metadata.clone()), AccessLogType::DownstreamStart),
        // It was never sent to an upstream.
        entry(Some(metadata.clone()), AccessLogType::DownstreamEnd),
        entry(Some(metadata), AccessLogType::DownstreamEnd),
    ];
    let message = StreamAccessLogsMessage {
        http_logs: Some(HttpAccessLogEntries { log_entry: entries }),
    };
    let mut client = AccessLogServiceClient::new(tollgate.channel());
    let stream = futures_util::stream::iter([message]);
    let answers = client.stream_access_logs(stream).await.unwrap();
    let mut answers = answers.into_inner();
    assert!(answers.message().await.unwrap().is_some());
    // The second one is a replay.
    wait_for(
        tollgate,
        "tollgate_envoy_outcomes_total",
        &["outcome=\"released\""],
        2.0,
    )
    .await;
    let large = large_of(&tollgate.client(), "acme").await;
    assert_eq!((large.used, large.held_tokens), (100, 100));
}
