//! The rate limit front: by hand, and by Envoy at the end of a stream.

use serde_json::{Value, json};
use tollgate::envoy::proto::envoy::{
    extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry},
    service::ratelimit::v3::{
        RateLimitRequest, RateLimitResponse, rate_limit_response::Code as Overall,
        rate_limit_service_client::RateLimitServiceClient,
    },
};
use tonic::{Code, Status};

use super::{
    PATH, SETTINGS,
    gateway::{Gateway, chat, example},
    provider::Provider,
};
use crate::support::{
    calls::{TextFile, large_of, policy_file},
    tollgate::Tollgate,
};

/// Tollgate with all of Envoy's services, and its files.
struct Service {
    tollgate: Tollgate,
    _files: [TextFile; 2],
}

impl Service {
    fn start(allowance: u64, more_settings: &str) -> Self {
        let files = [policy_file(allowance), settings(more_settings)];
        let [policy, settings] = files.each_ref().map(TextFile::path);
        let args = [
            "--store", "memory:", "--policy", policy, "--config", settings,
        ];
        Self {
            tollgate: Tollgate::start(&args),
            _files: files,
        }
    }
}

fn settings(more: &str) -> TextFile {
    let all = "services = [\"authorization\", \"access_log\", \"rate_limit\"]";
    let default = "services = [\"authorization\", \"access_log\"]";
    TextFile::new(&(SETTINGS.replace(default, all) + more))
}

fn request(entries: &[(&str, &str)], hits: Option<u64>) -> RateLimitRequest {
    let entries = entries.iter().map(|(key, value)| Entry {
        key: format!("tollgate.{key}"),
        value: (*value).to_owned(),
    });
    RateLimitRequest {
        domain: "llm".to_owned(),
        descriptors: vec![RateLimitDescriptor {
            entries: entries.collect(),
            hits_addend: hits,
            ..RateLimitDescriptor::default()
        }],
        hits_addend: 0,
    }
}

async fn ask(tollgate: &Tollgate, request: RateLimitRequest) -> Result<RateLimitResponse, Status> {
    let mut client = RateLimitServiceClient::new(tollgate.channel());
    let answer = client.should_rate_limit(request).await;
    answer.map(tonic::Response::into_inner)
}

const RESERVE: [(&str, &str); 2] = [("operation", "reserve"), ("model", "gpt-4o")];

#[tokio::test]
async fn a_descriptor_reserves_its_tokens() {
    let service = Service::start(1_000, "");
    let tollgate = &service.tollgate;
    let answer = ask(tollgate, request(&RESERVE, Some(600))).await.unwrap();
    assert_eq!(answer.overall_code(), Overall::Ok);
    assert_eq!(answer.statuses[0].limit_remaining, 400);
    assert_eq!(answer.request_headers_to_add[0].value, "free");
    let of_request = RateLimitRequest {
        hits_addend: 500,
        ..request(&RESERVE, None)
    };
    let answer = ask(tollgate, of_request).await.unwrap();
    assert_eq!(answer.overall_code(), Overall::Ok);
    let headers: Vec<&str> = answer
        .request_headers_to_add
        .iter()
        .map(|it| &it.value[..])
        .collect();
    assert_eq!(headers, ["billed", "allowance_exceeded"]);

    let large = large_of(&tollgate.client(), "acme").await;
    assert_eq!((large.used, large.billed_tokens), (600, 500));
}

