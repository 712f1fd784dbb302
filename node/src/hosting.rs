//! Hosting: how a shard comes to run on this node.
//!
//! ```text
//!   at the start:   every shard that the log knows -> open its store, or mend it -> restore its replica -> threads
//!   later:          the book has a shard that does not run here
//!                      a founder: an empty store, and a log that begins with the founders as voters
//!                      any other: an empty store, and a log that waits for a snapshot as a learner
//! ```
//!
//! A node that is to hold a shard no longer ([`crate::cluster::placement`]) throws away what it had:
//!
//! ```text
//!   the shard ends -> shards/N -> shards/N.gone -> the log begins anew, with the votes it gave -> files removed -> book: it has left
//! ```
//!
//! Always: a shard that the log knows nothing of has never taken part in anything from here, so whatever files it has are
//! thrown away; one that the log knows is opened as it is, or the node does not run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use loci_index::directory::{Directory, MmapDirectory};
use loci_index::store::{Store, StoreError, StoreOptions};
use loci_index::view::View;
use loci_raft::{
    Append, Change, FOUNDING_INDEX, HardState, JOINING_INDEX, LogError, LogIndex, MemberId, Members, Replica,
    ReplicaOptions, RestoreError, ShardId, ShardState, Term, beginning, founding, joining,
};
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::cluster::book::{self, ShardLine};
use crate::cluster::links::Links;
use crate::cluster::repair::{self, Patient};
use crate::cluster::snapshot::{self, Receiving, Stand};
use crate::cluster::{Cluster, agreement, policy};
use crate::doors::grpc::Failure;
use crate::identity::{Identity, random_bytes};
use crate::log_thread::{LogOpener, OpenedShard};
use crate::memory::Budget;
use crate::run::RunError;
use crate::shard::{Beginning, Level, Mailbox, OwnerOptions, Shard, StoreOpener};
use crate::shards::Served;

