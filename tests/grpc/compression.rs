//! docs/CONTRACT.md, "The gRPC surface": gzip is accepted; the bounds apply to the decompressed message.

use std::future::poll_fn;

use futures_util::stream;
use prost::Message as _;
use tollgate::grpc::proto::{GetQuotaRequest, ReserveRequest, reserve_stream_response::Answer};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client::Grpc,
    codec::CompressionEncoding::Gzip,
    codegen::{Service as _, http},
    transport::Channel,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use super::{
    Service, new_reserve,
    wire::{Bytes, MAX_MESSAGE_BYTES, padded},
};

const RESERVE: &str = "/tollgate.v1.QuotaService/Reserve";
const STREAM: &str = "/tollgate.v1.QuotaService/ReserveStream";

/// A client that compresses any message.
async fn wire(service: &Service) -> Grpc<Channel> {
    let mut client = Grpc::new(service.tollgate.channel())
        .send_compressed(Gzip)
        .accept_compressed(Gzip);
    client.ready().await.unwrap();
    client
}

async fn send(service: &Service, message: Vec<u8>) -> Result<Response<Vec<u8>>, Status> {
    let request = Request::new(message);
    let path = RESERVE.parse().unwrap();
    wire(service).await.unary(request, path, Bytes).await
}

fn is_compressed<T>(answer: &Response<T>) -> bool {
    let encoding = answer.metadata().get("grpc-encoding");
    encoding.is_some_and(|encoding| encoding == "gzip")
}

/// A message of this length that compresses to a thousandth.
fn bomb(bytes: usize) -> Vec<u8> {
    padded(&new_reserve(1).encode_to_vec(), bytes)
}

#[tokio::test]
async fn a_request_in_gzip_is_answered_in_gzip_and_another_is_not() {
    let service = Service::memory();
    let accepting = || service.tollgate.client().accept_compressed(Gzip);
    let answer = accepting()
        .send_compressed(Gzip)
        .reserve(new_reserve(1))
        .await;
    let answer = answer.unwrap();
    assert!(is_compressed(&answer), "{answer:?}");
    assert_eq!(answer.into_inner().used, 1);
    let answer = accepting().reserve(new_reserve(1)).await.unwrap();
    assert!(!is_compressed(&answer), "{answer:?}");
    assert_eq!(answer.into_inner().used, 2);
    // A client that declares "identity" gets the same answer.
    let org = "org-demo".to_owned();
    let mut request = Request::new(GetQuotaRequest { org });
    let identity = "identity".parse().unwrap();
    request.metadata_mut().insert("grpc-encoding", identity);
    let answer = accepting().get_quota(request).await.unwrap();
    assert!(!is_compressed(&answer), "{answer:?}");
    // A client that can't decompress gets an uncompressed answer.
    let sending = service.tollgate.client().send_compressed(Gzip);
    let answer = { sending }.reserve(new_reserve(1)).await.unwrap();
    assert!(!is_compressed(&answer), "{answer:?}");
}

#[tokio::test]
async fn a_stream_in_gzip_is_answered_in_gzip_and_another_is_not() {
    let service = Service::memory();
    for compresses in [true, false] {
        let mut client = service.tollgate.client().accept_compressed(Gzip);
        if compresses {
            client = client.send_compressed(Gzip);
        }
        let requests = stream::iter([new_reserve(1), ReserveRequest::default(), new_reserve(1)]);
        let answers = client.reserve_stream(requests).await.unwrap();
        assert_eq!(is_compressed(&answers), compresses);
        let mut answers = answers.into_inner();
        let mut reserved = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            reserved.push(matches!(answer.answer, Some(Answer::Reserved(_))));
        }
        assert_eq!(reserved, [true, false, true]);
    }
    assert_eq!(service.large().await.used, 4);
}

#[tokio::test]
async fn health_and_reflection_take_gzip_too_and_have_the_bound_of_messages() {
    let service = Service::memory();
    let mut health = HealthClient::new(service.tollgate.channel()).send_compressed(Gzip);
    let liveness = HealthCheckRequest {
        service: "liveness".to_owned(),
    };
    health.check(liveness).await.unwrap();
    let large = HealthCheckRequest {
        service: "x".repeat(MAX_MESSAGE_BYTES),
    };
    let status = health.check(large.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let mut plain = HealthClient::new(service.tollgate.channel());
    let status = plain.check(large).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let mut reflection =
        ServerReflectionClient::new(service.tollgate.channel()).send_compressed(Gzip);
    let list = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let answers = reflection.server_reflection_info(stream::iter([list]));
    let answer = answers.await.unwrap().into_inner().message().await;
    assert!(answer.unwrap().is_some());
}

#[tokio::test]
async fn a_message_is_as_large_as_it_is_decompressed_and_a_bomb_is_not_unpacked() {
    let service = Service::memory();
    send(&service, bomb(MAX_MESSAGE_BYTES)).await.unwrap();
    let status = send(&service, bomb(MAX_MESSAGE_BYTES + 1)).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    // Each is 48 MiB, and 48 KiB compressed.
    let memory = service.tollgate.memory();
    let bomb = bomb(48 << 20);
    for _ in 0..8 {
        let status = send(&service, bomb.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    }
    let grown = service.tollgate.memory().saturating_sub(memory);
    assert!(grown < 16 << 20, "{grown}");
    assert_eq!(service.large().await.used, 1);
}

#[tokio::test]
async fn a_bomb_in_a_stream_ends_it_and_what_came_before_is_answered() {
    let service = Service::memory();
    let messages = stream::iter([new_reserve(1).encode_to_vec(), bomb(48 << 20)]);
    let path = STREAM.parse().unwrap();
    let mut client = wire(&service).await;
    let answers = client.streaming(Request::new(messages), path, Bytes).await;
    let mut answers: Streaming<Vec<u8>> = answers.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    assert_eq!(service.large().await.used, 1);
}

#[tokio::test]
async fn invalid_gzip_is_the_callers_fault_and_other_compressions_are_unimplemented() {
    let service = Service::memory();
    for (encoding, code) in [
        ("gzip", Code::InvalidArgument),
        ("deflate", Code::Unimplemented),
    ] {
        // A message of five bytes whose flag says that it is compressed.
        let body = Body::new("\x01\0\0\0\x05token".to_owned());
        let request = http::Request::post(format!("http://{}{RESERVE}", service.tollgate.addr))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-encoding", encoding)
            .body(body);
        let mut channel = service.tollgate.channel();
        poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        let answer = channel.call(request.unwrap()).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), code, "{encoding}: {status}");
    }
    assert_eq!(service.large().await.used, 0);
}
