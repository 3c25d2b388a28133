//! What a generated client never sends: malformed and oversized messages, unknown methods and fields.

use std::fmt::Debug;

use prost::{Message, bytes::Buf as _};
use tollgate::grpc::proto::{GetQuotaRequest, ReserveRequest, ReserveResponse, Verdict, Workload};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::Channel,
};

use super::{Service, assert_names, new_reserve};

const SERVICE: &str = "tollgate.v1.QuotaService";

/// The default of `bounds.message_bytes`.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A codec that passes messages as raw bytes.
#[derive(Default)]
pub(super) struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put_slice(to, &item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut item = vec![0; from.remaining()];
        from.copy_to_slice(&mut item);
        Ok(Some(item))
    }
}

/// A client that can send any bytes.
struct RawClient {
    channel: Channel,
}

impl RawClient {
    fn to(service: &Service) -> Self {
        Self {
            channel: service.tollgate.channel(),
        }
    }

    async fn send(&self, service: &str, rpc: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        let path = format!("/{service}/{rpc}").parse().unwrap();
        let answer = client.unary(Request::new(message), path, Bytes).await;
        answer.map(tonic::Response::into_inner)
    }

    async fn reserve(&self, message: Vec<u8>) -> Result<ReserveResponse, Status> {
        let answer = self.send(SERVICE, "Reserve", message).await?;
        Ok(ReserveResponse::decode(answer.as_slice()).unwrap())
    }
}

/// A length-delimited field.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    assert!(number < 16 && content.len() < 128, "both are one byte");
    let head = [number << 3 | 2, u8::try_from(content.len()).unwrap()];
    [&head, content].concat()
}

/// Pads a message to this length with an unknown field.
pub(super) fn padded(message: &[u8], bytes: usize) -> Vec<u8> {
    let mut padded = message.to_vec();
    prost::encoding::encode_varint(1000 << 3 | 2, &mut padded);
    let content = |length| bytes - padded.len() - length;
    let length = prost::encoding::encoded_len_varint(content(0) as u64);
    let content = content(length);
    prost::encoding::encode_varint(content as u64, &mut padded);
    padded.resize(bytes, b'x');
    padded
}

fn code<T: Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}

#[tokio::test]
async fn a_malformed_message_is_the_callers_fault() {
    let service = Service::memory();
    let wire = RawClient::to(&service);
    let good = new_reserve(1).encode_to_vec();
    let malformed = [
        good[..good.len() - 1].to_vec(),
        // A field longer than the message; an unmatched end of a group; an unterminated varint; a string instead of a
        // number; field number 0.
        vec![0x0a, 0x7f, b'x'],
        vec![0x0c],
        vec![0xff; 11],
        field(4, b"12"),
        vec![0x00, 0x01],
    ];
    for message in malformed {
        for rpc in [
            "Reserve",
            "Settle",
            "Release",
            "GetQuota",
            "ListUsage",
            "Estimate",
            "SetExternalUsage",
            "ListExternalChanges",
        ] {
            // Bytes that are malformed for one message may be an unknown field of another. Then only a required field
            // is missing.
            let answer = wire.send(SERVICE, rpc, message.clone()).await;
            assert_eq!(code(answer), Code::InvalidArgument, "{rpc} {message:?}");
        }
    }
    assert_eq!(
        wire.reserve(good).await.unwrap().used,
        1,
        "nothing else was counted"
    );
}

#[tokio::test]
async fn a_malformed_question_for_health_is_the_callers_fault_too() {
    let service = Service::memory();
    let wire = RawClient::to(&service);
    for message in [field(1, b"a\xff"), vec![0x0a, 0x7f, b'x'], vec![0xff; 11]] {
        for rpc in ["Check", "Watch"] {
            let answer = wire
                .send("grpc.health.v1.Health", rpc, message.clone())
                .await;
            assert_eq!(code(answer), Code::InvalidArgument, "{rpc} {message:?}");
        }
    }
}