/// How often the book is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A shard that could not be started is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is looked which shards were left.
const CLOSE_EVERY: Duration = Duration::from_millis(500);
/// A member that whoever leads does not count among the members for so long is none, though nobody told it.
const MISSED_FOR: Duration = Duration::from_secs(10);
/// No message takes longer: a connection on which nothing is heard is given up sooner.
const LINGER: Duration = Duration::from_secs(3);
/// How long the book may take to be told.
const TELL_TIME: Duration = Duration::from_secs(5);

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
pub fn open_store<'a>(path: &Path, options: &StoreOptions, care: Option<Care<'a>>) -> Result<OpenedStore, RunError> {
    let open_it = || open(path, options, |directory| Store::open(directory, options.clone()));
    if let Some(care) = &care {
        snapshot::drop_older(path, care.state.start)
            .map_err(|error| RunError::Disk { path: path.to_owned(), error })?;
    }
    let has_others = |care: &Care<'_>| repair::has_others(care.state, MemberId(care.identity.member));
    let care = care.filter(has_others);
    let patient_of = |care: &Care<'a>, what| Patient {
        identity: care.identity,
        shard: care.shard,
        store: path,
        what,
        start: care.state.start,
    };
    let marked = repair::marked(path);
    let can_be_had = |care: &Care<'a>| !care.addresses.is_empty() || patient_of(care, "").fetched().is_some();
    let what = match &marked {
        // It was found while the node ran.
        Some(what) if care.as_ref().is_some_and(can_be_had) => what.clone(),
        _ => {
            let error = match open_it() {
                Err(RunError::Store { error, .. }) if error.is_damage() => error,
                other => {
                    if other.is_ok() {
                        // Every byte of it was read and is right. A power cut may have left the one that it was fetched for.
                        repair::discharge(path).map_err(|error| RunError::Disk { path: path.to_owned(), error })?;
                        if marked.is_some() {
                            repair::unmark(path);
                        }
                    }
                    return other;
                }
            };
            match &care {
                None => return Err(RunError::Store { path: path.to_owned(), error }),
                Some(care) if care.addresses.is_empty() => {
                    return Err(RunError::NobodyToAsk { path: path.to_owned(), error });
                }
                Some(_) => error.to_string(),
            }
        }
    };
    let care = care.expect("it is looked after by others");
    let patient = patient_of(&care, &what);
    let (shard, addresses) = (care.shard, care.addresses);
    let failed = |error| RunError::Disk { path: path.to_owned(), error };
    if let Err(why) = Handle::current().block_on(patient.mend(addresses)).map_err(failed)? {
        return Err(RunError::Left { path: path.to_owned(), shard, why });
    }
    let opened = open_it()?;
    repair::discharge(path).map_err(failed)?;
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
        let path = self.path(id);
        if snapshot::is_going(&path) {
            self.throw_away(id)?;
            return Ok(None);
        }
        if is_blank(state) {
            // It was thrown away, or had nothing yet: the book says whether it is to be had anew.
            snapshot::throw_away(&path).map_err(|error| RunError::Disk { path, error })?;
            return Ok(None);
        }
        let opened = match open_store(&path, &self.hosting.store, Some(care)) {
            // What is left of it goes once the members of the shard say so.
            Err(error @ RunError::Left { .. }) => {
                tracing::warn!(%error, "a shard is not started");
                return Ok(None);
            }
            opened => opened?,
        };
        let repaired = opened.repaired.clone();
        match self.start(id, path, |_| Ok((opened, Vec::new()))) {
            Err(RunError::Mismatch { error: RestoreError::NotAMember { .. }, .. }) => {
                tracing::info!(shard = id, "this node takes part in the shard no longer, and does not start it");
            }
            other => other?,
        }
        Ok(repaired)
    }

    fn path(&self, id: u32) -> PathBuf {
        self.hosting.folder.join(id.to_string())
    }

    /// Ends a shard in which this node has no part any more, and throws away what it had. Whether it could be done.
    fn close(&self, id: u32) -> Result<bool, RunError> {
        let shards = self.hosting.cluster.shards();
        if shards.get(id).is_some_and(|served| served.receiving.is_under_way()) {
            // It would go on writing.
            return Ok(false);
        }
        let running = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.log.is_none() {
                return Ok(false);
            }
            shards.remove(id);
            inner.running.remove(&id)
        };
        if let Some(shard) = running {
            shard.stop();
        }
        let path = self.path(id);
        snapshot::let_go(&path).map_err(|error| RunError::Disk { path, error })?;
        self.throw_away(id)?;
        tracing::info!(shard = id, "what this node had of the shard is thrown away");
        Ok(true)
    }

    /// Has the log keep nothing of a shard but what was promised, and removes its files.
    fn throw_away(&self, id: u32) -> Result<(), RunError> {
        let (path, shard, me) = (self.path(id), ShardId(id), self.hosting.cluster.me());
        let opener = self.inner.lock().unwrap_or_else(PoisonError::into_inner).log.clone();
        let Some(opener) = opener else { return Ok(()) };
        let begin = move |state: Option<ShardState>| match state {
            None => Vec::new(),
            Some(state) => thrown_away(shard, me, &state),
        };
        let failed = |error: LogError| RunError::Log { path: path.clone(), error };
        // Nobody listens to it any more.
        opener.open(shard, Box::new(|_| ()), Box::new(begin)).map_err(failed)?;
        snapshot::throw_away(&path).map_err(|error| RunError::Disk { path, error })
    }

    /// Whether there is anything of a shard that does not run.
    fn has_left_overs(&self, id: u32) -> bool {
        let path = self.path(id);
        path.exists() || snapshot::is_going(&path)
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
            // It was thrown away, and is to be had again.
            Some(blank) if is_blank(&blank) && !first.is_empty() => first,
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
        snapshot::throw_away(path).map_err(|error| RunError::Disk { path: path.to_owned(), error })?;
        let key = digest_key(&line.digest_key)
            .ok_or_else(|| damaged(format!("{:?} is no key of a digest", line.digest_key)))?;
        let founders: Vec<MemberId> = line.founders.iter().copied().map(MemberId).collect();
        // Where others hold it by now, one that was to begin it and has not begins with nothing, as others do.
        let is_founder = founders.contains(&me) && !line.moved;
        let (voters, learners) = match is_founder {
            true => (founders.clone(), Vec::new()),
            false => (others(line, me), vec![me]),
        };
        let members = Members::with_learners(voters, learners).map_err(|error| damaged(error.to_string()))?;
        let members = Arc::new(members);
        let (first, applied) = match is_founder {
            true => (founding(shard, &members), FOUNDING_INDEX),
            false => (joining(shard, &members), JOINING_INDEX),
        };
        Ok((make_store(path, &self.hosting.store, key, applied)?, first))
    }

    /// Starts the shards that the book has for this node and that do not run here, and ends those that others have, for as long
    /// as the node runs.
    pub async fn follow_book(self: Arc<Host>) {
        let cluster = self.hosting.cluster.clone();
        let catalog = cluster.catalog().clone();
        let mut seen = None;
        let mut failed: Option<Instant> = None;
        let mut looked = Instant::now();
        let mut missed = BTreeMap::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if !catalog.is_ready() {
                // What it says is older than what this node did when it last ran.
                continue;
            }
            let view = catalog.newest();
            let again = failed.is_some_and(|at| at.elapsed() >= RETRY);
            if seen != Some(view.index()) || again {
                seen = Some(view.index());
                let mut any_failed = None;
                for (id, line) in book::shards(&view) {
                    let mine = line.is_held_by(cluster.me()) && !line.leaving.contains(&cluster.me().0);
                    if !mine || cluster.shards().get(id).is_some() {
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
            if looked.elapsed() >= CLOSE_EVERY {
                self.close_left(&view, &mut missed).await;
                looked = Instant::now();
            }
        }
    }

    /// Throws away what this node has of shards that it has left. `missed` is since when it has been missing among the members of
    /// each that still runs.
    async fn close_left(self: &Arc<Host>, view: &View, missed: &mut BTreeMap<u32, Instant>) {
        let cluster = &self.hosting.cluster;
        let me = cluster.me().0;
        let leaving = book::shards(view).into_iter().filter(|(_, line)| line.leaving.contains(&me));
        let left: BTreeSet<u32> = leaving.map(|(id, _)| id).collect();
        missed.retain(|id, _| left.contains(id));
        for id in left {
            let running = cluster.shards().handle(id);
            if running.is_some() || self.has_left_overs(id) {
                // Said by the others for good, or by whoever leads them for long enough.
                let told = running.is_some_and(|shard| shard.is_removed());
                match cluster.led(id) {
                    Some(part) if part.changing || part.voters.contains(&me) || part.learners.contains(&me) => {
                        missed.remove(&id);
                    }
                    Some(_) => {
                        missed.entry(id).or_insert_with(Instant::now);
                    }
                    None => drop(missed.remove(&id)),
                }
                if !told && missed.get(&id).is_none_or(|since| since.elapsed() < MISSED_FOR) {
                    continue;
                }
                let host = self.clone();
                match tokio::task::spawn_blocking(move || host.close(id)).await {
                    Ok(Ok(true)) => {}
                    Ok(Ok(false)) => continue,
                    Ok(Err(error)) => {
                        tracing::error!(shard = id, %error, "what is left of a shard could not be thrown away");
                        continue;
                    }
                    Err(_) => continue,
                }
            }
            // What was said in its name, and has not arrived, is to be old by the time that it can come again.
            tokio::time::sleep(LINGER).await;
            if let Err(error) = self.has_left(id).await {
                tracing::debug!(shard = id, error = error.message, "the book could not be told that a shard was left");
            }
        }
    }

    /// Says in the book that this node has thrown away what it had.
    async fn has_left(&self, id: u32) -> Result<(), Failure> {
        let (cluster, deadline) = (&self.hosting.cluster, Instant::now() + TELL_TIME);
        let me = cluster.me().0;
        let view = cluster.catalog().view(Level::Latest, Some(deadline)).await?;
        let Some((line, version)) = book::shard(&view, id) else { return Ok(()) };
        if !line.leaving.contains(&me) {
            return Ok(());
        }
        let leaving = line.leaving.iter().copied().filter(|member| *member != me).collect();
        if let Some(envelope) = book::moving(&view, id, version, &ShardLine { leaving, ..line }) {
            // Refused if somebody else changed it meanwhile: it is looked at again.
            cluster.of_catalog().write(envelope, deadline).await?;
        }
        Ok(())
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

/// Whether the log has no more of a shard than that it was thrown away, or is about to be joined.
fn is_blank(state: &ShardState) -> bool {
    state.start == JOINING_INDEX && state.last == JOINING_INDEX
}

/// Who may have a shard that this member is to join: also who is to go, and perhaps is the only one yet.
fn others(line: &ShardLine, me: MemberId) -> Vec<MemberId> {
    let all = line.founders.iter().chain(&line.holders).chain(&line.leaving);
    all.copied().map(MemberId).filter(|member| *member != me).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What the log keeps of a shard that is thrown away: nothing of its entries, but whom this member voted for. It may come again,
/// and whoever has forgotten a vote could give it twice.
fn thrown_away(shard: ShardId, me: MemberId, state: &ShardState) -> Vec<Append> {
    let HardState { term, vote, .. } = state.hard_state;
    let voters: Vec<MemberId> = state.members.voters().iter().copied().filter(|member| *member != me).collect();
    let members = Members::with_learners(voters, [me]).map(Arc::new).unwrap_or_else(|_| state.members.clone());
    let mut batch = joining(shard, &members);
    let change = Change::HardState(HardState { term, vote, commit: JOINING_INDEX });
    if term > Term(0) {
        batch.push(Append { shard, change });
    }
    batch
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
    fn what_a_power_cut_left_of_a_repair_goes_at_the_next_start() {
        let data = tempfile::tempdir().unwrap();
        let (path, left) = (data.path().join("2"), data.path().join("2.damaged"));
        let options = StoreOptions::default();
        drop(make_store(&path, &options, [7; 32], LogIndex(5)).unwrap());
        let manifest = path.join(loci_index::store::MANIFEST_FILE);
        let whole = std::fs::read(&manifest).unwrap();
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("segment-0000000000000001"), "damaged").unwrap();
        // As long as it is not known whether the one that took its place can be read it stays.
        std::fs::write(&manifest, &whole[..whole.len() - 1]).unwrap();
        assert!(open_store(&path, &options, None).is_err() && left.exists());
        std::fs::write(&manifest, &whole).unwrap();
        assert!(open_store(&path, &options, None).is_ok() && !left.exists());
    }

    #[test]
    fn a_digest_key_is_64_digits() {
        assert_eq!(digest_key(&"0f".repeat(32)), Some([15; 32]));
        for wrong in ["", "0f", &"0g".repeat(32), &"0f".repeat(33)] {
            assert_eq!(digest_key(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_only_member_of_a_shard_that_comes_back_to_its_founder_is_the_one_that_is_to_go() {
        let line = |founders: &[u64], holders: &[u64], leaving: &[u64]| ShardLine {
            founders: founders.to_vec(),
            holders: holders.to_vec(),
            leaving: leaving.to_vec(),
            moved: true,
            digest_key: String::new(),
            replicas: 1,
        };
        let of = |line: &ShardLine| others(line, MemberId(1)).iter().map(|member| member.0).collect::<Vec<_>>();
        assert_eq!(of(&line(&[1], &[1], &[3])), [3]);
        assert_eq!(of(&line(&[1, 2], &[1, 2, 4], &[3])), [2, 3, 4]);
    }
}
