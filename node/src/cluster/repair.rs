//! Repair: a node whose store is damaged takes it out of service and gets the state from another member.
//!
//! ```text
//!   start: the store cannot be read, or is marked; the log can, and says that there are other members
//!     --> ask those of PEERS and --join --> their state, fetched beside the damaged one, at or after the start of the own log
//!     --> shards/N -> shards/N.damaged, the fetched one -> shards/N --> opened --> shards/N.damaged removed
//!     --> told: an error in the node's log, a metric, a note in the book that `loci cluster status` shows
//!
//!   later: a shard has found a file damaged ([`crate::shard::Damage`]), and answers no reads here any more
//!     --> somebody else leads --> the state is fetched beside the damaged one, while the node runs --> shards/N/DAMAGED
//!     --> it is this node's turn ([`super::turns`]) --> the other members are there, or were waited for
//!     --> the node stops and starts again, in the same process: as above
//! ```
//!
//! A running node does not exchange the store under its readers, because what it has applied may be newer than any other
//! member's checkpoint: log and store are put together at a start, as always. It stops only once the state is here, so nobody
//! waits for the transfer, and a node that finds nobody to get it from goes on as it is.
//!
//! What is mended is the store, which holds nothing that was promised to anybody: every entry in it is committed, and the
//! others have it. The promises of a member (whom it voted for, what it has acknowledged) are in its **log**, which stays as it
//! is: where it knows the entry at which the fetched state stands it goes on after that, and where it does not, everything in
//! it is older than that state, or was never committed.
//!
//! A damaged log is not mended. Whoever has forgotten a vote could give it again, and whoever has forgotten an entry that it
//! acknowledged could help to elect somebody who never had it. Such a node does not start; what it was can only be removed
//! from the cluster (`loci cluster remove`), and it comes back with an empty directory, as a new member that has promised
//! nothing.
//!
//! PEERS, beside the stores, has the addresses of the other members, one on a line: the book is in the store that cannot be
//! read. It is a hint, and may be missing or old.
//!
//! Always:
//! - the damaged store is there until another was fetched whole, and a process that ends in between begins again;
//! - nothing is repaired on a single node, or from a node of another cluster;
//! - a node does not stop to be repaired while there is damage that nobody can repair: it would not start again. Nor does it keep
//!   anything fetched for that time, which would be old, or keep the leader's snapshots from a shard;
//! - nor does it stop while a file of its log is damaged, until that is cut off ([`crate::log_thread`]);
//! - what was fetched and waits is given up once the own log no longer goes back there: it is fetched anew while the node runs;
//! - of a damaged store that was exchanged nothing is left, wherever the power failed meanwhile;
//! - a file of a newer program is not damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_raft::{LogIndex, MemberId, ShardState};
use loci_wire::v1;
use tokio::sync::watch;
use tonic::Status;

use super::snapshot::{self, Stand, UnderWay};
use super::transfers::Transfers;
use super::turns::Turns;
use super::{Cluster, book, formation, links};
use crate::doors::grpc::Failure;
use crate::identity::{ClusterId, Identity};
use crate::log_thread::LogFigures;
use crate::shard::ShardHandle;
use crate::shards::Served;

/// Has the addresses of the others.
const PEERS_FILE: &str = "PEERS";
/// In a store that is to be exchanged at the next start: says why, for people.
const DAMAGED_FILE: &str = "DAMAGED";
/// More than anybody says.
const DAMAGED_BYTES_MAX: u64 = 1 << 12;
/// More than the addresses of all members that there can be.
const PEERS_BYTES_MAX: u64 = 1 << 16;
/// How often the others are asked again.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often it is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often the book is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is told that nobody can repair something.
const TELL_ALONE_EVERY: Duration = Duration::from_secs(600);
/// Where other members are away, so long is waited for them before this one goes too, for the moment that it takes.
const COMPANY_TIME: Duration = Duration::from_secs(300);
/// How long another member may take to say that it is there.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// The reason why a state is not sent to a member that asks for it.
pub const LEFT: &str = "left";
/// How long a note may take to be written.
const NOTE_TIME: Duration = Duration::from_secs(5);

/// Whether a member's log says that there are others.
pub fn has_others(state: &ShardState, me: MemberId) -> bool {
    // What a change in the log says is not read here: that there was one is enough, for who is alone changes nothing.
    state.members.all().any(|member| member != me) || !state.changes.is_empty()
}

