//! Hosting: how a shard comes to run on this node.
//!
//! ```text
//!   at the start:   every shard that the log knows -> open its store, or mend it -> restore its replica -> threads
//!   later:          the book has a shard that does not run here
//!                      a founder: an empty store, and a log that begins with the founders as voters
//!                      any other: an empty store, and a log that waits for a snapshot as a learner
//! ```
//!
//! Always: a shard that the log knows nothing of has never taken part in anything from here, so whatever files it has are
//! thrown away; one that the log knows is opened as it is, or the node does not run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use loci_index::directory::{Directory, MmapDirectory};
use loci_index::store::{Store, StoreError, StoreOptions};
use loci_raft::{
    Append, FOUNDING_INDEX, JOINING_INDEX, LogError, LogIndex, MemberId, Members, Replica, ReplicaOptions, ShardId,
    ShardState, beginning, founding, joining,
};
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::cluster::book::{self, ShardLine};
use crate::cluster::links::Links;
use crate::cluster::repair::{self, Patient};
use crate::cluster::snapshot::{self, Receiving, Stand};
use crate::cluster::{Cluster, agreement, policy};
use crate::identity::{Identity, random_bytes};
use crate::log_thread::{LogOpener, OpenedShard};
use crate::memory::Budget;
use crate::run::RunError;
use crate::shard::{Beginning, Mailbox, OwnerOptions, Shard, StoreOpener};
use crate::shards::Served;

/// How often the book is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A shard that could not be started is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// A store's files, and the store in them.
pub struct OpenedStore {
    /// The state.
    pub store: Store,
    /// Its files.
    pub directory: Arc<dyn Directory>,
    /// Opens it anew.
    pub opener: StoreOpener,
    /// Where it stands, if it came as a snapshot.
    pub stand: Option<Stand>,
    /// What was damaged and is repaired, for people.
    pub repaired: Option<String>,
}

/// What it takes to fetch a damaged store from another member.
pub struct Care<'a> {
    /// Which node this is.
    pub identity: &'a Identity,
    /// The shard.
    pub shard: u32,
    /// What the log has of it.
    pub state: &'a ShardState,
    /// Where other nodes may be.
    pub addresses: &'a [String],
}

/// Makes the store of a shard, with this digest key, that has applied so much.
pub fn make_store(
    path: &Path,
    options: &StoreOptions,
    key: [u8; 32],
    applied: LogIndex,
) -> Result<OpenedStore, RunError> {
    open(path, options, |directory| Store::create(directory, options.clone(), key, applied.0))
}

/// Opens the store of a shard. One that is damaged, of a shard with other members, is fetched from one of them, however long that
/// takes.
pub fn open_store(path: &Path, options: &StoreOptions, care: Option<Care<'_>>) -> Result<OpenedStore, RunError> {
    let open_it = || open(path, options, |directory| Store::open(directory, options.clone()));
    let error = match open_it() {
        Err(RunError::Store { error, .. }) if repair::is_damage(&error) => error,
        other => return other,
    };
    let has_others = |care: &Care<'_>| repair::has_others(care.state, MemberId(care.identity.member));
    let Some(Care { identity, shard, state, addresses }) = care.filter(has_others) else {
        return Err(RunError::Store { path: path.to_owned(), error });
    };
    if addresses.is_empty() {
        return Err(RunError::NobodyToAsk { path: path.to_owned(), error });
    }
    let what = error.to_string();
    let patient = Patient { identity, shard, store: path, what: &what, start: state.start };
    let failed = |error| RunError::Disk { path: path.to_owned(), error };
    Handle::current().block_on(patient.mend(addresses)).map_err(failed)?;
    let opened = open_it()?;
    patient.discharge().map_err(failed)?;
    let repaired = format!("fetched its store of shard {shard} anew when it started: {what}");
    Ok(OpenedStore { repaired: Some(repaired), ..opened })
}

