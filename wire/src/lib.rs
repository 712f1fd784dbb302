//! The outside formats: what clients and the node say to each other. No logic.
//!
//! The messages are documented where they are defined: in `wire/proto/loci/v1/*.proto`.
//!
//! On the wire an embedding is little-endian f32 in a `bytes` field, which arrives here as [`bytes::Bytes`], not copied and
//! not aligned: read it with `f32::from_le_bytes`, never by casting.
#![forbid(unsafe_code)]

mod codec;
mod error;
mod pipelined;
mod route;
#[path = "../../index/src/table/slot.rs"]
mod slot;
pub mod resp;

pub use error::{decode_detail, encode_detail};
pub use pipelined::{PipelineCodec, PipelineEncoder, PipelinedCall, WrittenCall};
pub use route::{
    About, CATALOG, KNOWN_SHARD_KEY, KNOWN_VERSION_KEY, LEADER_KEY, LEADER_SHARD_KEY, LEADER_TERM_KEY,
    LEADER_VERSION_KEY, insert_known, insert_leader, known, leader,
};
pub use slot::{SLOTS, slot};

/// The native API, version 1.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the proto files hold the documentation"
)]
pub mod v1 {
    tonic::include_proto!("loci.v1");
    include!(concat!(env!("OUT_DIR"), "/servers/loci.v1.rs"));
}

/// The compiled descriptors of the native API, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The largest message, either way, in bytes. Both sides must set it: gRPC libraries refuse more than 4 MiB otherwise.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
