//! Estimate: an upper bound on a request's tokens, without the store.

use std::time::{Duration, Instant};

use tollgate::grpc::proto::{
    EstimateBasis, EstimateRequest, EstimateResponse, GetQuotaRequest, Workload,
};
use tonic::{Code, codec::CompressionEncoding::Gzip};

use super::{Service, assert_names, new_reserve};
use crate::support::{calls::TextFile, tollgate::Tollgate};

/// The default of `bounds.estimate_bytes`.
const MAX_ESTIMATE_BYTES: usize = 2 << 20;

fn chat(body: impl Into<Vec<u8>>) -> EstimateRequest {
    EstimateRequest {
        path: "/v1/chat/completions".to_owned(),
        body: body.into(),
        model: String::new(),
    }
}

/// A body whose text makes a message of this size, path and all.
fn padded(message_bytes: usize) -> EstimateRequest {
    let of = |text: usize| {
        let text = "x".repeat(text);
        chat(format!(
            r#"{{"model":"gpt-4o","messages":[{{"role":"user","content":"{text}"}}]}}"#
        ))
    };
    let empty = prost::Message::encoded_len(&of(message_bytes / 2)) - message_bytes / 2;
    let request = of(message_bytes - empty);
    let excess = prost::Message::encoded_len(&request) - message_bytes;
    of(message_bytes - empty - excess)
}

#[tokio::test]
async fn an_estimate_has_all_that_a_reserve_needs_and_counts_nothing() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let body =
        r#"{"model":"gpt-4o","max_tokens":50,"n":2,"messages":[{"role":"user","content":"hi"}]}"#;
    let answer = client.estimate(chat(body)).await.unwrap().into_inner();
    // 16, 8 of the message, 6 of its text, and two fields as JSON.
    let input_tokens = 16 + 8 + 6 + "\"max_tokens\":50,".len() as u64 + "\"n\":2,".len() as u64;
    let wanted = EstimateResponse {
        tokens: input_tokens + 100,
        input_tokens,
        output_tokens: 100,
        basis: EstimateBasis::TextBytes.into(),
        model: "gpt-4o".to_owned(),
        workload: Workload::Inference.into(),
        output_capped: true,
    };
    assert_eq!(answer, wanted);
    // The model of the message takes the place of the body's: it has another capacity.
    let request = EstimateRequest {
        path: "/openai/responses?api-version=1".to_owned(),
        body: br#"{"model":"gpt-4o","tools":[{"type":"web_search"}]}"#.to_vec(),
        model: "gpt-4.1".to_owned(),
    };
    let answer = client.estimate(request).await.unwrap().into_inner();
    assert_eq!(answer.model, "gpt-4.1");
    assert_eq!(answer.tokens, 1_047_576 + 32_768);
    assert_eq!(answer.basis(), EstimateBasis::ContextWindow);
    assert_eq!(answer.workload(), Workload::HostedTool);
    assert_eq!(service.large().await.free_requests, 0);
}

#[tokio::test]
async fn a_request_without_an_estimate_is_the_callers_fault_and_its_field_is_named() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    for path in ["", "/v1/completions", "/v1/responses/resp_1"] {
        let request = EstimateRequest {
            path: path.to_owned(),
            ..chat("{}")
        };
        assert_names("path", client.estimate(request).await, path);
    }
    for body in [
        &b""[..],
        b"{",
        b"[]",
        b"{\"model\":\"m\",\"messages\":7}",
        b"{\"messages\":[]}\0",
        b"\xff",
    ] {
        assert_names("body", client.estimate(chat(body)).await, "a body");
    }
    let status = client
        .estimate(chat("{\n\"messages\" 7}"))
        .await
        .unwrap_err();
    assert_eq!(status.message(), "body: expected `:` at line 2 column 12");
    let no_model = client.estimate(chat("{\"messages\":[]}")).await;
    assert_names("model", no_model, "no model");
    let request = EstimateRequest {
        model: "x".repeat(257),
        ..chat("{\"messages\":[]}")
    };
    assert_names("model", client.estimate(request).await, "a long model");
}

#[tokio::test]
async fn an_estimate_has_its_own_bound_on_messages_and_the_other_calls_keep_theirs() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    for (bytes, wanted) in [
        (MAX_ESTIMATE_BYTES, Code::Ok),
        (MAX_ESTIMATE_BYTES + 1, Code::OutOfRange),
        (8 << 20, Code::OutOfRange),
    ] {
        let answer = client.estimate(padded(bytes)).await;
        let code = answer.err().map_or(Code::Ok, |status| status.code());
        assert_eq!(code, wanted, "{bytes}");
    }
    // Also once decompressed.
    let mut compressed = client.clone().send_compressed(Gzip);
    compressed
        .estimate(padded(MAX_ESTIMATE_BYTES))
        .await
        .unwrap();
    let bomb = compressed.estimate(padded(30 << 20)).await.unwrap_err();
    assert_eq!(bomb.code(), Code::OutOfRange, "{bomb}");
    let mut large = new_reserve(1);
    large.project = "x".repeat(100_000);
    let status = client.reserve(large).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");

    let settings = TextFile::new("[bounds]\nestimate_bytes = 65536\n");
    let tollgate = Tollgate::start(&["--store", "memory:", "--config", settings.path()]);
    let mut client = tollgate.client();
    client.estimate(padded(65_536)).await.unwrap();
    let status = client.estimate(padded(65_537)).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn an_estimate_needs_no_store() {
    // Nobody listens there.
    let tollgate = Tollgate::start(&["--store", "redis://127.0.0.1:1"]);
    let mut client = tollgate.client();
    let org = "org-demo".to_owned();
    let status = client.get_quota(GetQuotaRequest { org }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let began = Instant::now();
    let body = r#"{"model":"gpt-4o","messages":[]}"#;
    client.estimate(chat(body)).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}