#[tokio::test]
async fn text_that_is_not_utf8_is_the_callers_fault_and_its_field_is_named() {
    let service = Service::memory();
    let wire = RawClient::to(&service);
    for (rpc, number, name) in [
        ("Reserve", 1, "org"),
        ("Reserve", 2, "project"),
        ("Reserve", 3, "model"),
        ("Reserve", 5, "request_id"),
        ("Settle", 1, "org"),
        ("Settle", 2, "request_id"),
        ("Release", 1, "org"),
        ("Release", 2, "request_id"),
        ("GetQuota", 1, "org"),
        ("ListUsage", 1, "org"),
        ("ListUsage", 2, "day"),
        ("ListUsage", 4, "page_token"),
        ("ListUsage", 5, "from_day"),
        ("ListUsage", 6, "to_day"),
        ("Estimate", 1, "path"),
        ("Estimate", 3, "model"),
        ("SetExternalUsage", 1, "org"),
        ("SetExternalUsage", 2, "pool"),
        ("SetExternalUsage", 4, "note"),
        ("ListExternalChanges", 1, "org"),
        ("ListExternalChanges", 2, "from_day"),
        ("ListExternalChanges", 3, "to_day"),
        ("ListOrganizations", 2, "page_token"),
        ("ListOrganizations", 3, "query"),
    ] {
        // 0xC0 0x80 is an overlong NUL, 0xED 0xA0 0x80 half of a surrogate pair.
        for text in [&b"a\xff"[..], b"\xc0\x80", b"\xed\xa0\x80"] {
            let answer = wire.send(SERVICE, rpc, field(number, text)).await;
            let status = answer.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{rpc}: {status}");
            let named = status.message().contains(&format!(".{name}: "));
            assert!(named, "{rpc}: {name} is not named by {status}");
        }
    }
}

#[tokio::test]
async fn an_oversized_message_is_an_error_and_the_connection_and_the_service_live_on() {
    let service = Service::memory();
    let wire = RawClient::to(&service);
    let good = new_reserve(1).encode_to_vec();
    let padded = |bytes| padded(&good, bytes);
    let largest = padded(MAX_MESSAGE_BYTES);
    assert_eq!(largest.len(), MAX_MESSAGE_BYTES);
    assert_eq!(wire.reserve(largest).await.unwrap().used, 1);
    for bytes in [MAX_MESSAGE_BYTES + 1, 1 << 20, 8 << 20] {
        let status = wire.reserve(padded(bytes)).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{bytes}: {status}");
        wire.reserve(good.clone()).await.unwrap();
    }
    assert_eq!(service.large().await.free_requests, 4);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let service = Service::memory();
    let wire = RawClient::to(&service);
    for (name, rpc) in [
        (SERVICE, "Guess"),
        (SERVICE, "reserve"),
        ("tollgate.v1", "Reserve"),
        ("tollgate.v2.QuotaService", "Reserve"),
    ] {
        let answer = wire.send(name, rpc, new_reserve(1).encode_to_vec()).await;
        assert_eq!(code(answer), Code::Unimplemented, "{name}/{rpc}");
    }
    assert_eq!(service.large().await.used, 0);
}

#[tokio::test]
async fn unknown_fields_are_ignored() {
    let service = Service::memory();
    let wire = RawClient::to(&service);
    let mut message = new_reserve(5).encode_to_vec();
    message.extend(field(15, b"of a newer caller"));
    // Field 14 in each other wire type: varint, 64 bits, 32 bits, group.
    message.extend([14 << 3, 0x96, 0x01]);
    message.extend([&[14 << 3 | 1], &[7; 8][..]].concat());
    message.extend([&[14 << 3 | 5], &[7; 4][..]].concat());
    message.extend([14 << 3 | 3, 14 << 3 | 4]);
    let answer = wire.reserve(message).await.unwrap();
    assert_eq!((answer.verdict(), answer.used), (Verdict::Free, 5));
}

#[tokio::test]
async fn an_unspecified_workload_is_inference_also_to_a_request_id() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let request = |workload: Workload| ReserveRequest {
        request_id: "r".to_owned(),
        workload: workload.into(),
        ..new_reserve(5)
    };
    let first = client.reserve(request(Workload::Unspecified)).await;
    let first = first.unwrap().into_inner();
    assert_eq!((first.verdict(), first.replayed), (Verdict::Free, false));
    let again = client.reserve(request(Workload::Inference)).await;
    let again = again.unwrap().into_inner();
    assert_eq!((again.used, again.replayed), (5, true));
    let other = client.reserve(request(Workload::Evaluation)).await;
    assert_eq!(code(other), Code::AlreadyExists);
}

#[tokio::test]
async fn metadata_of_the_caller_is_taken_and_ignored() {
    let service = Service::memory();
    let mut client = service.tollgate.client();
    let with_metadata = |message: GetQuotaRequest| {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("x-request-id", MetadataValue::from_static("abc"));
        metadata.append("x-request-id", MetadataValue::from_static("def"));
        metadata.insert_bin("trace-bin", MetadataValue::from_bytes(&[0, 255, 10]));
        request
    };
    let org = "org-demo".to_owned();
    let answer = client
        .get_quota(with_metadata(GetQuotaRequest { org }))
        .await;
    let answer = answer.unwrap();
    let kind = answer.metadata().get("content-type").unwrap();
    assert_eq!(kind.to_str().unwrap(), "application/grpc");
    assert_eq!(answer.into_inner().tier, 3);
    let org = String::new();
    let answer = client
        .get_quota(with_metadata(GetQuotaRequest { org }))
        .await;
    assert_names("org", answer, "an error with metadata");
}
