//! The protobuf codec, with malformed requests as the caller's fault.
//!
//! tonic's own codec answers INTERNAL to a message that can't be decoded, and INTERNAL means a defect
//! of ours. Here it is INVALID_ARGUMENT, with what prost says is wrong: it names the message's field.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

/// Encodes as tonic does, and answers INVALID_ARGUMENT to what can't be decoded.
#[derive(Debug, Clone)]
pub struct StrictCodec<T, U> {
    messages: PhantomData<(T, U)>,
}

/// Decodes `U`.
#[derive(Debug, Clone)]
pub struct StrictDecoder<U> {
    message: PhantomData<U>,
}

impl<T, U> Default for StrictCodec<T, U> {
    fn default() -> Self {
        Self {
            messages: PhantomData,
        }
    }
}

impl<T, U> Codec for StrictCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = StrictDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder {
            message: PhantomData,
        }
    }
}

impl<U: Message + Default> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buf)
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