fn open(
    path: &Path,
    options: &StoreOptions,
    store: impl FnOnce(Arc<dyn Directory>) -> Result<Store, StoreError>,
) -> Result<OpenedStore, RunError> {
    let unsettled = |error| RunError::Disk { path: path.to_owned(), error };
    snapshot::settle(path).map_err(unsettled)?;
    if let Ok(why) = std::fs::read_to_string(path.join(agreement::DIVERGED_FILE)) {
        return Err(RunError::Diverged { path: path.to_owned(), why: why.trim().to_owned() });
    }
    let directory = MmapDirectory::open(path).map_err(|error| RunError::Directory { path: path.to_owned(), error })?;
    let directory: Arc<dyn Directory> = Arc::new(directory);
    let opener: StoreOpener = {
        let (directory, options) = (directory.clone(), options.clone());
        Arc::new(move || Store::open(directory.clone(), options.clone()).map_err(|error| error.to_string()))
    };
    let failed = |error| RunError::Store { path: path.to_owned(), error };
    let stand = match Stand::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            let (file, what) = (snapshot::SNAPSHOT_FILE.to_owned(), "its checksum is wrong".to_owned());
            return Err(failed(StoreError::Damaged { file, offset: 0, what }));
        }
        stand => stand.map_err(unsettled)?,
    };
    let store = store(directory.clone()).map_err(failed)?;
    Ok(OpenedStore { store, directory, opener, stand, repaired: None })
}

impl OpenedStore {
    /// What the log is to hold before the store's replica is restored. It begins anew behind a snapshot that it does not know:
    /// of a node that joins, or whose power failed when its store had taken a snapshot in and its log had not.
    pub fn catching_up(&self, shard: ShardId) -> impl FnOnce(Option<&ShardState>) -> Vec<Append> + Send + use<> {
        let stand = self.stand.clone().filter(|stand| stand.index.0 == self.store.applied());
        move |state| match stand {
            Some(stand) if !state.is_some_and(|state| has(state, &stand)) => {
                beginning(shard, stand.index, stand.term, &stand.members)
            }
            _ => Vec::new(),
        }
    }
}

/// Whether the log has the entry at which a snapshot stands.
fn has(state: &ShardState, stand: &Stand) -> bool {
    // What was forgotten was committed.
    stand.index <= state.start || state.term_of(stand.index) == Some(stand.term)
}

/// What all shards of a node have in common.
pub struct Hosting {
    /// Where the node's data are: the folder of all shards.
    pub folder: PathBuf,
    /// Of every store.
    pub store: StoreOptions,
    /// Of every owner.
    pub owner: OwnerOptions,
    /// What the node may use.
    pub budget: Arc<Budget>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Ways to other nodes.
    pub links: Links,
    /// This node's part.
    pub cluster: Cluster,
    /// Where shards are looked after.
    pub runtime: Handle,
}

/// Starts shards, and ends them.
pub struct Host {
    hosting: Hosting,
    inner: Mutex<Inner>,
}

struct Inner {
    /// None: the node stops.
    log: Option<LogOpener>,
    running: BTreeMap<u32, Shard>,
}

impl Host {
    /// Of a node whose catalog runs.
    pub fn new(hosting: Hosting, log: LogOpener) -> Host {
        Host { hosting, inner: Mutex::new(Inner { log: Some(log), running: BTreeMap::new() }) }
    }

    /// Starts a shard that the log knows. Says what had to be repaired for it, if anything had.
    pub fn start_known(&self, id: u32, state: &ShardState, addresses: &[String]) -> Result<Option<String>, RunError> {
        let care = Care { identity: self.hosting.cluster.identity(), shard: id, state, addresses };
        let path = self.hosting.folder.join(id.to_string());
        let opened = open_store(&path, &self.hosting.store, Some(care))?;
        let repaired = opened.repaired.clone();
        self.start(id, path, |_| Ok((opened, Vec::new())))?;
        Ok(repaired)
    }

    /// Starts a new shard.
    fn start_new(&self, id: u32, line: &ShardLine) -> Result<(), RunError> {
        let path = self.hosting.folder.join(id.to_string());
        self.start(id, path, |path| self.make(ShardId(id), path, line))
    }

