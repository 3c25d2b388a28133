//! The credentials of a call, and the order in which they are checked.

use tollgate::auth::TokenHash;
use tollgate::grpc::proto::{ReserveRequest, quota_service_client::QuotaServiceClient};
use tonic::{
    Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, metadata::MetadataMap,
};

use super::{
    Service,
    listener::AuthorizedChannel,
    matrix::{call, methods, new_reserve},
};

/// A codec that passes messages as raw bytes.
#[derive(Clone, Default)]
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
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

impl tonic::codec::Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(
        &mut self,
        bytes: Vec<u8>,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        use prost::bytes::BufMut as _;

        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, _: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(None)
    }
}

/// Sends raw bytes as the message of a method.
async fn send(channel: &AuthorizedChannel, method: &str, bytes: Vec<u8>) -> Status {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = format!("/tollgate.v1.QuotaService/{method}");
    let path = PathAndQuery::try_from(path).unwrap();
    let answer: Result<tonic::Response<Vec<u8>>, _> =
        client.unary(Request::new(bytes), path, RawCodec).await;
    answer.unwrap_err()
}

#[tokio::test]
async fn the_role_is_checked_before_the_message_is_read() {
    let service = Service::start().await;
    let unary = methods().into_iter().filter(|it| it != "ReserveStream");
    let nobody = service.loopback.channel(None, &[]);
    let [reserver, reader, admin] = ["Bearer tg_reserver", "Bearer tg_reader", "Bearer tg_after"]
        .map(|it| service.loopback.channel(None, &[it]));
    for method in unary {
        let (with, without) = match method.as_str() {
            "GetQuota" | "ListUsage" | "ListOrganizations" | "ListExternalChanges" => {
                (&reader, &reserver)
            }
            "SetExternalUsage" => (&admin, &reader),
            _ => (&reserver, &reader),
        };
        for malformed in [vec![0xff; 10], vec![0; 100_000]] {
            let status = send(&nobody, &method, malformed.clone()).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{method}: {status}");
            let status = send(without, &method, malformed.clone()).await;
            assert_eq!(status.code(), Code::PermissionDenied, "{method}: {status}");
            let status = send(with, &method, malformed.clone()).await;
            let judged = matches!(status.code(), Code::InvalidArgument | Code::OutOfRange);
            assert!(judged, "{method}: {status}");
        }
    }
    // Only known callers learn that a method does not exist.
    let status = send(&nobody, "Steal", Vec::new()).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = send(&reserver, "Steal", Vec::new()).await;
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn an_invalid_organization_is_the_callers_fault_and_a_foreign_one_is_checked_first() {
    let service = Service::start().await;
    let channel = service.loopback.channel(None, &["Bearer tg_after"]);
    let mut client = QuotaServiceClient::new(channel);
    let invalid_callers_file = |org: &str| ReserveRequest {
        tokens: 0,
        ..new_reserve(org, "")
    };
    for (org, code) in [
        ("", Code::InvalidArgument),
        ("acme", Code::InvalidArgument),
        ("other", Code::PermissionDenied),
        ("acme ", Code::PermissionDenied),
        ("ACME", Code::PermissionDenied),
        ("*", Code::PermissionDenied),
    ] {
        let status = client.reserve(invalid_callers_file(org)).await.unwrap_err();
        assert_eq!(status.code(), code, "{org:?}: {status}");
    }
}

#[tokio::test]
async fn only_one_bearer_token_is_taken() {
    let service = Service::start().await;
    // A hash is no token: reading the callers file does not give access.
    let hash = format!("Bearer {}", TokenHash::of(b"tg_after"));
    let malformed = "the authorization header is not one \"Bearer TOKEN\"";
    let unknown = "the bearer token is of no known caller";
    for (headers, expected) in [
        (vec!["Bearer"], malformed),
        (vec!["Bearer "], malformed),
        (vec!["tg_after"], malformed),
        (vec!["Token tg_after"], malformed),
        // "x:tg_after": only browsers need Basic authentication.
        (vec!["Basic eDp0Z19hZnRlcg=="], malformed),
        (vec!["Bearer tg_after", "Bearer tg_after"], malformed),
        (vec!["Bearer tg_after", "Bearer tg_wrong"], malformed),
        (vec!["Bearer tg_after tg_after"], unknown),
        (vec!["Bearer tg_after, Bearer tg_after"], unknown),
        (vec![hash.as_str()], unknown),
    ] {
        let channel = service.loopback.channel(None, &headers);
        let status = call(&channel, "Reserve", "acme").await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{headers:?}");
        assert_eq!(status.message(), expected, "{headers:?}");
    }
    // A token over plaintext is refused as such, valid or not.
    for token in ["Bearer tg_after", "Bearer tg_wrong"] {
        let channel = service.in_the_clear.channel(None, &[token]);
        let status = call(&channel, "Reserve", "acme").await.unwrap_err();
        assert!(status.message().contains("not encrypted"), "{status}");
    }
    assert_eq!(service.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn calls_that_are_refused_unread_hold_up_nobody_on_their_connection() {
    let service = Service::start().await;
    let nobody = service.loopback.channel(None, &[]);
    // Several times the flow-control window of a connection.
    for _ in 0..200 {
        let status = send(&nobody, "Reserve", vec![0; 60_000]).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
    let mut metadata = MetadataMap::new();
    metadata.insert("authorization", "Bearer tg_after".parse().unwrap());
    let mut request = Request::new(new_reserve("acme", ""));
    *request.metadata_mut() = metadata;
    QuotaServiceClient::new(nobody)
        .reserve(request)
        .await
        .unwrap();
}
