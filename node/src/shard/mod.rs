//! A shard: one Raft group and its store, with one owner, which a thread drives. Everybody else holds a [`ShardHandle`], and may take
//! a turn where that spares waking the thread ([`seat`]).
//!
//! ```text
//!   doors --write--> queue (bounded by count and bytes; full: come back later)
//!                      |
//!                 shard thread: all that is queued -> one entry -> Replica::step --append--> log thread
//!                      ^                                                                        |
//!                      '------------------------------- synced ---------------------------------'
//!                 committed -> Store::apply -> view published -> every waiter gets its outcome
//!
//!   doors --view---> an `Arc<View>`: no lock, no await from here
//! ```
//!
//! Always:
//! - A write is answered after its entry is synced by a majority and applied here, and after the view that shows it is
//!   published. While this member holds the lease nobody else can answer writes, so its published view is as new as any
//!   read can ask once it shows everything that this member knows to be committed; otherwise `latest` asks the leader, once
//!   for all reads that wait, and waits until that much is applied.
//! - Nothing waits without a bound: a full queue, a full memory and a full disk are answered at once.
//! - A caller that has gone, or whose deadline has passed while its write was still queued, is never logged.

mod damage;
mod events;
mod handle;
mod history;
mod inbox;
mod jobs;
mod owner;
mod queue;
mod room;
mod seat;

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use loci_index::command::Outcome;
use loci_index::directory::Directory;
use loci_index::store::{Done, Job, Store};
use loci_raft::{MemberChange, MemberId, Message, Replica, TransferError};
use tokio::sync::oneshot;

pub use damage::{Damage, FoundBy};
pub use events::{Ear, Happened, Told, Wants};
pub use handle::{BegunWrite, ShardHandle};
pub use history::{History, Lost, Piece};
pub use owner::{Fetch, Fetching, GATHERING, Owner, OwnerOptions};
pub use queue::{QUEUE_BYTES_MAX, QUEUE_WRITES_MAX, WRITE_BYTES_MAX};
pub use room::{Siblings, Terms};
pub use seat::TurnBy;

use crate::clock::Clock;
use crate::cluster::snapshot::Stand;
use crate::fatal;
use crate::log_thread::{Listener, LogHandle, Report};
use crate::memory::Budget;

/// A write that took effect, or was refused by a rule of the store: either way it is in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// What became of the command.
    pub outcome: Outcome,
    /// The index of the entry that carries it: the token's.
    pub index: u64,
}

/// How new a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// As new as every write answered before the read began.
    #[default]
    Latest,
    /// At least as new as this entry.
    AtLeast(u64),
    /// Whatever this member has.
    Stale,
}

