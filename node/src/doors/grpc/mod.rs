//! The native door: gRPC.
//!
//! ```text
//!   unary, scan stream --> records --\
//!   typed values --------> cache -----+
//!   admin calls ---------> admin -----+--> calls, writes (convert; home: which shards; their views) --> status
//!   pipeline ------------> pipeline -/
//!   watch ---------------> the history of shards
//! ```
//!
//! A message is checked once, in [`convert`], by turning it into types that cannot be wrong; names of collections are
//! looked up in the newest view. What can still have changed when the write is applied is checked again there.

mod admin;
mod ask;
mod cache;
mod calls;
mod cluster;
mod convert;
mod cursor;
mod explain;
mod home;
mod pipeline;
mod records;
mod status;
mod watch;
mod writes;

use std::sync::Arc;

use loci_wire::MESSAGE_BYTES_MAX;
use loci_wire::v1::admin_server::AdminServer;
use loci_wire::v1::cache_server::CacheServer;
use loci_wire::v1::changes_server::ChangesServer;
use loci_wire::v1::records_server::RecordsServer;

pub use admin::AdminService;
pub use cache::CacheService;
pub use calls::Calls;
pub use records::{RecordsService, deadline};
pub use status::Failure;
pub use watch::WatchService;

use crate::metrics::Metrics;
use crate::status::NodeStatus;

/// The services of the native API, for a tonic server.
pub fn services(
    calls: Calls,
    metrics: Arc<Metrics>,
    status: Arc<NodeStatus>,
) -> (RecordsServer<RecordsService>, CacheServer<CacheService>, AdminServer<AdminService>, ChangesServer<WatchService>)
{
    let changes = WatchService { calls: calls.clone(), metrics: Arc::clone(&metrics) };
    let records = RecordsService { calls: calls.clone(), metrics: Arc::clone(&metrics) };
    let cache = CacheService { calls: calls.clone(), metrics: Arc::clone(&metrics) };
    let admin = AdminService { calls, metrics, status };
    (
        RecordsServer::new(records)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        CacheServer::new(cache)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        AdminServer::new(admin)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
        ChangesServer::new(changes)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    )
}
