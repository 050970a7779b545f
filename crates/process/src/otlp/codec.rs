//! One call of OTLP with a message that is encoded already: a batch is encoded once, however often
//! it is sent. Knows no span.

use bytes::{Buf, BufMut, Bytes};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Bytes of the answer that are looked at: it holds a number and a sentence.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The codec of the call.
#[derive(Clone, Copy, Default)]
pub(super) struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = ExportTraceServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = ExportTraceServiceResponse;
    type Error = Status;

    fn decode(
        &mut self,
        from: &mut DecodeBuf<'_>,
    ) -> Result<Option<ExportTraceServiceResponse>, Status> {
        if from.remaining() > ANSWER_BYTES_MAX {
            return Err(Status::resource_exhausted(
                "the collector's answer is too long",
            ));
        }
        let read = ExportTraceServiceResponse::decode(from);
        read.map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}
