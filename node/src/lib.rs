//! The program: doors, shards, and the machine around them.
//!
//! ```text
//!   doors (translate) --> shard handle --> shard thread --> log thread --> disk
//!        \-------------> search threads       \--> background jobs: seal, merge, checkpoint
//! ```
//!
//! Sockets, threads, clocks and files live here; what is stored and how it is agreed on lives in `loci_index` and
//! `loci_raft`, which know none of these.

pub mod clock;
pub mod memory;
pub mod shard;
