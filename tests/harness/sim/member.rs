//! A machine's part in one shard: what of it outlives a process, and what runs of it.
//!
//! ```text
//!   Member:  where the store lies, the log's entries as they were handed over    stays
//!   Running: the shard's real owner, its messages and calls                       gone with each process
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use loci_index::directory::Directory;
use loci_index::store::{MANIFEST_FILE, Store, StoreError, checkpoint_files};
use loci_node::clock::Clock;
use loci_node::cluster::snapshot::Stand;
use loci_node::log_thread::LogHandle;
use loci_node::memory::Budget;
use loci_node::shard::{Beginning, Driven, Mailbox, OwnerOptions};
use loci_raft::{
    Append, Change, Entry, FOUNDING_INDEX, JOINING_INDEX, LogError, LogIndex, MemberId, Members, Message, ReadError,
    Replica, ReplicaOptions, ShardId, ShardState, Standing, beginning, founding, joining,
};

use super::Nanos;
use super::clients::Call;
use super::machine::{Build, DIGEST_KEY};
use super::place::Place;
use super::planted::Planted;
use super::promises::PromisingLog;
use crate::chance::Chance;

/// Which machine's part in which shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// The machine.
    pub at: usize,
    /// The shard.
    pub shard: usize,
}

/// The number of the shard in this place.
pub fn shard_id(shard: usize) -> ShardId {
    ShardId(shard as u32 + 1)
}

/// Whether the log knows of a snapshot that the store took in.
fn has(state: &ShardState, stand: &Stand) -> bool {
    stand.index <= state.start || state.term_of(stand.index) == Some(stand.term)
}

/// Why a process does not start.
#[derive(Debug)]
pub enum StartError {
    /// The log cannot be opened, or not be appended to.
    Log(LogError),
    /// An entry in it cannot be read.
    Entry(ReadError),
    /// A shard's store cannot be opened.
    Store {
        /// The shard's place.
        shard: usize,
        /// Why.
        error: StoreError,
    },
    /// What was read does not fit.
    Other(String),
    /// Something was synced, and is not there.
    Forgot(String),
}

impl StartError {
    /// For a message.
    pub fn in_words(&self) -> String {
        match self {
            StartError::Log(error) => {
                let source = std::error::Error::source(error).map(|source| format!(": {source}"));
                format!("the log: {error}{}", source.unwrap_or_default())
            }
            StartError::Entry(error) => format!("an entry: {error}"),
            StartError::Store { shard, error } => format!("the store of shard {shard}: {error}"),
            StartError::Other(what) | StartError::Forgot(what) => what.clone(),
        }
    }
}

/// What stays of a machine's part in a shard.
pub struct Member {
    /// The shard.
    pub id: ShardId,
    /// Its number, in every shard.
    pub me: MemberId,
    /// Where its store lies.
    pub place: Place,
    /// Its store is damaged, and is to be exchanged for what comes from another member.
    pub damaged: bool,
    /// Some file of its store was damaged since it came.
    pub rotten: bool,
    /// The log's entries, as handed to it.
    pub entries: BTreeMap<u64, Entry>,
    /// The last entry that it ever applied.
    pub applied: u64,
    /// Whom it hears from first, if it joins a shard that is there.
    pub joins: Option<Arc<Members>>,
    /// Planted: the members that it takes for those in force when it starts.
    pub believes: Option<Arc<Members>>,
    /// A snapshot for it has broken off.
    pub broken_off: bool,
    /// Its log and its store are made.
    pub founded: bool,
    planted: Option<Planted>,
}

impl Member {
    /// One that has nothing yet.
    pub fn new(shard: usize, me: MemberId, planted: Option<Planted>) -> Member {
        Member {
            id: shard_id(shard),
            me,
            place: Place::new(),
            damaged: false,
            rotten: false,
            entries: BTreeMap::new(),
            applied: FOUNDING_INDEX.0,
            joins: None,
            believes: None,
            broken_off: false,
            founded: false,
            planted,
        }
    }

    /// It has nothing again.
    pub fn wipe(&mut self) {
        (self.place, self.damaged) = (Place::new(), false);
        self.founded = false;
    }

