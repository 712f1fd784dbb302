//! The program: doors, shards, and the machine around them.
//!
//! ```text
//!   doors (translate) --> gate --> cluster (who leads?) --> shard handle --> shard thread --> log thread --> disk
//!        \-------------> search threads       \--> background jobs: seal, merge, checkpoint
//! ```
//!
//! Sockets, threads, clocks and files live here; what is stored and how it is agreed on lives in `loci_index` and
//! `loci_raft`, which know none of these.

pub mod config;
pub mod config_file;
pub mod run;

pub mod incoming;
pub mod doors;
pub mod gate;

pub mod shard;
pub mod cluster;
pub mod router;
pub mod shards;
pub mod hosting;

pub mod log_thread;
pub mod search_threads;
pub mod idle;
pub mod scrub;

pub mod clock;
pub mod cpu_time;
pub mod identity;
pub mod memory;
pub mod residency;

pub mod fatal;
pub mod metrics;
pub mod status;
pub mod trace;
pub mod watches;

pub mod cli;

#[cfg(test)]
mod trial;
