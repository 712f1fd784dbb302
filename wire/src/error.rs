//! How an [`ErrorDetail`] travels with a status: as gRPC's richer error model has it, a `google.rpc.Status` in the trailer
//! `grpc-status-details-bin`, so that other languages' libraries can read it too.

use prost::Message;
use prost_types::Any;

use crate::v1::ErrorDetail;

const TYPE_URL: &str = "type.googleapis.com/loci.v1.ErrorDetail";

/// <https://github.com/googleapis/googleapis/blob/master/google/rpc/status.proto>
#[derive(Clone, PartialEq, Message)]
struct RichStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// The bytes that go into a status's details.
pub fn encode_detail(code: i32, message: &str, detail: &ErrorDetail) -> Vec<u8> {
    let detail = Any { type_url: TYPE_URL.into(), value: detail.encode_to_vec() };
    RichStatus { code, message: message.into(), details: vec![detail] }.encode_to_vec()
}

/// What a status's details say, if it is ours.
pub fn decode_detail(details: &[u8]) -> Option<ErrorDetail> {
    let status = RichStatus::decode(details).ok()?;
    let detail = status.details.into_iter().find(|detail| detail.type_url == TYPE_URL)?;
    ErrorDetail::decode(detail.value.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_arrives_as_it_was_sent() {
        let detail = ErrorDetail { reason: "condition_failed".into(), number: 3, version: 9, ..Default::default() };
        assert_eq!(decode_detail(&encode_detail(9, "no", &detail)), Some(detail));
        assert_eq!(decode_detail(b"\xff\xff"), None);
        assert_eq!(decode_detail(b""), None);
    }
}