/// Why a write was not answered with an outcome. Unless a variant says otherwise, nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The queue is full.
    #[error("too many writes are waiting; retry after {} ms", retry_after.as_millis())]
    Overloaded {
        /// When there will probably be room.
        retry_after: Duration,
    },
    /// The disk under the log has no room.
    #[error(
        "the disk under {path} is full: free {needed_bytes} bytes or more; reads go on, writes resume by themselves"
    )]
    DiskFull {
        /// The log's directory.
        path: String,
        /// What the log needs to go on.
        needed_bytes: u64,
    },
    /// The node's memory budget is used up. Deletions still work.
    #[error(
        "records take {used_bytes} bytes of memory, the budget is {budget_bytes}: delete some, or raise --memory-mib"
    )]
    MemoryFull {
        /// What is used.
        used_bytes: u64,
        /// What may be used.
        budget_bytes: u64,
    },
    /// It would make something larger that is over its budget, and nothing there may make room.
    #[error(
        "collection {collection:?} of namespace {namespace:?} has used up its eviction budget, or that of its namespace, and its \
         policy evicts nothing; remove something, or `loci collection alter` its --eviction-budget or --eviction-policy"
    )]
    NoRoom {
        /// Whose.
        namespace: String,
        /// What would be larger.
        collection: String,
    },
    /// One write is larger than an entry may be.
    #[error("the write takes {bytes} bytes in the log, more than {max}: split it")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The most there may be.
        max: usize,
    },
    /// Another member leads the shard, or none does just now.
    #[error("no node that a majority of the voters follows leads shard {shard} just now; nothing changed, retry")]
    NotLeader {
        /// The shard.
        shard: u32,
    },
    /// The write was on its way when this member ceased to lead: whether it took effect is unknown.
    #[error(
        "shard {shard} got another leader before the write was confirmed; it may have taken effect: retry with the same \
         request id"
    )]
    Unconfirmed {
        /// The shard.
        shard: u32,
    },
    /// It was asked for before, and whether it was carried out then is known no more.
    #[error(
        "whether the write took effect when it was asked for before is known no more: so many came since that its outcome was let \
         go; read before you write again"
    )]
    Forgotten,
    /// The deadline passed before the write was logged.
    #[error("the deadline passed before the write was begun; nothing changed")]
    Expired,
    /// The deadline passed while the write was being logged: whether it took effect is unknown.
    #[error(
        "the deadline passed before the write was confirmed; it may have taken effect: retry with the same request id"
    )]
    DeadlineExceeded,
    /// The node has not yet read its log.
    #[error("the node is still reading its log; retry shortly")]
    NotReady,
    /// The node's member was removed from the cluster.
    #[error("this node was removed from the cluster: ask another of its nodes")]
    Removed,
    /// The node is stopping. If the write was already on its way its outcome is unknown.
    #[error("the node is stopping; retry with the same request id on its successor")]
    Stopping,
}

/// Why a read got no view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The deadline passed before the view was new enough.
    #[error("the deadline passed before the node was as new as asked: it has applied entry {applied}")]
    DeadlineExceeded {
        /// What is applied.
        applied: u64,
    },
    /// The view did not become as new as the token within the longest wait there is.
    #[error("the token stands at entry {wanted}, this node has applied only {applied}: is it a token of this node?")]
    Behind {
        /// The token's index.
        wanted: u64,
        /// What is applied.
        applied: u64,
    },
    /// Nobody said in time how new the answer must be: no leader can be reached, or none has a majority.
    #[error("shard {shard} has no leader that a majority follows; retry, or read `stale`")]
    Unconfirmed {
        /// The shard.
        shard: u32,
    },
    /// A file of its store is damaged, and other members have what was in it.
    #[error("a file of shard {shard} is damaged on this node, which fetches it from another: ask that one; retry")]
    Damaged {
        /// The shard.
        shard: u32,
    },
    /// The node has not yet read its log.
    #[error("the node is still reading its log; retry shortly")]
    NotReady,
    /// The node's member was removed from the cluster.
    #[error("this node was removed from the cluster: ask another of its nodes")]
    Removed,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Why the members stay as they are, or nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Only the member that leads can do it.
    #[error("this node does not lead the shard, or no longer; look at the members and retry")]
    NotLeader,
    /// One change at a time.
    #[error("another change is under way; retry shortly")]
    Busy,
    /// It cannot be done at all.
    #[error("{0}")]
    Refused(String),
    /// It was begun, and not done in time.
    #[error("the deadline passed before the change took effect; look at the members")]
    DeadlineExceeded,
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl From<TransferError> for ChangeError {
    fn from(error: TransferError) -> ChangeError {
        match error {
            TransferError::NotLeader { .. } => ChangeError::NotLeader,
            error => ChangeError::Refused(error.to_string()),
        }
    }
}

impl From<loci_raft::ChangeError> for ChangeError {
    fn from(error: loci_raft::ChangeError) -> ChangeError {
        use loci_raft::ChangeError as Raft;
        match error {
            Raft::NotLeader { .. } | Raft::Transferring => ChangeError::NotLeader,
            Raft::TooNew | Raft::UnderWay => ChangeError::Busy,
            Raft::Impossible(_) | Raft::NotCaughtUp { .. } | Raft::NoQuorum { .. } => {
                ChangeError::Refused(error.to_string())
            }
        }
    }
}