/// A store that is to be mended.
pub struct Patient<'a> {
    /// Which node this is.
    pub identity: &'a Identity,
    /// The shard.
    pub shard: u32,
    /// Where its files are.
    pub store: &'a Path,
    /// What is wrong with them.
    pub what: &'a str,
    /// Its log begins after this entry.
    pub start: LogIndex,
}

fn damaged(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

/// A store can be read: nobody needs the damaged one any more that was there before it.
pub fn discharge(store: &Path) -> io::Result<()> {
    remove(&damaged(store))
}

/// Why nobody sends a state: this node has no part in the shard any more.
struct HasLeft(String);

impl Patient<'_> {
    /// Gets the state from whoever has it, however long that takes, and puts it in the place of the damaged one. Or says why that is
    /// for nothing: this node has no part in the shard any more. Then everything stays as it is.
    pub async fn mend(&self, addresses: &[String]) -> io::Result<Result<(), String>> {
        let begun = Instant::now();
        tracing::error!(
            shard = self.shard,
            store = %self.store.display(),
            what = self.what,
            "the store is damaged: it is out of service, and fetched from another member"
        );
        let stand = match self.fetched() {
            Some(stand) => stand,
            None => match self.fetch(addresses).await {
                Ok(stand) => stand,
                Err(HasLeft(why)) => return Ok(Err(why)),
            },
        };
        let damaged = damaged(self.store);
        remove(&damaged)?;
        match fs::rename(self.store, &damaged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        snapshot::settle(self.store)?;
        let millis = begun.elapsed().as_millis() as u64;
        tracing::warn!(shard = self.shard, index = stand.index.0, millis, "the store was fetched and takes its place");
        Ok(Ok(()))
    }

    /// The state that was fetched already, if it will do.
    pub fn fetched(&self) -> Option<Stand> {
        snapshot::received(self.store).filter(|stand| stand.index >= self.start)
    }

    async fn fetch(&self, addresses: &[String]) -> Result<Stand, HasLeft> {
        let mut told = None;
        loop {
            if let Some(stand) = self.try_to_fetch(addresses, &mut told).await? {
                return Ok(stand);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Asks each of them once. Where none has it, that is told now and then: `told` is when it was last.
    async fn try_to_fetch(&self, addresses: &[String], told: &mut Option<Instant>) -> Result<Option<Stand>, HasLeft> {
        let mut waits_for = Vec::new();
        for address in addresses {
            match self.fetch_from(address).await {
                Ok(stand) if stand.index >= self.start => return Ok(Some(stand)),
                Ok(stand) => waits_for.push(format!(
                    "{address}, whose state stands at entry {}, before this node's log begins",
                    stand.index.0
                )),
                Err(status) if Failure::from_status(&status).detail.reason == LEFT => {
                    return Err(HasLeft(format!("{address} says: {}", status.message())));
                }
                Err(status) => waits_for.push(format!("{address}, which says: {}", status.message())),
            }
        }
        if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
            *told = Some(Instant::now());
            let waits_for = waits_for.join("; ");
            tracing::error!(shard = self.shard, waits_for, "nobody has the state of the damaged store yet");
        }
        Ok(None)
    }

    async fn fetch_from(&self, address: &str) -> Result<Stand, Status> {
        let Identity { cluster, member, .. } = *self.identity;
        let there = formation::who(address).await?;
        let theirs = <[u8; 16]>::try_from(&there.cluster[..]).map(ClusterId);
        if theirs.ok() != Some(cluster) || there.member == member {
            return Err(Status::failed_precondition("it is another cluster's node, or this one"));
        }
        let request = v1::SnapshotRequest {
            shard: self.shard,
            member,
            damage: self.what.to_owned(),
            have: snapshot::begun(self.store).await,
        };
        let from = MemberId(there.member);
        let parts = links::member_at(address, cluster, from)?.snapshot(request).await?.into_inner();
        snapshot::fetch(self.store, parts, (&Transfers::default(), self.shard, from)).await
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Has a store exchanged at the next start.
fn mark(store: &Path, what: &str) -> io::Result<()> {
    let mut file = File::create(store.join(DAMAGED_FILE))?;
    writeln!(file, "{what}")?;
    file.sync_all()?;
    File::open(store)?.sync_all()
}

/// Why a store is to be exchanged, if it is.
pub fn marked(store: &Path) -> Option<String> {
    let file = File::open(store.join(DAMAGED_FILE)).ok()?;
    let mut text = Vec::new();
    // What it says is for people: that it is there is enough.
    let _ = io::Read::read_to_end(&mut io::Read::take(file, DAMAGED_BYTES_MAX), &mut text);
    Some(String::from_utf8_lossy(&text).trim().to_owned())
}

/// The store is not exchanged after all.
pub fn unmark(store: &Path) {
    // It is asked again at the next start.
    let _ = fs::remove_file(store.join(DAMAGED_FILE));
}

/// How long after a state could not be fetched it is tried anew: each time others read their files for it.
const FETCH_AGAIN: Duration = Duration::from_secs(5);

/// A state that was fetched for a shard that runs.
struct Fetched<H = UnderWay> {
    index: LogIndex,
    /// Nobody may fetch anything else for it meanwhile.
    _held: H,
}

impl<H> Fetched<H> {
    /// Whether the shard's log, which begins after an entry, goes on where the state stands.
    fn reaches(&self, log_start: LogIndex) -> bool {
        self.index >= log_start
    }
}

/// Whether a node may stop to be repaired, as far as it knows by itself: `damaged` shards, those of them for which a state was
/// `fetched`, and the damaged files of the log, with which it would not start.
fn may_go<'f, H: 'f>(
    damaged: usize,
    fetched: impl Iterator<Item = (&'f Fetched<H>, LogIndex)>,
    log: &[String],
) -> bool {
    let reaching = fetched.filter(|(fetched, log_start)| fetched.reaches(*log_start)).count();
    damaged > 0 && reaching == damaged && log.is_empty()
}

/// Looks after damage that is found while the node runs: see the front page. Says through `again` that the node is to stop and
/// start again.
pub fn tend(
    cluster: Cluster,
    data: PathBuf,
    log: Arc<LogFigures>,
    again: watch::Sender<bool>,
) -> impl Future<Output = ()> + Send {
    // Now, before others come.
    let turns = Turns::starting_with(cluster.shards().handles().iter().map(ShardHandle::id));
    look_after(cluster, data, turns, log, again)
}

async fn look_after(
    cluster: Cluster,
    data: PathBuf,
    mut turns: Turns,
    log: Arc<LogFigures>,
    again: watch::Sender<bool>,
) {
    let (mut alone, mut failed) = (BTreeMap::new(), BTreeMap::<u32, Instant>::new());
    let (mut told, mut waits) = (None, None);
    // To be exchanged.
    let mut ready: BTreeMap<u32, Fetched> = BTreeMap::new();
    let log_start =
        |shard: u32| cluster.shards().handle(shard).map_or(LogIndex(0), |shard| LogIndex(shard.status().log_start));
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let me = cluster.me();
        let all = cluster.shards().all();
        let is_hopeless = |served: &Served| {
            let others = served.handle.members().is_some_and(|members| members.votes_another(me));
            !others && !served.handle.damages().is_empty()
        };
        let hopeless = all.iter().any(is_hopeless);
        let mut damaged = 0;
        for served in all {
            let shard = served.handle.id();
            let found = served.handle.damages();
            let Some((file, what)) = found.first() else {
                // What was damaged is gone by itself, or was not damaged.
                give_up(&served.files, ready.remove(&shard)).await;
                continue;
            };
            damaged += 1;
            if is_hopeless(&served) {
                let last = alone.entry(shard).or_insert_with(Instant::now);
                if last.elapsed() >= TELL_ALONE_EVERY {
                    *last = Instant::now();
                    tracing::error!(
                        shard,
                        file,
                        what,
                        "a file is still damaged, and no other member has what was in it"
                    );
                }
                continue;
            }
            crate::run::hand_over(cluster.of(served.handle.clone())).await;
            if hopeless {
                // This node does not stop: what was fetched would grow old, and nothing newer could come.
                give_up(&served.files, ready.remove(&shard)).await;
                continue;
            }
            if ready.get(&shard).is_some_and(|fetched| !fetched.reaches(log_start(shard))) {
                tracing::warn!(shard, "what was fetched for a damaged shard is older than this node's log by now");
                give_up(&served.files, ready.remove(&shard)).await;
            }
            if ready.contains_key(&shard) || failed.get(&shard).is_some_and(|last| last.elapsed() < FETCH_AGAIN) {
                continue;
            }
            let Some(held) = served.receiving.hold() else { continue };
            // This node's log goes back to its own checkpoint at least, when it is opened with what is fetched.
            let start = LogIndex(served.handle.status().checkpoint);
            let patient = Patient { identity: cluster.identity(), shard, store: &served.files, what, start };
            let addresses = addresses(&cluster, &data);
            // Where it has left the shard, that ends here soon.
            if let Ok(Some(stand)) = patient.try_to_fetch(&addresses, &mut told).await {
                let (store, why) = (served.files.clone(), what.clone());
                match beside(move || mark(&store, &why)).await {
                    Ok(()) => {
                        tracing::warn!(shard, index = stand.index.0, "the state of a damaged shard was fetched");
                        ready.insert(shard, Fetched { index: stand.index, _held: held });
                        continue;
                    }
                    Err(error) => tracing::error!(shard, %error, "a damaged store could not be marked"),
                }
            }
            failed.insert(shard, Instant::now());
        }
        let fetched = || ready.iter().map(|(shard, fetched)| (fetched, log_start(*shard)));
        if hopeless || !may_go(damaged, fetched(), &log.damaged()) {
            waits = None;
            turns.give_back(&cluster).await;
            continue;
        }
        if !turns.has(&cluster) && !turns.take(&cluster).await {
            waits = None;
            continue;
        }
        // A second one that is away would stop what needs a majority. But it may never come back.
        let since = *waits.get_or_insert_with(Instant::now);
        if since.elapsed() < COMPANY_TIME && !has_company(&cluster).await {
            continue;
        }
        let may_go = || !cluster.shards().all().iter().any(is_hopeless) && may_go(damaged, fetched(), &log.damaged());
        if turns.take(&cluster).await && may_go() {
            // Whoever waits for it may be gone, with the node.
            let _ = again.send(true);
            // What was fetched is held until the node has stopped.
            std::future::pending::<()>().await;
        }
    }
}

/// What was fetched for a store, if anything was, is not to take its place.
async fn give_up<H>(store: &Path, fetched: Option<Fetched<H>>) {
    if fetched.is_none() {
        return;
    }
    let path = store.to_owned();
    let dropped = beside(move || {
        unmark(&path);
        snapshot::drop_received(&path)
    });
    if let Err(error) = dropped.await {
        tracing::warn!(store = %store.display(), %error, "what was fetched could not be removed");
    }
}

/// Does what takes the disk long, while the caller's thread does other things.
async fn beside(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Where the others are, as far as is known.
fn addresses(cluster: &Cluster, data: &Path) -> Vec<String> {
    let lines = book::read(&cluster.catalog().newest());
    let others = lines.into_iter().filter(|(member, line)| *member != cluster.me() && !line.removed);
    let mut addresses: BTreeSet<String> = others.map(|(_, line)| line.address).collect();
    if addresses.is_empty() {
        addresses = remembered(data);
    }
    addresses.into_iter().collect()
}

/// Whether all others take part.
async fn has_company(cluster: &Cluster) -> bool {
    let lines = book::read(&cluster.catalog().newest());
    let others = lines.iter().filter(|(member, line)| **member != cluster.me() && !line.removed);
    // One that starts says who it is long before it takes part: so it is asked for its shards.
    let answers = others.map(|(member, _)| async {
        let asking = async { cluster.links().client(*member)?.parts(v1::PartsRequest {}).await };
        matches!(tokio::time::timeout(ANSWER_TIME, asking).await, Ok(Ok(_)))
    });
    futures_util::future::join_all(answers).await.into_iter().all(|answered| answered)
}

/// The addresses that a data directory remembers.
pub fn remembered(data: &Path) -> BTreeSet<String> {
    let mut text = String::new();
    let read = File::open(data.join(PEERS_FILE))
        .and_then(|file| io::Read::read_to_string(&mut io::Read::take(file, PEERS_BYTES_MAX), &mut text));
    // A hint that is missing or unreadable is none.
    if read.is_err() {
        return BTreeSet::new();
    }
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned()).collect()
}

/// Remembers them.
fn remember(data: &Path, addresses: &BTreeSet<String>) -> io::Result<()> {
    let temporary = data.join("PEERS.new");
    let mut file = File::create(&temporary)?;
    for address in addresses {
        writeln!(file, "{address}")?;
    }
    file.sync_all()?;
    fs::rename(temporary, data.join(PEERS_FILE))
}

/// Keeps PEERS as the book is, for as long as the node runs.
pub async fn remember_peers(cluster: Cluster, data: PathBuf) {
    let mut known = remembered(&data);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let lines = book::read(&cluster.shard().newest());
        let others = lines.into_iter().filter(|(member, line)| *member != cluster.me() && !line.removed);
        let others: BTreeSet<String> = others.map(|(_, line)| line.address).collect();
        if others == known || others.is_empty() {
            continue;
        }
        match remember(&data, &others) {
            Ok(()) => known = others,
            Err(error) => tracing::debug!(%error, "the addresses of the others could not be written down"),
        }
    }
}

/// Sees to it that the book says what was repaired at this start, and which files of the log were found damaged since; nothing,
/// if there is nothing to say.
pub async fn note(cluster: Cluster, repaired: String, log: Arc<LogFigures>) {
    let mut found = String::new();
    loop {
        let damaged = log.damaged();
        if !damaged.is_empty() {
            found = format!("found its log damaged while it ran, in {}", damaged.join(", "));
        }
        let both = if repaired.is_empty() || found.is_empty() { "" } else { "; " };
        let note = format!("{repaired}{both}{found}");
        // One that has never been in a cluster of several has no line.
        let line = book::find(&cluster.shard().newest(), cluster.me());
        if line.map_or_else(|| !note.is_empty(), |line| line.note != note)
            && let Err(failure) = cluster.write_note(&note, Instant::now() + NOTE_TIME).await
        {
            tracing::debug!(error = failure.message, "what was repaired could not be written into the book");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_remembered_and_a_missing_hint_is_none() {
        let data = tempfile::tempdir().unwrap();
        assert!(remembered(data.path()).is_empty());
        let addresses: BTreeSet<String> = ["a:1", "b:2"].map(str::to_owned).into();
        remember(data.path(), &addresses).unwrap();
        assert_eq!(remembered(data.path()), addresses);
        fs::write(data.path().join(PEERS_FILE), [0xff, 0xfe]).unwrap();
        assert!(remembered(data.path()).is_empty());
    }

    #[test]
    fn a_node_stays_while_its_log_is_damaged_or_has_gone_on_without_what_was_fetched() {
        let fetched = |index| Fetched { index: LogIndex(index), _held: () };
        let may_go = |damaged, fetched: &[(Fetched<()>, u64)], log: &[&str]| {
            let log: Vec<String> = log.iter().map(|&name| name.to_owned()).collect();
            super::may_go(damaged, fetched.iter().map(|(fetched, start)| (fetched, LogIndex(*start))), &log)
        };
        assert!(!may_go(0, &[], &[]));
        assert!(!may_go(2, &[(fetched(9), 3)], &[]), "one is not here yet");
        assert!(may_go(2, &[(fetched(9), 3), (fetched(7), 7)], &[]));
        assert!(!may_go(2, &[(fetched(9), 3), (fetched(7), 8)], &[]), "the log begins after it");
        assert!(!may_go(1, &[(fetched(9), 3)], &["00000007.log"]), "the node would not start");
    }

    #[tokio::test]
    async fn only_what_was_fetched_is_given_up() {
        let data = tempfile::tempdir().unwrap();
        let store = data.path().join("1");
        fs::create_dir(&store).unwrap();
        mark(&store, "what").unwrap();
        give_up(&store, None::<Fetched<()>>).await;
        assert!(marked(&store).is_some());
        let held = Arc::new(());
        give_up(&store, Some(Fetched { index: LogIndex(1), _held: held.clone() })).await;
        assert!(marked(&store).is_none());
        assert_eq!(Arc::strong_count(&held), 1, "anything else may be fetched");
    }

    #[test]
    fn a_mark_says_why_and_goes_with_the_store() {
        let data = tempfile::tempdir().unwrap();
        let store = data.path().join("1");
        fs::create_dir(&store).unwrap();
        assert_eq!(marked(&store), None);
        mark(&store, "segment 7 is damaged at byte 9").unwrap();
        assert_eq!(marked(&store).as_deref(), Some("segment 7 is damaged at byte 9"));
        unmark(&store);
        assert_eq!(marked(&store), None);
        unmark(&store);
    }
}
