//! Calls on a pipeline as clients send them. A call is written out once, where it is made, and goes to the stream as bytes: so
//! neither its way there nor another attempt copies what is in it.
//!
//! ```text
//!   PipelineRequest:  | id | timeout | known | traceparent | the call, as it was written out |
//! ```

use bytes::{BufMut, Bytes};
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder};

use crate::v1::{KnownRoute, PipelineReply, PipelineRequest, pipeline_request::Call};

/// A call as it lies in a [`PipelineRequest`].
#[derive(Debug, Clone)]
pub struct WrittenCall(Bytes);

impl WrittenCall {
    /// Writes a call out.
    pub fn new(call: &Call) -> WrittenCall {
        let mut bytes = Vec::with_capacity(call.encoded_len());
        call.encode(&mut bytes);
        WrittenCall(bytes.into())
    }

    /// How many bytes of a message it takes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// A [`PipelineRequest`] whose call is written out.
#[derive(Debug, Clone)]
pub struct PipelinedCall {
    /// Chosen by the client; the reply has the same.
    pub id: u64,
    /// The call's work stops after so long; zero: the server's default.
    pub timeout_millis: u32,
    /// What is asked for.
    pub call: WrittenCall,
    /// By which map the client chose the node, if it did.
    pub known: Option<KnownRoute>,
    /// The trace that the call is part of; may be empty.
    pub traceparent: String,
}

impl PipelinedCall {
    /// Appends the message.
    fn encode(self, to: &mut impl BufMut) {
        let PipelinedCall { id, timeout_millis, call, known, traceparent } = self;
        let rest = PipelineRequest { id, timeout_millis, call: None, known, traceparent };
        rest.encode_raw(to);
        to.put(call.0);
    }
}

/// Of a client's pipeline.
#[derive(Debug, Clone, Copy, Default)]
pub struct PipelineCodec;

impl Codec for PipelineCodec {
    type Encode = PipelinedCall;
    type Decode = PipelineReply;
    type Encoder = PipelineEncoder;
    type Decoder = ProstDecoder<PipelineReply>;

    fn encoder(&mut self) -> PipelineEncoder {
        PipelineEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<PipelineReply> {
        ProstCodec::<PipelineRequest, PipelineReply>::default().decoder()
    }
}

/// Writes the messages of a client's pipeline.
#[derive(Debug, Clone, Copy)]
pub struct PipelineEncoder;

impl Encoder for PipelineEncoder {
    type Item = PipelinedCall;
    type Error = Status;

    fn encode(&mut self, call: PipelinedCall, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        call.encode(to);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn what_is_sent_is_read_as_the_message_that_it_is() {
        let put = v1::PutRequest {
            records: vec![v1::Record { key: "a".into(), ..Default::default() }],
            ..Default::default()
        };
        let get = v1::GetRequest { keys: vec!["a".into(), vec![b'b'; 300].into()], ..Default::default() };
        let known = Some(KnownRoute { version: 1 << 40, shard: 3 });
        for (call, known, traceparent) in [
            (Call::Put(Box::new(put)), None, ""),
            (Call::Get(Box::new(get)), known, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ] {
            let traceparent = traceparent.to_owned();
            let written = WrittenCall::new(&call);
            let whole = PipelineRequest { id: 7, timeout_millis: 300, call: Some(call), known, traceparent };
            let PipelineRequest { id, timeout_millis, traceparent, .. } = whole.clone();
            let mut sent = Vec::new();
            PipelinedCall { id, timeout_millis, call: written, known, traceparent }.encode(&mut sent);
            assert_eq!(sent.len(), whole.encoded_len());
            assert_eq!(PipelineRequest::decode(&sent[..]).unwrap(), whole);
        }
    }
}