/// What the leader knows of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberProgress {
    /// Which.
    pub member: MemberId,
    /// Up to which entry its log agrees with the leader's.
    pub matched: u64,
    /// Whether it was heard of lately.
    pub active: bool,
    /// Whether it waits for a snapshot.
    pub snapshot: bool,
}

/// What the state was after an entry: the same on all members, or one of them is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// The entry.
    pub index: u64,
    /// Of all records and the catalog.
    pub digest: [u8; 32],
    /// Of all entries.
    pub chain_head: [u8; 32],
}

/// Opens the shard's store anew.
pub type StoreOpener = Arc<dyn Fn() -> Result<Store, String> + Send + Sync>;

/// A snapshot whose files are here.
pub struct Install {
    /// The leader's message that it is about.
    pub message: Message,
    /// Where the state stands.
    pub stand: Stand,
    /// Puts the files in their place and opens them.
    pub open: Box<dyn FnOnce() -> Result<Store, String> + Send>,
}

/// How a shard is doing, besides what its view tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardStatus {
    /// Which shard.
    pub shard: u32,
    /// Whether it answers.
    pub ready: bool,
    /// "leader", "follower" or "candidate".
    pub role: &'static str,
    /// The raft term.
    pub term: u64,
    /// The last applied entry.
    pub applied: u64,
    /// The last entry that this member knows to be committed.
    pub committed: u64,
    /// Elections that this member began since the start.
    pub elections: u64,
    /// How often another member led than before, since the start.
    pub leader_changes: u64,
    /// The entry up to which the log is no longer needed.
    pub checkpoint: u64,
    /// The log begins after this entry; a moment old.
    pub log_start: u64,
    /// When the last checkpoint was finished, milliseconds since 1970; zero: none since the start.
    pub checkpoint_at_millis: u64,
    /// Checkpoints since the start.
    pub checkpoints: u64,
    /// Merges of segments since the start.
    pub merges: u64,
    /// Checkpoints and merges that failed since the start, and were tried again.
    pub jobs_failed: u64,
    /// Writes waiting to be answered.
    pub queued: u64,
    /// Their bytes.
    pub queued_bytes: u64,
}

/// The owner cannot go on without risking what it was trusted with: the process must stop, and say this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

/// Where messages for other members go. They may be lost, late and doubled. Must not wait.
pub type Outbox = Box<dyn FnMut(Message) + Send>;

/// What the owner is told.
pub enum Event {
    /// There are writes in the inbox, and were none; or now there are enough for an entry.
    Writes,
    /// A write for which there is no memory, unless it was carried out before.
    Short {
        /// The write.
        write: Box<queue::Waiting>,
        /// What is said then.
        error: WriteError,
    },
    /// A read waits until the view is as new as every write answered by now.
    Read(owner::Reader),
    /// Another member says something.
    Peer(Message),
    /// Messages to a member do not get there.
    Unreachable(MemberId),
    /// The log thread did something.
    Log(Report),
    /// A checkpoint or merge has ended.
    JobDone(Done),
    /// Others are to take part.
    Change {
        /// What changes.
        changes: Vec<MemberChange>,
        /// Told once it is so.
        reply: oneshot::Sender<Result<(), ChangeError>>,
    },
    /// Another member is to lead.
    Transfer {
        /// Which.
        to: MemberId,
        /// Told once it was asked to.
        reply: oneshot::Sender<Result<(), ChangeError>>,
    },
    /// Somebody wants to know of a checkpoint that holds the state as it is now or later.
    Checkpoint(oneshot::Sender<Stand>),
    /// A member comes for the files of a snapshot, or goes.
    Fetch {
        /// Which.
        member: MemberId,
        /// What it does.
        what: Fetch,
    },
    /// A snapshot's files are here.
    Install {
        /// What to take in.
        install: Box<Install>,
        /// Told once it is.
        done: oneshot::Sender<()>,
    },
    /// A merge ended in a panic, and nothing comes of it.
    MergeLost,
    /// A file of the store is not what was written.
    DamageFound(Damage),
    /// A file that was found damaged is what was written after all.
    DamageRefuted(String),
    /// A segment's graphs are to be built anew.
    Relink(u64),
    /// Somebody began to listen, or to more.
    Listens,
    /// The node is stopping.
    Stop,
}

