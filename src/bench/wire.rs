//! What goes over the wire, at as little cost as can be: the client shares the machine with what it
//! measures.
//!
//! The parts of a request that repeat are encoded once, and an answer is read no further than its
//! verdict.

use std::{fmt::Write as _, iter, marker::PhantomData, sync::Arc};

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

use super::Bench;
use crate::grpc::proto::ReserveRequest;

/// All requests of a run, by their numbers: one after the other, round the organizations.
pub(super) struct Requests {
    /// For each organization its request, encoded, without an id.
    encoded: Vec<Vec<u8>>,
    /// The first part of the ids: another one in each run.
    ids: Option<String>,
}

impl Requests {
    /// `run` is a name that no other run has.
    pub(super) fn new(bench: &Bench, run: String) -> Self {
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

/// Sends requests by their numbers, and reads of the answers what `A` has of them.
pub(super) struct Wire<A> {
    requests: Arc<Requests>,
    answers: PhantomData<A>,
}

impl<A> Wire<A> {
    pub(super) fn new(requests: Arc<Requests>) -> Self {
        let answers = PhantomData;
        Self { requests, answers }
    }
}

impl<A: Message + Default + Send + 'static> Codec for Wire<A> {
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

/// Encodes the request that has a number.
pub(super) struct NumberEncoder {
    requests: Arc<Requests>,
    /// A request that has an id and nothing else; kept because its text is reused.
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
            // Two protobuf messages behind each other are one that has the fields of both.
            let encoded = self.id.encode(buffer);
            encoded.map_err(|error| Status::internal(error.to_string()))?;
        }
        Ok(())
    }
}

/// A `ReserveResponse`, as far as it is counted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Answer {
    #[prost(int32, tag = "1")]
    pub(super) verdict: i32,
    #[prost(int32, tag = "2")]
    pub(super) billed_reason: i32,
}

/// A `ReserveStreamResponse`, as far as it is counted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct StreamAnswer {
    #[prost(message, optional, tag = "1")]
    pub(super) reserved: Option<Answer>,
    #[prost(message, optional, tag = "2")]
    pub(super) error: Option<Fault>,
}

/// An `ItemError`, as far as it is counted.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Fault {
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
    fn what_is_read_of_an_answer_is_what_it_says() {
        let reserved = ReserveResponse {
            verdict: 2,
            billed_reason: 10,
            pool: "large".to_owned(),
            used: 7,
            ..ReserveResponse::default()
        };
        let answer = Answer::decode(reserved.encode_to_vec().as_slice()).unwrap();
        assert_eq!((answer.verdict, answer.billed_reason), (2, 10));
        let error = ItemError {
            code: 3,
            message: "org: is empty".to_owned(),
        };
        let read = |answer| {
            let answer = Some(answer);
            let encoded = ReserveStreamResponse { answer }.encode_to_vec();
            StreamAnswer::decode(encoded.as_slice()).unwrap()
        };
        let decided = read(reserve_stream_response::Answer::Reserved(reserved));
        assert_eq!((decided.reserved, decided.error), (Some(answer), None));
        let failed = read(reserve_stream_response::Answer::Error(error));
        assert_eq!(
            (failed.reserved, failed.error),
            (None, Some(Fault { code: 3 }))
        );
    }
}
