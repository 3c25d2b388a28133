//! A cheap codec, since the client shares the machine with the service: requests are encoded once, and only the verdict
//! of a response is decoded.

use std::{fmt::Write as _, iter, marker::PhantomData, sync::Arc};

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

use super::args::BenchArgs;
use crate::grpc::proto::ReserveRequest;

/// The requests of a run, by number. The organizations take turns.
pub(super) struct Requests {
    /// The encoded request of each organization, without an id.
    encoded: Vec<Vec<u8>>,
    /// The prefix of the ids, unique to the run.
    ids: Option<String>,
}

impl Requests {
    /// `run` is a unique name of this run.
    pub(super) fn new(bench: &BenchArgs, run: String) -> Self {
        let encoded = |org| {
            let request = ReserveRequest {
                org,
                project: "bench".to_owned(),
                model: bench.model.clone(),
                tokens: bench.tokens,
                ..ReserveRequest::default()
            };
            request.encode_to_vec()
        };
        let encoded = match bench.orgs {
            None => iter::once(bench.org.clone()).map(encoded).collect(),
            Some(orgs) => (0..orgs)
                .map(|number| encoded(format!("{}-{number}", bench.org)))
                .collect(),
        };
        let ids = bench.ids.then_some(run);
        Self { encoded, ids }
    }
}

/// Encodes requests by number, and decodes responses as `A`.
pub(super) struct RequestCodec<A> {
    requests: Arc<Requests>,
    answers: PhantomData<A>,
}

impl<A> RequestCodec<A> {
    pub(super) fn new(requests: Arc<Requests>) -> Self {
        let answers = PhantomData;
        Self { requests, answers }
    }
}

impl<A: Message + Default + Send + 'static> Codec for RequestCodec<A> {
    type Encode = u64;
    type Decode = A;
    type Encoder = NumberEncoder;
    type Decoder = ProstDecoder<A>;

    fn encoder(&mut self) -> NumberEncoder {
        NumberEncoder {
            requests: Arc::clone(&self.requests),
            id: ReserveRequest::default(),
        }
    }

    fn decoder(&mut self) -> ProstDecoder<A> {
        ProstDecoder::default()
    }
}

/// Encodes a request by its number.
pub(super) struct NumberEncoder {
    requests: Arc<Requests>,
    /// A request with only an id; kept to reuse its buffer.
    id: ReserveRequest,
}

impl Encoder for NumberEncoder {
    type Item = u64;
    type Error = Status;

    fn encode(&mut self, number: u64, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;

        let Requests { encoded, ids } = &*self.requests;
        buffer.put_slice(&encoded[(number % encoded.len() as u64) as usize]);
        if let Some(run) = ids {
            let id = &mut self.id.request_id;
            id.clear();
            write!(id, "{run}-{number}").expect("a String takes what is written");
            // Concatenated protobuf messages merge.
            let encoded = self.id.encode(buffer);
            encoded.map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(())
    }
}

/// The part of a `ReserveResponse` that is counted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct PartialResponse {
    #[prost(int32, tag = "1")]
    pub(super) verdict: i32,
    #[prost(int32, tag = "2")]
    pub(super) billed_reason: i32,
}

/// The part of a `ReserveStreamResponse` that is counted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct PartialStreamResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) reserved: Option<PartialResponse>,
    #[prost(message, optional, tag = "2")]
    pub(super) error: Option<PartialError>,
}

/// The part of an `ItemError` that is counted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct PartialError {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::grpc::proto::{
        ItemError, ReserveResponse, ReserveStreamResponse, reserve_stream_response,
    };

    #[test]
    fn the_decoded_part_of_an_answer_equals_the_answers() {
        let reserved = ReserveResponse {
            verdict: 2,
            billed_reason: 10,
            pool: "large".to_owned(),
            used: 7,
            ..ReserveResponse::default()
        };
        let answer = PartialResponse::decode(reserved.encode_to_vec().as_slice()).unwrap();
        assert_eq!((answer.verdict, answer.billed_reason), (2, 10));
        let error = ItemError {
            code: 3,
            message: "org: is empty".to_owned(),
        };
        let read = |answer| {
            let answer = Some(answer);
            let encoded = ReserveStreamResponse { answer }.encode_to_vec();
            PartialStreamResponse::decode(encoded.as_slice()).unwrap()
        };
        let decided = read(reserve_stream_response::Answer::Reserved(reserved));
        assert_eq!((decided.reserved, decided.error), (Some(answer), None));
        let failed = read(reserve_stream_response::Answer::Error(error));
        assert_eq!(
            (failed.reserved, failed.error),
            (None, Some(PartialError { code: 3 }))
        );
    }
}