    /// Opens its store and its replica, as the program does.
    pub fn open(
        &mut self,
        log: &mut PromisingLog,
        founders: &Arc<Members>,
        build: &Build,
        seed: u64,
        day_millis: u64,
    ) -> Result<(Store, Replica), StartError> {
        let start = log.shard(self.id).map(|state| state.start);
        let received = self.place.received();
        if received.as_ref().is_some_and(|stand| Some(stand.index) < start) {
            self.place.drop_received();
        } else if self.damaged && received.is_some() {
            self.place.clear_store();
            self.rotten = false;
        }
        if self.founded {
            self.place.settle();
        }
        self.falsify_checkpoint(log, day_millis);
        if self.planted == Some(Planted::DamagedSegmentIsNotNoticed) {
            self.flip_embeddings(seed);
        }
        let directory: Arc<dyn Directory> = Arc::new(self.place.store.clone());
        let store_options = build.store_options();
        let store = if self.founded {
            Store::open(directory, store_options)
        } else {
            let (first, applied) = match &self.joins {
                Some(joins) => (joining(self.id, joins), JOINING_INDEX),
                None => (founding(self.id, founders), FOUNDING_INDEX),
            };
            log.append(&first).and_then(|()| log.sync()).map_err(StartError::Log)?;
            Store::create(directory, store_options, DIGEST_KEY, applied.0)
        };
        let of_store = |error| StartError::Store { shard: self.id.0 as usize - 1, error };
        let store = store.map_err(of_store)?;
        let stand = self.place.stand().map_err(of_store)?;
        // Every byte of it was read.
        (self.founded, self.damaged, self.rotten) = (true, false, false);
        // Its power failed when its store had taken a snapshot in and its log had not.
        if let Some(stand) = stand
            && stand.index.0 == store.applied()
            && !log.shard(self.id).is_some_and(|state| has(&state, &stand))
        {
            log.append(&beginning(self.id, stand.index, stand.term, &stand.members))
                .and_then(|()| log.sync())
                .map_err(StartError::Log)?;
        }
        // Who has nothing yet waits for a snapshot.
        let begun = log.shard(self.id).is_some_and(|state| state.start >= FOUNDING_INDEX);
        if let Some(members) = self.believes.as_ref().filter(|_| begun) {
            let change = Change::Members(Arc::clone(members));
            log.append(&[Append { shard: self.id, change }]).and_then(|()| log.sync()).map_err(StartError::Log)?;
        }
        let (mut state, reader) = log
            .shard(self.id)
            .zip(log.reader(self.id))
            .ok_or_else(|| StartError::Other("the log holds nothing of the shard".into()))?;
        if self.planted == Some(Planted::ForgetTheChanges) {
            state.changes.clear();
        }
        let applied = LogIndex(store.applied());
        for index in state.start.0 + 1..=state.last.0 {
            let entry = reader.read(LogIndex(index)).map_err(StartError::Entry)?;
            self.entries.insert(index, entry);
        }
        let options = ReplicaOptions { shard: self.id, me: self.me, applied, seed };
        let replica = Replica::restore(options, &state, reader);
        let replica = replica.map_err(|error| StartError::Other(error.to_string()))?;
        Ok((store, replica))
    }

    fn flip_embeddings(&self, seed: u64) {
        let mut chance = Chance::new(seed);
        let names = self.place.store.list().unwrap_or_default();
        for name in names.iter().filter(|name| name.starts_with("segment")) {
            let segment = self.place.store.bytes(name).unwrap_or_default();
            if let Some(flipped) = Planted::flip_embedding(&segment, &mut chance) {
                self.place.store.put(name, &flipped);
            }
        }
    }

    /// Makes the mistakes that are made when a process starts.
    fn falsify_checkpoint(&self, log: &PromisingLog, day_millis: u64) {
        let Ok((mut manifest, applied, _)) = checkpoint_files(&self.place.store) else { return };
        let falsified = match self.planted {
            Some(Planted::ApplyTwice) if log.shard(self.id).is_some_and(|state| state.start.0 < applied) => {
                (applied - 1, None)
            }
            Some(Planted::OwnClockForTheLogs) => (applied, Some(day_millis)),
            _ => return,
        };
        Planted::falsify(&mut manifest, applied, falsified);
        self.place.store.put(MANIFEST_FILE, &manifest);
    }

    /// Where its store stands by the last snapshot that it took in.
    pub fn stand(&self) -> Option<Stand> {
        self.place.stand().ok().flatten()
    }

    /// An entry was handed to the log. Whether it took the place of another leader's.
    pub fn logged(&mut self, entry: &Entry) -> bool {
        let old = self.entries.insert(entry.index.0, entry.clone());
        old.is_some_and(|old| old.term != entry.term)
    }
}

/// What runs of a machine's part in a shard.
pub struct Running {
    /// The shard.
    pub driven: Driven,
    /// Messages for other members.
    pub outbox: Arc<Mutex<Vec<Message>>>,
    /// Calls of clients that wait.
    pub calls: Vec<Call>,
    /// When the next turn is.
    pub turn_at: Option<Nanos>,
    /// How far its entries were compared with what others applied.
    pub compared: u64,
    /// The last commit index.
    pub committed: u64,
    /// As last seen.
    pub standing: Standing,
    /// Counts its changes.
    pub standings: u64,
    /// A file of its store is damaged, and the state is being fetched.
    pub mends: bool,
}

impl Running {
    /// Waits for its first turn.
    pub fn new(
        id: ShardId,
        (store, replica): (Store, Replica),
        log: LogHandle,
        clock: Arc<Clock>,
        build: &Build,
    ) -> Running {
        let outbox: Arc<Mutex<Vec<Message>>> = Arc::default();
        let sent = outbox.clone();
        let (compared, committed, standing) = (store.applied(), replica.committed_index().0, replica.standing());
        let beginning = Beginning {
            id: id.0,
            replica,
            store,
            log,
            budget: Arc::new(Budget::new(1 << 30)),
            clock,
            outbox: Box::new(move |message| sent.lock().unwrap_or_else(PoisonError::into_inner).push(message)),
            options: OwnerOptions {
                checkpoint_bytes: build.checkpoint_bytes,
                buffers_bytes_max: build.store_options().buffers_bytes_max,
                kept_bytes: build.kept_bytes,
                log_path: "the log".into(),
                eviction: Default::default(),
                siblings: Default::default(),
                history_bytes: 1 << 20,
                gathering: build.gathering,
            },
            history: None,
        };
        Running {
            driven: Driven::new(Mailbox::new(), beginning),
            outbox,
            calls: Vec::new(),
            turn_at: None,
            compared,
            committed,
            standing,
            standings: 0,
            mends: false,
        }
    }
}
