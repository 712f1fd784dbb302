//! The program: doors, shards, and the machine around them.
//!
//! ```text
//!   doors (translate) --> gate --> shard handle --> shard thread --> log thread --> disk
//!        \-------------> search threads       \--> background jobs: seal, merge, checkpoint
//! ```
//!
//! Sockets, threads, clocks and files live here; what is stored and how it is agreed on lives in `loci_index` and
//! `loci_raft`, which know none of these.

pub mod cli;
pub mod clock;
pub mod config;
pub mod doors;
pub mod fatal;
pub mod gate;
pub mod identity;
pub mod log_thread;
pub mod memory;
pub mod metrics;
pub mod run;
pub mod search_threads;
pub mod shard;
pub mod status;