#[tokio::test]
async fn what_is_wrong_in_a_descriptor_is_named_and_counts_nothing() {
    let service = Service::start(1_000, "");
    let tollgate = &service.tollgate;
    let two = RateLimitRequest {
        descriptors: vec![RateLimitDescriptor::default(); 2],
        ..RateLimitRequest::default()
    };
    let mut negative = request(&RESERVE, Some(1));
    negative.descriptors[0].is_negative_hits = true;
    let twice = [("operation", "reserve"), ("operation", "reserve")];
    let settle = |id| [("operation", "settle"), ("id", id)];
    for (request, fault) in [
        (
            request(&RESERVE, None),
            "hits_addend: is missing: the number of tokens",
        ),
        (
            request(&RESERVE, Some(0)),
            "tokens: is 0, allowed are 1 to 1000000000",
        ),
        (
            request(&RESERVE[..1], Some(1)),
            "tollgate.model: the descriptor has no such entry",
        ),
        (
            request(&[], Some(1)),
            "tollgate.operation: the descriptor has no such entry",
        ),
        (
            request(&[("operation", "take")], Some(1)),
            "tollgate.operation: is \"take\", allowed are reserve, settle and release",
        ),
        (
            request(&twice, Some(1)),
            "tollgate.operation: is given twice",
        ),
        (
            request(&settle("client's"), Some(1)),
            "tollgate.id: must be the id of a Check, which begins with \"envoy:\"",
        ),
        (two, "descriptors: there are 2, and must be one"),
        (
            negative,
            "is_negative_hits: a reservation is taken back with the operation release",
        ),
    ] {
        let error = ask(tollgate, request).await.unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::InvalidArgument, fault)
        );
    }
    let unknown = ask(tollgate, request(&settle("envoy:9"), Some(1)))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let large = large_of(&tollgate.client(), "acme").await;
    assert_eq!((large.used, large.billed_tokens), (0, 0));
}

#[tokio::test]
async fn where_billed_is_denied_a_descriptor_is_over_its_limit_and_counts_nothing() {
    let service = Service::start(1_000, "on_billed = \"deny\"\n");
    let tollgate = &service.tollgate;
    let answer = ask(tollgate, request(&RESERVE, Some(1_001))).await.unwrap();
    assert_eq!(answer.overall_code(), Overall::OverLimit);
    let body: Value = serde_json::from_slice(&answer.raw_body).unwrap();
    assert_eq!(body["error"]["code"], "allowance_exceeded");
    let large = large_of(&tollgate.client(), "acme").await;
    assert_eq!((large.used, large.billed_requests), (0, 0));
}

/// The example with a rate limit filter, which settles at the end of a stream, in place of the access log.
fn settling_by_rate_limit() -> Value {
    let mut config = example();
    let manager = &mut config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
        ["typed_config"];
    manager.as_object_mut().unwrap().remove("access_log");
    let typed = |name: &str, mut message: Value| {
        message["@type"] = json!(format!(
            "type.googleapis.com/envoy.extensions.filters.http.{name}"
        ));
        message
    };
    let usage = json!({ "response_rules": {
        "rules": [{
            "selectors": [{ "key": "usage" }, { "key": "total_tokens" }],
            "on_present": { "metadata_namespace": "usage", "key": "tokens", "type": "NUMBER" },
        }],
    } });
    let metadata = |key: &str| {
        json!({ "metadata": {
        "descriptor_key": format!("tollgate.{key}"),
        "metadata_key": {
            "key": "envoy.filters.http.ext_authz",
            "path": [{ "key": "tollgate" }, { "key": key }],
        },
    } })
    };
    let settle = json!({ "rate_limits": [{
        "apply_on_stream_done": true,
        "hits_addend": { "format": "%DYNAMIC_METADATA(usage:tokens)%" },
        "actions": [
            { "generic_key": { "descriptor_key": "tollgate.operation", "descriptor_value": "settle" } },
            metadata("id"),
        ],
    }], "domain": "llm", "timeout": "1s",
        "rate_limit_service": {
            "transport_api_version": "V3",
            "grpc_service": { "envoy_grpc": { "cluster_name": "tollgate" } },
        },
    });
    let filters = manager["http_filters"].as_array_mut().unwrap();
    let router = filters.len() - 1;
    filters.insert(
        router,
        json!({
            "name": "usage",
            "typed_config": typed("json_to_metadata.v3.JsonToMetadata", usage),
        }),
    );
    filters.insert(
        router,
        json!({
            "name": "envoy.filters.http.ratelimit",
            "typed_config": typed("ratelimit.v3.RateLimit", settle),
        }),
    );
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_settles_at_the_end_of_a_stream_by_its_rate_limit_filter() {
    let service = Service::start(1_000_000, "");
    let tollgate = &service.tollgate;
    let provider = Provider::start().await;
    let gateway = Gateway::start_with(settling_by_rate_limit(), &[&tollgate.addr], &provider.addr);
    let mut client = gateway.client().await;
    let answer = client
        .post(PATH, &[], chat("one", 60, "").to_string())
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let large = large_of(&tollgate.client(), "acme").await;
        if (large.used, large.held_tokens) == (60, 0) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{large:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
