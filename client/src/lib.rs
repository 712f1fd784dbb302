//! The client of loci: one connection pool, safe retries, pipelining.
//!
//! ```no_run
//! # async fn example() -> Result<(), loci_client::Error> {
//! use std::time::Duration;
//! use loci_client::{Client, Metric, Record, Schema, attribute};
//!
//! let client = Client::connect("127.0.0.1:7700").await?;
//! let notes = client.collection("default", "notes");
//! notes.ensure(Schema::default().with_embedding("text", 3, Metric::Cosine)).await?;
//!
//! notes.put(
//!     Record::new("n1")
//!         .with_value("the first note")
//!         .with_attribute("kind", "note")
//!         .with_embedding([0.1, 0.7, 0.2])
//!         .expires_in(Duration::from_secs(3600)),
//! ).await?;
//!
//! for hit in notes.search([0.1, 0.6, 0.3]).k(5).filter(attribute("kind").equals("note")).hits().await? {
//!     println!("{:.3}  {}", hit.distance, hit.record.text().unwrap_or("-"));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Typed values, as clients of Redis know them, are beside the records of a collection: [`Collection::cache`].
//!
//! A [`Client`] has a few connections that its clones share. A [`Collection`] makes calls, each on its own; one made from
//! a [`Pipeline`] makes the same calls on one stream to each node that they go to, which is much cheaper when there are many. An [`Ingest`] writes many
//! records with bounded memory.
//!
//! A call that fails for a reason that may pass is tried again within its time, writes too: all attempts of a write carry
//! one request id, by which the node knows a repetition.
//!
//! # With a cluster
//!
//! Give [`Builder::address`] one address or several. Any node takes any call, and the client asks the one that answers without
//! a detour:
//!
//! | | |
//! |---|---|
//! | leader | replies of other nodes say who leads what the call was about, and where it is reached. Of a namespace with several shards the map is asked for then: which keys are in which shard. Writes and reads at [`Consistency::Latest`] whose keys are all in one shard go to its leader, other reads by key to a node that has it, everything else to each node in turn. An old map costs a detour; its next reply says that there is a newer one. A node that was not given is asked once it has answered a probe. [`Builder::follow_leader`] turns it off |
//! | connections | made to all addresses at once and kept; one that was closed is noticed at once. A node of which nothing is heard while a call waits is asked for a sign of life after half a second, and left for another, if there is one, after another half |
//! | circuit breaker | a node that does not answer is left out for 0.1 s, then twice as long each time up to 5 s, less up to half by chance, while it is probed in the background; one that stops says so and is left out as well |
//! | retry budget | retries and hedges are at most a tenth of the calls of the last ten seconds or so, and 30 a second besides ([`Builder::retry_share`], [`Builder::retry_floor`]); beyond that a failure is returned at once. An attempt that reached nobody is no load and not counted |
//! | hedged reads | [`Collection::with_hedge`]: a read at [`Consistency::Stale`] that takes longer than most asks a second node, the first answer counts and the other question is taken back |
//! | deadlines | each attempt tells the node what is left of the call's time, and the node stops working on it then |
//!
//! [`Client::figures`] says how often each of these was needed.
#![forbid(unsafe_code)]

mod admin;
mod batch;
mod breaker;
mod cache;
mod client;
mod cluster;
mod collection;
mod error;
mod explain;
mod filter;
mod hedge;
mod ingest;
mod nodes;
mod pipeline;
mod query;
mod record;
mod retry;
mod routes;
mod scan;
mod search;
mod semantic;
mod silence;
mod watch;
mod wish;

pub use admin::{
    Alteration, Changed, Codes, CollectionStats, Description, Durability, EmbeddingSpec, EvictionPolicy, Index,
    IndexKind, Language, Metric, NamespaceDescription, NodeStats, Schema, ShardStats, Storage, TextSpec,
};
pub use batch::{Batch, Removals};
pub use cache::{Cache, CacheReply, Commands, Executed, Lease};
pub use client::{Builder, Client, ClientFigures};
pub use cluster::{ClusterDescription, MemberDescription, MemberProgress, ShardDescription};
pub use collection::{Collection, Condition, Consistency, Deleted, PutMode, PutOptions, Token, Written};
pub use error::Error;
pub use explain::{Cover, Explanation, Step, Way};
pub use filter::{Attribute, Filter, attribute};
pub use hedge::Hedge;
pub use ingest::{Ingest, IngestLimits, Refused};
pub use pipeline::Pipeline;
pub use query::{Fusion, Query, Recommend};
pub use record::{Deadline, Embedding, Parts, Record, SparseEmbedding, Value};
pub use scan::{Page, Scan};
pub use search::{Decay, Diversity, Found, Hit, MissingShard, Search};
pub use semantic::{Answer, Dropped, Entry, Kept, Nearest, Partition, SemanticCache};
pub use watch::{Watch, WatchEvent, WatchKind};
