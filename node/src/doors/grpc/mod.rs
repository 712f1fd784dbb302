//! The native door: gRPC.
//!
//! ```text
//!   unary, scan stream --> records --\
//!   typed values --------> cache -----+
//!   admin calls ---------> admin -----+--> calls, writes (convert; home: which shards; their views) --> status
//!   pipeline ------------> pipeline -/                  '-- far: shards that are on other nodes
//!   semantic cache ------> the same calls as records
//!   watch ---------------> the history of shards
//!   redirect: what is said beside an answer of who leads
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
mod far;
mod home;
mod pipeline;
mod records;
mod redirect;
mod semantic;
mod status;
mod watch;
mod writes;

use std::sync::Arc;

use loci_wire::MESSAGE_BYTES_MAX;
use loci_wire::v1::admin_server::AdminServer;
use loci_wire::v1::cache_server::CacheServer;
use loci_wire::v1::changes_server::ChangesServer;
use loci_wire::v1::records_server::RecordsServer;
use loci_wire::v1::semantic_cache_server::SemanticCacheServer;

pub use admin::{AdminService, figures_here};
pub use cache::CacheService;
pub use calls::Calls;
pub use home::being_made;
pub use records::{RecordsService, deadline};
pub use semantic::SemanticService;
pub use status::Failure;
pub use watch::{WatchService, WatchStream};

use crate::metrics::Metrics;
use crate::status::NodeStatus;

/// The services of the native API, for a tonic server.
pub struct Services {
    /// Records.
    pub records: RecordsServer<RecordsService>,
    /// Typed values.
    pub cache: CacheServer<CacheService>,
    /// Namespaces, collections, the cluster.
    pub admin: AdminServer<AdminService>,
    /// Watches.
    pub changes: ChangesServer<WatchService>,
    /// The semantic cache.
    pub semantic: SemanticCacheServer<SemanticService>,
}

/// All of them, with what messages may have.
pub fn services(calls: Calls, metrics: Arc<Metrics>, status: Arc<NodeStatus>) -> Services {
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    let both = || (calls.clone(), Arc::clone(&metrics));
    let records = {
        let (calls, metrics) = both();
        limited!(RecordsServer, RecordsService { calls, metrics })
    };
    let cache = {
        let (calls, metrics) = both();
        limited!(CacheServer, CacheService { calls, metrics })
    };
    let changes = {
        let (calls, metrics) = both();
        limited!(ChangesServer, WatchService { calls, metrics })
    };
    let semantic = {
        let (calls, metrics) = both();
        limited!(SemanticCacheServer, SemanticService { calls, metrics })
    };
    let admin = limited!(AdminServer, AdminService { calls, metrics, status });
    Services { records, cache, admin, changes, semantic }
}