/// Where a shard hears from the log and from other members, made before it exists.
pub struct Mailbox {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Default for Mailbox {
    fn default() -> Mailbox {
        Mailbox::new()
    }
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Mailbox {
        let (sender, receiver) = channel();
        Mailbox { sender, receiver }
    }

    /// For the log thread.
    pub fn listener(&self) -> Listener {
        let sender = self.sender.clone();
        // A shard that has ended needs to hear nothing.
        Box::new(move |report| drop(sender.send(Event::Log(report))))
    }
}

/// What a shard begins with.
pub struct Beginning {
    /// Which shard.
    pub id: u32,
    /// Its part in the agreement.
    pub replica: Replica,
    /// Its state.
    pub store: Store,
    /// Its way to the log.
    pub log: LogHandle,
    /// What the node may use.
    pub budget: Arc<Budget>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Where messages for other members go.
    pub outbox: Outbox,
    /// Numbers.
    pub options: OwnerOptions,
    /// Where the history of changes is kept, if anywhere.
    pub history: Option<PathBuf>,
}

/// A shard without threads: whoever holds it takes events from `events` to the owner and gives it turns, and runs the jobs.
pub struct Driven {
    /// For those who write and read.
    pub handle: ShardHandle,
    /// The owner.
    pub owner: Owner,
    /// What the owner is to be told.
    pub events: Receiver<Event>,
    /// What is to be run; what comes of it is an [`Event::JobDone`].
    pub jobs: Receiver<Job>,
}

impl Driven {
    /// Makes a shard that waits for its first turn.
    pub fn new(mailbox: Mailbox, beginning: Beginning) -> Driven {
        let (jobs, queue) = jobs::Jobs::driven();
        let (handle, owner, events) = make(mailbox, beginning, jobs);
        Driven { handle, owner, events, jobs: queue }
    }
}

fn make(mailbox: Mailbox, beginning: Beginning, jobs: jobs::Jobs) -> (ShardHandle, Owner, Receiver<Event>) {
    let Mailbox { sender, receiver } = mailbox;
    let Beginning { id, replica, store, log, budget, clock, outbox, options, history } = beginning;
    let history = History::open(store.applied(), options.history_bytes, history);
    let shared = Arc::new(handle::Shared::new(id, replica.me(), sender, &store, budget, clock, history));
    options.siblings.add(id, store.views());
    let parts = owner::Parts { shared: shared.clone(), options, replica, store, log, jobs, outbox };
    (ShardHandle(shared), Owner::new(parts), receiver)
}

/// A running shard.
pub struct Shard {
    handle: ShardHandle,
    thread: JoinHandle<()>,
}

impl Shard {
    /// Starts the shard's threads. Jobs write to `directory`, which is the store's.
    pub fn start(mailbox: Mailbox, beginning: Beginning, directory: Arc<dyn Directory>) -> std::io::Result<Shard> {
        let jobs = jobs::Jobs::start(&directory, &mailbox.sender, &beginning.budget, beginning.log.syncer())?;
        let (handle, owner, events) = make(mailbox, beginning, jobs);
        let seated = Arc::new(Mutex::new(Some(owner)));
        handle.0.seat.open(&seated);
        let driven = handle.clone();
        let thread = std::thread::Builder::new().name(format!("loci-shard-{}", handle.id())).spawn(move || {
            if let Err(Fatal(reason)) = fatal::guard("shard", || seat::run(&driven, &seated, &events)) {
                fatal::stop(&reason);
            }
        })?;
        Ok(Shard { handle, thread })
    }

    /// For the doors.
    pub fn handle(&self) -> ShardHandle {
        self.handle.clone()
    }

    /// Answers what waits, makes a last checkpoint and ends the threads; takes seconds at the most.
    pub fn stop(self) {
        // If it has ended already, so much the better.
        let _ = self.handle.0.events.send(Event::Stop);
        // A panic in it has stopped the process.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_alone;
#[cfg(test)]
mod tests_seat;
