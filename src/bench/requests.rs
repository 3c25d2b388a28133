//! A cheap codec, since the client shares the machine with the service: requests are encoded once, and only the verdict
//! of a response is decoded, or its error.

use std::{marker::PhantomData, sync::Arc};

use prost::{Message, bytes::BufMut as _};
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::ProstDecoder;

use super::args::BenchArgs;
use crate::grpc::proto::{ItemError, ReserveRequest};

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
            None => vec![encoded(bench.org.clone())],
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
    pub(super) requests: Arc<Requests>,
    pub(super) answers: PhantomData<A>,
}

impl<A: Message + Default + Send + 'static> Codec for RequestCodec<A> {
    type Encode = u64;
    type Decode = A;
    type Encoder = NumberEncoder;
    type Decoder = ProstDecoder<A>;

    fn encoder(&mut self) -> NumberEncoder {
        NumberEncoder(Arc::clone(&self.requests))
    }

    fn decoder(&mut self) -> ProstDecoder<A> {
        ProstDecoder::default()
    }
}

/// Encodes a request by its number.
pub(super) struct NumberEncoder(Arc<Requests>);

impl Encoder for NumberEncoder {
    type Item = u64;
    type Error = Status;

    fn encode(&mut self, number: u64, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let Requests { encoded, ids } = &*self.0;
        buffer.put_slice(&encoded[(number % encoded.len() as u64) as usize]);
        if let Some(run) = ids {
            let id = ReserveRequest {
                request_id: format!("{run}-{number}"),
                ..ReserveRequest::default()
            };
            // Concatenated protobuf messages merge.
            buffer.put_slice(&id.encode_to_vec());
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
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialStreamResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) reserved: Option<PartialResponse>,
    #[prost(message, optional, tag = "2")]
    pub(super) error: Option<ItemError>,
}
