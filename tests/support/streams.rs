//! `ReserveStream` as a gateway uses it.

use futures_util::stream;
use tollgate::grpc::proto::{
    ItemError, ReserveRequest, ReserveResponse, ReserveStreamResponse,
    reserve_stream_response::Answer,
};
use tonic::{Code, Status, Streaming};

use super::calls::Client;

/// The answer to a request of a stream: the decision, or its error.
pub type StreamItem = Result<ReserveResponse, ItemError>;

/// The next answer.
pub async fn next(answers: &mut Streaming<ReserveStreamResponse>) -> Option<StreamItem> {
    let received = answers.message().await.unwrap()?;
    Some(match received.answer.expect("one of the two") {
        Answer::Reserved(reserved) => Ok(reserved),
        Answer::Error(error) => Err(error),
    })
}

/// Sends all requests, and reads to the end, which is OK.
pub async fn stream_all(client: &Client, requests: Vec<ReserveRequest>) -> Vec<StreamItem> {
    let answers = client.clone().reserve_stream(stream::iter(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut received = Vec::new();
    while let Some(answer) = next(&mut answers).await {
        received.push(answer);
    }
    let trailers = answers.trailers().await.unwrap().unwrap_or_default();
    let status = Status::from_header_map(trailers.as_ref());
    assert!(status.is_none_or(|status| status.code() == Code::Ok));
    received
}

/// The gRPC code of an answer.
pub fn code(answer: &StreamItem) -> Code {
    answer
        .as_ref()
        .err()
        .map_or(Code::Ok, |error| error.code.into())
}
