//! In which order things change: one replicated log per shard.
//!
//! ```text
//!   shard 1's thread          shard 2's thread            the log's thread
//!   +---------------+         +---------------+          +----------------------+
//!   | Replica       |         | Replica       |  append  | Log: drain the queue |
//!   | the store     |         | the store     | -------> | append ... append    |
//!   |               |         |               | <------- | one write, one sync  |
//!   +--+---------^--+         +--+---------^--+  synced  +----------+-----------+
//!      v send    | receive       v         |                      Disk
//!    other members of shard 1   other members of shard 2
//! ```
//!
//! A [`Replica`] decides and does nothing; a [`Log`] keeps what all replicas of a node decided; a
//! [`Disk`] is where a machine can fail. There is no clock, no thread, no socket and no chance in here,
//! except numbers that the caller's seed determines: a run of a whole cluster repeats with its seeds.
//!
//! What a change is, this crate does not know. It carries bytes. The exception is who takes part:
//! [`Replica::change_members`] adds learners, promotes, demotes and removes, any number at once, by joint
//! consensus. A new member starts from [`joining`] with nothing, or from [`beginning`] with a copy of
//! another's store, once a leader has added it as a learner. A removed one runs on until its
//! [`Standing::part`] is [`Part::Removed`].
//!
//! # One shard with one member
//!
//! The log's thread takes whatever has queued up, syncs once, and tells everyone. The shard's thread
//! proposes, hands on the effects, and applies what is committed. With more members, the messages in
//! [`Effects::send`] go out at once and those that arrive go to [`Replica::receive`].
//!
//! ```
//! use std::sync::{Arc, mpsc};
//! use std::thread;
//! use loci_raft::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let shard = ShardId(1);
//! let (mut log, recovered) = Log::open(MemoryDisk::new(), LogOptions { file_bytes: 1 << 20, secret: 7 })?;
//! if !recovered.shards.contains_key(&shard) {
//!     let members = Arc::new(Members::voting([MemberId(1)])?);
//!     log.append(&founding(shard, &members))?;
//!     log.sync()?;
//! }
//! let (state, reader) = (log.shard(shard).unwrap(), log.reader(shard).unwrap());
//! // `applied` is what the store holds durably; a new store begins where its shard does.
//! let options = ReplicaOptions { shard, me: MemberId(1), applied: FOUNDING_INDEX, seed: 42 };
//! let mut replica = Replica::restore(options, &state, reader)?;
//!
//! // The log's thread.
//! let (to_log, queue) = mpsc::sync_channel::<(Vec<Append>, Option<SyncMark>)>(64);
//! let (to_shard, synced) = mpsc::channel();
//! let logging = thread::spawn(move || -> Result<(), LogError> {
//!     while let Ok(first) = queue.recv() {
//!         let mut marks = Vec::new();
//!         for (append, mark) in std::iter::once(first).chain(queue.try_iter()) {
//!             log.append(&append)?; // an error here or below: stop the process
//!             marks.extend(mark);
//!         }
//!         if marks.is_empty() {
//!             log.write()?;
//!         } else {
//!             log.sync()?;
//!         }
//!         for mark in marks {
//!             let _ = to_shard.send(mark);
//!         }
//!     }
//!     log.close()
//! });
//!
//! // The shard's thread.
//! let mut store = Vec::new();
//! let mut waiting_for = None;
//! loop {
//!     loop {
//!         let effects = replica.effects()?;
//!         if !effects.append.is_empty() {
//!             to_log.send((effects.append, effects.sync))?;
//!         }
//!         for committed in effects.committed {
//!             store.extend(committed.data);
//!             replica.applied(committed.index);
//!         }
//!         if !effects.more {
//!             break;
//!         }
//!     }
//!     match waiting_for {
//!         None => waiting_for = Some(replica.propose("hello")?), // the only voter leads at once
//!         Some(Proposed { index, .. }) if replica.applied_index() >= index => break,
//!         Some(_) => replica.synced(synced.recv()?),
//!     }
//! }
//! assert_eq!(store, b"hello");
//! drop(to_log);
//! logging.join().unwrap()?;
//! # Ok(())
//! # }
//! ```

mod disk;
mod entry;
mod log;
mod members;
mod message;
mod replica;

mod chance;

pub use disk::{Disk, DiskFile, FileDisk, MemoryDisk};
pub use entry::{Append, Change, ENTRY_BYTES_MAX, Entry, EntryKind, HardState, LogIndex, MemberId, ShardId, Term};
pub use log::{
    Checked, Cut, Log, LogChecker, LogError, LogOptions, LogReader, LogStats, MakingSpare, ReadError, Recovered,
    ShardState, Syncing, VerifiedFile, VerifiedLog,
};
pub use members::{MEMBERS_MAX, MemberChange, Members, MembersError, Part};
pub use message::{MESSAGE_BYTES_MAX, Message, MessageError, MessageKind};
pub use replica::{
    ChangeError, Committed, ELECTION_TICKS, Effects, FOUNDING_INDEX, FOUNDING_TERM, HEARTBEAT_TICKS, JOINING_INDEX,
    MembersChanged, Progress, ProposeError, Proposed, ReadReady, ReadRefused, Replica, ReplicaError, ReplicaOptions,
    RestoreError, Role, SnapshotReceived, Standing, SyncMark, TransferError, beginning, founding, joining,
};