    /// Reads files and waits for the log.
    fn start(
        &self,
        id: u32,
        path: PathBuf,
        store: impl FnOnce(&Path) -> Result<(OpenedStore, Vec<Append>), RunError>,
    ) -> Result<(), RunError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { log: Some(log), running } = &mut *inner else { return Ok(()) };
        if running.contains_key(&id) {
            return Ok(());
        }
        let begun = Instant::now();
        let Hosting { owner, budget, clock, links, cluster, runtime, .. } = &self.hosting;
        let (shard, me) = (ShardId(id), cluster.me());
        let (opened, first) = store(&path)?;
        let catching_up = opened.catching_up(shard);
        let begin = move |state: Option<ShardState>| match state {
            None if !first.is_empty() => first,
            state => catching_up(state.as_ref()),
        };
        let mailbox = Mailbox::new();
        let failed = |error: LogError| RunError::Log { path: path.clone(), error };
        let in_log = log.open(shard, mailbox.listener(), Box::new(begin)).map_err(failed)?;
        let Some(OpenedShard { state, reader, handle: log }) = in_log else {
            return Err(RunError::NotInLog { path, shard: id });
        };
        let OpenedStore { store, directory, opener, .. } = opened;
        let seed = u64::from_le_bytes(random_bytes()?);
        let options = ReplicaOptions { shard, me, applied: LogIndex(store.applied()), seed };
        let replica = Replica::restore(options, &state, reader)
            .map_err(|error| RunError::Mismatch { path: path.clone(), error })?;
        let checkpoint = store.applied();
        let beginning = Beginning {
            id,
            replica,
            store,
            log,
            budget: budget.clone(),
            clock: clock.clone(),
            outbox: Box::new({
                let links = links.clone();
                move |message| links.send(message)
            }),
            options: owner.clone(),
            history: Some(path.clone()),
        };
        let started = Shard::start(mailbox, beginning, directory)?;
        let handle = started.handle();
        let receiving = Receiving::new(path.clone(), opener);
        cluster.shards().add(Served { handle: handle.clone(), files: path.clone(), receiving });
        running.insert(id, started);
        let cluster = cluster.of(handle);
        runtime.spawn(policy::run(cluster.clone()));
        runtime.spawn(agreement::run(cluster, path));
        tracing::info!(
            shard = id,
            checkpoint,
            last = state.last.0,
            millis = begun.elapsed().as_millis() as u64,
            "a shard runs here"
        );
        Ok(())
    }

    /// An empty store, and what the log begins with.
    fn make(&self, shard: ShardId, path: &Path, line: &ShardLine) -> Result<(OpenedStore, Vec<Append>), RunError> {
        let damaged = |what: String| RunError::Book { shard: shard.0, what };
        let me = self.hosting.cluster.me();
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(RunError::Disk { path: path.to_owned(), error });
            }
            _ => {}
        }
        let key = digest_key(&line.digest_key)
            .ok_or_else(|| damaged(format!("{:?} is no key of a digest", line.digest_key)))?;
        let founders: Vec<MemberId> = line.founders.iter().copied().map(MemberId).collect();
        let is_founder = founders.contains(&me);
        let learners = if is_founder { Vec::new() } else { vec![me] };
        let members = Members::with_learners(founders, learners).map_err(|error| damaged(error.to_string()))?;
        let members = Arc::new(members);
        let (first, applied) = match is_founder {
            true => (founding(shard, &members), FOUNDING_INDEX),
            false => (joining(shard, &members), JOINING_INDEX),
        };
        Ok((make_store(path, &self.hosting.store, key, applied)?, first))
    }

    /// Starts the shards that the book has and that do not run here, for as long as the node runs.
    pub async fn follow_book(self: Arc<Host>) {
        let catalog = self.hosting.cluster.catalog().clone();
        let mut seen = None;
        let mut failed: Option<Instant> = None;
        loop {
            let view = catalog.newest();
            let again = failed.is_some_and(|at| at.elapsed() >= RETRY);
            if seen != Some(view.index()) || again {
                seen = Some(view.index());
                let mut any_failed = None;
                for (id, line) in book::shards(&view) {
                    if self.hosting.cluster.shards().get(id).is_some() {
                        continue;
                    }
                    if failed.is_some() && !again {
                        any_failed = failed;
                        continue;
                    }
                    let host = self.clone();
                    let started = tokio::task::spawn_blocking(move || host.start_new(id, &line)).await;
                    let error = match started {
                        Ok(Ok(())) => continue,
                        Ok(Err(error)) => error.to_string(),
                        Err(error) => error.to_string(),
                    };
                    tracing::error!(shard = id, error, "a shard could not be started and will be tried again");
                    any_failed = Some(Instant::now());
                }
                failed = any_failed;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends all shards but the catalog, and starts none any more.
    pub fn stop(&self) {
        let running = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.log = None;
            std::mem::take(&mut inner.running)
        };
        // All at once: each has a last checkpoint to make.
        let ending: Vec<_> = running.into_values().map(|shard| std::thread::spawn(move || shard.stop())).collect();
        for thread in ending {
            // A panic in a shard has stopped the process.
            let _ = thread.join();
        }
    }
}

/// From 64 hexadecimal digits.
fn digest_key(hex: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_key_is_64_digits() {
        assert_eq!(digest_key(&"0f".repeat(32)), Some([15; 32]));
        for wrong in ["", "0f", &"0g".repeat(32), &"0f".repeat(33)] {
            assert_eq!(digest_key(wrong), None, "{wrong:?}");
        }
    }
}
