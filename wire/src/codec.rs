//! How servers read requests and write replies.
//!
//! As tonic's own codec, except for a request that is no message of its call: that is a mistake of whoever sent it, so it is
//! told as one, with a reason for programs. (tonic calls it an internal error, which clients take for a broken node.)

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::{Code, Status};
use tonic_prost::{ProstCodec, ProstEncoder};

use crate::encode_detail;
use crate::v1::ErrorDetail;

/// Of one call: replies of type `Reply`, requests of type `Request`.
#[derive(Debug, Clone)]
pub struct RequestCodec<Reply, Request>(PhantomData<(Reply, Request)>);

impl<Reply, Request> Default for RequestCodec<Reply, Request> {
    fn default() -> Self {
        RequestCodec(PhantomData)
    }
}

impl<Reply, Request> Codec for RequestCodec<Reply, Request>
where
    Reply: Message + Send + 'static,
    Request: Message + Default + Send + 'static,
{
    type Encode = Reply;
    type Decode = Request;
    type Encoder = ProstEncoder<Reply>;
    type Decoder = RequestDecoder<Request>;

    fn encoder(&mut self) -> ProstEncoder<Reply> {
        ProstCodec::<Reply, Request>::default().encoder()
    }

    fn decoder(&mut self) -> RequestDecoder<Request> {
        RequestDecoder(PhantomData)
    }
}

/// Reads requests.
#[derive(Debug, Clone)]
pub struct RequestDecoder<Request>(PhantomData<Request>);

impl<Request: Message + Default> Decoder for RequestDecoder<Request> {
    type Item = Request;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Request>, Status> {
        Request::decode(buffer).map(Some).map_err(|error| no_message(&error))
    }
}

fn no_message(error: &prost::DecodeError) -> Status {
    let message = format!("the request is no message of this call as loci.v1 defines it: {error}");
    let detail = ErrorDetail { reason: "invalid_message".into(), ..ErrorDetail::default() };
    let details = encode_detail(Code::InvalidArgument as i32, &message, &detail);
    Status::with_details(Code::InvalidArgument, message, details.into())
}
